//! `busway compile`: the child in which a host compiles a plugin; not for people.

use crate::Exit;
use anyhow::anyhow;
use busway_core::units::ByteSize;
use busway_engine::{CompileBounds, compile_child};
use clap::Args;
use std::{io, time::Duration};

/// Compiles the component on standard input within limits, and writes native code to standard output.
#[derive(Debug, Args)]
#[command(
    hide = true,
    after_help = "Example:\n  busway compile --cpu-s 30 --memory-mib 2048 < plugin.wasm > native"
)]
pub struct CompileArgs {
    /// Processor time in seconds
    #[arg(long)]
    cpu_s: u64,
    /// Address space in MiB
    #[arg(long)]
    memory_mib: u64,
}

/// Compiles.
pub fn run(args: &CompileArgs) -> anyhow::Result<Exit> {
    let bounds = CompileBounds {
        cpu: Duration::from_secs(args.cpu_s),
        memory: ByteSize::mib(args.memory_mib),
        ..CompileBounds::default()
    };
    compile_child(bounds, io::stdin().lock(), io::stdout().lock()).map_err(|why| anyhow!(why))?;
    Ok(Exit::Ok)
}

/// The arguments that bring a child of this program here.
pub fn arguments(bounds: CompileBounds) -> Vec<std::ffi::OsString> {
    let (cpu, memory) = (bounds.cpu.as_secs().to_string(), (bounds.memory.0 >> 20).to_string());
    ["compile", "--cpu-s", &cpu, "--memory-mib", &memory].map(Into::into).to_vec()
}
