//! What `cargo xtask chaos` runs, after it has built everything: hosts and brokers that end at any moment, and an account
//! of every event.
//!
//! Two ways. [`loops`]: processes are killed and stopped at random moments while events are published. [`sweep`]: one host
//! after another fails at one named point of an event's path, each in its own way. Both end the same: when nothing is
//! pending, what was published and what is there is written down ([`history`]), and `busway verify` makes the account. A
//! user can make it again from the same file.
//!
//! Nothing of Busway's is linked in: what a publisher and a reader of a stream know has to do.

mod broker;
mod events;
mod history;
mod host;
mod loops;
mod points;
mod random;
mod report;
mod settings;
mod sweep;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use settings::{Settings, What};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let answer = runtime.context("the threads can't be started").and_then(|runtime| {
        let settings = Settings::read()?;
        runtime.block_on(async {
            // Whatever ends it, hosts and brokers end with it: they are ended when they are dropped.
            tokio::select! {
                outcome = play(&settings) => outcome,
                name = interrupted() => Err(anyhow::anyhow!("stopped by {name}")),
            }
        })
    });
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be closed; the exit code still tells.
            drop(writeln!(io::stderr(), "chaos: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn play(settings: &Settings) -> anyhow::Result<bool> {
    match &settings.what {
        What::Loops(plan) => loops::run(settings, plan).await,
        What::Sweep(selection) => sweep::run(settings, *selection).await,
    }
}

/// The name of the signal that asks it to end.
async fn interrupted() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
