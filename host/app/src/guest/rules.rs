//! What an author's manifest must satisfy besides its shape.
//!
//! The host reads a manifest leniently where an older or newer host may know other words. An author gets told at once:
//! a version that is none, a subject that can never match, a default that does not fit its type.

use busway_core::{SubjectFilter, units};
use busway_engine::{ConfigKey, ConfigType, Manifest, Publishes};
use semver::Version;

/// The limits that an author can suggest.
const LIMITS: [&str; 3] = ["timeout", "cpu", "memory"];

/// What is wrong with a manifest of the right shape; nothing when all is well.
pub(super) fn broken(manifest: &Manifest) -> Vec<String> {
    let mut broken = Vec::new();
    if let Err(error) = Version::parse(&manifest.version) {
        broken.push(format!("{:?} is no version such as \"0.1.0\": {error}", manifest.version));
    }
    if !is_world(&manifest.world) {
        broken.push(format!("{:?} is no world such as \"busway:plugin/plugin@0.1.0\"", manifest.world));
    }
    let requests = &manifest.requests;
    if let Publishes::Subjects(subjects) = &requests.publish {
        broken.extend(subjects.iter().filter_map(|subject| subject_filter(subject)));
    }
    broken.extend(
        requests.publish_core.iter().chain(&requests.request).filter_map(|subject| subject_filter(subject)),
    );
    broken.extend(
        requests
            .kv
            .iter()
            .filter(|bucket| !is_bucket(bucket))
            .map(|bucket| format!("{bucket:?} is no bucket: letters, digits, - and _")),
    );
    broken.extend(
        requests
            .http
            .iter()
            .filter(|host| !is_origin(host))
            .map(|host| format!("{host:?} is no host: write it as \"https://api.example.com\"")),
    );
    broken.extend(
        requests.secrets.iter().filter(|name| name.is_empty()).map(|_| "a secret without a name".to_owned()),
    );
    broken.extend(manifest.config.values().filter_map(default_value));
    broken.extend(manifest.limits.iter().filter_map(|(key, value)| limit(key, value)));
    broken
}

/// `namespace:package/world@version`.
fn is_world(text: &str) -> bool {
    let parts = text.split_once('@').and_then(|(path, version)| Some((path.split_once(':')?, version)));
    let Some(((namespace, path), version)) = parts else { return false };
    let Some((package, world)) = path.split_once('/') else { return false };
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    [namespace, package, world].into_iter().all(is_word) && Version::parse(version).is_ok()
}

fn subject_filter(text: &str) -> Option<String> {
    text.parse::<SubjectFilter>().err().map(|why| format!("{text:?} is no subject: {why}"))
}

fn is_bucket(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']))
}

fn default_value(key: &ConfigKey) -> Option<String> {
    let default = key.default.as_ref()?;
    if key.required {
        return Some("a required key has no default: leave one of the two out".to_owned());
    }
    let fits = match key.kind {
        ConfigType::Text => true,
        ConfigType::Json => serde_json::from_str::<serde_json::Value>(default).is_ok(),
        ConfigType::Number => default.parse::<f64>().is_ok_and(f64::is_finite),
        ConfigType::Boolean => matches!(default.as_str(), "true" | "false"),
    };
    (!fits).then(|| format!("the default {default:?} does not fit the type {:?}", key.kind).to_lowercase())
}

fn limit(key: &str, value: &str) -> Option<String> {
    match key {
        "timeout" | "cpu" => units::parse_duration(value).err(),
        "memory" => value.parse::<units::ByteSize>().err(),
        _ => Some(format!("unknown limit, expected one of {}", LIMITS.join(", "))),
    }
}
