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

/// Prints some fields of an object, as a table.
///
/// # Errors
/// They can't be written.
pub fn table(report: &Value, fields: &[&str]) -> anyhow::Result<()> {
    for name in fields {
        let value = report.get(name).map(ToString::to_string).unwrap_or_default();
        say(&format!("{:<20} {value:>9}", name.replace('_', " ")))?;
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
