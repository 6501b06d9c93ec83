//! Logs: readable on a terminal, JSON for machines. The only place that installs a subscriber.

use clap::ValueEnum;
use std::io::{self, IsTerminal as _};
use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// Writes logs to standard error from now on. `filter` is in the form `info`, or `info,busway_transport=debug`.
///
/// # Errors
/// A filter that can't be read.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            logs.with_ansi(io::stderr().is_terminal()).with_target(false).finish().try_init()?
        }
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).finish().try_init()?,
    }
    Ok(())
}
