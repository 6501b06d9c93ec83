//! Puts the Rust SDK, its WIT and the template of `busway new` into the program, so that a project can be made anywhere.
//!
//! Written out as two lists of (path, content) that `src/guest/scaffold.rs` includes. The folders are named one by one: a
//! build folder or an editor's leftover must not get in.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

/// What of `sdk/rust` goes into a project, and under which name. `wit` is a link there, and a folder in the project.
const SDK: [&str; 5] = ["Cargo.toml", "README.md", "macros/Cargo.toml", "macros/src", "src"];

fn main() -> Result<(), Box<dyn Error>> {
    let repository = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("..").join("..").canonicalize()?;
    let sdk = repository.join("sdk").join("rust");
    let mut lists = String::new();

    let mut files = Vec::new();
    for part in SDK {
        collect(&sdk.join(part), part, &mut files)?;
    }
    collect(&repository.join("wit").join("plugin.wit"), "wit/plugin.wit", &mut files)?;
    collect(&repository.join("wit").join("deps"), "wit/deps", &mut files)?;
    list(&mut lists, "SDK", &files)?;

    let mut files = Vec::new();
    collect(&sdk.join("template"), "", &mut files)?;
    list(&mut lists, "TEMPLATE", &files)?;

    fs::write(Path::new(&env::var("OUT_DIR")?).join("embedded.rs"), lists)?;
    Ok(())
}

/// Adds a file, or every file of a folder, under `name`; in the order of their names, so that builds are reproducible.
fn collect(path: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", path.display());
    if path.is_file() {
        files.push((name.to_owned(), path.to_owned()));
        return Ok(());
    }
    let mut entries = fs::read_dir(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file = entry.file_name();
        let file = file
            .to_str()
            .ok_or_else(|| io::Error::other(format!("{}: not UTF-8", entry.path().display())))?;
        if matches!(file, "target" | "Cargo.lock") {
            continue;
        }
        let name = if name.is_empty() { file.to_owned() } else { format!("{name}/{file}") };
        collect(&entry.path(), &name, files)?;
    }
    Ok(())
}

fn list(code: &mut String, name: &str, files: &[(String, PathBuf)]) -> Result<(), Box<dyn Error>> {
    writeln!(code, "const {name}: &[(&str, &str)] = &[")?;
    for (name, path) in files {
        let path = path.to_str().ok_or("a path that is not UTF-8")?;
        writeln!(code, "    ({name:?}, include_str!({path:?})),")?;
    }
    writeln!(code, "];")?;
    Ok(())
}
