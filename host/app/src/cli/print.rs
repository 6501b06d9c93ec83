//! What goes to standard output: text that a person reads, or JSON that a program does.

use serde::Serialize;
use std::io::{self, Write as _};

/// Prints one line.
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())?;
    Ok(())
}

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints rows under headings, columns as wide as their widest cell.
pub fn table<const N: usize>(headings: [&str; N], cells: &[[String; N]]) -> anyhow::Result<()> {
    rows(headings, cells).into_iter().try_for_each(line)
}

/// Rows under headings, as lines. Control characters in cells are escaped: what plugins and publishers wrote must not drive
/// the terminal.
pub fn rows<const N: usize>(headings: [&str; N], cells: &[[String; N]]) -> Vec<String> {
    let rows: Vec<[String; N]> = cells.iter().map(|row| row.each_ref().map(|cell| escaped(cell))).collect();
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings = headings.map(str::to_owned);
    std::iter::once(&headings).chain(&rows).map(|row| aligned(row, &widths)).collect()
}

/// Text with control characters made visible.
pub fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    padded.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_not_drive_the_terminal() {
        assert_eq!(escaped("a\u{1b}[31mb\r\n"), "a\\u{1b}[31mb\\r\\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(aligned(&["a".into(), "b".into()], &[3, 1]), "a    b");
    }
}
