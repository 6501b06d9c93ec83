//! The streams that Busway keeps its own records in.
//!
//! Their limits are the operator's to change, so only what the host relies on is compared. Each refuses what is new when
//! it is full, because none may lose what is old; but the history, which is an account and not the state, loses the oldest.

use super::{
    connect::Line,
    seen::{self, SEEN_BUCKET},
    topology::{self, Difference, TopologyError, compare},
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use busway_core::{dead_letter, history, units::ByteSize};
use std::time::Duration;
use tracing::warn;

/// The stream of dead letters.
pub const DEAD_LETTER_STREAM: &str = "BUSWAY_DLQ";
/// The bucket of attempt records.
pub const ATTEMPTS_BUCKET: &str = "BUSWAY_ATTEMPTS";
/// The bucket of how far each consumer has come.
pub const CHECKPOINTS_BUCKET: &str = "BUSWAY_CHECKPOINTS";
/// The stream of the account of attempts.
pub const HISTORY_STREAM: &str = "BUSWAY_HISTORY";
/// The bucket of payloads that do not fit into their dead letter.
pub const PAYLOADS_BUCKET: &str = "BUSWAY_DLQ_PAYLOADS";

/// How long an attempt record is kept: longer than any event is retried for.
const ATTEMPTS_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The shortest memory of ids that a stream can have.
const DUPLICATE_WINDOW_MIN: Duration = Duration::from_millis(100);

/// Makes Busway's own streams, or compares those that are there.
pub(super) async fn ensure(line: &Line, own: OwnStreams) -> Result<(), TopologyError> {
    for config in own.configs() {
        let failed = |source| TopologyError::Api { stream: config.name.clone(), source };
        if topology::info(line, &config.name).await.map_err(failed)?.is_none() {
            topology::create(line, &config).await.map_err(failed)?;
        }
        let Some(info) = topology::info(line, &config.name).await.map_err(failed)? else {
            return Err(TopologyError::Missing { stream: config.name.clone() });
        };
        let differences = differences(&config, &info.config);
        if !differences.is_empty() {
            return Err(TopologyError::Differs { stream: config.name, differences });
        }
        if config.name == HISTORY_STREAM {
            tell_limits(&info.config, &config);
        }
    }
    Ok(())
}

/// What the host relies on and is not so.
pub(super) fn differences(wanted: &Config, is: &Config) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare(&mut differences, "subjects", &is.subjects, &wanted.subjects);
    compare(&mut differences, "retention", &is.retention, &wanted.retention);
    compare(&mut differences, "discard", &is.discard, &wanted.discard);
    let (per_subject, wanted) = (is.max_messages_per_subject, wanted.max_messages_per_subject);
    compare(&mut differences, "max_msgs_per_subject", &per_subject, &wanted);
    differences
}

/// The history's limits are in the configuration, so a stream that was made with others is told of, and left as it is.
fn tell_limits(is: &Config, wanted: &Config) {
    let mut differences = Vec::new();
    compare(&mut differences, "max_age", &is.max_age, &wanted.max_age);
    compare(&mut differences, "max_bytes", &is.max_bytes, &wanted.max_bytes);
    if !differences.is_empty() {
        let differences = topology::lines(&differences);
        warn!(
            differences,
            "the history is kept within other limits than configured; `nats stream edit {HISTORY_STREAM}` changes them"
        );
    }
}

/// What Busway's own streams may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnStreams {
    /// Bytes of all dead letters. Default 1 GiB. A full stream refuses letters, and their events are tried again later.
    pub dead_letter_bytes: ByteSize,
    /// Copies in a cluster, 1 to 5. Default 1.
    pub replicas: u8,
    /// The account of attempts.
    pub history: HistorySettings,
}

/// How much of the account of attempts is kept. When it is full, the oldest records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistorySettings {
    /// Whether any is. Default true.
    pub enabled: bool,
    /// For how long. Default 7 days.
    pub max_age: Duration,
    /// How many bytes of it. Default 256 MiB.
    pub max_bytes: ByteSize,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self { enabled: true, max_age: Duration::from_secs(7 * 24 * 60 * 60), max_bytes: ByteSize::mib(256) }
    }
}

impl Default for OwnStreams {
    fn default() -> Self {
        Self { dead_letter_bytes: ByteSize::mib(1024), replicas: 1, history: HistorySettings::default() }
    }
}

impl HistorySettings {
    /// The stream, where there is to be one.
    fn config(self, own: Config) -> Option<Config> {
        self.enabled.then(|| Config {
            description: Some("what became of each attempt; `busway explain` reads it".into()),
            max_bytes: i64::try_from(self.max_bytes.0).unwrap_or(i64::MAX),
            max_age: self.max_age,
            discard: DiscardPolicy::Old,
            // Nothing here has an id that a repetition could be recognised by.
            duplicate_window: DUPLICATE_WINDOW_MIN,
            allow_direct: true,
            ..own
        })
    }
}

impl OwnStreams {
    pub(super) fn configs(self) -> Vec<Config> {
        let own = |name: String, subjects: Vec<String>| Config {
            name,
            subjects,
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_messages: -1,
            max_consumers: -1,
            max_bytes: -1,
            max_messages_per_subject: -1,
            max_message_size: -1,
            num_replicas: usize::from(self.replicas),
            ..Config::default()
        };
        let bytes = i64::try_from(self.dead_letter_bytes.0).unwrap_or(i64::MAX);
        let letters = Config {
            description: Some("events that Busway will not try again".into()),
            max_bytes: bytes,
            allow_direct: true,
            ..own(DEAD_LETTER_STREAM.into(), vec![dead_letter::SUBJECTS.into()])
        };
        // The layouts of key-value and object buckets are the client libraries' convention: any NATS tool reads them.
        let attempts = Config {
            description: Some("failed runs of events that Busway tries again".into()),
            max_messages_per_subject: 1,
            max_age: ATTEMPTS_MAX_AGE,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..own(format!("KV_{ATTEMPTS_BUCKET}"), vec![format!("$KV.{ATTEMPTS_BUCKET}.>")])
        };
        let payloads = Config {
            description: Some("payloads that do not fit into their dead letter".into()),
            max_bytes: bytes,
            allow_rollup: true,
            allow_direct: true,
            ..own(
                format!("OBJ_{PAYLOADS_BUCKET}"),
                vec![format!("$O.{PAYLOADS_BUCKET}.C.>"), format!("$O.{PAYLOADS_BUCKET}.M.>")],
            )
        };
        let checkpoints = Config {
            description: Some("how far Busway's consumers have come".into()),
            max_messages_per_subject: 1,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..own(format!("KV_{CHECKPOINTS_BUCKET}"), vec![format!("$KV.{CHECKPOINTS_BUCKET}.>")])
        };
        let seen = Config {
            description: Some("which event the key of an input belongs to".into()),
            max_messages_per_subject: 1,
            allow_rollup: true,
            allow_direct: true,
            allow_message_ttl: true,
            ..own(seen::stream(), vec![format!("$KV.{SEEN_BUCKET}.>")])
        };
        let mut configs = vec![letters, attempts, payloads, checkpoints, seen];
        configs.extend(self.history.config(own(HISTORY_STREAM.into(), vec![history::SUBJECTS.into()])));
        configs
    }
}
