//! `cargo xtask build-guests`: every plugin of this repository, as a component in `target/guests/<folder>.wasm`.
//!
//! All share the workspace's `guest` profile and one target folder, so what they have in common is compiled once.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};

use crate::{repository::Repository, step};

/// The folders whose own folders are plugins, where they hold a `plugin.toml`.
const SHELVES: [&str; 3] = ["plugins", "examples", "tests/guests/rust"];

/// Builds all of them. Needs what `setup` installs.
///
/// # Errors
/// When one does not build, or two have the same name.
pub fn build(repository: &Repository) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for folder in folders(repository)? {
        let name =
            folder.file_name().context("a plugin's folder without a name")?.to_string_lossy().into_owned();
        if seen.contains(&name) {
            bail!("{}: another plugin of this repository has that name", folder.display());
        }
        step::run(
            repository
                .command(repository.busway())
                .arg("build")
                .arg(&folder)
                .args(["--profile", "guest", "--target-dir"])
                .arg(repository.target())
                .arg("--out")
                .arg(repository.guests().join(format!("{name}.wasm"))),
        )
        .with_context(|| format!("cannot build {}", folder.display()))?;
        seen.push(name);
    }
    Ok(())
}

/// The plugins' folders, in the order of their paths.
fn folders(repository: &Repository) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for shelf in SHELVES {
        let shelf = repository.root.join(shelf);
        if !shelf.exists() {
            continue;
        }
        for entry in fs::read_dir(&shelf).with_context(|| format!("cannot read {}", shelf.display()))? {
            let folder = entry.with_context(|| format!("cannot read {}", shelf.display()))?.path();
            if folder.join("plugin.toml").is_file() && folder.join("Cargo.toml").is_file() {
                folders.push(folder);
            }
        }
    }
    folders.sort();
    Ok(folders)
}
