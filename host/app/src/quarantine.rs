//! The quarantine: versions of plugins that killed this host and are not run on it any more.
//!
//! A file in the state folder, one line per version, made for people: removing a line lifts the quarantine at the next
//! start, and a new version of the plugin has another digest and is not in it.

use busway_core::Digest;
use busway_dispatch::Convicted;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file's name in the state folder.
const NAME: &str = "quarantine";
/// What a new file begins with.
const HEAD: &str =
    "# Versions of plugins that killed this host twice. Remove a line and restart the host to run one again.";

/// The versions that this host does not run.
#[derive(Debug)]
pub struct Quarantine {
    path: PathBuf,
    lines: Vec<String>,
}

impl Quarantine {
    /// Reads the file in the state folder; none is an empty one.
    ///
    /// # Errors
    /// It is there and can't be read.
    pub fn read(state: &Path) -> io::Result<Self> {
        let path = state.join(NAME);
        let text = match fs::read_to_string(&path) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        Ok(Self { path, lines: text.lines().map(str::to_owned).collect() })
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this version is in it.
    pub fn holds(&self, digest: &Digest) -> bool {
        let digest = digest.to_string();
        self.lines.iter().any(|line| line.split_whitespace().next() == Some(&*digest))
    }

    /// Adds versions, and writes the file where that changes it.
    ///
    /// # Errors
    /// The file can't be written; the versions are in quarantine for as long as the host runs all the same.
    pub fn add(&mut self, convicted: &[Convicted]) -> io::Result<()> {
        let before = self.lines.len();
        for one in convicted {
            if !self.holds(&one.digest) {
                let Convicted { plugin, digest, event, stream, sequence } = one;
                let origin =
                    if stream.is_empty() { "no stream".into() } else { format!("{stream}:{sequence}") };
                self.lines.push(format!("{digest} plugin {plugin}, event {event} ({origin})"));
            }
        }
        if self.lines.len() == before {
            return Ok(());
        }
        if before == 0 {
            self.lines.insert(0, HEAD.to_owned());
        }
        let written = self.path.with_extension("new");
        fs::write(&written, self.lines.join("\n") + "\n")?;
        fs::rename(written, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convicted(bytes: &[u8]) -> Convicted {
        Convicted {
            plugin: "p".parse().unwrap(),
            digest: Digest::of(bytes),
            event: busway_core::EventId::random([1; 32]),
            stream: "IN".into(),
            sequence: 7,
        }
    }

    #[test]
    fn a_version_stays_in_quarantine_until_its_line_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut quarantine = Quarantine::read(folder.path()).unwrap();
        quarantine.add(&[]).unwrap();
        assert!(!quarantine.path().exists(), "nothing is written for nothing");
        quarantine.add(&[convicted(b"one"), convicted(b"two"), convicted(b"one")]).unwrap();
        let again = Quarantine::read(folder.path()).unwrap();
        let text = fs::read_to_string(again.path()).unwrap();
        assert_eq!((text.lines().count(), text.starts_with("# ")), (3, true), "{text}");
        assert!(again.holds(&Digest::of(b"one")) && again.holds(&Digest::of(b"two")));
        let kept: Vec<_> =
            text.lines().filter(|line| !line.contains(&Digest::of(b"one").to_string())).collect();
        fs::write(again.path(), kept.join("\n")).unwrap();
        let lifted = Quarantine::read(folder.path()).unwrap();
        assert!(!lifted.holds(&Digest::of(b"one")) && lifted.holds(&Digest::of(b"two")));
    }
}
