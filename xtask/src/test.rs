//! `cargo xtask test`: what CI runs, on a fresh clone as on an old one.
//!
//! The order: what is found in a moment (format, the house's rules); the build; clippy; what the tests need (tools,
//! plugins); ten thousand seeds of the simulator; the tests; a short run of the kill loops and of the fail points. The tests
//! get three variables: `BUSWAY_BIN` (the program), `BUSWAY_GUESTS` (the folder of built plugins) and `NATS_SERVER` (the
//! broker).
//!
//! The build is of the whole workspace with its tests, although `setup` needs only `busway`: which features a
//! dependency has depends on what is built with it, and so everything is compiled once and not twice.

use std::time::Instant;

use crate::{chaos, guests, repository::Repository, setup, sim, step, tidy};

/// Seeds that the simulator plays.
const SEEDS: &str = "10000";

/// Runs everything; the first failure ends it.
///
/// # Errors
/// What the failed step says.
pub fn run(repository: &Repository) -> anyhow::Result<()> {
    let start = Instant::now();
    let cargo = |arguments: &[&str]| step::run(repository.cargo().args(arguments));
    step::timed("format", || cargo(&["fmt", "--all", "--check"]))?;
    step::timed("tidy", || tidy::run(repository))?;
    step::timed("build", || cargo(&["build", "--workspace", "--all-targets"]))?;
    step::timed("clippy", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step::timed("tools", || setup::with_busway(repository))?;
    step::timed("guests", || guests::build(repository))?;
    step::timed("simulator", || sim::seeds(repository, &["--seeds", SEEDS]))?;
    step::timed("documentation tests", || cargo(&["test", "--quiet", "--workspace", "--doc"]))?;
    step::timed("tests", || tests(repository))?;
    chaos::short(repository)?;
    eprintln!(
        "xtask: format, tidy, build, clippy, tools, guests, simulator, documentation tests, tests and chaos passed in {}",
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
