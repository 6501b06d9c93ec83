//! The four seams between the path of an event and the world: [`Source`], [`Settle`], [`Publish`], [`Handler`]; and the
//! one between a plugin and other services: [`Request`].
//!
//! Each has two implementations in the tree: NATS and one of the tests, for [`Handler`] the sandbox and the scripted
//! handler of the tests. Futures are boxed: the traits are used as objects, and one small
//! allocation is nothing beside a sandbox.

use crate::{Attempt, AttemptRecord, DeadLetter, Event, EventId, Headers, Position, ReplySubject, Report};
use bytes::Bytes;
use std::{future::Future, pin::Pin, time::Duration};

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One message that a broker gave to this host, with what is needed to settle it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What was stored.
    pub content: Content,
    /// How to settle it.
    pub receipt: Receipt,
}

/// What was stored.
#[derive(Debug, Clone)]
pub enum Content {
    /// A message that the client library could read.
    Message(Message),
    /// One that it could not.
    Malformed(Malformed),
}

/// A readable message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it was published on.
    pub subject: String,
    /// All headers as stored.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

/// A message whose header block or subject is not what the protocol asks for.
#[derive(Debug, Clone)]
pub struct Malformed {
    /// The subject, with anything unreadable replaced.
    pub subject: String,
    /// The header block as stored.
    pub header_block: Bytes,
    /// The bytes.
    pub payload: Bytes,
    /// What is wrong with it.
    pub why: String,
}

/// What is needed to settle a delivery.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The event's id: [`EventId::of`] its position where it has one.
    pub event_id: EventId,
    /// Where the event is stored; none for plain subjects.
    pub position: Option<Position>,
    /// How often the broker has given this event to anyone, this time included; from 1. It is at least that often: the
    /// broker's count, which it may lose, corrected to 2 where a record shows, or may exist, that the event was given before.
    pub delivered: u64,
    /// When the broker stored the event, in milliseconds since the Unix epoch.
    pub published_at_ms: Option<u64>,
    /// The sequence of the message that was given, in the stream that it was given from: custody is kept by it. The same
    /// as the position's, except for what came back; for plain subjects a number that this host counts.
    pub held_as: Option<u64>,
    /// Set when the event was parked or redriven and came back to this plugin alone.
    pub returned: Option<Returned>,
    /// Who waits for an answer. Never shown to a guest.
    pub reply_to: Option<ReplySubject>,
    /// The transport's own handle; opaque to everybody else.
    pub token: String,
}

/// How an event came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// How often it was redriven from the dead letters; 0 when it was only parked. Failed runs are counted per round.
    pub round: u32,
    /// How many runs of that round had failed when the copy was made that came back; 0 for one that was just redriven.
    pub failed_runs: u32,
}

/// Where deliveries come from: one per binding.
pub trait Source: Send {
    /// The next delivery. `room` is how many more this host can hold; the source asks the broker for no more than that.
    /// With no room at all it asks for nothing and gives only what was on its way.
    /// None when the source was closed. Trouble at the broker is waited out inside. Cancel safe: a delivery that was
    /// taken from the broker is not lost when the future is dropped.
    fn next(&mut self, room: usize) -> BoxFuture<'_, Option<Delivery>>;
    /// The opening that the last delivery came from.
    fn opening(&self) -> Opening;
    /// Ends the subscription and gives what was on its way, so that it can be put back and need not wait until the broker's
    /// patience ends. Takes no longer than about two seconds; nothing may be asked of the source afterwards.
    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>>;
}

/// One opening of a source. Between two openings deliveries may have been lost on their way, and the broker gives them
/// again only when its patience has ended: later events come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opening {
    /// Counted from 1.
    pub number: u64,
    /// Deliveries that were given to anybody before it, and of whose end the broker had not heard.
    pub unsettled: usize,
}

/// How deliveries are settled, and where failed runs are recorded. None of these is cancel safe in the sense that a
/// dropped future tells whether the broker saw it; each may be repeated.
pub trait Settle: Send + Sync {
    /// Done. By the binding's policy confirmed or not.
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>>;
    /// Give it again, to anyone, after a wait. Never without a wait.
    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>>;
    /// Never give it again; confirmed. Only after its dead letter is stored.
    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>>;
    /// Still being worked on: restarts the broker's patience. Confirmed.
    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>>;
    /// Done, and confirmed whatever the binding's policy.
    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>>;
    /// The failed runs of an event in its round. Empty where there are none.
    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>>;
    /// Replaces the record of an event's failed runs in its round; confirmed.
    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>>;
    /// Stores a copy that comes back to this plugin alone after a wait; confirmed. The given message itself is still to be
    /// acknowledged. Repeating it for the same event and number of failed runs stores nothing twice.
    fn park<'a>(
        &'a self,
        delivery: &'a Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>>;
    /// How many deliveries of this consumer the broker has given to anybody and not heard the end of. Asked for ordered
    /// consumers only.
    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>>;
    /// Whether this host may work on the consumer. An ordered consumer has one active host; by its own clock a host knows
    /// early enough that another may have taken over. Asks nobody.
    fn is_active(&self) -> bool;
    /// Keeps this host the active one of an ordered consumer, if it is. To be called often, for as long as anything is
    /// held; asks the broker only when that is due.
    fn stay_active(&self) -> BoxFuture<'_, ()>;
    /// Claims an input's key for an event. A claim lapses after `ttl`.
    fn claim_key<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>>;
    /// Gives up a claim of this event, so that a repeated input is handled.
    fn release_key<'a>(&'a self, key: &'a str, event: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>>;
}

/// Whose an input's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyClaim {
    /// This event's, now or since an earlier run.
    Own,
    /// Another event's.
    Taken(EventId),
}

/// Why an event was not parked. It is put back instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParkError {
    /// The broker has no message schedules.
    #[error("the broker has no message schedules")]
    NotOffered,
    /// It was not stored.
    #[error(transparent)]
    NotStored(#[from] PublishError),
}

/// Why a delivery could not be settled. Always: the broker will give it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The consumer or the message is gone: nobody will give it again.
    #[error("the consumer or the message is gone")]
    Gone,
    /// No answer in time, or no connection.
    #[error("the broker did not answer: {0}")]
    Unreachable(String),
    /// An answer that says no.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// Where outputs and dead letters go.
pub trait Publish: Send + Sync {
    /// Stores one message; returns when the broker has confirmed it. Repeating it with the same id is safe.
    fn publish<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>>;
    /// Stores the messages of one event in their order; returns when the broker has confirmed all of them. Where the
    /// broker can, none is stored unless all are. Repeating it with the same ids is safe.
    fn publish_all<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>>;
    /// Sends a message once, to whoever listens; nobody confirms it. Its id is not sent.
    fn send<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>>;
    /// Stores a dead letter; returns when the broker has confirmed it, or when the very same letter was there already.
    fn dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>>;
}

/// A message to be stored, its host headers included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// Every header, except the id.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
    /// What the broker recognises a repetition by.
    pub message_id: String,
}

/// What became of the messages of one event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// Where each was stored, in their order.
    pub stored: Vec<Stored>,
    /// Whether they were stored as one atomic batch.
    pub atomic: bool,
}

/// One of an event's messages was not stored; others may have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an output on {subject} was not stored: {why}")]
pub struct NotReleased {
    /// Where it was to go.
    pub subject: String,
    /// Why it was not stored.
    #[source]
    pub why: PublishError,
}

/// Where a message was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The stream.
    pub stream: String,
    /// The sequence.
    pub sequence: u64,
    /// Whether it had been stored before.
    pub duplicate: bool,
}

/// Why a message was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No stream captures the subject.
    #[error("no stream captures the subject")]
    NoStream,
    /// The message is larger than the broker or the stream takes.
    #[error("larger than the broker takes: {0}")]
    TooLarge(String),
    /// The stream is full, or something else that may pass.
    #[error("the stream does not take it now: {0}")]
    NotNow(String),
    /// The broker says no, and will say so again.
    #[error("the broker refused: {0}")]
    Refused(String),
    /// No answer in time, or no connection; it may have been stored.
    #[error("the broker did not answer: {0}")]
    Unreachable(String),
}

/// Asks other services at once, for plugins: what `bus.request` needs.
pub trait Request: Send + Sync {
    /// Sends a request and gives the first answer. Its wait ends at `wait`, whatever the broker does. Cancel safe: nobody
    /// hears the answer then, but the request was made.
    fn request<'a>(
        &'a self,
        message: &'a Message,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Message, RequestError>>;
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No answer in time; it may have been handled.
    #[error("no answer in time")]
    Timeout,
    /// Nobody listens.
    #[error("nobody listens")]
    NoResponders,
    /// A stream captures the subject: the request would be a durable publish that is not held back. It was not sent.
    #[error("the stream {stream} captures the subject")]
    Captured {
        /// Which stream.
        stream: String,
    },
    /// The request or its answer is larger than the broker takes.
    #[error("larger than the broker takes: {0}")]
    TooLarge(String),
    /// The service answered that it failed.
    #[error("the service answers {code}: {words}")]
    Service {
        /// The service's own code.
        code: String,
        /// What it says.
        words: String,
    },
    /// It could not be sent now.
    #[error("the broker did not answer: {0}")]
    Unreachable(String),
}

/// What handles events.
pub trait Handler: Send + Sync {
    /// Runs one attempt within its limits. Never panics, never takes longer than the wall-clock limit by more than a
    /// tick. Cancel safe: dropping the future ends the attempt, and what it published is discarded.
    fn call<'a>(&'a self, event: &'a Event, attempt: Attempt) -> BoxFuture<'a, Report>;
}

impl Content {
    /// The bytes as stored.
    pub fn payload(&self) -> &Bytes {
        match self {
            Self::Message(message) => &message.payload,
            Self::Malformed(malformed) => &malformed.payload,
        }
    }

    /// The subject as stored, unreadable parts replaced.
    pub fn subject(&self) -> &str {
        match self {
            Self::Message(message) => &message.subject,
            Self::Malformed(malformed) => &malformed.subject,
        }
    }
}

impl Receipt {
    /// How often the event was redriven.
    pub fn round(&self) -> u32 {
        self.returned.map_or(0, |returned| returned.round)
    }

    /// A receipt for tests: the first delivery of a sequence in a stream.
    pub fn for_test(stream: &str, sequence: u64) -> Self {
        let position = Position { stream: stream.into(), stream_created_ns: 0, sequence };
        Self {
            event_id: EventId::of(&position),
            position: Some(position),
            held_as: Some(sequence),
            returned: None,
            reply_to: None,
            delivered: 1,
            published_at_ms: Some(0),
            token: String::new(),
        }
    }
}
