//! The account of attempts: what is told of each, once it is over, and under which subjects it is kept.
//!
//! It answers "why did this event end so?" afterwards. It is an account and not the state: nothing is decided on it, and
//! an event whose record is lost has ended all the same.
//!
//! Failures and put-backs are kept one by one, under the event's id. Successes are kept many at a time, so no subject can
//! hold all their ids; they are kept under the place of the event in its stream, [`SHELF`] sequences to a subject. A look-up
//! by place is a read of one subject. An id is a hash of the place, so a look-up by id first finds the place that hashes to
//! it among the shelves there are.

use crate::{Attempt, EventId, PluginName, Position, Used, port::Stored};
use std::{sync::Arc, time::Duration};

/// The subjects of all records.
pub const SUBJECTS: &str = "busway.history.>";
/// The subjects of the shelves, without those of events that no stream holds.
pub const SHELVES: &str = "busway.history.done.>";
/// The subjects of the successes of events that no stream holds.
pub const PLAIN: &str = "busway.history.plain.>";
/// Sequences of one stream whose successes are kept under one subject.
pub const SHELF: u64 = 1024;

/// One attempt, and what was done with its event afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The event's id: [`EventId::of`] its position where it has one.
    pub event_id: EventId,
    /// Where the event is stored; none for an event that no stream holds.
    pub position: Option<Position>,
    /// What the event was published on.
    pub subject: String,
    /// The trace that the event brought along; none: the one derived from its id.
    pub trace_id: Option<String>,
    /// Who ran it.
    pub runner: Arc<Runner>,
    /// 1 for the first run in its round.
    pub attempt: Attempt,
    /// How often the event had been redriven from the dead letters.
    pub round: u32,
    /// How often the broker had given the event to anyone; more than the attempts where it was put back uncounted.
    pub delivered: u64,
    /// When the attempt began, in milliseconds since the Unix epoch.
    pub began_at_ms: u64,
    /// From there to the settlement.
    pub took: Duration,
    /// What the handler used; none where it was not called.
    pub used: Option<Used>,
    /// Why it failed or was not run; none where it was handled.
    pub cause: Option<Cause>,
    /// What was done with the event.
    pub disposition: Disposition,
    /// Where the attempt's messages were stored, in their order.
    pub outputs: Vec<Stored>,
    /// Whether they were stored as one atomic batch.
    pub atomic: bool,
    /// The event that has the same key and was handled instead; none: this one was.
    pub duplicate_of: Option<EventId>,
    /// Messages that were sent to whoever listens, and stored nowhere.
    pub sent: u32,
}

/// Who runs attempts: one binding of one version of a plugin on one host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Runner {
    /// The plugin.
    pub plugin: PluginName,
    /// The binding's durable consumer.
    pub consumer: String,
    /// The beginning of the digest of the plugin's bytes.
    pub version: String,
    /// The host.
    pub host: String,
}

/// Why an attempt did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Whether it counts as an attempt.
    pub counts: Counts,
    /// The code of a [`crate::FailureClass`] or of a [`crate::Refusal`].
    pub class: String,
    /// The failure's own short code.
    pub code: String,
    /// What happened, for people.
    pub reason: String,
}

/// Whether an attempt that did not end well is one of the event's failed runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// It failed.
    Failed,
    /// The host could not run it: not the event's fault.
    Refused,
}

/// What was done with an event after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Handled and acknowledged.
    Done,
    /// The failed run is recorded, and the event is tried again.
    Retried {
        /// After so long.
        wait: Duration,
        /// Where the wait is spent.
        waits: Waits,
    },
    /// Its dead letter is stored, and the event is never given again.
    DeadLettered {
        /// The letter's sequence in the stream of dead letters: its number for `busway dlq`.
        letter: u64,
    },
    /// Put back uncounted. After a failure: its record or its dead letter could not be stored.
    PutBack {
        /// For so long.
        wait: Duration,
    },
    /// The broker did not confirm, or another host may have the event: it is given again.
    Left,
}

/// Where an event waits for its next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// In its consumer.
    InConsumer,
    /// Outside, as a copy that comes back to its plugin alone.
    Parked,
}

impl HistoryEntry {
    /// Whether it may be kept with many others: it went well, so that few will ask.
    pub fn is_success(&self) -> bool {
        self.cause.is_none() && self.disposition == Disposition::Done
    }
}

/// The subject of an event's failures and put-backs.
pub fn event_subject(event: &EventId, plugin: &PluginName) -> String {
    format!("busway.history.event.{event}.{plugin}")
}

/// The subjects of an event's failures and put-backs in all plugins.
pub fn event_filter(event: &EventId) -> String {
    format!("busway.history.event.{event}.*")
}

/// The subject of a plugin's successes with events of this place and its neighbours.
pub fn shelf_subject(position: &Position, plugin: &PluginName) -> String {
    let Position { stream, stream_created_ns, sequence } = position;
    format!("busway.history.done.{stream}.{stream_created_ns}.{}.{plugin}", sequence / SHELF)
}

/// The subjects of all plugins' successes with events of this sequence and its neighbours, in every stream that has or
/// had this name.
pub fn shelf_filter(stream: &str, sequence: u64) -> String {
    format!("busway.history.done.{stream}.*.{}.*", sequence / SHELF)
}

/// The subject of a plugin's successes with events that no stream holds.
pub fn plain_subject(plugin: &PluginName) -> String {
    format!("busway.history.plain.{plugin}")
}

/// A stream, its creation time, and the sequences that a shelf holds successes of; none for other subjects.
pub fn shelf_of(subject: &str) -> Option<(Position, std::ops::Range<u64>)> {
    let mut tokens = subject.strip_prefix("busway.history.done.")?.split('.');
    let (stream, created, shelf) = (tokens.next()?, tokens.next()?, tokens.next()?.parse::<u64>().ok()?);
    tokens.next()?;
    let first = shelf.checked_mul(SHELF)?;
    let position =
        Position { stream: stream.into(), stream_created_ns: created.parse().ok()?, sequence: first };
    Some((position, first..first.checked_add(SHELF)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelfs_subject_says_which_sequences_it_holds() {
        let position = Position { stream: "IN".into(), stream_created_ns: 17, sequence: 2050 };
        let plugin = "p".parse().unwrap();
        let subject = shelf_subject(&position, &plugin);
        assert_eq!(subject, "busway.history.done.IN.17.2.p");
        let (found, sequences) = shelf_of(&subject).unwrap();
        assert_eq!((&*found.stream, found.stream_created_ns, sequences), ("IN", 17, 2048..3072));
        for other in ["busway.history.plain.p", "busway.history.done.IN.17.2", "busway.history.done.IN.x.2.p"]
        {
            assert_eq!(shelf_of(other), None, "{other}");
        }
    }
}
