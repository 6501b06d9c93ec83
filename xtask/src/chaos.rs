//! `cargo xtask chaos`: hosts and brokers that are killed and stopped at random moments, or that fail at one named point
//! after another, and an account of every event. What it does stands in `tests/chaos`.
//!
//! The program with fail points is built where the one without them is, because the two share all that they depend on;
//! it is put aside under another name, and the one without is put back.

use std::fs;

use anyhow::{Context as _, bail};

use crate::{guests, repository::Repository, setup, step};

const USAGE: &str = "cargo xtask chaos [--short] [--failpoints] [option …]

  --short            the selection for every change: 5 host kills, 3 broker kills, 1 pause of 5 s, 1,500 events
  --failpoints       every fail point with every action instead of kill loops; with --short a few of them
  --only POINT       only the fail points whose names begin so
  --seed N           everything random follows from it; default 1
  --json FILE        write the report there
  --history FILE     write the history there, for `busway verify FILE`
  --sabotage WHAT    drop-one or double-one: damage the evidence, which must then fail
  --host-kills N, --broker-kills N, --pauses N, --pause SECONDS, --events N
";

/// A broker that stands still for so long that every lease is lost, and every connection given up.
const STANDSTILL: [&str; 10] =
    ["--host-kills", "0", "--broker-kills", "0", "--pauses", "1", "--pause", "60", "--events", "600"];

/// Builds everything and runs what is asked for.
///
/// # Errors
/// An unknown argument, or what the failed step says.
pub fn run(repository: &Repository, arguments: &[&str]) -> anyhow::Result<()> {
    check(arguments)?;
    step::timed("build", || build(repository, &["--bin", "busway-chaos"]))?;
    step::timed("tools", || setup::with_busway(repository))?;
    step::timed("guests", || guests::build(repository))?;
    play(repository, arguments)
}

/// What `cargo xtask test` runs of it, in a tree that is built.
///
/// # Errors
/// An event that is not accounted for.
pub fn short(repository: &Repository) -> anyhow::Result<()> {
    step::timed("chaos: kill loops", || play(repository, &["--short"]))?;
    step::timed("chaos: fail points", || play(repository, &["--short", "--failpoints"]))
}

/// What `cargo xtask nightly` runs of it.
///
/// # Errors
/// An event that is not accounted for.
pub fn full(repository: &Repository) -> anyhow::Result<()> {
    step::timed("chaos: kill loops", || play(repository, &[]))?;
    step::timed("chaos: a broker that stands still for a minute", || play(repository, &STANDSTILL))?;
    step::timed("chaos: fail points", || play(repository, &["--failpoints"]))
}

/// Runs it with what is built.
fn play(repository: &Repository, arguments: &[&str]) -> anyhow::Result<()> {
    let busway = repository.busway();
    let program =
        if arguments.contains(&"--failpoints") { with_fail_points(repository)? } else { busway.clone() };
    step::run(
        repository
            .command(busway.with_file_name("busway-chaos"))
            .args(arguments)
            .env("BUSWAY_BIN", program)
            .env("BUSWAY_GUESTS", repository.guests())
            .env("BUSWAY_CHAOS_DIR", repository.root.join(".busway").join("chaos"))
            .env("NATS_SERVER", setup::nats_server(repository)?),
    )
}

/// The program with fail points.
fn with_fail_points(repository: &Repository) -> anyhow::Result<std::path::PathBuf> {
    let busway = repository.busway();
    let aside = busway.with_file_name("busway-failpoints");
    build(repository, &["--features", "busway/failpoints"])?;
    // A running copy can't be written over.
    if aside.exists() {
        fs::remove_file(&aside).with_context(|| format!("cannot replace {}", aside.display()))?;
    }
    fs::copy(&busway, &aside).with_context(|| format!("cannot write {}", aside.display()))?;
    build(repository, &[])?;
    Ok(aside)
}

/// Builds `busway`, and what is asked for besides. That one test is built too makes the features of dependencies the same
/// as in a build of everything, so that no dependency is compiled once more.
fn build(repository: &Repository, besides: &[&str]) -> anyhow::Result<()> {
    let mut cargo = repository.cargo();
    cargo.args(["build", "--workspace", "--bin", "busway", "--test", "failure_table"]).args(besides);
    step::run(&mut cargo)
}

/// A wrong argument is told before everything is built.
fn check(mut arguments: &[&str]) -> anyhow::Result<()> {
    while let ["--short" | "--failpoints", rest @ ..]
    | [
        "--only" | "--seed" | "--json" | "--history" | "--host-kills" | "--broker-kills" | "--pauses"
        | "--pause" | "--events",
        _,
        rest @ ..,
    ]
    | ["--sabotage", "drop-one" | "double-one", rest @ ..] = arguments
    {
        arguments = rest;
    }
    if !arguments.is_empty() {
        bail!("unknown argument {:?}\n\n{USAGE}", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_that_it_does_not_know_is_refused_with_those_that_it_does() {
        for known in [&[][..], &["--short", "--failpoints"], &["--seed", "7", "--sabotage", "drop-one"]] {
            check(known).unwrap();
        }
        for unknown in [&["--seed"][..], &["--sabotage", "drop-two"], &["--long"]] {
            assert!(check(unknown).unwrap_err().to_string().contains("--sabotage WHAT"), "{unknown:?}");
        }
    }
}
