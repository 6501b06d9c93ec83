//! What every source file keeps: a head that says what it decides, and sizes that fit a head.
//!
//! Tests are free in size, not in honesty: nothing is ignored, and no lint is silenced without a reason.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::code::{self, blanked};
use crate::repository::Repository;

/// Where our sources are.
const SHELVES: [&str; 7] = ["host", "sdk", "plugins", "tests", "examples", "bench", "xtask"];

/// A file's code may have so many lines, its tests apart.
const FILE_LINES: usize = 600;

/// A function may have so many.
const FUNCTION_LINES: usize = 70;

/// Words that must not stand in code, and what to write instead.
const BANNED: [(&str, &str); 3] = [
    ("#[ignore", "a test runs, or fails and says what is missing"),
    ("#[allow(", "write #[expect(lint, reason = \"…\")]"),
    ("#![allow(", "write #![expect(lint, reason = \"…\")]"),
];

/// The one exception: a file that several test programs share is not used up by each, so an `expect` would fail in one.
const SHARED_PART: &str = "#![allow(dead_code, reason";

/// Every breach in every file.
///
/// # Errors
/// When a file cannot be read.
pub fn breaches(repository: &Repository) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    for shelf in SHELVES {
        collect(&repository.root.join(shelf), &mut files)?;
    }
    let mut breaches = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(&repository.root).unwrap_or(&file);
        breaches.extend(check(path, &text).into_iter().map(|breach| format!("{}:{breach}", path.display())));
    }
    Ok(breaches)
}

/// Every Rust file below a folder, build folders apart.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.is_symlink() || path.ends_with("target") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// The breaches in one file, as `line: what`.
fn check(path: &Path, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    if !text.starts_with("//! ") {
        breaches.push("1: no head: say in //! what is decided here, in what order, and why".to_owned());
    }
    let code = blanked(text);
    for (word, instead) in BANNED {
        for (at, _) in code.match_indices(word) {
            let is_shared_part = code.get(at..).is_some_and(|rest| rest.starts_with(SHARED_PART));
            if is_shared_part && is_test(path) {
                continue;
            }
            let line = code.get(..at).unwrap_or_default().matches('\n').count() + 1;
            breaches.push(format!("{line}: {word}: {instead}"));
        }
    }
    if is_test(path) {
        return breaches;
    }
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code.lines().count();
    if lines > FILE_LINES {
        breaches.push(format!("1: {lines} lines of code, at most {FILE_LINES}: split it by what it decides"));
    }
    for function in code::functions(code).into_iter().filter(|function| function.lines > FUNCTION_LINES) {
        let code::Function { name, line, lines } = function;
        breaches.push(format!("{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES}"));
    }
    breaches
}

/// Whether a file holds nothing but tests.
fn is_test(path: &Path) -> bool {
    let is_kit = path.starts_with("tests/kit");
    let among_tests =
        path.iter().any(|name| name == "tests") || path.file_stem().is_some_and(|name| name == "tests");
    among_tests && !is_kit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text)
    }

    #[test]
    fn a_file_without_a_head_is_a_breach() {
        assert_eq!(told("host/core/src/a.rs", "fn a() {}\n").len(), 1);
        assert!(told("host/core/src/a.rs", "//! What is decided here.\nfn a() {}\n").is_empty());
    }

    #[test]
    fn a_long_function_is_a_breach_and_a_long_test_is_not() {
        let text = format!("//! Head.\nfn long() {{\n{}}}\n", "    work();\n".repeat(70));
        assert_eq!(told("host/core/src/a.rs", &text), ["2: fn long has 72 lines, at most 70"]);
        assert!(told("tests/e2e/src/a.rs", &text).is_empty());
        let text = text.replace("fn long", "#[cfg(test)]\nmod tests {\nfn long");
        assert!(told("host/core/src/a.rs", &text).is_empty());
    }

    #[test]
    fn a_long_file_is_a_breach() {
        let text = format!("//! Head.\n{}", "const A: u8 = 1;\n".repeat(600));
        assert_eq!(
            told("host/core/src/a.rs", &text),
            ["1: 601 lines of code, at most 600: split it by what it decides"]
        );
    }

    #[test]
    fn an_ignored_test_and_a_silenced_lint_are_breaches_even_in_tests() {
        let text = "//! Head. #[ignore] may be talked about.\n#[ignore]\n#[allow(dead_code)]\nfn a() {}\n";
        assert_eq!(told("tests/e2e/src/a.rs", text).len(), 2);
        let shared = "//! Head.\n#![allow(dead_code, reason = \"each test file uses its part\")]\n";
        assert!(told("host/transport/tests/support/mod.rs", shared).is_empty());
        assert_eq!(told("host/transport/src/lib.rs", shared).len(), 1);
    }
}
