//! The tools Busway leans on but does not contain: where they are looked for, and how a missing one is installed.
//!
//! Two tools, one file each: [`rust`] (a compiler with the standard library of `wasm32-unknown-unknown`, for plugins)
//! and [`nats_server`] (the private broker). Both answer `find` without changing anything, and `install` under one
//! lock. [`Places`] says where to look, and is the only part that reads the environment.

mod debian;
pub mod install;
pub mod nats_server;
pub mod rust;

use std::{env, path::PathBuf};

use anyhow::Context as _;

/// Names the folder of installed tools, where no `--dir` is given.
pub const DIR_VARIABLE: &str = "BUSWAY_TOOLCHAIN_DIR";

/// The folders in which tools are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where `--install` puts tools. Absolute; need not exist.
    pub dir: PathBuf,
    /// The working directory: its `.busway/` may hold tools of one project.
    pub working: PathBuf,
}

impl Places {
    /// Decides where tools are: `dir`, else `BUSWAY_TOOLCHAIN_DIR`, else `.busway/toolchain` of the working directory
    /// where that exists, else `$XDG_DATA_HOME/busway`, else `~/.local/share/busway`.
    ///
    /// # Errors
    /// When the working directory can't be read, or none of these is set (no `HOME`).
    pub fn resolve(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let working = env::current_dir().context("cannot read the working directory")?;
        let of_project = working.join(".busway").join("toolchain");
        let dir = dir
            .or_else(|| from_env(DIR_VARIABLE))
            .or_else(|| of_project.is_dir().then_some(of_project))
            .or_else(|| {
                from_env("XDG_DATA_HOME").filter(|data| data.is_absolute()).map(|data| data.join("busway"))
            })
            .or_else(|| from_env("HOME").map(|home| home.join(".local").join("share").join("busway")))
            .with_context(|| format!("no folder for tools: set {DIR_VARIABLE} or HOME, or pass --dir"))?;
        Ok(Self { dir: working.join(dir), working })
    }
}

/// A path from the environment; an empty value counts as not set.
fn from_env(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Why a tool cannot be used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which tool, with the least version where there is one.
    pub tool: String,
    /// What was looked at and why it did not do, in the order of the search.
    pub looked: Vec<String>,
    /// The command, or the choice of commands, that mends it.
    pub mend: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} not found", self.tool)?;
        for place in &self.looked {
            write!(f, "\n  looked: {place}")?;
        }
        write!(f, "\n  mend: {}", self.mend)
    }
}

impl std::error::Error for Missing {}
