//! The page that operators read says what the code does.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a page without its tables ends the test")]

use busway_core::{FailureClass, Refusal};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../docs/failure-table.md");

/// Code, what follows.
fn rows(heading: &str) -> BTreeMap<String, String> {
    let section =
        PAGE.split("## ").find(|section| section.starts_with(heading)).expect("the page has this section");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.map(|cells| (cells[1].trim_matches('`').to_owned(), format!("{} {}", cells[3], cells[4]))).collect()
}

#[test]
fn every_failure_class_has_a_row_that_says_what_the_code_does() {
    let mut rows = rows("Outcomes");
    assert!(
        rows.remove("done").is_some_and(|then| then.starts_with("no ") && then.ends_with("acknowledged"))
    );
    assert!(rows.remove("duplicate").is_some_and(|then| then.starts_with("no acknowledged without a run")));
    for class in FailureClass::ALL {
        let then = rows.remove(class.code()).unwrap_or_else(|| panic!("`{class}` has no row"));
        let expected = if class.is_retryable() { "yes put back" } else { "yes dead letter at once" };
        assert!(then.starts_with(expected), "`{class}`: {then}");
    }
    assert!(rows.is_empty(), "rows without a class: {rows:?}");
}

#[test]
fn every_refusal_has_a_row() {
    let mut rows = rows("Refusals");
    for code in Refusal::CODES {
        let then = rows.remove(code).unwrap_or_else(|| panic!("`{code}` has no row"));
        let expected =
            if code == Refusal::LeaseLost.code() { "no left to the broker" } else { "no put back" };
        assert!(then.starts_with(expected), "`{code}`: {then}");
    }
    assert!(rows.is_empty(), "rows without a refusal: {rows:?}");
}
