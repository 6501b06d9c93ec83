//! Where things are in the repository, and what the programs that xtask calls are told about it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use cargo_metadata::{Metadata, MetadataCommand};

/// The repository, as cargo sees it.
#[derive(Debug)]
pub struct Repository {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// The workspace's members, with what each declares.
    pub metadata: Metadata,
}

impl Repository {
    /// Finds the repository that this program was built from.
    ///
    /// # Errors
    /// When cargo cannot read the workspace.
    pub fn find() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no repository")?;
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cannot read the workspace with cargo metadata")?;
        Ok(Self { root: root.to_path_buf(), metadata })
    }

    /// Cargo's target folder.
    pub fn target(&self) -> &Path {
        self.metadata.target_directory.as_std_path()
    }

    /// The `busway` program of development builds.
    pub fn busway(&self) -> PathBuf {
        self.target().join("debug").join(format!("busway{}", std::env::consts::EXE_SUFFIX))
    }

    /// Where `build-guests` puts components.
    pub fn guests(&self) -> PathBuf {
        self.target().join("guests")
    }

    /// Where the tools are that Busway leans on.
    pub fn toolchain(&self) -> PathBuf {
        self.root.join(".busway").join("toolchain")
    }

    /// Where recorded input for the demo and the tests is.
    pub fn recorded(&self) -> PathBuf {
        self.root.join(".busway").join("data")
    }

    /// A program, to be run in the root, that finds the repository's tools.
    ///
    /// What cargo told xtask of itself is kept from it: the build script of `ring` looks at such variables, so that it
    /// and all that depends on it would be compiled anew whenever `cargo` and `cargo xtask` take turns.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("BUSWAY_TOOLCHAIN_DIR", self.toolchain());
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&variable);
            }
        }
        command
    }

    /// The cargo that runs us.
    pub fn cargo(&self) -> Command {
        self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }
}
