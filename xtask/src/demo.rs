//! `cargo xtask demo`: recorded GitHub webhooks through two plugins on a private broker, and an account of every one.
//!
//! Sets up what is missing, builds the host, the plugins and the demo itself, and then becomes the demo: it gets the
//! terminal and its signals, and its exit code is ours. What it does stands in `tests/demo`.
//!
//! Host and demo are built by one call: which features a dependency has depends on what is built with it, and so what
//! they share is compiled once and not twice.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, bail};

use crate::{guests, repository::Repository, setup, step};

/// Builds everything and runs the demo in the place of this process.
///
/// # Errors
/// An unknown argument, or what the failed step says.
pub fn run(repository: &Repository, arguments: &[&str]) -> anyhow::Result<()> {
    check(arguments)?;
    step::timed("build", || {
        step::run(repository.cargo().args(["build", "--package", "busway", "--package", "busway-demo"]))
    })?;
    step::timed("tools", || setup::with_busway(repository))?;
    step::timed("guests", || guests::build(repository))?;
    let demo = repository.busway().with_file_name("busway-demo");
    let failed = repository
        .command(&demo)
        .args(arguments)
        .env("BUSWAY_BIN", repository.busway())
        .env("BUSWAY_GUESTS", repository.guests())
        .env("BUSWAY_DEMO_DATA", repository.recorded().join("github-webhooks.json"))
        .env("BUSWAY_DEMO_DIR", repository.root.join(".busway").join("demo"))
        .env("NATS_SERVER", setup::nats_server(repository)?)
        .exec();
    Err(failed).with_context(|| format!("cannot run {}", demo.display()))
}

/// A wrong argument is told before everything is built.
fn check(mut arguments: &[&str]) -> anyhow::Result<()> {
    while let ["--keep", rest @ ..] | ["--sabotage", "drop-one", rest @ ..] = arguments {
        arguments = rest;
    }
    if !arguments.is_empty() {
        bail!(
            "unknown argument {:?}\n\ncargo xtask demo [--keep] [--sabotage drop-one]\n\n  \
             --keep               leave the host running, to look around\n  \
             --sabotage drop-one  remove one event before the account is made, which must then fail",
            arguments.join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_that_the_demo_does_not_know_is_refused_with_those_that_it_does() {
        for known in [&[][..], &["--keep"], &["--sabotage", "drop-one", "--keep"]] {
            check(known).unwrap();
        }
        for unknown in [&["--sabotage"][..], &["--keep", "now"], &["--sabotage", "drop-two"]] {
            assert!(check(unknown).unwrap_err().to_string().contains("--sabotage drop-one"), "{unknown:?}");
        }
    }
}
