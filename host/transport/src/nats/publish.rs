//! Storing messages: one request, its answer, and what follows from each answer.
//!
//! A request that got no answer may have been stored, so it is repeated with the same id until the broker says something,
//! within bounds. "Nobody listens" is looked into before it is believed: a stream without a leader answers the same as no
//! stream at all.

use super::{
    api::{self, ApiError, code},
    backoff,
    batch::{self, Batch, Belief, NotStored},
    captures::{self, AtomicStream, Captures},
    connect::Line,
    dead_letters::Letters,
    refusal, wire,
};
use async_nats::{HeaderMap, Request, RequestErrorKind, client::PublishErrorKind};
use busway_core::{
    DeadLetter, Headers, Publish, SubjectFilter,
    port::{BoxFuture, NotReleased, Outgoing, PublishError, Released, Stored},
};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tracing::debug;

/// What the broker recognises a repetition by.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// How long the broker may take to confirm.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(5);
/// How often a message is sent in all.
pub(super) const TRIES: usize = 6;
/// Between the first and the second time.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Messages of one publisher that wait for their confirmation.
const IN_FLIGHT_MAX: usize = 256;

/// Stores outputs and dead letters. Each has its own bound of unconfirmed messages.
#[derive(Debug)]
pub struct NatsPublish {
    egress: Arc<Line>,
    control: Arc<Line>,
    captures: Arc<Captures>,
    in_flight: Semaphore,
}

/// Where a message is stored, and whom to ask when nobody answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Store<'a> {
    pub line: &'a Line,
    pub control: &'a Line,
}

/// What came of storing a message.
#[derive(Debug)]
pub(super) enum Ack {
    Stored(Stored),
    Refused(api::Refusal),
    NoStream,
    TooLarge(String),
    /// It may have been stored.
    NoAnswer(String),
}

#[derive(Deserialize)]
struct PubAck {
    error: Option<api::Refusal>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// A message of an operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneMessage {
    /// Where to: a literal subject.
    pub subject: String,
    /// Every header. With a `Nats-Msg-Id`, a repetition is recognised by it.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

/// What an operator wants to be sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// That a stream has stored the message.
    Durable,
    /// That it has left this host.
    Core,
}

/// What became of an operator's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// A stream has stored it.
    Stored(Stored),
    /// It has left this host; nobody says whether anyone was there.
    Sent,
}

/// Publishes one message for an operator.
pub(super) async fn one(
    egress: &Line,
    control: &Line,
    message: &OneMessage,
    durability: Durability,
) -> Result<Published, PublishError> {
    let subject: SubjectFilter =
        message.subject.parse().map_err(|why| refused(format!("{:?}: {why}", message.subject)))?;
    if !subject.is_literal() {
        return Err(refused(format!("{:?} has a wildcard; a message goes to one subject", message.subject)));
    }
    let client = egress.client();
    let mut headers = wire::to_library(&message.headers).map_err(refused)?;
    if durability == Durability::Core {
        let unreachable = |why: String| PublishError::Unreachable(why);
        let sent = match headers.is_empty() {
            true => client.publish(message.subject.clone(), message.payload.clone()).await,
            false => {
                client.publish_with_headers(message.subject.clone(), headers, message.payload.clone()).await
            }
        };
        sent.map_err(|why| match why.kind() {
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge(why.to_string()),
            PublishErrorKind::InvalidSubject => refused(why),
            PublishErrorKind::Send => unreachable(why.to_string()),
        })?;
        let flushed = tokio::time::timeout(ACK_WAIT, client.flush()).await;
        return match flushed {
            Ok(Ok(())) => Ok(Published::Sent),
            Ok(Err(why)) => Err(unreachable(why.to_string())),
            Err(why) => Err(unreachable(why.to_string())),
        };
    }
    if message.headers.get(MESSAGE_ID).is_none() {
        // So that a repetition after a lost answer is not stored twice.
        wire::append(&mut headers, MESSAGE_ID, &client.new_inbox()).map_err(refused)?;
    }
    let store = Store { line: egress, control };
    answer(store.until_answered(&message.subject, &headers, message.payload.clone()).await)
        .map(Published::Stored)
}

impl Store<'_> {
    /// Sends the message until the broker says something, at most six times. Only for messages that may be repeated.
    /// A broker that does not permit the subject answers nobody: it says so on the connection, and that ends the wait.
    pub(super) async fn until_answered(&self, subject: &str, headers: &HeaderMap, payload: Bytes) -> Ack {
        let errors = self.line.errors();
        tokio::select! {
            biased;
            ack = self.repeated(subject, headers, payload) => ack,
            why = refusal::not_permitted(errors, subject) => Ack::NoAnswer(why),
        }
    }

    async fn repeated(&self, subject: &str, headers: &HeaderMap, payload: Bytes) -> Ack {
        let mut tries = 1;
        loop {
            let ack = self.once(subject, headers, payload.clone()).await;
            let ack = match ack {
                Ack::NoStream => self.look_for_stream(subject).await,
                other => other,
            };
            if !matches!(ack, Ack::NoAnswer(_)) || tries == TRIES {
                return ack;
            }
            tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
            tries += 1;
        }
    }

    /// One try.
    pub(super) async fn once(&self, subject: &str, headers: &HeaderMap, payload: Bytes) -> Ack {
        let mut request = Request::new().payload(payload);
        if !headers.is_empty() {
            request = request.headers(headers.clone());
        }
        let answer = match self.line.request(subject.to_owned(), request, ACK_WAIT).await {
            Ok(answer) => answer,
            Err(why) => {
                return match why.kind() {
                    RequestErrorKind::NoResponders => Ack::NoStream,
                    RequestErrorKind::MaxPayloadExceeded => Ack::TooLarge(why.to_string()),
                    RequestErrorKind::InvalidSubject => Ack::Refused(api::Refusal {
                        code: 400,
                        err_code: 0,
                        description: "not a subject".into(),
                    }),
                    RequestErrorKind::TimedOut | RequestErrorKind::Other => Ack::NoAnswer(why.to_string()),
                };
            }
        };
        match serde_json::from_slice::<PubAck>(&answer.payload) {
            Ok(PubAck { error: Some(refusal), .. }) => Ack::Refused(refusal),
            Ok(PubAck { stream, seq, duplicate, .. }) if !stream.is_empty() => {
                Ack::Stored(Stored { stream, sequence: seq, duplicate })
            }
            // Somebody else answers on this subject: no stream stored it.
            Ok(_) | Err(_) => Ack::NoStream,
        }
    }

    /// Whether really no stream captures the subject.
    async fn look_for_stream(&self, subject: &str) -> Ack {
        match captures::names(self.control, subject).await {
            Ok(names) if names.is_empty() => Ack::NoStream,
            Ok(names) => {
                Ack::NoAnswer(format!("the stream {} has no leader at the moment", names.join(", ")))
            }
            Err(why @ (ApiError::NoJetStream | ApiError::NoAnswer(_))) => Ack::NoAnswer(why.to_string()),
            // Not permitted to ask, most likely.
            Err(ApiError::Refused { .. } | ApiError::Unreadable(_)) => Ack::NoStream,
        }
    }
}

impl NatsPublish {
    pub(super) fn new(egress: Arc<Line>, control: Arc<Line>, captures: Arc<Captures>) -> Self {
        Self { egress, control, captures, in_flight: Semaphore::new(IN_FLIGHT_MAX) }
    }

    /// In one atomic batch where there are several and one stream takes them so, otherwise one by one.
    async fn release(&self, messages: &[Outgoing]) -> Result<Released, NotReleased> {
        if (2..=batch::MESSAGES_MAX).contains(&messages.len())
            && let Some(stream) = self.captures.atomic(&self.control, messages).await
        {
            match self.store_batch(&stream, messages).await {
                Ok(stored) => return Ok(Released { stored, atomic: true }),
                Err(NotStored::Singly { why, belief }) => {
                    debug!(stream = %stream.name, messages = messages.len(), why, "not taken as a batch; publishing singly");
                    if belief == Belief::Shaken {
                        self.captures.forget(&stream.name);
                    }
                }
                Err(NotStored::Failed(why)) => {
                    let subject = format!("stream {} with {} others", stream.name, messages.len() - 1);
                    return Err(NotReleased { subject, why });
                }
            }
        }
        self.store_each(messages).await
    }

    async fn store_batch(
        &self,
        stream: &AtomicStream,
        messages: &[Outgoing],
    ) -> Result<Vec<Stored>, NotStored> {
        let permits = u32::try_from(messages.len().min(IN_FLIGHT_MAX)).unwrap_or(u32::MAX);
        let closed = |why| NotStored::Failed(refused(why));
        let _permits = self.in_flight.acquire_many(permits).await.map_err(closed)?;
        Batch { line: &self.egress, stream, messages }.store().await
    }

    async fn store(&self, message: &Outgoing) -> Result<Stored, PublishError> {
        let mut headers = wire::to_library(&message.headers).map_err(refused)?;
        wire::append(&mut headers, MESSAGE_ID, &message.message_id).map_err(refused)?;
        let _permit = self.in_flight.acquire().await.map_err(refused)?;
        let store = Store { line: &self.egress, control: &self.control };
        answer(store.until_answered(&message.subject, &headers, message.payload.clone()).await)
    }

    /// Sent in order on one connection, awaited together.
    async fn store_each(&self, messages: &[Outgoing]) -> Result<Released, NotReleased> {
        let answers = join_all(messages.iter().map(|message| self.store(message))).await;
        let each = answers.into_iter().zip(messages);
        let stored = each.map(|(answer, message)| {
            answer.map_err(|why| NotReleased { subject: message.subject.clone(), why })
        });
        Ok(Released { stored: stored.collect::<Result<_, _>>()?, atomic: false })
    }

    async fn store_letter(&self, letter: &DeadLetter) -> Result<Stored, PublishError> {
        let _permit = self.in_flight.acquire().await.map_err(refused)?;
        Letters { egress: &self.egress, control: &self.control }.store(letter).await
    }
}

impl Publish for NatsPublish {
    fn publish<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>> {
        Box::pin(self.store(message))
    }

    fn publish_all<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>> {
        Box::pin(self.release(messages))
    }

    fn send<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            let message = OneMessage {
                subject: message.subject.clone(),
                headers: message.headers.clone(),
                payload: message.payload.clone(),
            };
            one(&self.egress, &self.control, &message, Durability::Core).await.map(|_| ())
        })
    }

    fn dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>> {
        Box::pin(self.store_letter(letter))
    }
}

pub(super) fn refused(why: impl std::fmt::Display) -> PublishError {
    PublishError::Refused(why.to_string())
}

/// The broker's answer in the words of the seam.
pub(super) fn answer(ack: Ack) -> Result<Stored, PublishError> {
    match ack {
        Ack::Stored(stored) => Ok(stored),
        Ack::NoStream => Err(PublishError::NoStream),
        Ack::TooLarge(why) => Err(PublishError::TooLarge(why)),
        Ack::NoAnswer(why) => Err(PublishError::Unreachable(why)),
        Ack::Refused(refusal) => Err(classify(&refusal)),
    }
}

/// What a refusal means. The broker's class of error is no guide: a full stream and a leaderless one are both 503.
pub(super) fn classify(refusal: &api::Refusal) -> PublishError {
    let why = format!("{} (JetStream code {})", refusal.description, refusal.err_code);
    match refusal.err_code {
        code::MESSAGE_EXCEEDS_MAXIMUM | code::HEADER_EXCEEDS_MAXIMUM => PublishError::TooLarge(why),
        code::STREAM_STORE_FAILED
        | code::INSUFFICIENT_RESOURCES
        | code::ACCOUNT_RESOURCES_EXCEEDED
        | code::MEMORY_RESOURCES_EXCEEDED
        | code::STORAGE_RESOURCES_EXCEEDED => PublishError::NotNow(why),
        _ if matches!(refusal.code, 429 | 500 | 503) => PublishError::NotNow(why),
        _ => PublishError::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_classified_by_its_code() {
        let refusal = |code, err_code| api::Refusal { code, err_code, description: "x".into() };
        let table = [
            (503, 10077, "not-now"),
            (400, 10054, "too-large"),
            (400, 10097, "too-large"),
            (503, 10008, "not-now"),
            (429, 10167, "not-now"),
            (400, 10002, "not-now"),
            (400, 10071, "refused"),
            (400, 10060, "refused"),
        ];
        for (class, code, expected) in table {
            let found = match classify(&refusal(class, code)) {
                PublishError::NotNow(_) => "not-now",
                PublishError::TooLarge(_) => "too-large",
                PublishError::Refused(_) => "refused",
                PublishError::NoStream | PublishError::Unreachable(_) => "other",
            };
            assert_eq!(found, expected, "{class} {code}");
        }
    }
}
