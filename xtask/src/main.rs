//! Everything a contributor types: `cargo xtask <command>`.
//!
//! Compiled before everything else, so it stays small and depends on nothing of ours: what needs Busway calls the
//! `busway` program. One file per command; `step` runs other programs and tells how long they took, `repository` knows
//! where things are.

mod chaos;
mod demo;
mod guests;
mod nightly;
mod repository;
mod setup;
mod sim;
mod step;
mod test;
mod tidy;

use std::{env, process::ExitCode};

use anyhow::bail;
use repository::Repository;

const USAGE: &str = "cargo xtask <command>

  setup         install what is missing: tools for plugins, nats-server, recorded webhook payloads
  build-guests  build every plugin of this repository into target/guests
  demo          set up, then send recorded webhooks through two plugins and account for every one
                [--keep] leaves the host running, [--sabotage drop-one] removes one event and must fail
  sim           play the event's path under faults that a seed chooses; exit code 1 where a promise is broken
                [--seeds N] [--from SEED], [--seed SEED] replays one with its history, [--plant NAME] makes a mistake
  chaos         set up, then kill hosts and brokers amid their work and account for every event
                [--short] less of it, [--failpoints] let hosts fail at named points instead
  test          set up, then check and test everything (what CI runs)
  tidy          check the rules of the house: dependency edges, sizes, heads
  nightly       test, then the property tests for much longer, and all of chaos
";

fn main() -> ExitCode {
    match run(env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let repository = Repository::find()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["setup"] => setup::run(&repository),
        ["build-guests"] => setup::run(&repository).and_then(|()| guests::build(&repository)),
        ["demo", arguments @ ..] => demo::run(&repository, arguments),
        ["sim", arguments @ ..] => sim::run(&repository, arguments),
        ["chaos", arguments @ ..] => chaos::run(&repository, arguments),
        ["test"] => test::run(&repository),
        ["tidy"] => tidy::run(&repository),
        ["nightly"] => nightly::run(&repository),
        ["help" | "--help" | "-h"] | [] => {
            eprint!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command {:?}\n\n{USAGE}", other.join(" ")),
    }
}
