//! `busway new`: a project that builds, with a handler and a test of it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Usage, print};
use crate::guest::scaffold;

/// Makes a new plugin project
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  busway new enrich --lang rust && cd enrich && cargo test && busway build"
)]
pub struct NewArgs {
    /// The plugin's name: 1 to 48 of a-z, 0-9 and -, with a letter first
    name: String,
    /// The language to write it in
    #[arg(long, value_enum)]
    lang: Language,
    /// The folder to make it in [default: a folder of its name, here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The languages that plugins are, or will be, written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    /// Rust
    Rust,
    /// JavaScript and TypeScript (not yet)
    Js,
    /// Python (not yet)
    Python,
    /// Go (not yet)
    Go,
    /// C (not yet)
    C,
}

/// Runs the command.
///
/// # Errors
/// When the name is none, the language is not ready, the folder is not empty, or a file can't be written.
pub fn run(args: NewArgs) -> anyhow::Result<()> {
    scaffold::check_name(&args.name).map_err(Usage)?;
    match args.lang {
        Language::Rust => {}
        Language::Js | Language::Python | Language::Go | Language::C => {
            return Err(Usage("not yet: --lang rust is the only language so far".to_owned()).into());
        }
    }
    let name = &args.name;
    let folder = args.dir.unwrap_or_else(|| PathBuf::from(name));
    scaffold::write_rust(name, &folder)?;
    let folder = folder.display();
    print::line(format!(
        "made {folder}\n\nNext:\n  cd {folder}\n  cargo test      # runs the handler natively, without a broker\n  \
         busway build    # makes target/busway/{name}.wasm\n  \
         busway invoke target/busway/{name}.wasm --subject orders.created --data '{{\"id\": 7, \"prices\": [2.5, 4]}}'"
    ))
}
