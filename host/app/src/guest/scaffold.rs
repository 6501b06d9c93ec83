//! What `busway new` writes: the language's template, and a copy of the SDK and the WIT.
//!
//! The copy is pinned by being a copy. So a project builds years later against what it was made for, from crates.io
//! alone, and an update is a decision: `busway new` into another folder, and compare.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

// `SDK` and `TEMPLATE`, made by build.rs.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Where the SDK lies in a project; the template's `Cargo.toml` says so too.
const SDK_FOLDER: &str = "busway-sdk";

/// What stands for the project's name in the template.
const NAME: &str = "{{name}}";

/// Names that a Rust crate can't have, or that clash with the standard library's crates.
const RESERVED: [&str; 46] = [
    "abstract", "alloc", "as", "async", "await", "become", "box", "break", "const", "continue", "core",
    "crate", "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in",
    "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return",
    "static", "std", "struct", "test", "trait", "try", "type", "use", "where",
];

/// Refuses a name that cannot be both a plugin's and a crate's.
///
/// # Errors
/// A sentence that says what a name may be.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=48).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.starts_with(|first: char| first.is_ascii_lowercase());
    if !fits {
        return Err(format!(
            "{name:?} is not a name for a plugin: 1 to 48 of a-z, 0-9 and -, with a letter first"
        ));
    }
    if RESERVED.contains(&name) || name.starts_with("busway-sdk") {
        return Err(format!("{name:?} is taken: it is a word of Rust, or a crate that every plugin uses"));
    }
    Ok(())
}

/// Writes a Rust project into `folder`, which is created where it is missing.
///
/// # Errors
/// When something is in that folder already, or a file can't be written.
pub fn write_rust(name: &str, folder: &Path) -> anyhow::Result<()> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => bail!("{}: not empty; nothing was written", folder.display()),
        Ok(false) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot use {}", folder.display())),
    }
    for (path, text) in TEMPLATE {
        write(&folder.join(path), &text.replace(NAME, name))?;
    }
    for (path, text) in SDK {
        write(&folder.join(SDK_FOLDER).join(path), text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_plugin_or_a_crate_cannot_have_are_refused() {
        for name in [
            "",
            "Upper",
            "under_score",
            "1st",
            "-dash",
            "a/b",
            "..",
            "match",
            "test",
            "busway-sdk",
            &"a".repeat(49),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "demo-plugin", "v2", &"a".repeat(48)] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn a_project_has_its_name_filled_in_and_the_sdk_and_the_wit_with_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("demo");
        write_rust("demo", &folder).unwrap();
        for file in [
            "plugin.toml",
            "src/lib.rs",
            "busway-sdk/src/lib.rs",
            "busway-sdk/macros/src/lib.rs",
            "busway-sdk/wit/plugin.wit",
        ] {
            assert!(folder.join(file).is_file(), "{file}");
        }
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("\"demo\"") && !manifest.contains(NAME), "{manifest}");
        assert!(manifest.contains(SDK_FOLDER) && manifest.contains("[workspace]"), "{manifest}");
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("mine"), "").unwrap();
        assert!(write_rust("demo", root.path()).unwrap_err().to_string().contains("not empty"));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
