//! `cargo xtask test`: what CI runs, on a fresh clone as on an old one.
//!
//! The order is by what is likely to fail and cheap to find: set-up, format, the house's rules, clippy, the plugins,
//! then the tests. The tests get three variables: `BUSWAY_BIN` (the program), `BUSWAY_GUESTS` (the folder of built
//! plugins) and `NATS_SERVER` (the broker).

use std::time::Instant;

use crate::{guests, repository::Repository, setup, step, tidy};

/// Runs everything; the first failure ends it.
///
/// # Errors
/// What the failed step says.
pub fn run(repository: &Repository) -> anyhow::Result<()> {
    let start = Instant::now();
    let cargo = |arguments: &[&str]| step::run(repository.cargo().args(arguments));
    step::timed("setup", || setup::run(repository))?;
    step::timed("format", || cargo(&["fmt", "--all", "--check"]))?;
    step::timed("tidy", || tidy::run(repository))?;
    step::timed("clippy", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step::timed("guests", || guests::build(repository))?;
    step::timed("tests", || tests(repository))?;
    step::timed("documentation tests", || cargo(&["test", "--quiet", "--workspace", "--doc"]))?;
    eprintln!(
        "xtask: setup, format, tidy, clippy, guests, tests and documentation tests passed in {}",
        step::seconds(start.elapsed())
    );
    Ok(())
}

/// The workspace's tests, by cargo-nextest where it is there.
fn tests(repository: &Repository) -> anyhow::Result<()> {
    let mut cargo = repository.cargo();
    if step::is_there("cargo-nextest") {
        cargo.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        cargo.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
    }
    cargo
        .env("BUSWAY_BIN", repository.busway())
        .env("BUSWAY_GUESTS", repository.guests())
        .env("NATS_SERVER", setup::nats_server(repository)?);
    step::run(&mut cargo)
}
