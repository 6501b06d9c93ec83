//! The streams that Busway keeps its own records in.
//!
//! Their limits are the operator's to change, so only what the host relies on is compared. Each refuses what is new when
//! it is full, because none may lose what is old; but the history and the advisories, which are accounts and not the state,
//! lose the oldest.

use super::{
    connect::Line,
    refusal,
    seen::SEEN_BUCKET,
    topology::{self, Difference, TopologyError, compare},
    version::{SCHEDULES, Version},
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use busway_core::{again, dead_letter, history, units::ByteSize};
use std::time::Duration;
use tracing::warn;

/// The stream of dead letters.
pub const DEAD_LETTER_STREAM: &str = "BUSWAY_DLQ";
/// The stream of what comes back to one plugin alone: parked and redriven events.
pub const AGAIN_STREAM: &str = "BUSWAY_AGAIN";
/// The stream of what the broker tells of events that it gives up, whoever made it do so.
pub const ADVISORIES_STREAM: &str = "BUSWAY_ADVISORIES";
/// The bucket of attempt records.
pub const ATTEMPTS_BUCKET: &str = "BUSWAY_ATTEMPTS";
/// The bucket of how far each consumer has come.
pub const CHECKPOINTS_BUCKET: &str = "BUSWAY_CHECKPOINTS";
/// The stream of the account of attempts.
pub const HISTORY_STREAM: &str = "BUSWAY_HISTORY";
/// The bucket of which host is the active one of each ordered consumer.
pub const LEASES_BUCKET: &str = "BUSWAY_LEASES";
/// The bucket of payloads that do not fit into their dead letter.
pub const PAYLOADS_BUCKET: &str = "BUSWAY_DLQ_PAYLOADS";

/// How long an attempt record is kept: longer than any event is retried for.
const ATTEMPTS_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// For how long a copy that is stored again is recognised: as long as a crash between two steps of parking may go
/// unnoticed, because no host runs.
const AGAIN_WINDOW: Duration = Duration::from_secs(60 * 60);
/// How long and how many of the broker's advisories are kept.
const ADVISORIES_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const ADVISORIES_MAX_BYTES: i64 = 64 << 20;

/// The shortest memory of ids that a stream can have.
const DUPLICATE_WINDOW_MIN: Duration = Duration::from_millis(100);

/// Makes Busway's own streams, or compares those that are there. What only repeats what the broker says is no reason not to
/// start: an operator may have a stream of advisories already, and the broker lets no two streams have the same subject.
pub(super) async fn ensure(line: &Line, own: OwnStreams) -> Result<(), TopologyError> {
    for config in own.configs() {
        let is_needed = config.name != ADVISORIES_STREAM;
        match ensure_one(line, config).await {
            Err(why) if !is_needed && !why.may_pass() => {
                let why = refusal::chain(&why);
                warn!(%why, "the broker's advisories are not kept in {ADVISORIES_STREAM}");
            }
            ensured => ensured?,
        }
    }
    Ok(())
}

async fn ensure_one(line: &Line, mut config: Config) -> Result<(), TopologyError> {
    config.allow_message_schedules = config.name == AGAIN_STREAM && Version::of(line) >= SCHEDULES;
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
    if config.allow_message_schedules && !info.config.allow_message_schedules {
        // It was made by an older broker.
        let updated = Config { allow_message_schedules: true, ..info.config.clone() };
        topology::update(line, &updated).await.map_err(failed)?;
    }
    if config.name == HISTORY_STREAM {
        tell_limits(&info.config, &config);
    }
    Ok(())
}

/// What the host relies on and is not so.
pub(super) fn differences(wanted: &Config, is: &Config) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare(&mut differences, "subjects", &is.subjects, &wanted.subjects);
    compare(&mut differences, "retention", &is.retention, &wanted.retention);
    compare(&mut differences, "discard", &is.discard, &wanted.discard);
    let per_subject = wanted.max_messages_per_subject;
    compare(&mut differences, "max_msgs_per_subject", &is.max_messages_per_subject, &per_subject);
    if wanted.retention == RetentionPolicy::WorkQueue {
        // Any limit would delete events.
        compare(&mut differences, "max_bytes", &is.max_bytes, &wanted.max_bytes);
        compare(&mut differences, "max_msgs", &is.max_messages, &wanted.max_messages);
        compare(&mut differences, "max_age", &is.max_age, &wanted.max_age);
    }
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

impl OwnStreams {
    /// How each is wanted.
    pub(super) fn configs(self) -> Vec<Config> {
        let bucket = |name: &str, about: &str| self.bucket(name, about);
        let mut configs = vec![
            self.letters(),
            self.payloads(),
            Config {
                max_age: ATTEMPTS_MAX_AGE,
                ..bucket(ATTEMPTS_BUCKET, "failed runs of events that Busway tries again")
            },
            bucket(CHECKPOINTS_BUCKET, "how far Busway's consumers have come"),
            bucket(LEASES_BUCKET, "which host is the active one of each ordered consumer"),
            Config {
                deny_delete: false,
                allow_message_ttl: true,
                ..bucket(SEEN_BUCKET, "which event the key of an input belongs to")
            },
            self.again(),
            self.advisories(),
        ];
        configs.extend(self.history.enabled.then(|| self.history()));
        configs
    }

    fn own(self, name: &str, subjects: Vec<String>, about: &str) -> Config {
        Config {
            name: name.to_owned(),
            description: Some(about.to_owned()),
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
        }
    }

    /// The layouts of key-value and object buckets are the client libraries' convention: any NATS tool reads them.
    fn bucket(self, name: &str, about: &str) -> Config {
        Config {
            max_messages_per_subject: 1,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..self.own(&format!("KV_{name}"), vec![format!("$KV.{name}.>")], about)
        }
    }

    fn letters(self) -> Config {
        let subjects = vec![dead_letter::SUBJECTS.into()];
        Config {
            max_bytes: bytes(self.dead_letter_bytes),
            allow_direct: true,
            ..self.own(DEAD_LETTER_STREAM, subjects, "events that Busway will not try again")
        }
    }

    fn payloads(self) -> Config {
        let subjects = vec![format!("$O.{PAYLOADS_BUCKET}.C.>"), format!("$O.{PAYLOADS_BUCKET}.M.>")];
        let about = "payloads that do not fit into their dead letter";
        Config {
            max_bytes: bytes(self.dead_letter_bytes),
            allow_rollup: true,
            allow_direct: true,
            ..self.own(&format!("OBJ_{PAYLOADS_BUCKET}"), subjects, about)
        }
    }

    fn history(self) -> Config {
        let about = "what became of each attempt; `busway explain` reads it";
        Config {
            max_bytes: bytes(self.history.max_bytes),
            max_age: self.history.max_age,
            discard: DiscardPolicy::Old,
            // Nothing here has an id that a repetition could be recognised by.
            duplicate_window: DUPLICATE_WINDOW_MIN,
            allow_direct: true,
            ..self.own(HISTORY_STREAM, vec![history::SUBJECTS.into()], about)
        }
    }

    /// An acknowledged copy is gone. The broker takes no schedules where what is new is refused, so there is no limit: one
    /// would delete the oldest, which is an event.
    fn again(self) -> Config {
        let subjects = vec![again::DUE_SUBJECTS.into(), again::WAIT_SUBJECTS.into()];
        let about = "events that come back to one plugin: parked, or redriven from the dead letters";
        Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::Old,
            duplicate_window: AGAIN_WINDOW,
            allow_direct: true,
            ..self.own(AGAIN_STREAM, subjects, about)
        }
    }

    fn advisories(self) -> Config {
        let subjects = ["MAX_DELIVERIES", "MSG_TERMINATED"];
        let subjects = subjects.map(|kind| format!("$JS.EVENT.ADVISORY.CONSUMER.{kind}.>")).to_vec();
        let about = "what the broker tells of events that it does not give any more";
        Config {
            max_age: ADVISORIES_MAX_AGE,
            max_bytes: ADVISORIES_MAX_BYTES,
            discard: DiscardPolicy::Old,
            duplicate_window: DUPLICATE_WINDOW_MIN,
            ..self.own(ADVISORIES_STREAM, subjects, about)
        }
    }
}

fn bytes(size: ByteSize) -> i64 {
    i64::try_from(size.0).unwrap_or(i64::MAX)
}
