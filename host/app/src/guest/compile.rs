//! Runs cargo: what `cargo build --target wasm32-unknown-unknown` does, and a small stack.
//!
//! cargo runs in the plugin's folder, so that its own configuration (`.cargo/config.toml`, `rust-toolchain.toml`) holds.
//! The author's `RUSTFLAGS` and their like stay untouched, because variables and files of that kind displace each other:
//! the stack's size is given to the last link alone, by `cargo rustc -- …`. The compiler's messages go to standard error
//! as cargo writes them; standard output carries cargo's machine-readable messages, which name the file that was made.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::project::Project;
use crate::toolchain::rust::{GuestRust, TARGET, cargo};

/// The stack of a plugin: 64 KiB, and not the linker's 1 MiB, because every event gets fresh memory and what is not there
/// need not be cleared. It lies below the data, so that an overflow is a trap.
const STACK: &str = "-Clink-arg=-zstack-size=65536";

/// A line of cargo's machine-readable output, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Compiles the crate to a core module, and reads it.
///
/// # Errors
/// When cargo can't be started or fails, or makes no module.
pub(super) fn run(
    project: &Project,
    rust: &GuestRust,
    profile: &str,
    target_dir: &Path,
) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new(cargo());
    command
        .current_dir(&project.folder)
        .args(["rustc", "--target", TARGET, "--lib", "--message-format=json-render-diagnostics"])
        .args(["--profile", profile, "--package", &project.package, "--target-dir"])
        .arg(std::path::absolute(target_dir)?)
        .args(["--", STACK])
        // Traces name sources from the project's root, and the same sources make the same bytes in any folder.
        .arg(format!("--remap-path-prefix={}=.", project.root.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    rust.apply(&mut command);
    let mut child = command.spawn().context("cannot run cargo: it comes with Rust, see https://rustup.rs")?;
    let stdout = child.stdout.take().context("no output of cargo")?;
    let made = made(BufReader::new(stdout), &project.cargo_toml());
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("cargo failed for {} ({status})", project.package);
    }
    let module = made?
        .with_context(|| format!("cargo made no module of {}: is its [lib] a cdylib?", project.package))?;
    fs::read(&module).with_context(|| format!("cannot read {}", module.display()))
}

/// The module that cargo says it made of the crate with this `Cargo.toml`. Reads to the end, lest cargo be stopped by a
/// full pipe.
fn made(output: impl BufRead, cargo_toml: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut found = None;
    for line in output.lines() {
        let line = line.context("cannot read the output of cargo")?;
        // Other lines are what a build script or cargo itself may print one day.
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        if message.reason == "compiler-artifact" && message.manifest_path.as_deref() == Some(cargo_toml) {
            let module =
                message.filenames.into_iter().find(|file| file.extension().is_some_and(|end| end == "wasm"));
            found = module.or(found);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_of_the_crate_is_found_among_cargos_messages() {
        let output = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/dep/Cargo.toml","filenames":["/t/dep.wasm"]}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","filenames":["/t/p.rlib","/t/p.wasm"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        let found = made(output.as_bytes(), Path::new("/p/Cargo.toml")).unwrap();
        assert_eq!(found.as_deref(), Some(Path::new("/t/p.wasm")));
        assert_eq!(made(output.as_bytes(), Path::new("/q/Cargo.toml")).unwrap(), None);
    }
}
