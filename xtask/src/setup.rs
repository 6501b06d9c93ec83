//! `cargo xtask setup`: everything that the build, the tests and the demo need, under the repository.
//!
//! In this order: the `busway` program, because it knows how to get the tools; the tools, into `.busway/toolchain`; the
//! recorded webhook payloads, into `.busway/data`. What is there is left alone, so that a second run takes a moment.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha512};

use crate::{repository::Repository, step};

/// Recorded GitHub deliveries: 329 payloads of 58 kinds (MIT). Real input, so not invented JSON.
const PAYLOADS: &str = "@octokit/webhooks-examples@7.6.1";

/// The SHA-512 of that package's archive.
const PAYLOADS_SHA512: &str = "0dee94dd707a3b70ed09aedb2a008ccd31dd7a8a6aa99e92362bcc6099caeb98\
    9eaca2f5027348034b644580914bb970193efdd9df8fb3559b7c796ca3a3329d";

/// What is taken out of the archive: a list of `{ name, examples: […] }`, one entry for each kind.
const PAYLOADS_FILE: &str = "package/api.github.com/index.json";

/// Builds `busway`, and sets up what is missing.
///
/// # Errors
/// When a step fails; a tool that is missing for it is named.
pub fn run(repository: &Repository) -> anyhow::Result<()> {
    let start = Instant::now();
    step::run(repository.cargo().args(["build", "--package", "busway"])).context("cannot build busway")?;
    with_busway(repository)?;
    eprintln!("xtask: set up in {}", step::seconds(start.elapsed()));
    Ok(())
}

/// Sets up what is missing, with a `busway` that was just built.
///
/// # Errors
/// As for [`run`].
pub fn with_busway(repository: &Repository) -> anyhow::Result<()> {
    let mut busway = repository.command(repository.busway());
    step::run(busway.args(["toolchain", "--install", "--dir"]).arg(repository.toolchain()))
        .context("cannot install the tools")?;
    payloads(repository)
}

/// Where the nats-server is that `busway` would use.
///
/// # Errors
/// When there is none, or `busway` cannot be run.
pub fn nats_server(repository: &Repository) -> anyhow::Result<String> {
    let told = step::read(repository.command(repository.busway()).args([
        "toolchain",
        "nats-server",
        "--output",
        "json",
    ]))?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let path = told.pointer("/0/path").and_then(serde_json::Value::as_str);
    Ok(path.context("busway toolchain names no path of a nats-server")?.to_owned())
}

/// Fetches the recorded payloads into `.busway/data/github-webhooks.json`.
fn payloads(repository: &Repository) -> anyhow::Result<()> {
    let place = repository.recorded().join("github-webhooks.json");
    if place.exists() {
        eprintln!("payloads     found    {}", place.display());
        return Ok(());
    }
    let staging = repository.recorded().join("staging");
    if staging.exists() {
        fs::remove_dir_all(&staging).with_context(|| format!("cannot empty {}", staging.display()))?;
    }
    fs::create_dir_all(&staging).with_context(|| format!("cannot create {}", staging.display()))?;
    let archive =
        step::read(repository.command("npm").current_dir(&staging).args(["pack", "--silent", PAYLOADS]))?;
    let archive = staging.join(archive.trim());
    verify(&archive, PAYLOADS_SHA512)?;
    step::run(repository.command("tar").current_dir(&staging).arg("-xzf").arg(&archive).arg(PAYLOADS_FILE))?;
    fs::rename(staging.join(PAYLOADS_FILE), &place)
        .with_context(|| format!("cannot write {}", place.display()))?;
    fs::remove_dir_all(&staging).with_context(|| format!("cannot remove {}", staging.display()))?;
    eprintln!("payloads     installed {}", place.display());
    Ok(())
}

/// Refuses a file whose content is not what was pinned.
fn verify(file: &Path, expected: &str) -> anyhow::Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found: String = Sha512::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != expected {
        bail!("{}: not the file that was pinned: its sha512 is {found}, not {expected}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_the_pinned_one_is_refused_with_both_sums() {
        let folder = std::env::temp_dir().join(format!("xtask-verify-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("archive");
        fs::write(&file, "other").unwrap();
        let error = verify(&file, PAYLOADS_SHA512).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains(PAYLOADS_SHA512) && error.contains("not the file that was pinned"), "{error}");
    }
}
