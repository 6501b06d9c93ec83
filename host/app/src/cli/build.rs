//! `busway build`: a plugin's project becomes one `.wasm` file that any Busway can load.

use std::{path::PathBuf, time::Instant};

use clap::Args;

use super::print;
use crate::guest;

/// Builds a plugin: compiles it, makes a component of it, and embeds its plugin.toml
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  busway build\n  busway build plugins/validate -o validate.wasm")]
pub struct BuildArgs {
    /// The folder with the plugin's Cargo.toml and plugin.toml
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Which package, where the folder is a workspace of several plugins
    #[arg(long, short, value_name = "PACKAGE")]
    package: Option<String>,
    /// The cargo profile
    #[arg(long, value_name = "PROFILE", default_value = "release")]
    profile: String,
    /// Where to write the component [default: <target>/busway/<name>.wasm]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Cargo's target folder [default: the project's own]
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What [`guest::build`] refuses.
pub fn run(args: BuildArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let built = guest::build(&guest::Build {
        dir: args.dir,
        package: args.package,
        profile: args.profile,
        output: args.out,
        target_dir: args.target_dir,
    })?;
    let kib = built.size.div_ceil(1024);
    let seconds = start.elapsed().as_secs_f64();
    print::line(format!("{}  {kib} KiB  {}  {seconds:.1} s", built.path.display(), built.digest))
}
