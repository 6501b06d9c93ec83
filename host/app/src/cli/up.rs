//! `busway up`: the host.

use super::ConfigFile;
use crate::{
    Exit,
    telemetry::{self, LogFormat},
    wire,
};
use anyhow::Context as _;
use clap::Args;
use std::io::{self, IsTerminal as _};
use tokio::runtime::{Builder, Runtime};

/// Threads that talk to the broker and answer health checks.
const CONTROL_THREADS: usize = 2;

/// Starts the host: loads the plugins, connects, and gives them their events until it is told to stop.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway up\n  busway up -c /etc/busway/busway.toml --log-format json\n\nSIGTERM and SIGINT let what runs finish; a second one ends the host at once. Neither loses an event."
)]
pub struct UpArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// How logs are written [default: text on a terminal, json elsewhere]
    #[arg(long, value_enum, env = "BUSWAY_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// Which logs are written, such as `debug` or `info,busway_transport=debug`
    #[arg(long, value_name = "FILTER", default_value = "info,async_nats=warn", env = "BUSWAY_LOG")]
    log: String,
}

/// Runs the host until it is told to stop.
pub fn run(args: UpArgs) -> anyhow::Result<Exit> {
    let on_terminal = if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    telemetry::start(args.log_format.unwrap_or(on_terminal), &args.log)?;
    #[cfg(feature = "failpoints")]
    crate::failpoints::tell();
    let control = runtime("busway-control", CONTROL_THREADS)?;
    let guest = runtime("busway-guest", std::thread::available_parallelism().map_or(2, usize::from))?;
    let exit = control.block_on(wire::run(&args.file.config, guest.handle().clone()));
    guest.shutdown_background();
    control.shutdown_background();
    exit
}

fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all();
    builder.build().with_context(|| format!("the threads {name} can't be started"))
}
