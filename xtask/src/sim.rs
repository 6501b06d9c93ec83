//! `cargo xtask sim`: the real path of an event on a broker in memory that fails by a seed.
//!
//! Builds the simulator and runs it; its exit code says whether every seed kept its promises. What it does stands in
//! `tests/sim`. As a step of `cargo xtask test` it is built with everything else.

use crate::{repository::Repository, step};

/// Builds the simulator and runs it with these arguments.
///
/// # Errors
/// What the failed step says; an unkept promise is one.
pub fn run(repository: &Repository, arguments: &[&str]) -> anyhow::Result<()> {
    step::run(repository.cargo().args(["build", "--quiet", "--package", "busway-sim"]))?;
    seeds(repository, arguments)
}

/// Runs the simulator as it is built.
///
/// # Errors
/// When a promise was not kept, or the program can't be run.
pub fn seeds(repository: &Repository, arguments: &[&str]) -> anyhow::Result<()> {
    let simulator = repository.busway().with_file_name(format!("busway-sim{}", std::env::consts::EXE_SUFFIX));
    step::run(repository.command(&simulator).args(arguments))
}
