//! The command line: one file per command, and what they share.

mod build;
mod check;
pub mod compile;
mod connect;
mod dlq;
mod doctor;
mod explain;
mod inspect;
mod invoke;
mod new;
mod plugin;
mod print;
mod publish;
mod toolchain;
mod up;
mod verify;

use crate::{Exit, config};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Gives every event on NATS to sandboxed WebAssembly plugins, and loses none.
#[derive(Debug, Parser)]
#[command(name = "busway", version = version(), propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Examples:\n  busway new my-plugin --lang rust   write a first plugin\n  busway up                          start the host with ./busway.toml\n\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 stopped with events still running"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::UpArgs),
    Check(check::CheckArgs),
    Compile(compile::CompileArgs),
    New(new::NewArgs),
    Build(build::BuildArgs),
    Inspect(inspect::InspectArgs),
    Invoke(invoke::InvokeArgs),
    Publish(publish::PublishArgs),
    Dlq(dlq::DlqArgs),
    Plugin(plugin::PluginArgs),
    Doctor(doctor::DoctorArgs),
    Verify(verify::VerifyArgs),
    Explain(explain::ExplainArgs),
    Toolchain(toolchain::ToolchainArgs),
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Which configuration a command works with.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_FILE, env = "BUSWAY_CONFIG")]
    pub config: PathBuf,
}

/// A command line that is well-formed and makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Cli {
    /// Carries the command out.
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Up(args) => up::run(args),
            Command::Check(args) => check::run(&args),
            Command::Compile(args) => compile::run(&args),
            Command::New(args) => new::run(args).map(|()| Exit::Ok),
            Command::Build(args) => build::run(args).map(|()| Exit::Ok),
            Command::Inspect(args) => inspect::run(&args),
            Command::Invoke(args) => invoke::run(&args),
            Command::Publish(args) => publish::run(&args),
            Command::Dlq(args) => dlq::run(&args),
            Command::Plugin(args) => plugin::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Explain(args) => explain::run(&args),
            Command::Toolchain(args) => toolchain::run(args).map(|()| Exit::Ok),
        }
    }
}

/// The version, with that of the sandbox.
fn version() -> &'static str {
    if cfg!(feature = "failpoints") {
        return concat!(env!("CARGO_PKG_VERSION"), " (wasmtime 48.0.8, with fail points: for tests only)");
    }
    concat!(env!("CARGO_PKG_VERSION"), " (wasmtime 48.0.8)")
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        let leaves = command.get_subcommands().flat_map(|command| {
            let below: Vec<_> = command.get_subcommands().collect();
            if below.is_empty() { vec![command] } else { below }
        });
        for leaf in leaves {
            let help = leaf.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{}` has no example", leaf.get_name());
        }
    }
}
