//! What follows from the broker's version: known faults, and what it can't do.
//!
//! The bounds come from the server's release notes: authorization fixes are in 2.12.9 and 2.14.1 and later; a refused
//! consumer creation could destroy a live consumer's state before 2.14.6.

use super::findings::Level;
use crate::config::Config;
use semver::Version;

/// Whether a version is good for production.
pub(super) fn judge(version: &str) -> (Level, &'static str) {
    let Ok(version) = Version::parse(version) else {
        return (Level::Warning, "its version can't be read");
    };
    let v = (version.major, version.minor, version.patch);
    if v < (2, 12, 9) || ((2, 13, 0)..(2, 14, 1)).contains(&v) {
        return (
            Level::Failure,
            "it lacks fixes by which clients get around permissions: use 2.12.9, 2.14.1 or later, best 2.15",
        );
    }
    if v < (2, 14, 6) {
        return (
            Level::Warning,
            "before 2.14.6 a refused creation of a consumer may destroy a live one's state: use a later one",
        );
    }
    (Level::Good, "no known fault that matters here")
}

/// What the configuration asks for and a version does not give.
pub(super) fn needs(config: &Config, version: &str) -> Vec<(Level, String)> {
    let Ok(version) = Version::parse(version) else { return Vec::new() };
    let v = (version.major, version.minor, version.patch);
    let mut needs = Vec::new();
    for plugin in &config.plugins {
        let name = &plugin.name.value;
        if v < (2, 11, 0) && plugin.subscribe.iter().any(|entry| entry.dedup.is_some()) {
            let what = format!("plugin {name} recognises repeated inputs, which needs 2.11 or later");
            needs.push((Level::Failure, what));
        }
        if v < (2, 11, 0) && plugin.breaker.calls > 0 {
            let what = format!(
                "plugin {name} has a breaker; before 2.11 it stops this host only, not the consumer at the broker"
            );
            needs.push((Level::Warning, what));
        }
        if v < (2, 12, 0) && plugin.parks() {
            let what = format!(
                "plugin {name} waits for longer than {} s between attempts; before 2.12 such waits are put back and hold a place in the consumer's window",
                plugin.park_after.as_secs()
            );
            needs.push((Level::Warning, what));
        }
        if v < (2, 12, 1) && !plugin.publish.is_empty() {
            let what = format!(
                "plugin {name} publishes; before 2.12.1 its outputs are stored one by one, not as one batch"
            );
            needs.push((Level::Warning, what));
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_faults_are_told() {
        let table = [
            ("2.9.10", Level::Failure),
            ("2.12.8", Level::Failure),
            ("2.12.9", Level::Warning),
            ("2.14.0", Level::Failure),
            ("2.14.1", Level::Warning),
            ("2.14.6", Level::Good),
            ("2.15.1", Level::Good),
            ("2.15.0-RC.1", Level::Good),
            ("unknown", Level::Warning),
        ];
        for (version, expected) in table {
            assert_eq!(judge(version).0, expected, "{version}");
        }
    }

    #[test]
    fn what_an_old_broker_can_not_do_is_told_for_each_plugin_that_asks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("busway.toml");
        let text = "[[plugin]]\nname = \"p\"\nsource = \"p.wasm\"\ngrants = { publish = [\"a\"] }\n\
             subscribe = [{ stream = \"S\", subjects = [\"s\"], dedup = { key = \"message-id\" } }]\n";
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load(&file).unwrap();
        let found = |version| needs(&config, version).into_iter().map(|(level, _)| level).collect::<Vec<_>>();
        assert_eq!(found("2.15.1"), []);
        assert_eq!(found("2.11.0"), [Level::Warning; 2]);
        assert_eq!(found("2.10.0"), [Level::Failure, Level::Warning, Level::Warning, Level::Warning]);
    }
}
