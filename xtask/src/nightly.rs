//! `cargo xtask nightly`: the tests, then the property tests with a hundred times as many cases, ten times as many seeds of
//! the simulator, ten times as many sequences against the real broker, all kill loops and every fail point.

use crate::{chaos, repository::Repository, setup, sim, step, test};

/// Cases for each property; the tests' own number is 256.
const CASES: &str = "25600";
/// Seeds of the simulator; those that the tests play come first.
const SEEDS: &str = "100000";
/// Sequences that are compared with the real broker; the test's own number is 200.
const SEQUENCES: &str = "2000";

/// Runs all.
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
    })?;
    step::timed("simulator", || sim::run(repository, &["--seeds", SEEDS]))?;
    step::timed("simulated and real broker", || {
        let mut cargo = repository.cargo();
        cargo
            .args(["test", "--package", "busway-sim", "--test", "real_broker"])
            .env("BUSWAY_SEQUENCES", SEQUENCES)
            .env("NATS_SERVER", setup::nats_server(repository)?);
        step::run(&mut cargo)
    })?;
    chaos::full(repository)
}
