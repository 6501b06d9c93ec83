//! The busway command.
//!
//! Here: which parts there are, and what an error means for the exit code. Each command is a file in [`cli`]; `busway up`
//! leads through [`wire`], where the host is put together.

mod admin;
mod advice;
mod broker;
mod cli;
mod config;
mod counts;
#[cfg(feature = "failpoints")]
mod failpoints;
mod guest;
mod health;
mod plugins;
mod quarantine;
mod returned;
mod shutdown;
mod telemetry;
mod toolchain;
mod wire;

use clap::Parser as _;
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

fn main() -> ExitCode {
    let answer = cli::Cli::parse().run();
    match answer {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code still tells.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::from(code_of(&error) as u8)
        }
    }
}

/// What the exit codes mean; the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It could not be done.
    Failed = 1,
    /// A wrong command line or configuration.
    Usage = 2,
    /// The host was stopped while events were still running; the broker will give them again.
    Abandoned = 3,
}

fn code_of(error: &anyhow::Error) -> Exit {
    let is_usage = error.chain().any(|cause| cause.is::<config::Refused>() || cause.is::<cli::Usage>());
    if is_usage { Exit::Usage } else { Exit::Failed }
}

/// The reader of our output has gone, as in `busway dlq ls | head -1`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}
