//! `busway toolchain`: what is needed besides this program, whether it is there, and how to get it.
//!
//! The report goes to standard output, the course of an install to standard error. A missing tool is exit code 1, so
//! that a script can ask.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{OutputFormat, print};
use crate::toolchain::{Missing, Places, nats_server, rust};

/// Says which tools are needed, which are there, and how to get the others
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway toolchain\n  busway toolchain rust --install\n  busway toolchain nats-server --output json"
)]
pub struct ToolchainArgs {
    /// Only this tool [default: all]
    tool: Option<Tool>,
    /// Install what is missing
    #[arg(long)]
    install: bool,
    /// Where tools are installed and looked for [default: $BUSWAY_TOOLCHAIN_DIR, .busway/toolchain if it exists, or
    /// ~/.local/share/busway]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// The tools, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Tool {
    /// A Rust compiler that can build plugins
    Rust,
    /// The broker that `busway up` starts where no `nats.url` is given
    NatsServer,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Entry {
    tool: Tool,
    needed_for: &'static str,
    #[serde(flatten)]
    state: State,
}

#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum State {
    Found { path: PathBuf, version: String },
    Missing { looked: Vec<String>, mend: String },
}

/// Runs the command.
///
/// # Errors
/// When a tool is missing (and could not be installed, where that was asked for).
pub fn run(args: ToolchainArgs) -> anyhow::Result<()> {
    let places = Places::resolve(args.dir)?;
    let tools: &[Tool] = match args.tool {
        None => Tool::value_variants(),
        Some(Tool::Rust) => &[Tool::Rust],
        Some(Tool::NatsServer) => &[Tool::NatsServer],
    };
    if args.install {
        for tool in tools {
            match tool {
                Tool::Rust => drop(rust::install(&places, &places.working)?),
                Tool::NatsServer => drop(nats_server::install(&places)?),
            }
        }
    }
    let entries: Vec<Entry> = tools.iter().map(|tool| look(*tool, &places)).collect();
    match args.output {
        OutputFormat::Json => print::json(&entries)?,
        OutputFormat::Text => print::line(entries.iter().map(Entry::text).collect::<Vec<_>>().join("\n"))?,
    }
    let missing = entries.iter().filter(|entry| matches!(entry.state, State::Missing { .. })).count();
    if missing > 0 {
        bail!("{missing} of {} tools missing", entries.len());
    }
    Ok(())
}

fn look(tool: Tool, places: &Places) -> Entry {
    let (needed_for, state) = match tool {
        Tool::Rust => (
            "busway build, of plugins written in Rust",
            state(rust::find(places, &places.working), |found| (found.path(), found.version().to_string())),
        ),
        Tool::NatsServer => (
            "busway up, where busway.toml has no nats.url",
            state(nats_server::find(places), |found| (&found.path, found.version.to_string())),
        ),
    };
    Entry { tool, needed_for, state }
}

fn state<T>(search: Result<T, Missing>, found: impl Fn(&T) -> (&Path, String)) -> State {
    match search {
        Ok(tool) => {
            let (path, version) = found(&tool);
            State::Found { path: path.to_path_buf(), version }
        }
        Err(missing) => State::Missing { looked: missing.looked, mend: missing.mend },
    }
}

impl Entry {
    fn text(&self) -> String {
        let name = self.tool.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        match &self.state {
            State::Found { path, version } => format!("{name:<12} found    {version} {}", path.display()),
            State::Missing { looked, mend } => {
                let looked: String =
                    looked.iter().map(|place| format!("             looked: {place}\n")).collect();
                format!(
                    "{name:<12} missing  needed for {}\n{looked}             mend: {mend}",
                    self.needed_for
                )
            }
        }
    }
}
