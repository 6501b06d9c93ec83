//! What `cargo xtask demo` runs, after it has built everything: recorded GitHub webhooks through a real host, and an
//! account of every one of them.
//!
//! In this order: a fresh folder with a configuration that is worth reading; a host on it, with its private broker; the
//! events, good and damaged, while the last stream is full for five seconds; a wait until nothing is pending; everything
//! read back from the broker; the account, which compares what was published with what is there, and decides the exit
//! code. The host is stopped on every way out, unless it was asked to stay.
//!
//! Nothing of Busway's is linked in: the demo knows what any publisher and any reader of a stream knows.

mod account;
mod broker;
mod damage;
mod events;
mod folder;
mod host;
mod metrics;
mod progress;
mod report;
mod run;
mod settings;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use broker::Broker;
use folder::Folder;
use host::Host;
use report::Report;
use settings::{Afterwards, Settings};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let answer = runtime.context("the demo's threads can't be started").and_then(|runtime| {
        let settings = Settings::read()?;
        runtime.block_on(demo(&settings))
    });
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be closed; the exit code still tells.
            drop(writeln!(io::stderr(), "demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo. Whether every event is accounted for.
async fn demo(settings: &Settings) -> anyhow::Result<bool> {
    let events = events::all(&settings.recorded)?;
    let folder = Folder::make(settings).await?;
    let mut host = Host::start(settings, &folder)?;
    let outcome = tokio::select! {
        outcome = show(settings, &folder, &mut host, &events) => {
            outcome.with_context(|| format!("the demo failed; the host's log is {}", folder.log().display()))
        }
        name = interrupted() => Err(anyhow::anyhow!("stopped by {name}")),
    };
    if let (Afterwards::Stay, Ok(report)) = (settings.afterwards, &outcome) {
        report.print()?;
        host.stay(settings, &folder)?;
        return Ok(report.account.is_balanced());
    }
    let stopped = host.stop().await;
    let report = outcome?;
    report.print()?;
    stopped?;
    Ok(report.account.is_balanced())
}

/// Everything between the start of the host and its end.
async fn show(
    settings: &Settings,
    folder: &Folder,
    host: &mut Host,
    events: &[events::Event],
) -> anyhow::Result<Report> {
    host.ready().await?;
    let broker = Broker::connect(&folder.access()).await?;
    let times = tokio::select! {
        times = run::run(&broker, host.admin()?, events) => times?,
        ended = host.ended() => return Err(ended),
    };
    Report::make(settings, &broker, host.admin()?, events, times).await
}

/// The name of the signal that asks the demo to end.
async fn interrupted() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    }
}
