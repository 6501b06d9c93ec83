//! What a plugin says of itself: its name, what it asks for, which configuration it takes.
//!
//! Written as `plugin.toml`, embedded by `busway build` as JSON in a custom section of the component. Asking is not
//! getting: only the operator grants.

use busway_core::{PluginName, SubjectFilter};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The custom section's name.
pub const SECTION: &str = "busway:manifest";
/// Bytes of the largest manifest.
const BYTES_MAX: usize = 64 << 10;

/// A plugin's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// The plugin's own name; the operator may load it under another.
    #[serde(with = "as_text")]
    pub name: PluginName,
    /// Its version, in semver.
    pub version: String,
    /// The world that it was built for, such as `busway:plugin/plugin@0.1.0`.
    pub world: String,
    /// One sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it asks for.
    #[serde(default)]
    pub requests: Requests,
    /// The configuration keys that it takes.
    #[serde(default)]
    pub config: BTreeMap<String, ConfigKey>,
    /// Limits that its author suggests, as written; the operator decides.
    #[serde(default)]
    pub limits: BTreeMap<String, String>,
}

/// What a plugin asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Requests {
    /// What it wants to publish to.
    pub publish: Publishes,
    /// What it wants to publish to without a stream.
    pub publish_core: Vec<String>,
    /// What it wants to ask.
    pub request: Vec<String>,
    /// The buckets it wants.
    pub kv: Vec<String>,
    /// The hosts it wants.
    pub http: Vec<String>,
    /// The secrets it wants.
    pub secrets: Vec<String>,
}

/// What a plugin wants to publish to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a list of subjects, or \"configured\"")]
pub enum Publishes {
    /// These subjects.
    Subjects(Vec<String>),
    /// Where its configuration says.
    Configured(Configured),
}

/// The word `configured`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Configured {
    /// Where its configuration says.
    Configured,
}

impl Default for Publishes {
    fn default() -> Self {
        Self::Subjects(Vec::new())
    }
}

/// One configuration key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigKey {
    /// What the value must be.
    #[serde(rename = "type")]
    pub kind: ConfigType,
    /// Whether the plugin can't do without.
    #[serde(default)]
    pub required: bool,
    /// The value where none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// One sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What a configuration value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigType {
    /// Any text.
    Text,
    /// JSON text.
    Json,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
}

/// A manifest that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than a manifest may be.
    #[error("the manifest has {0} bytes; at most {BYTES_MAX} are read")]
    TooLarge(usize),
    /// Not what a manifest is.
    #[error("the manifest can't be read; build the plugin again with `busway build`")]
    Malformed(#[source] serde_json::Error),
    /// A subject that is none.
    #[error("the manifest asks to publish to {subject:?}: {why}")]
    Subject {
        /// As written.
        subject: String,
        /// Why it is none.
        why: busway_core::subject::SubjectError,
    },
}

impl Manifest {
    /// Reads the text of the custom section.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > BYTES_MAX {
            return Err(ManifestError::TooLarge(json.len()));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(ManifestError::Malformed)?;
        if let Publishes::Subjects(subjects) = &manifest.requests.publish {
            for subject in subjects {
                let parsed = subject.parse::<SubjectFilter>();
                parsed.map_err(|why| ManifestError::Subject { subject: subject.clone(), why })?;
            }
        }
        Ok(manifest)
    }
}

/// Serde by way of `FromStr` and `Display`.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"name":"p","version":"0.1.0","world":"busway:plugin/plugin@0.1.0",
        "requests":{"publish":["a.>"]},"config":{"k":{"type":"json","required":true}},"limits":{"timeout":"2s"}}"#;

    #[test]
    fn a_manifest_reads_back_what_it_writes() {
        let manifest = Manifest::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
        let configured = GOOD.replace(r#"["a.>"]"#, r#""configured""#);
        let manifest = Manifest::parse(configured.as_bytes()).unwrap();
        assert_eq!(manifest.requests.publish, Publishes::Configured(Configured::Configured));
    }

    #[test]
    fn a_manifest_with_anything_unknown_or_malformed_is_refused() {
        for (from, to) in [("\"name\"", "\"nam\""), ("\"p\"", "\"P\""), ("a.>", "a.>.b"), ("json", "yaml")] {
            assert!(Manifest::parse(GOOD.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
