//! Finds the records of one event among all.
//!
//! By the event's id its failures have a subject of their own; by its place its successes share a subject with those of
//! its neighbours. Each is read message by message, as it is stored. A place is looked for by hashing: the broker lists
//! the shelves there are, and of their sequences one hashes to the id. That costs half a microsecond for each record kept
//! and needs no index.

use super::{
    super::{
        api::{self, ApiError, Wanted, code},
        connect::Line,
        own_streams::HISTORY_STREAM,
    },
    page,
};
use busway_core::{EventId, HistoryEntry, Position, history};
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// The newest sequences of each stream that are tried against an id of which no record is kept.
const TRIED_MAX: u64 = 5_000_000;

/// Reads the account of attempts, for operators.
#[derive(Debug, Clone)]
pub struct HistoryReader {
    pub(in super::super) control: Arc<Line>,
}

/// What there is of an event's account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Why some messages could not be read.
    pub unreadable: Vec<String>,
}

/// Why the account can't be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// There is no stream of records.
    #[error(
        "the stream {HISTORY_STREAM} does not exist: no host that keeps a history has run on this broker"
    )]
    NoStream,
    /// JetStream gave no good answer.
    #[error("the history can't be read")]
    Api(#[source] ApiError),
}

impl From<ApiError> for HistoryError {
    fn from(why: ApiError) -> Self {
        if why.is(code::STREAM_NOT_FOUND) { Self::NoStream } else { Self::Api(why) }
    }
}

#[derive(Deserialize)]
struct Subjects {
    #[serde(default)]
    total: usize,
    state: SubjectCounts,
}

#[derive(Deserialize)]
struct SubjectCounts {
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct Streams {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    streams: Vec<async_nats::jetstream::stream::Info>,
}

impl HistoryReader {
    /// The records of the event at this place, and those of events at the same place of earlier streams of this name.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub async fn of_position(&self, position: &Position) -> Result<Account, HistoryError> {
        let mut account = Account::default();
        let id = EventId::of(position);
        self.collect(&history::event_filter(&id), &mut account, |_| true).await?;
        let meant = |entry: &HistoryEntry| {
            entry.position.as_ref().is_some_and(|found| found.sequence == position.sequence)
        };
        self.collect(&history::shelf_filter(&position.stream, position.sequence), &mut account, meant)
            .await?;
        Ok(account.in_order())
    }

    /// The records of an event that no stream holds.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub async fn of_plain(&self, id: &EventId) -> Result<Account, HistoryError> {
        let mut account = Account::default();
        self.collect(&history::event_filter(id), &mut account, |_| true).await?;
        self.collect(history::PLAIN, &mut account, |entry| entry.event_id == *id).await?;
        Ok(account.in_order())
    }

    /// All records of attempts that began at this time or later, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub async fn since(&self, began_at_ms: u64) -> Result<Account, HistoryError> {
        let mut account = Account::default();
        self.collect(history::SUBJECTS, &mut account, |entry| entry.began_at_ms >= began_at_ms).await?;
        Ok(account.in_order())
    }

    /// Where the event with this id is or was stored: told by one of its failures, or by hashing the places that records
    /// are kept of, then the newest places of each stream. None where nothing hashes to it.
    ///
    /// # Errors
    /// See [`HistoryError`]; without a stream of records only the streams are searched.
    pub async fn place_of(&self, id: &EventId) -> Result<Option<Position>, HistoryError> {
        match self.place_in_history(id).await {
            Ok(Some(position)) => return Ok(Some(position)),
            Ok(None) | Err(HistoryError::NoStream) => {}
            Err(why) => return Err(why),
        }
        self.place_in_streams(id).await
    }

    async fn place_in_history(&self, id: &EventId) -> Result<Option<Position>, HistoryError> {
        let mut failures = Account::default();
        self.collect(&history::event_filter(id), &mut failures, |_| true).await?;
        if let Some(position) = failures.entries.into_iter().find_map(|entry| entry.position) {
            return Ok(Some(position));
        }
        let mut offset = 0;
        loop {
            let wanted = json!({ "subjects_filter": history::SHELVES, "offset": offset });
            let subject = format!("STREAM.INFO.{HISTORY_STREAM}");
            let page: Subjects = api::call(&self.control, &subject, &wanted).await?;
            let subjects = page.state.subjects.unwrap_or_default();
            offset += subjects.len();
            let shelves = subjects.keys().filter_map(|subject| history::shelf_of(subject));
            if let Some(found) = shelves.into_iter().find_map(|(first, range)| hashed_to(id, &first, range)) {
                return Ok(Some(found));
            }
            if subjects.is_empty() || offset >= page.total {
                return Ok(None);
            }
        }
    }

    async fn place_in_streams(&self, id: &EventId) -> Result<Option<Position>, HistoryError> {
        let mut offset = 0;
        loop {
            let page: Streams = api::call(&self.control, "STREAM.LIST", &json!({ "offset": offset })).await?;
            for info in &page.streams {
                let last = info.state.last_sequence;
                let first = info.state.first_sequence.max(last.saturating_sub(TRIED_MAX)).max(1);
                let stream = Position {
                    stream: info.config.name.as_str().into(),
                    stream_created_ns: info.created.unix_timestamp_nanos(),
                    sequence: first,
                };
                let own = ["BUSWAY_", "KV_", "OBJ_"].iter().any(|own| info.config.name.starts_with(own));
                if let Some(found) = hashed_to(id, &stream, first..last.saturating_add(1)).filter(|_| !own) {
                    return Ok(Some(found));
                }
            }
            offset += page.streams.len();
            if page.streams.is_empty() || offset >= page.total {
                return Ok(None);
            }
        }
    }

    /// Adds the records under these subjects that are `meant`.
    async fn collect(
        &self,
        filter: &str,
        account: &mut Account,
        meant: impl Fn(&HistoryEntry) -> bool,
    ) -> Result<(), HistoryError> {
        let mut from = 1;
        while let Some(raw) = api::stored(&self.control, HISTORY_STREAM, Wanted::next(from, filter)).await? {
            from = raw.sequence + 1;
            match page::read(&raw.payload) {
                Ok(entries) => account.entries.extend(entries.into_iter().filter(|entry| meant(entry))),
                Err(why) => account.unreadable.push(format!("message {} is {why}", raw.sequence)),
            }
        }
        Ok(())
    }
}

impl Account {
    /// Oldest first, and what was stored twice once.
    fn in_order(mut self) -> Self {
        self.entries.sort_by_key(|entry| (entry.began_at_ms, entry.delivered));
        self.entries.dedup();
        self
    }
}

/// The sequence of this stream whose place hashes to the id.
fn hashed_to(id: &EventId, stream: &Position, sequences: Range<u64>) -> Option<Position> {
    let mut place = stream.clone();
    // The newest first: they are asked for most.
    sequences.rev().find_map(|sequence| {
        place.sequence = sequence;
        (EventId::of(&place) == *id).then(|| place.clone())
    })
}
