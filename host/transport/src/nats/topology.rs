//! Streams: created where they are missing, compared where they exist, never changed behind anybody's back.
//!
//! What exists and differs is told line by line, as "is … , wanted …", and refused: a stream holds events, and only a
//! person knows whether a smaller `max_bytes` may delete some.

use super::{
    api::{self, ApiError, code},
    connect::Line,
    version::{ATOMIC_BATCHES, MESSAGE_TTL, Version},
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use busway_core::{SubjectFilter, units::ByteSize};
use std::{fmt, time::Duration};

/// A stream as an operator wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    /// The name.
    pub name: String,
    /// What it captures.
    pub subjects: Vec<SubjectFilter>,
    /// What ends a message's stay.
    pub retention: Retention,
    /// Where messages are kept.
    pub storage: Storage,
    /// Most bytes; none for no limit.
    pub max_bytes: Option<ByteSize>,
    /// Most messages; none for no limit.
    pub max_messages: Option<u64>,
    /// The longest stay; none for no limit.
    pub max_age: Option<Duration>,
    /// How long the broker recognises a repeated message id. Default 10 min.
    pub duplicate_window: Duration,
    /// Copies in a cluster, 1 to 5.
    pub replicas: u8,
    /// What gives way when a limit is reached.
    pub discard: Discard,
    /// Who makes the stream.
    pub ownership: Ownership,
    /// Whether the stream, when it is made, takes atomic batches. Not compared where it exists.
    pub batches: Batches,
}

/// Whether a stream that is made takes atomic batches, so that nobody sees only some of an event's outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Batches {
    /// Where the broker holds them back in memory: in a stream in memory, or with more than one copy. On disk with one
    /// copy it makes and removes a store of files for each batch, which costs a sync to disk and more.
    #[default]
    WhereCheap,
    /// Whatever it costs.
    Always,
    /// Outputs go out one by one.
    Never,
}

/// What ends a message's stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Retention {
    /// Only the limits.
    #[default]
    Limits,
    /// The acknowledgement of its one reader.
    WorkQueue,
    /// The acknowledgements of all readers.
    Interest,
}

/// Where messages are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In memory: lost when the broker stops.
    Memory,
}

/// What gives way when a limit is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Discard {
    /// The oldest message.
    #[default]
    Old,
    /// The new message: its publisher is told.
    New,
}

/// Who makes the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ownership {
    /// Busway, where it is missing.
    #[default]
    Managed,
    /// Somebody else; it is only compared.
    Verified,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was made.
    Created,
    /// It was there, and is as wanted.
    AsWanted,
}

/// Why a stream can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// It does not exist and is not ours to make.
    #[error("stream {stream}: does not exist, and `managed = false` says that somebody else makes it")]
    Missing {
        /// The stream.
        stream: String,
    },
    /// It exists and differs.
    #[error(
        "stream {stream}: {}; change the stream (`nats stream edit {stream}`) or the configuration",
        lines(differences)
    )]
    Differs {
        /// The stream.
        stream: String,
        /// Line by line.
        differences: Vec<Difference>,
    },
    /// JetStream gave no good answer.
    #[error("stream {stream}")]
    Api {
        /// The stream.
        stream: String,
        /// Why.
        source: ApiError,
    },
}

/// One setting that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The setting, as it is written in the configuration.
    pub key: &'static str,
    /// How it is.
    pub is: String,
    /// How it was wanted.
    pub wanted: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, wanted {}", self.key, self.is, self.wanted)
    }
}

pub(super) fn lines(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Notes a setting that differs.
pub(super) fn compare<T: PartialEq + fmt::Debug>(
    differences: &mut Vec<Difference>,
    key: &'static str,
    is: &T,
    wanted: &T,
) {
    if is != wanted {
        differences.push(Difference { key, is: format!("{is:?}"), wanted: format!("{wanted:?}") });
    }
}

/// Makes the stream or compares it.
pub(super) async fn ensure(line: &Line, spec: &StreamSpec) -> Result<Ensured, TopologyError> {
    let failed = |source| TopologyError::Api { stream: spec.name.clone(), source };
    if let Some(info) = info(line, &spec.name).await.map_err(failed)? {
        return verify(spec, &info.config);
    }
    if spec.ownership == Ownership::Verified {
        return Err(TopologyError::Missing { stream: spec.name.clone() });
    }
    match create(line, &spec.to_config()).await.map_err(failed)? {
        Created::Now => Ok(Ensured::Created),
        // Another host was faster.
        Created::Before => match info(line, &spec.name).await.map_err(failed)? {
            Some(info) => verify(spec, &info.config),
            None => Err(TopologyError::Missing { stream: spec.name.clone() }),
        },
    }
}

/// A stream, or none where there is none of this name.
pub(super) async fn info(line: &Line, stream: &str) -> Result<Option<Info>, ApiError> {
    match api::call(line, &format!("STREAM.INFO.{stream}"), &serde_json::json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(why) if why.is(code::STREAM_NOT_FOUND) => Ok(None),
        Err(why) => Err(why),
    }
}

pub(super) enum Created {
    Now,
    Before,
}

/// Makes a stream, without what this broker is too old for and would refuse or forget.
pub(super) async fn create(line: &Line, config: &Config) -> Result<Created, ApiError> {
    let version = Version::of(line);
    let config = Config {
        allow_message_ttl: config.allow_message_ttl && version >= MESSAGE_TTL,
        allow_atomic_publish: config.allow_atomic_publish && version >= ATOMIC_BATCHES,
        ..config.clone()
    };
    match api::call::<serde_json::Value>(line, &format!("STREAM.CREATE.{}", config.name), &config).await {
        Ok(_) => Ok(Created::Now),
        Err(why) if why.is(code::STREAM_NAME_EXISTS) => Ok(Created::Before),
        Err(why) => Err(why),
    }
}

/// Changes a stream.
pub(super) async fn update(line: &Line, config: &Config) -> Result<(), ApiError> {
    let subject = format!("STREAM.UPDATE.{}", config.name);
    api::call::<serde_json::Value>(line, &subject, config).await.map(drop)
}

fn verify(spec: &StreamSpec, is: &Config) -> Result<Ensured, TopologyError> {
    let differences = differences(spec, is);
    if differences.is_empty() {
        Ok(Ensured::AsWanted)
    } else {
        Err(TopologyError::Differs { stream: spec.name.clone(), differences })
    }
}

/// What is not as wanted.
pub(super) fn differences(spec: &StreamSpec, is: &Config) -> Vec<Difference> {
    let wanted = spec.to_config();
    let mut differences = Vec::new();
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort();
        subjects
    };
    compare(&mut differences, "subjects", &sorted(&is.subjects), &sorted(&wanted.subjects));
    compare(&mut differences, "retention", &is.retention, &wanted.retention);
    compare(&mut differences, "storage", &is.storage, &wanted.storage);
    compare(&mut differences, "max_bytes", &is.max_bytes, &wanted.max_bytes);
    compare(&mut differences, "max_messages", &is.max_messages, &wanted.max_messages);
    compare(&mut differences, "max_age", &is.max_age, &wanted.max_age);
    compare(&mut differences, "duplicate_window", &is.duplicate_window, &wanted.duplicate_window);
    compare(&mut differences, "replicas", &is.num_replicas, &wanted.num_replicas);
    compare(&mut differences, "discard", &is.discard, &wanted.discard);
    differences
}

impl StreamSpec {
    /// A stream on disk that keeps everything.
    pub fn new(name: impl Into<String>, subjects: Vec<SubjectFilter>) -> Self {
        Self {
            name: name.into(),
            subjects,
            retention: Retention::default(),
            storage: Storage::default(),
            max_bytes: None,
            max_messages: None,
            max_age: None,
            duplicate_window: Duration::from_secs(600),
            replicas: 1,
            discard: Discard::default(),
            ownership: Ownership::default(),
            batches: Batches::default(),
        }
    }

    fn to_config(&self) -> Config {
        let limit = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        // The broker refuses a window that is longer than the messages' stay.
        let window = self.max_age.map_or(self.duplicate_window, |age| self.duplicate_window.min(age));
        Config {
            name: self.name.clone(),
            subjects: self.subjects.iter().map(ToString::to_string).collect(),
            retention: match self.retention {
                Retention::Limits => RetentionPolicy::Limits,
                Retention::WorkQueue => RetentionPolicy::WorkQueue,
                Retention::Interest => RetentionPolicy::Interest,
            },
            storage: match self.storage {
                Storage::File => StorageType::File,
                Storage::Memory => StorageType::Memory,
            },
            max_bytes: limit(self.max_bytes.map(|bytes| bytes.0)),
            max_messages: limit(self.max_messages),
            max_messages_per_subject: -1,
            max_consumers: -1,
            max_message_size: -1,
            max_age: self.max_age.unwrap_or_default(),
            duplicate_window: window,
            num_replicas: usize::from(self.replicas),
            discard: match self.discard {
                Discard::Old => DiscardPolicy::Old,
                Discard::New => DiscardPolicy::New,
            },
            allow_direct: true,
            allow_atomic_publish: match self.batches {
                Batches::WhereCheap => self.storage == Storage::Memory || self.replicas > 1,
                Batches::Always => true,
                Batches::Never => false,
            },
            ..Config::default()
        }
    }
}
