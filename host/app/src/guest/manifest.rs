//! Reads `plugin.toml`, and tells every mistake in it at once, with its line.
//!
//! What a manifest may hold is decided by one type, [`Manifest`], which the host uses too, and by the author's [`rules`].
//! But that type stops at the first mistake. So the file is taken apart into its entries, each is tried on its own in an
//! otherwise valid manifest, and only a file without a wrong entry is read as a whole.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use busway_engine::Manifest;
use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue, Deserializer},
};

use super::rules;

/// The file, beside the plugin's `Cargo.toml`.
pub const FILE: &str = "plugin.toml";

/// The keys that must be there. Each entry of a file is tried on top of this.
const LEAST: &str = "name = \"my-plugin\"\nversion = \"0.1.0\"\nworld = \"busway:plugin/plugin@0.1.0\"\n";

/// A mistake and where it is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mistake {
    /// Counted from 1.
    line: usize,
    what: String,
}

/// Reads the manifest of the plugin in this folder.
///
/// # Errors
/// When the file is missing or has mistakes: one line for each, `file:line: what`.
pub fn read(folder: &Path) -> anyhow::Result<Manifest> {
    let path = folder.join(FILE);
    if !path.exists() {
        let indented = LEAST.lines().map(|line| format!("  {line}\n")).collect::<String>();
        bail!("{}: no such file; a plugin's manifest says at least:\n{indented}", path.display());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).map_err(|mistakes| {
        let told: Vec<_> = mistakes
            .iter()
            .map(|mistake| format!("{}:{}: {}", path.display(), mistake.line, mistake.what))
            .collect();
        anyhow::anyhow!("{}", told.join("\n"))
    })
}

/// Reads a manifest, or tells its mistakes in the order of their lines.
fn parse(text: &str) -> Result<Manifest, Vec<Mistake>> {
    let (root, broken) = DeTable::parse_recoverable(text);
    if !broken.is_empty() {
        return Err(broken.iter().map(|error| mistake(text, error, "")).collect());
    }
    let mut mistakes: Vec<Mistake> = absent(text, root.get_ref());
    for (key, value) in root.get_ref() {
        match value.get_ref() {
            DeValue::Table(entries) if !entries.is_empty() => {
                for (inner, value) in entries {
                    let mut alone = DeTable::new();
                    alone.insert(inner.clone(), value.clone());
                    let table = Spanned::new(inner.span(), DeValue::Table(alone));
                    let name = format!("{}.{}", key.get_ref(), inner.get_ref());
                    mistakes.extend(wrong(text, &name, (key, table), inner.span().start));
                }
            }
            _ => mistakes.extend(wrong(text, key.get_ref(), (key, value.clone()), key.span().start)),
        }
    }
    mistakes.sort();
    mistakes.dedup();
    if mistakes.is_empty() {
        toml::from_str(text).map_err(|error| vec![mistake(text, &error, "")])
    } else {
        Err(mistakes)
    }
}

/// Required keys that are not in the file.
fn absent(text: &str, root: &DeTable<'_>) -> Vec<Mistake> {
    let end = text.lines().count().max(1);
    LEAST
        .lines()
        .filter_map(|least| Some((least, least.split_once(' ')?.0)))
        .filter(|(_, key)| !root.contains_key(*key))
        .map(|(least, key)| Mistake { line: end, what: format!("{key}: missing; for example {least}") })
        .collect()
}

/// A key and its value, as the file has them.
type Entry<'a> = (&'a Spanned<DeString<'a>>, Spanned<DeValue<'a>>);

/// What is wrong with one entry, which begins at byte `at`.
fn wrong(text: &str, name: &str, entry: Entry<'_>, at: usize) -> Vec<Mistake> {
    match tried(entry) {
        Ok(manifest) => {
            let told = |what| Mistake { line: line(text, at), what: format!("{name}: {what}") };
            rules::broken(&manifest).into_iter().map(told).collect()
        }
        Err(error) => vec![mistake(text, &error, &format!("{name}: "))],
    }
}

/// Reads a manifest that holds only the least, and this entry.
fn tried((key, value): Entry<'_>) -> Result<Manifest, toml::de::Error> {
    let mut document = DeTable::parse(LEAST)?;
    document.get_mut().remove(key.get_ref().as_ref());
    document.get_mut().insert(key.clone(), value);
    Manifest::deserialize(Deserializer::from(document))
}

fn mistake(text: &str, error: &toml::de::Error, name: &str) -> Mistake {
    let at = error.span().map_or(0, |span| span.start);
    // The message may run over several lines: the first says what, the rest how.
    let what = error.message().trim().replace('\n', "; ");
    Mistake { line: line(text, at), what: format!("{name}{what}") }
}

/// The line of a byte, counted from 1.
fn line(text: &str, at: usize) -> usize {
    text.get(..at).map_or(1, |before| before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let mistakes = parse(text).err().unwrap_or_default();
        mistakes.into_iter().map(|mistake| format!("{}: {}", mistake.line, mistake.what)).collect()
    }

    #[test]
    fn the_least_manifest_is_a_manifest() {
        parse(LEAST).unwrap();
    }

    #[test]
    fn a_full_manifest_is_read() {
        let text = format!(
            "{LEAST}description = \"lets valid events through\"\n\
             [requests]\npublish = [\"orders.enriched.>\"]\nkv = [\"prices\"]\n\
             [config.schema]\ntype = \"json\"\nrequired = true\ndescription = \"the schema\"\n\
             [config.mode]\ntype = \"text\"\ndefault = \"strict\"\n\
             [limits]\ntimeout = \"2s\"\nmemory = \"32MiB\"\n"
        );
        assert_eq!(told(&text), Vec::<String>::new());
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line() {
        let text = format!(
            "{LEAST}colour = \"red\"\n[requests]\nfiles = []\npublish = 7\n[config.schema]\ntype = \"yaml\"\n[limits]\nspeed = 1\n"
        );
        let lines: Vec<_> =
            told(&text).iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
        assert_eq!(
            lines,
            ["4: colour", "6: requests.files", "7: requests.publish", "9: config.schema", "11: limits.speed"]
        );
    }

    #[test]
    fn missing_keys_are_told_with_an_example_each() {
        let told = told("description = \"x\"\n");
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().any(|line| line.contains("name: missing; for example name = ")), "{told:?}");
    }

    #[test]
    fn values_that_make_no_sense_are_told_with_their_line() {
        for (line, what) in [
            ("requests = { publish = [\"a..b\"] }", "no subject"),
            ("requests = { publish-core = [\"a.>.b\"] }", "no subject"),
            ("requests = { kv = [\"a b\"] }", "no bucket"),
            ("requests = { http = [\"api.example.com\"] }", "no host"),
            ("config = { key = { type = \"text\", required = true, default = \"a\" } }", "no default"),
            ("config = { key = { type = \"number\", default = \"many\" } }", "does not fit"),
            ("limits = { timeout = \"2\" }", "not a duration"),
            ("limits = { memory = \"32\" }", "not a size"),
            ("limits = { speed = \"2s\" }", "unknown limit"),
        ] {
            let told = told(&format!("{LEAST}{line}\n"));
            assert!(
                matches!(told.as_slice(), [one] if one.starts_with("4: ") && one.contains(what)),
                "{line}: {told:?}"
            );
        }
        let told = told(&LEAST.replace("0.1.0", "one").replace("my-plugin", "My Plugin"));
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn what_is_embedded_is_what_the_host_reads() {
        let manifest = parse(LEAST).unwrap();
        assert_eq!(Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
    }

    #[test]
    fn broken_syntax_is_told_with_its_line() {
        assert!(told("name = \"a\"\nversion = \n").first().unwrap().starts_with("2: "));
    }

    #[test]
    fn a_folder_without_a_manifest_says_what_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("plugin.toml: no such file") && error.contains("world = "), "{error}");
    }
}
