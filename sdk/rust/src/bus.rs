//! Speaking on the bus.
//!
//! [`publish`] and [`reply`] are held back by the host until the handler has returned ok; [`request`] acts at once. So a
//! handler that fails half way has published nothing, and may have asked.

use std::time::Duration;

use thiserror::Error;

use crate::{Header, Message, host};

/// Why a call on the bus was not carried out. Nothing was sent. `?` turns it into the fitting
/// [`Failure`](crate::Failure).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BusError {
    /// The operator has not granted this subject, or nobody may use it.
    #[error("not granted: the operator's `grants` decide which subjects a plugin may use")]
    Denied,
    /// Empty, too long, a wildcard, an empty token, or a character that is not allowed.
    #[error("not a subject that can be published to: tokens of letters, digits, `_` and `-`, joined by dots")]
    InvalidSubject,
    /// A header's name or value can't be sent, or the name is the host's.
    #[error("a header that can't be sent, or one of the host's own")]
    InvalidHeader,
    /// Larger than the broker takes.
    #[error("larger than the broker takes")]
    TooLarge,
    /// The event's budget of calls or bytes is spent.
    #[error("the event's budget of calls or bytes is spent")]
    Quota,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// Nobody listens on that subject.
    #[error("nobody listens on that subject")]
    NoResponders,
    /// The event in hand is not a request.
    #[error("the event in hand is not a request: ask `context::can_reply` first")]
    NoReply,
    /// A reply was given before.
    #[error("a reply was given before")]
    AlreadyReplied,
    /// The host does not offer this now; the same call may work later or on another host.
    #[error("the host does not offer this now")]
    Unavailable,
    /// In a batch outputs are part of the answer.
    #[error("in a batch outputs are part of the answer")]
    NotInBatch,
    /// What has no name yet.
    #[error("{0}")]
    Other(String),
}

impl BusError {
    /// The error's name, as the WIT spells it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::InvalidSubject => "invalid-subject",
            Self::InvalidHeader => "invalid-header",
            Self::TooLarge => "too-large",
            Self::Quota => "quota",
            Self::Timeout => "timeout",
            Self::NoResponders => "no-responders",
            Self::NoReply => "no-reply",
            Self::AlreadyReplied => "already-replied",
            Self::Unavailable => "unavailable",
            Self::NotInBatch => "not-in-batch",
            Self::Other(_) => "other",
        }
    }
}

/// Publishes `message`, if the handler returns ok: until then the host holds it back. Where the operator grants the subject
/// as `publish`, the broker stores it before the event is acknowledged, under an id that makes a repeated attempt publish it
/// only once. Where it is granted as `publish-core`, it is sent once to whoever listens, after what is stored.
///
/// # Errors
/// Told at once, and nothing is held back: a subject that is not granted or not valid, a header that can't be sent, too
/// many bytes, a spent budget.
pub fn publish(message: Message) -> Result<(), BusError> {
    host::publish(&message)
}

/// Answers the event, if it is a request of core NATS, once: see [`can_reply`](crate::context::can_reply). Held back until
/// the handler returns ok, and sent after everything that was published.
///
/// A handler that fails answers nothing, and its requester waits while the host tries again. When the attempts are spent,
/// or at once after a rejection, the host answers with an error that carries the rejection's code and reason.
///
/// # Errors
/// [`BusError::NoReply`] when the event is not a request, [`BusError::AlreadyReplied`] the second time, and those of
/// [`publish`].
pub fn reply(headers: Vec<Header>, payload: impl Into<Vec<u8>>) -> Result<(), BusError> {
    host::reply(&headers, &payload.into())
}

/// Asks another service and waits at most `timeout` for its answer, and never longer than the attempt may run. Acts at
/// once, and is not undone when the handler fails afterwards. An event may ask 16 times. The answer has the subject that was
/// asked.
///
/// # Errors
/// [`BusError::Timeout`], [`BusError::NoResponders`], [`BusError::Other`] with the service's code and words when it answers
/// with an error, [`BusError::Denied`] also where a stream captures the subject, and those of [`publish`].
pub fn request(message: Message, timeout: Duration) -> Result<Message, BusError> {
    host::request(&message, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))
}
