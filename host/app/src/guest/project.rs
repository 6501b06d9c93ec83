//! Which crate is meant: the one in the folder, or one of its workspace by name.
//!
//! cargo knows the workspace's members and target folder, so cargo is asked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::toolchain::{install, rust};

/// A plugin's crate.
#[derive(Debug)]
pub(super) struct Project {
    /// Its name, as cargo knows it.
    pub package: String,
    /// Where its `Cargo.toml` and `plugin.toml` are.
    pub folder: PathBuf,
    /// The target folder of its workspace.
    pub target_dir: PathBuf,
    /// The root of its workspace, which its sources are named from.
    pub root: PathBuf,
}

impl Project {
    /// Its `Cargo.toml`.
    pub(super) fn cargo_toml(&self) -> PathBuf {
        self.folder.join("Cargo.toml")
    }
}

/// What `cargo metadata` says, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// Finds the crate to build in `dir`.
///
/// # Errors
/// When there is no cargo project, the package is not in it, it is not clear which is meant, or it is no `cdylib`.
pub(super) fn find(dir: &Path, package: Option<&str>) -> anyhow::Result<Project> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        bail!("{}: no such file; run this in a plugin's folder, or name the folder", manifest.display());
    }
    let mut cargo = Command::new(rust::cargo());
    cargo.current_dir(dir).args(["metadata", "--no-deps", "--format-version", "1"]);
    let told = install::read(&mut cargo)
        .map_err(|why| anyhow::anyhow!("{}: cargo metadata {why}", manifest.display()))?;
    let metadata: Metadata =
        serde_json::from_str(&told).context("cannot read the answer of cargo metadata")?;
    let manifest =
        fs::canonicalize(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let chosen = choose(&metadata.packages, &manifest, package)?;
    if !chosen.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "cdylib")) {
        bail!(
            "{}: not a plugin: write crate-type = [\"cdylib\"] in its [lib]",
            chosen.manifest_path.display()
        );
    }
    let folder = chosen.manifest_path.parent().context("a Cargo.toml without a folder")?.to_path_buf();
    let package = chosen.name.clone();
    Ok(Project { package, folder, target_dir: metadata.target_directory, root: metadata.workspace_root })
}

/// By name; else the one whose `Cargo.toml` it is; else the only one with a `plugin.toml`.
fn choose<'a>(
    packages: &'a [Package],
    manifest: &Path,
    package: Option<&str>,
) -> anyhow::Result<&'a Package> {
    let plugins =
        || packages.iter().filter(|package| package.manifest_path.with_file_name("plugin.toml").exists());
    let names = || plugins().map(|package| package.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = package {
        return packages
            .iter()
            .find(|package| package.name == name)
            .with_context(|| format!("{}: no package {name}; its plugins: {}", manifest.display(), names()));
    }
    if let Some(own) = packages.iter().find(|package| package.manifest_path == manifest) {
        return Ok(own);
    }
    match plugins().collect::<Vec<_>>().as_slice() {
        [only] => Ok(only),
        [] => bail!("{}: no package of this workspace has a plugin.toml", manifest.display()),
        _ => bail!("{}: several plugins, say which with --package: {}", manifest.display(), names()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of two crates, of which the named ones have a `plugin.toml`.
    fn workspace(plugins: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("Cargo.toml"), "[workspace]\nmembers = [\"*\"]\nresolver = \"3\"\n")
            .unwrap();
        for name in ["one", "two"] {
            let folder = root.path().join(name);
            fs::create_dir_all(folder.join("src")).unwrap();
            fs::write(folder.join("src/lib.rs"), "").unwrap();
            let kind = if name == "one" { "cdylib" } else { "lib" };
            let text = format!(
                "[package]\nname = \"{name}\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"{kind}\"]\n"
            );
            fs::write(folder.join("Cargo.toml"), text).unwrap();
            if plugins.contains(&name) {
                fs::write(folder.join("plugin.toml"), "").unwrap();
            }
        }
        root
    }

    #[test]
    fn the_folder_of_a_crate_means_that_crate() {
        let root = workspace(&["one", "two"]);
        assert_eq!(find(&root.path().join("one"), None).unwrap().package, "one");
    }

    #[test]
    fn the_only_plugin_of_a_workspace_needs_no_name() {
        assert_eq!(find(workspace(&["one"]).path(), None).unwrap().package, "one");
    }

    #[test]
    fn of_several_plugins_one_must_be_named() {
        let root = workspace(&["one", "two"]);
        let error = find(root.path(), None).unwrap_err().to_string();
        assert!(error.ends_with("say which with --package: one, two"), "{error}");
        assert_eq!(find(root.path(), Some("one")).unwrap().folder.file_name().unwrap(), "one");
        assert!(find(root.path(), Some("three")).unwrap_err().to_string().contains("no package three"));
    }

    #[test]
    fn a_crate_that_is_no_cdylib_is_refused_with_the_line_to_write() {
        let root = workspace(&[]);
        let error = find(&root.path().join("two"), None).unwrap_err().to_string();
        assert!(error.contains("crate-type"), "{error}");
    }

    #[test]
    fn a_folder_without_a_project_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(find(root.path(), None).unwrap_err().to_string().contains("no such file"));
    }
}
