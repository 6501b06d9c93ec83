//! Finds a Rust compiler for plugins, and installs one where there is none.
//!
//! A plugin is compiled for `wasm32-unknown-unknown`, so what is needed is that target's standard library, made by the
//! very compiler that is used. The order of the search: the compiler that the plugin's project uses anyway (whoever ran
//! `rustup target add` is done), then Debian's compiler with a standard library that this file built for it.
//!
//! Debian's compiler comes without the library and with its source, so `install` builds it once ([`super::debian`]), into
//! a sysroot of its own with a small `bin/rustc` that passes it on. So a plugin's build needs one variable, `RUSTC`, and
//! no `RUSTFLAGS`: the author's own flags stay in force, from wherever they come.
//!
//! Nothing here is ever set for builds of the host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use semver::Version;

use super::{
    Missing, Places,
    debian::{self, Debian},
    install::{self, Install},
};

/// What plugins are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The oldest compiler that the SDK takes.
pub const OLDEST: Version = Version::new(1, 95, 0);

/// A compiler that can build plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestRust {
    /// The compiler that cargo uses in the project anyway.
    OfProject {
        /// Where its standard library for the target is.
        library: PathBuf,
        /// Its release.
        version: Version,
    },
    /// Debian's, by way of a sysroot of ours.
    Sysroot {
        /// The `bin/rustc` of the sysroot.
        rustc: PathBuf,
        /// Its release.
        version: Version,
    },
}

impl GuestRust {
    /// What stands for it in messages: the compiler's or the library's path.
    pub fn path(&self) -> &Path {
        match self {
            Self::OfProject { library, .. } => library,
            Self::Sysroot { rustc, .. } => rustc,
        }
    }

    /// The compiler's release.
    pub fn version(&self) -> &Version {
        match self {
            Self::OfProject { version, .. } | Self::Sysroot { version, .. } => version,
        }
    }

    /// Makes one call of cargo use this compiler.
    pub fn apply(&self, cargo: &mut Command) {
        if let Self::Sysroot { rustc, .. } = self {
            cargo.env("RUSTC", rustc);
        }
    }
}

/// Finds a compiler for the plugin in `project`. The folder matters: rustup chooses the compiler by it. Changes nothing.
///
/// # Errors
/// [`Missing`] with what was looked at, and how to get one.
pub fn find(places: &Places, project: &Path) -> Result<GuestRust, Missing> {
    let of_project = match of_project(project) {
        Ok(found) => return Ok(found),
        Err(why) => why,
    };
    let debian = match Debian::read().and_then(|debian| debian.find(&places.dir)) {
        Ok(found) => return Ok(found),
        Err(why) => why,
    };
    let mend = match install::on_path("apt-get") {
        Some(_) => format!("busway toolchain rust --install, or rustup target add {TARGET}"),
        None => format!("rustup target add {TARGET}"),
    };
    Err(Missing {
        tool: format!("a Rust standard library for {TARGET}"),
        looked: vec![of_project, debian],
        mend,
    })
}

/// The compiler that cargo would use in this folder, if it has the library.
fn of_project(project: &Path) -> Result<GuestRust, String> {
    let rustc = std::env::var_os("RUSTC").filter(|rustc| !rustc.is_empty()).unwrap_or_else(|| "rustc".into());
    let ask = |arguments: &[&str]| {
        install::read(Command::new(&rustc).current_dir(project).args(arguments))
            .map_err(|why| format!("{}: {why}", rustc.to_string_lossy()))
    };
    let version = Release::parse(&ask(&["-vV"])?)?.version;
    let library = PathBuf::from(ask(&["--print", "target-libdir", "--target", TARGET])?.trim_end());
    if has_library(&library) {
        Ok(GuestRust::OfProject { library, version })
    } else {
        Err(format!("{} {version}: no {}", rustc.to_string_lossy(), library.display()))
    }
}

/// Whether a folder holds a compiled `std`.
pub(super) fn has_library(folder: &Path) -> bool {
    let Ok(files) = fs::read_dir(folder) else { return false };
    files.flatten().any(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) version: Version,
    /// The first eight digits.
    pub(super) commit: String,
    pub(super) host: String,
    llvm: String,
}

impl Release {
    pub(super) fn parse(told: &str) -> Result<Self, String> {
        let line = |key: &str| {
            let value = told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            value.map(str::trim).ok_or_else(|| format!("not a rustc: no {key:?} in its answer to -vV"))
        };
        let release = line("release")?;
        Ok(Self {
            version: Version::parse(release)
                .map_err(|error| format!("not a rustc: release {release}: {error}"))?,
            commit: line("commit-hash")?.chars().take(8).collect(),
            host: line("host")?.to_owned(),
            llvm: line("LLVM version")?.split('.').next().unwrap_or_default().to_owned(),
        })
    }

    /// The linker, and the package that has it. Its number is the major of the compiler's LLVM.
    pub(super) fn linker(&self) -> String {
        format!("lld-{}", self.llvm)
    }
}

/// Installs what plugins in `project` need, unless it is there: Debian's packages by apt (as root), then the standard
/// library, built once into the tools' folder (half a minute to a minute on two cores).
///
/// # Errors
/// When this is no Debian or Ubuntu with apt, the user is not root, or a step fails; each names the command that helps.
pub fn install(places: &Places, project: &Path) -> anyhow::Result<GuestRust> {
    if let Ok(found) = find(places, project) {
        return Ok(found);
    }
    let install = Install::begin(&places.dir)?;
    if let Ok(found) = find(places, project) {
        return Ok(found);
    }
    let debian = match Debian::read() {
        Ok(debian) => debian,
        Err(_) => {
            debian::fetch()?;
            Debian::read().map_err(|why| anyhow::anyhow!("Debian's packages were installed, yet {why}"))?
        }
    };
    install::say(&format!(
        "building the standard library for {TARGET} with rustc {}",
        debian.release.version
    ));
    let sysroot = debian::build_sysroot(&debian, install.staging())?;
    install.publish(&sysroot, &debian.sysroot(&places.dir))?;
    Ok(find(places, project)?)
}

/// The cargo to call: the one that runs us, where there is one.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO")
        .filter(|cargo| !cargo.is_empty())
        .map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_a_compiler_is_told_apart() {
        assert!(Release::parse("hello\n").unwrap_err().contains("not a rustc"));
    }
}
