//! What the broker knows of one event: whether it is still stored, and how each of Busway's consumers stands to it. The
//! rest of the answer when records are missing, or were never kept.

use super::{
    api::{self, ApiError, Wanted},
    attempts,
    connect::Line,
    own_streams::DEAD_LETTER_STREAM,
    topology, wire,
};
use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use busway_core::{AttemptRecord, EventId, Headers, Position, SubjectFilter, dead_letter};
use serde::Deserialize;
use serde_json::json;

/// An event's place, seen from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The place, in the stream that has this name now.
    pub position: Position,
    /// What is stored there; none where it was removed.
    pub stored: Option<StoredEvent>,
    /// Busway's consumers of the stream.
    pub consumers: Vec<ConsumerView>,
}

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// What it was published on.
    pub subject: String,
    /// Its headers; empty where they can't be read.
    pub headers: Headers,
    /// The size of its payload.
    pub bytes: usize,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub stored_at_ms: u64,
}

/// How a consumer stands to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerView {
    /// The durable's name.
    pub consumer: String,
    /// The plugin that it belongs to.
    pub plugin: String,
    /// What it was given, and what became of it.
    pub standing: Standing,
}

/// How a consumer stands to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its filters leave the event out.
    NotForIt,
    /// It begins after the event.
    BeginsAfter {
        /// With this sequence.
        sequence: u64,
    },
    /// The event waits to be given to a host.
    NotGivenYet,
    /// It was given and may be settled or not: something before it is not.
    GivenOut,
    /// It was acknowledged or terminated, like all before it.
    Settled,
}

/// A dead letter of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterOf {
    /// Its number.
    pub sequence: u64,
    /// The plugin that failed.
    pub plugin: String,
}

/// An event's recorded failed runs in one plugin and round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRunsOf {
    /// The plugin that failed.
    pub plugin: String,
    /// The round.
    pub round: u32,
    /// The runs.
    pub record: AttemptRecord,
}

/// Why the broker can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum WhereaboutsError {
    /// No such stream.
    #[error("there is no stream {0}; `nats stream ls` lists those there are")]
    NoStream(String),
    /// The stream has not come so far.
    #[error("stream {stream} has no sequence {sequence} yet: its last one is {last}")]
    Beyond {
        /// The stream.
        stream: String,
        /// What was asked for.
        sequence: u64,
        /// The last there is.
        last: u64,
    },
    /// JetStream gave no good answer.
    #[error("the broker can't be asked about the event")]
    Api(#[from] ApiError),
}

#[derive(Deserialize)]
struct Consumers {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    consumers: Vec<Info>,
}

/// The broker's view of a sequence in a stream.
pub(super) async fn look(line: &Line, stream: &str, sequence: u64) -> Result<Whereabouts, WhereaboutsError> {
    let info = topology::info(line, stream).await?;
    let info = info.ok_or_else(|| WhereaboutsError::NoStream(stream.to_owned()))?;
    let last = info.state.last_sequence;
    if sequence > last {
        return Err(WhereaboutsError::Beyond { stream: stream.to_owned(), sequence, last });
    }
    let raw = api::stored(line, stream, Wanted::sequence(sequence)).await?;
    let stored = raw.map(|raw| StoredEvent {
        headers: wire::parse(&raw.header_block).unwrap_or_default(),
        subject: raw.subject,
        bytes: raw.payload.len(),
        stored_at_ms: u64::try_from(raw.stored_at_ns / 1_000_000).unwrap_or_default(),
    });
    let subject = stored.as_ref().map(|stored| stored.subject.as_str());
    let consumers = consumers(line, stream).await?;
    let ours = consumers.iter().filter(|info| info.name.starts_with("busway-"));
    let position =
        Position { stream: stream.into(), stream_created_ns: info.created.unix_timestamp_nanos(), sequence };
    Ok(Whereabouts { position, consumers: ours.map(|info| view(info, sequence, subject)).collect(), stored })
}

async fn consumers(line: &Line, stream: &str) -> Result<Vec<Info>, ApiError> {
    let mut all = Vec::new();
    loop {
        let subject = format!("CONSUMER.LIST.{stream}");
        let page: Consumers = api::call(line, &subject, &json!({ "offset": all.len() })).await?;
        let is_last = page.consumers.is_empty();
        all.extend(page.consumers);
        if is_last || all.len() >= page.total {
            return Ok(all);
        }
    }
}

fn view(info: &Info, sequence: u64, subject: Option<&str>) -> ConsumerView {
    let begins = match info.config.deliver_policy {
        DeliverPolicy::ByStartSequence { start_sequence } => start_sequence,
        _ => 0,
    };
    let standing = if subject.is_some_and(|subject| !lets_through(info, subject)) {
        Standing::NotForIt
    } else if sequence < begins {
        Standing::BeginsAfter { sequence: begins }
    } else if sequence <= info.ack_floor.stream_sequence {
        Standing::Settled
    } else if sequence > info.delivered.stream_sequence {
        Standing::NotGivenYet
    } else {
        Standing::GivenOut
    };
    let described = info.config.description.as_deref().and_then(|text| text.strip_prefix("Busway plugin "));
    let plugin = described.unwrap_or_else(|| info.name.trim_start_matches("busway-")).to_owned();
    ConsumerView { consumer: info.name.clone(), plugin, standing }
}

fn lets_through(info: &Info, subject: &str) -> bool {
    let config = &info.config;
    let one = (!config.filter_subject.is_empty()).then_some(&config.filter_subject);
    let mut filters = one.into_iter().chain(&config.filter_subjects).peekable();
    if filters.peek().is_none() {
        return true;
    }
    filters.any(|filter| filter.parse::<SubjectFilter>().is_ok_and(|filter| filter.matches(subject)))
}

/// The dead letters of an event, oldest first.
pub(super) async fn letters(line: &Line, event: &EventId) -> Result<Vec<LetterOf>, ApiError> {
    let prefix = dead_letter::SUBJECT_PREFIX;
    let found = subjects(line, DEAD_LETTER_STREAM, &format!("{prefix}.*.{event}.*")).await?;
    let letters = found.into_iter().filter_map(|raw| {
        let plugin = raw.subject.strip_prefix(prefix)?.split('.').nth(1)?.to_owned();
        Some(LetterOf { sequence: raw.sequence, plugin })
    });
    Ok(letters.collect())
}

/// The failed runs that are recorded of an event, by plugin and round. Records that can't be read are left out.
pub(super) async fn failed_runs(line: &Line, event: &EventId) -> Result<Vec<FailedRunsOf>, ApiError> {
    let stream = attempts::stream();
    let mut found = Vec::new();
    for filter in attempts::filters(event) {
        found.extend(subjects(line, &stream, &filter).await?);
    }
    let runs = found.into_iter().filter_map(|raw| {
        let (plugin, round) = attempts::whose(&raw.subject)?;
        let record = attempts::read(&raw.payload).ok()?;
        Some(FailedRunsOf { plugin: plugin.to_owned(), round, record })
    });
    Ok(runs.collect())
}

/// The messages under these subjects; none where there is no such stream.
async fn subjects(line: &Line, stream: &str, filter: &str) -> Result<Vec<api::Raw>, ApiError> {
    let (mut from, mut found) = (1, Vec::new());
    loop {
        match api::stored(line, stream, Wanted::next(from, filter)).await {
            Ok(Some(raw)) => {
                from = raw.sequence + 1;
                found.push(raw);
            }
            Ok(None) => return Ok(found),
            Err(why) if why.is(api::code::STREAM_NOT_FOUND) => return Ok(found),
            Err(why) => return Err(why),
        }
    }
}
