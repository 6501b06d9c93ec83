//! Debian's Rust compiler, made able to build plugins.
//!
//! Three steps, each skipped where it is done: the packages by apt; the standard library, built once from the packaged
//! source; a sysroot around it, whose `bin/rustc` passes itself on. The order of the pitfalls met on the way:
//!
//! - The library must be made by the very compiler that uses it: hence the commit in the folder's name. Cargo would not
//!   notice a new library at the old place either (E0463), but it notices another compiler.
//! - Without bitcode in the library a plugin with `lto = true` fails.
//! - rustup stays first on `PATH` and nothing of it is touched; its cargo drives this compiler.
//! - The sysroot links to the host's own library too, for build scripts and procedural macros.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::{
    install,
    rust::{GuestRust, OLDEST, Release, TARGET, cargo, has_library},
};

/// Debian's compiler. The path is written out because rustup's usually comes first on `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// There exactly when the source of Debian's standard library is, with the lock file that building it needs.
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/Cargo.lock";

/// From one source package, so they always fit each other. No version: Debian keeps them fresh for its browsers, and apt
/// verifies them.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "rust-web-llvm"];

/// Debian's compiler, with all that a build with it needs except the library.
#[derive(Debug)]
pub(super) struct Debian {
    pub(super) release: Release,
}

impl Debian {
    /// Looks whether the packages are there.
    pub(super) fn read() -> Result<Self, String> {
        for file in [DEBIAN_RUSTC, DEBIAN_SOURCE] {
            if !Path::new(file).exists() {
                return Err(format!("{file}: no such file (Debian's {})", DEBIAN_PACKAGES.join(", ")));
            }
        }
        let told = install::read(Command::new(DEBIAN_RUSTC).arg("-vV"))
            .map_err(|why| format!("{DEBIAN_RUSTC}: {why}"))?;
        let release = Release::parse(&told).map_err(|why| format!("{DEBIAN_RUSTC}: {why}"))?;
        if release.version < OLDEST {
            return Err(format!("{DEBIAN_RUSTC}: {} is older than {OLDEST}", release.version));
        }
        // A link into the package `lld-N`: without that package it leads nowhere, and does not count as there.
        if install::on_path("rust-lld").is_none() {
            return Err(format!(
                "{DEBIAN_RUSTC}: no linker rust-lld (Debian's rust-web-llvm, {})",
                release.linker()
            ));
        }
        Ok(Self { release })
    }

    /// Where the sysroot for this very compiler is, or would be.
    pub(super) fn sysroot(&self, dir: &Path) -> PathBuf {
        dir.join("guest-sysroot").join(format!("{}-{}", self.release.version, self.release.commit))
    }

    /// The sysroot, if it was built.
    pub(super) fn find(&self, dir: &Path) -> Result<GuestRust, String> {
        let sysroot = self.sysroot(dir);
        let rustc = sysroot.join("bin").join("rustc");
        if rustc.exists() && has_library(&library(&sysroot)) {
            Ok(GuestRust::Sysroot { rustc, version: self.release.version.clone() })
        } else {
            Err(format!("{DEBIAN_RUSTC} {}: no {}", self.release.version, sysroot.display()))
        }
    }
}

/// Where a sysroot keeps the target's library.
fn library(sysroot: &Path) -> PathBuf {
    sysroot.join("lib").join("rustlib").join(TARGET).join("lib")
}

/// Installs Debian's packages.
pub(super) fn fetch() -> anyhow::Result<()> {
    let rustup = format!("run: rustup target add {TARGET}");
    if install::on_path("apt-get").is_none() {
        bail!(
            "a Rust standard library for {TARGET} is missing, and there is no apt-get to install one; {rustup}"
        );
    }
    if install::read(Command::new("id").arg("-u")).as_deref().map(str::trim) != Ok("0") {
        let packages = DEBIAN_PACKAGES.join(" ");
        bail!("only root can install {packages}; {rustup}, or run this command as root");
    }
    install::say(&format!("installing {} with apt", DEBIAN_PACKAGES.join(", ")));
    // A list that could not be brought up to date may still do, so only the installation decides.
    let stale = install::run(apt().arg("update")).err();
    let fetched = install::run(
        apt().args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(DEBIAN_PACKAGES),
    );
    if let Err(error) = fetched {
        let stale = stale.map(|stale| format!("\n{stale:#}")).unwrap_or_default();
        bail!("{error:#}{stale}\ncannot install Debian's Rust compiler for {TARGET}; {rustup}");
    }
    let told = install::read(Command::new(DEBIAN_RUSTC).arg("-vV"));
    let release = told
        .and_then(|told| Release::parse(&told))
        .map_err(|why| anyhow::anyhow!("{DEBIAN_RUSTC}: {why}"))?;
    install::run(
        apt().args(["install", "-y", "--no-install-recommends", "--no-remove"]).arg(release.linker()),
    )
}

/// apt-get that asks nothing, and waits while another apt runs. `--no-remove` in the calls keeps it from replacing a
/// Debian `rustc` that someone chose: the two conflict.
fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=600"]);
    apt
}

/// Builds the standard library in `staging` and lays out a sysroot around it.
pub(super) fn build_sysroot(debian: &Debian, staging: &Path) -> anyhow::Result<PathBuf> {
    let source = staging.join("mkstd");
    write(&source.join("src").join("lib.rs"), "")?;
    write(&source.join("Cargo.toml"), STD_BUILDER)?;
    let built = staging.join("target");
    install::run(&mut std_build(&source, &built))
        .with_context(|| format!("cannot build the standard library for {TARGET} with {DEBIAN_RUSTC}"))?;

    let sysroot = staging.join("sysroot");
    let libraries = library(&sysroot);
    fs::create_dir_all(&libraries).with_context(|| format!("cannot create {}", libraries.display()))?;
    let made = built.join(TARGET).join("release").join("deps");
    for file in fs::read_dir(&made).with_context(|| format!("cannot read {}", made.display()))? {
        let file = file.with_context(|| format!("cannot read {}", made.display()))?;
        let name = file.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("lib") && text.ends_with(".rlib") && !text.starts_with("libmkstd-") {
            fs::copy(file.path(), libraries.join(&name)).with_context(|| format!("cannot copy {text}"))?;
        }
    }
    // Build scripts and procedural macros run on the host: its libraries are Debian's own.
    let host = Path::new("lib").join("rustlib").join(&debian.release.host);
    link(&Path::new("/usr").join(&host), &sysroot.join(&host))?;
    write_program(&sysroot.join("bin").join("rustc"), RUSTC_WITH_SYSROOT)?;
    Ok(sysroot)
}

/// The empty crate that drags `std` in. Its own workspace: the folder may lie inside someone else's.
const STD_BUILDER: &str = "[package]\nname = \"mkstd\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
    [profile.release]\ndebug = false\n\n[workspace]\n";

/// The compiler with the sysroot it lies in. Relative to itself, so that the folder can be built aside and moved.
const RUSTC_WITH_SYSROOT: &str = "#!/bin/sh\nexec /usr/bin/rustc --sysroot=\"${0%/bin/rustc}\" \"$@\"\n";

/// The call of cargo that builds `std`. Flags that a person set for other builds are taken out of it.
fn std_build(source: &Path, target_dir: &Path) -> Command {
    let mut cargo = Command::new(cargo());
    cargo.current_dir(source);
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTC_WRAPPER",
    ] {
        cargo.env_remove(variable);
    }
    // `-Zbuild-std` is not stable, and this compiler is: RUSTC_BOOTSTRAP lets it. Without the bitcode a plugin with
    // `lto = true` fails with "failed to get bitcode from object file for LTO".
    cargo
        .env("RUSTC", DEBIAN_RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Cembed-bitcode=yes")
        .args(["build", "--quiet", "--release", "-Zbuild-std=core,alloc,std,panic_abort,proc_macro"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target_dir);
    cargo
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(unix)]
fn write_program(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(unix)]
fn link(original: &Path, place: &Path) -> anyhow::Result<()> {
    std::os::unix::fs::symlink(original, place)
        .with_context(|| format!("cannot link {} to {}", place.display(), original.display()))
}

#[cfg(not(unix))]
fn write_program(path: &Path, _: &str) -> anyhow::Result<()> {
    bail!("cannot make {} executable on this system", path.display())
}

#[cfg(not(unix))]
fn link(_: &Path, place: &Path) -> anyhow::Result<()> {
    bail!("cannot link {} on this system", place.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
        commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96\ncommit-date: 2026-05-25\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn a_sysroot_is_named_after_the_compilers_release_and_commit() {
        let debian = Debian { release: Release::parse(ANSWER).unwrap() };
        assert_eq!(debian.sysroot(Path::new("/tools")), Path::new("/tools/guest-sysroot/1.96.0-ac68faa2"));
        assert_eq!(debian.release.linker(), "lld-22");
    }

    #[test]
    fn a_sysroot_without_its_library_is_not_taken_for_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let debian = Debian { release: Release::parse(ANSWER).unwrap() };
        let sysroot = debian.sysroot(dir.path());
        write(&sysroot.join("bin/rustc"), RUSTC_WITH_SYSROOT).unwrap();
        assert!(debian.find(dir.path()).is_err());
        write(&library(&sysroot).join("libstd-0.rlib"), "").unwrap();
        assert!(debian.find(dir.path()).is_ok());
    }

    #[test]
    fn the_standard_library_is_built_without_the_persons_own_flags() {
        let build = std_build(Path::new("/s"), Path::new("/t"));
        let removed: Vec<_> =
            build.get_envs().filter(|(_, value)| value.is_none()).map(|(key, _)| key).collect();
        assert!(removed.contains(&"RUSTFLAGS".as_ref()) && removed.contains(&"RUSTC_WRAPPER".as_ref()));
    }
}
