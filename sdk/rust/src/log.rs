//! Lines for the host's log. The host adds the plugin, the event and the attempt, and bounds how much one attempt may
//! write. Text is given as anything that can be displayed: `log::info(format_args!("{count} items"))`.

use std::fmt::Display;

use crate::host;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The values of variables and the flow of control.
    Trace,
    /// Of interest to someone who debugs the plugin.
    Debug,
    /// Of interest to someone who watches it.
    Info,
    /// Something is not as it should be.
    Warn,
    /// Something failed.
    Error,
}

/// Writes a line at level trace.
pub fn trace(message: impl Display) {
    write(Level::Trace, &message);
}

/// Writes a line at level debug.
pub fn debug(message: impl Display) {
    write(Level::Debug, &message);
}

/// Writes a line at level info.
pub fn info(message: impl Display) {
    write(Level::Info, &message);
}

/// Writes a line at level warn.
pub fn warn(message: impl Display) {
    write(Level::Warn, &message);
}

/// Writes a line at level error.
pub fn error(message: impl Display) {
    write(Level::Error, &message);
}

fn write(level: Level, message: &dyn Display) {
    host::log(level, &message.to_string());
}
