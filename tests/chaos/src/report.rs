//! What is said at the end: a table for people, JSON for programs.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use serde_json::Value;

/// Prints one line to standard output.
///
/// # Errors
/// It can't be written.
pub fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

/// Prints rows of an object, as a table.
///
/// # Errors
/// They can't be written.
pub fn table(report: &Value) -> anyhow::Result<()> {
    for (name, value) in report.as_object().into_iter().flatten() {
        if let Value::Number(_) | Value::String(_) | Value::Bool(_) = value {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            say(&format!("{:<20} {value:>12}", name.replace('_', " ")))?;
        }
    }
    Ok(())
}

/// Writes a report where it is wanted.
///
/// # Errors
/// The file can't be written.
pub fn write(report: &Value, to: Option<&Path>) -> anyhow::Result<()> {
    let Some(file) = to else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)?;
    fs::write(file, text + "\n").with_context(|| format!("{} can't be written", file.display()))
}
