//! Configuration: from files to checked values, every mistake at once.
//!
//! [`authored`] reads the files, [`cross`] holds the rules between parts of them, [`checked`] is what running code takes.
//! Precedence is flag, then environment, then file, then default; the environment is read by the command line's
//! definition and for secrets that a file names, nowhere else.

mod authored;
pub mod checked;
mod cross;
pub mod reader;

pub use checked::{Config, PluginConfig, SecretSource, StreamConfig, Subscribe};
pub use reader::{Located, Mistake};

use reader::Document;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "busway.toml";
/// The folder beside the file whose `*.toml` are read too, in the order of their names.
const PLUGINS_FOLDER: &str = "plugins.d";

/// A configuration that can't be used: every reason.
#[derive(Debug)]
pub struct Refused(pub Vec<Mistake>);

impl std::error::Error for Refused {}
impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for mistake in &self.0 {
            writeln!(f, "{mistake}")?;
        }
        let count = self.0.len();
        write!(
            f,
            "{count} {} in the configuration; nothing was started",
            if count == 1 { "mistake" } else { "mistakes" }
        )
    }
}

/// Reads and checks the configuration in `file` and the `plugins.d` folder beside it. Plugins' files are not opened here,
/// so that what is wrong with them can be told together with the mistakes that are returned. A configuration with
/// mistakes is good for nothing else.
pub fn read(file: &Path) -> (Config, Vec<Mistake>) {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut mistakes = Vec::new();
    let mut config = Config::new(&folder, file);
    read_into(&mut config, &mut mistakes, file, authored::main_file);
    for extra in plugin_files(&folder, &mut mistakes) {
        read_into(&mut config, &mut mistakes, &extra, authored::plugins_file);
    }
    cross::check(&config, &mut mistakes);
    (config, mistakes)
}

/// The same for commands that need no plugin.
///
/// # Errors
/// Every mistake.
pub fn load(file: &Path) -> Result<Config, Refused> {
    let (config, mistakes) = read(file);
    Refused::if_any(mistakes).map(|()| config)
}

impl Refused {
    /// # Errors
    /// The mistakes in the order of files and lines, if there are any.
    pub fn if_any(mut mistakes: Vec<Mistake>) -> Result<(), Self> {
        mistakes.sort();
        mistakes.dedup();
        if mistakes.is_empty() { Ok(()) } else { Err(Self(mistakes)) }
    }
}

fn read_into(
    config: &mut Config,
    mistakes: &mut Vec<Mistake>,
    file: &Path,
    read: fn(&reader::Section<'_>, &mut Config),
) {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(why) => return mistakes.push(unreadable(file, &why)),
    };
    config.file = file.to_owned();
    let document = Document::new(file, text);
    document.read(|top| read(top, config));
    mistakes.extend(document.into_mistakes());
}

fn plugin_files(folder: &Path, mistakes: &mut Vec<Mistake>) -> Vec<PathBuf> {
    let plugins = folder.join(PLUGINS_FOLDER);
    let entries = match fs::read_dir(&plugins) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(why) => {
            mistakes.push(unreadable(&plugins, &why));
            return Vec::new();
        }
    };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

fn unreadable(file: &Path, why: &io::Error) -> Mistake {
    let mend = match why.kind() {
        io::ErrorKind::NotFound => "; name another one with -c FILE",
        _ => "",
    };
    Mistake {
        file: file.to_owned(),
        line: 0,
        key: String::new(),
        what: format!("can't be read: {why}{mend}"),
    }
}

#[cfg(test)]
mod tests;
