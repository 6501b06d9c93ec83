//! `busway inspect`: what a component is, without running or compiling it.

use super::{OutputFormat, print};
use crate::{
    Exit,
    plugins::{chain, read_file},
};
use anyhow::Context as _;
use busway_engine::Inspection;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Shows what a component exports, imports and says of itself.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  busway inspect plugin.wasm\n  busway inspect plugin.wasm --output json")]
pub struct InspectArgs {
    /// The component
    file: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Shows it.
pub fn run(args: &InspectArgs) -> anyhow::Result<Exit> {
    let file = args.file.display();
    let bytes = read_file(&args.file).with_context(|| format!("{file} can't be read"))?;
    let found = busway_engine::inspect(&bytes).map_err(|why| anyhow::anyhow!("{file}: {}", chain(&why)))?;
    match args.output {
        OutputFormat::Json => print::json(&json!({
            "digest": found.digest.to_string(),
            "size": found.size,
            "modules": found.modules,
            "exports": found.exports,
            "imports": found.imports,
            "manifest": found.manifest,
        }))?,
        OutputFormat::Text => as_text(&found)?,
    }
    Ok(Exit::Ok)
}

fn as_text(found: &Inspection) -> anyhow::Result<()> {
    print::line(format!("digest    {}", found.digest))?;
    print::line(format!("size      {} KiB, {} core modules", found.size.div_ceil(1024), found.modules))?;
    for name in &found.exports {
        print::line(format!("exports   {}", print::escaped(name)))?;
    }
    for name in &found.imports {
        print::line(format!("imports   {}", print::escaped(name)))?;
    }
    match &found.manifest {
        None => print::line("manifest  none: it was not built with `busway build`"),
        Some(manifest) => print::line(format!("manifest\n{}", serde_json::to_string_pretty(manifest)?)),
    }
}
