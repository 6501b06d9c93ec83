//! `cargo xtask nightly`: the tests, then the property tests with a hundred times as many cases.

use crate::{repository::Repository, step, test};

/// Cases for each property; the tests' own number is 256.
const CASES: &str = "25600";

/// Runs both.
///
/// # Errors
/// What the failed step says.
pub fn run(repository: &Repository) -> anyhow::Result<()> {
    test::run(repository)?;
    step::timed("property tests", || {
        let mut cargo = repository.cargo();
        cargo
            .args(["test", "--package", "busway-core", "--package", "busway-path-tests"])
            .env("PROPTEST_CASES", CASES);
        step::run(&mut cargo)
    })
}
