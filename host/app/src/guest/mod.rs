//! From a plugin's project to a component: the steps of `busway build`, one file each, in this order.
//!
//! `project` finds the crate, `manifest` reads its `plugin.toml` by the `rules` (first, because it takes no time),
//! `compile` runs cargo, `component` wraps the result and embeds the manifest. [`build`] is the whole path; it writes
//! the component with one rename, so that a host that loads the file never sees half of it.
//!
//! `scaffold` is what comes before all that: the project that `busway new` writes.

mod compile;
pub mod component;
pub mod manifest;
mod project;
mod rules;
pub mod scaffold;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::toolchain::{Places, rust};

/// What to build, and where to put it.
#[derive(Debug)]
pub struct Build {
    /// The folder of the plugin's `Cargo.toml`.
    pub dir: PathBuf,
    /// Which package, where the folder's workspace has several.
    pub package: Option<String>,
    /// The cargo profile.
    pub profile: String,
    /// Where the component goes; left out: `<target>/busway/<name>.wasm`.
    pub output: Option<PathBuf>,
    /// Cargo's target folder; left out: the project's own.
    pub target_dir: Option<PathBuf>,
}

/// A component that was built.
#[derive(Debug, PartialEq, Eq)]
pub struct Built {
    /// The plugin's name, from its manifest.
    pub name: String,
    /// Where the component is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: usize,
    /// `sha256:` and 64 hexadecimal digits: what a `digest` pin in `busway.toml` takes.
    pub digest: String,
}

/// Builds one plugin.
///
/// # Errors
/// No project, no or a wrong `plugin.toml`, no toolchain, an error of the compiler (whose own words are already on
/// standard error), or a result that is no plugin.
pub fn build(build: &Build) -> anyhow::Result<Built> {
    let project = project::find(&build.dir, build.package.as_deref())?;
    let manifest = manifest::read(&project.folder)?;
    let places = Places::resolve(None)?;
    let rust = rust::find(&places, &project.folder)?;

    // Its own folder below `target`: another compiler may be at work here than in the author's native builds.
    let target = build.target_dir.as_ref().unwrap_or(&project.target_dir).join("busway");
    let core = compile::run(&project, &rust, &build.profile, &target)?;
    let component = component::from_core(&core)
        .with_context(|| format!("cannot make a component of package {}", project.package))?;
    let component = component::embed(component, busway_engine::SECTION, &serde_json::to_vec(&manifest)?);

    let name = manifest.name.to_string();
    let path = build.output.clone().unwrap_or_else(|| target.join(format!("{name}.wasm")));
    write_whole(&path, &component)?;
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&component));
    Ok(Built { name, path, size: component.len(), digest: format!("sha256:{digest}") })
}

/// Writes a file so that others see the old content or the new, never a part.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        drop(fs::remove_file(&beside));
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}
