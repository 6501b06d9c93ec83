//! `wasi:logging`: lines with a budget.
//!
//! What a plugin writes can't forge a line of the host's or drive a terminal: control characters are escaped and the
//! host's fields stand beside the text. Beyond the budget lines are counted and dropped.

use crate::{
    bindings::wasi::logging::logging::{Host, Level},
    store::State,
};
use busway_core::{
    LogLevel, LogLine,
    limits::{LOG_BYTES_MAX, LOG_LINE_BYTES_MAX},
};
use tracing::{debug, error, info, trace, warn};

/// Bytes of a line's context that are kept.
const CONTEXT_BYTES_MAX: usize = 128;
/// What marks a line that was cut.
const CUT: &str = "… (cut)";

impl Host for State {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error | Level::Critical => LogLevel::Error,
        };
        self.log_line(level, &context, &message);
        Ok(())
    }
}

impl State {
    /// Keeps a line, or counts it where the budget is spent.
    pub(crate) fn log_line(&mut self, level: LogLevel, context: &str, message: &str) {
        let room = LOG_BYTES_MAX.saturating_sub(self.log_bytes);
        if self.used.log_lines >= self.shared.limits.log_lines || room == 0 {
            self.used.log_lines_dropped = self.used.log_lines_dropped.saturating_add(1);
            return;
        }
        let message = escaped(message, LOG_LINE_BYTES_MAX.min(room));
        let line = LogLine { level, context: escaped(context, CONTEXT_BYTES_MAX), message };
        self.used.log_lines += 1;
        self.log_bytes += line.message.len() + line.context.len();
        write(self.shared.name.as_str(), &self.about.id, &line);
        self.logs.push(line);
    }
}

/// A level is part of a log line's static description, hence the five arms.
fn write(plugin: &str, event: &str, line: &LogLine) {
    let LogLine { level, context, message } = line;
    match level {
        LogLevel::Trace => trace!(target: "busway::plugin", plugin, event, context, "{message}"),
        LogLevel::Debug => debug!(target: "busway::plugin", plugin, event, context, "{message}"),
        LogLevel::Info => info!(target: "busway::plugin", plugin, event, context, "{message}"),
        LogLevel::Warn => warn!(target: "busway::plugin", plugin, event, context, "{message}"),
        LogLevel::Error => error!(target: "busway::plugin", plugin, event, context, "{message}"),
    }
}

fn escaped(text: &str, bytes_max: usize) -> String {
    let mut escaped = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        let before = escaped.len();
        if c.is_control() {
            escaped.extend(c.escape_default())
        } else {
            escaped.push(c)
        }
        if escaped.len() > bytes_max {
            escaped.truncate(before);
            escaped.push_str(CUT);
            break;
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_not_forge_another_and_a_long_one_is_cut_and_marked() {
        assert_eq!(escaped("a\n{\"level\":\"error\"}\u{1b}[2J", 100), "a\\n{\"level\":\"error\"}\\u{1b}[2J");
        assert_eq!(escaped("üüü", 4), "üü… (cut)");
    }
}
