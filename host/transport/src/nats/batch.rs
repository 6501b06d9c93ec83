//! All outputs of an event in one atomic batch (ADR-50 of NATS): either all of them are in the stream, or none is.
//!
//! The first and the last message are requests, those between are only sent: the broker holds them back until the last one
//! commits the batch, and then checks all of it at once. A message that got lost on the way leaves a gap, which is refused,
//! so whatever the answer is, no part of the batch is in the stream without the rest. Every message has the id that it
//! would have alone; a batch with one that is known already is refused whole, and the caller publishes singly then.

use super::{
    api::{self, code},
    backoff,
    captures::AtomicStream,
    connect::Line,
    publish::{ACK_WAIT, FIRST_WAIT, MESSAGE_ID, TRIES, classify, refused},
    wire,
};
use async_nats::{
    HeaderMap, Message, Request, RequestError, RequestErrorKind,
    client::{PublishError as NotSent, PublishErrorKind},
};
use busway_core::port::{Outgoing, PublishError, Stored};
use futures_util::{
    FutureExt as _,
    future::{Either, select},
};
use serde::Deserialize;
use std::pin::pin;

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// Messages of the largest batch that a broker takes, unless its operator says otherwise.
pub(super) const MESSAGES_MAX: usize = 1000;
/// How often a batch is sent in all that is refused for something that passes.
const REFUSED_TRIES: usize = 3;

/// The outputs of one event, and the stream that captures all of them.
pub(super) struct Batch<'a> {
    pub line: &'a Line,
    pub stream: &'a AtomicStream,
    pub messages: &'a [Outgoing],
}

/// Why a batch was not stored. In either case no part of it was, by this batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotStored {
    /// The same messages may be taken one by one.
    Singly { why: String, belief: Belief },
    /// They would not be either.
    Failed(PublishError),
}

/// What a refused batch says about the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    Kept,
    /// It is not as it was thought to be.
    Shaken,
}

/// What follows from a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The same batch may be taken soon.
    Again,
    Singly(Belief),
    Failed,
}

#[derive(Debug)]
enum Reply {
    Committed {
        last: u64,
    },
    Refused(api::Refusal),
    /// Nobody listens, or somebody else answers.
    NoStream,
    /// It may have been stored.
    NoAnswer(String),
    /// It can't be sent.
    NotSendable(NotStored),
}

#[derive(Deserialize)]
struct BatchAck {
    error: Option<api::Refusal>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    batch: String,
    #[serde(default)]
    count: usize,
}

impl Batch<'_> {
    /// Stores the batch. Asks again where the broker does not answer, at most six times: a batch that was stored then is
    /// recognised by its messages' ids. Cancel safe: a batch is committed by its last message or not at all.
    pub(super) async fn store(&self) -> Result<Vec<Stored>, NotStored> {
        let mut tries = 1;
        loop {
            let (not_stored, tries_max) = match self.once().await {
                Reply::Committed { last } => return Ok(self.stored(last)),
                Reply::NotSendable(why) => return Err(why),
                Reply::NoStream => {
                    return Err(singly(format!("{} does not answer", self.stream.name), Belief::Shaken));
                }
                Reply::NoAnswer(why) => (NotStored::Failed(PublishError::Unreachable(why)), TRIES),
                Reply::Refused(refusal) => {
                    let why = format!("{} (JetStream code {})", refusal.description, refusal.err_code);
                    match meaning(&refusal) {
                        Meaning::Failed => return Err(NotStored::Failed(classify(&refusal))),
                        Meaning::Singly(belief) => return Err(singly(why, belief)),
                        Meaning::Again => (singly(why, Belief::Shaken), REFUSED_TRIES),
                    }
                }
            };
            if tries >= tries_max {
                return Err(not_stored);
            }
            tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
            tries += 1;
        }
    }

    async fn once(&self) -> Reply {
        let sent = async {
            let id = self.line.client().new_inbox();
            let id = id.rsplit('.').next().unwrap_or_default();
            let mut headers = Vec::with_capacity(self.messages.len());
            for (index, message) in self.messages.iter().enumerate() {
                match self.headers(id, index, message) {
                    Ok(map) => headers.push(map),
                    Err(why) => return Reply::NotSendable(why),
                }
            }
            self.send(id, headers).await.unwrap_or_else(|why| Reply::NotSendable(NotStored::Failed(why)))
        };
        // The connection may have no room, so the wait is for everything.
        match tokio::time::timeout(ACK_WAIT, sent).await {
            Ok(answer) => answer,
            Err(late) => Reply::NoAnswer(late.to_string()),
        }
    }

    fn headers(&self, id: &str, index: usize, message: &Outgoing) -> Result<HeaderMap, NotStored> {
        let failed = |why| NotStored::Failed(refused(why));
        let mut headers = wire::to_library(&message.headers).map_err(failed)?;
        wire::append(&mut headers, MESSAGE_ID, &message.message_id).map_err(failed)?;
        let alone = wire::library_block_bytes(&headers);
        let (sequence, is_last) = ((index + 1).to_string(), index + 1 == self.messages.len());
        let own = [(BATCH_ID, id), (BATCH_SEQUENCE, &sequence), (BATCH_COMMIT, "1")];
        for (name, value) in own.into_iter().take(if is_last { 3 } else { 2 }) {
            wire::append(&mut headers, name, value).map_err(failed)?;
        }
        self.check_size(message.payload.len(), alone, wire::library_block_bytes(&headers))?;
        Ok(headers)
    }

    /// Told before anything is sent: the broker refuses a message of a batch that is too large without a word, and what is
    /// left is a batch with a gap, and room that is taken up for ten seconds.
    fn check_size(&self, payload: usize, alone: usize, in_batch: usize) -> Result<(), NotStored> {
        let most = self.line.client().max_payload();
        let most = self.stream.message_bytes_max.map_or(most, |bytes| bytes.min(most));
        if payload + alone > most {
            let why = format!("{} bytes with headers, and {most} are taken", payload + alone);
            return Err(NotStored::Failed(PublishError::TooLarge(why)));
        }
        if payload + in_batch > most {
            return Err(singly("an output that is too large with a batch's headers".into(), Belief::Kept));
        }
        Ok(())
    }

    /// Sent in order on one connection; the answer to the first message is looked at only where it is a refusal.
    async fn send(&self, id: &str, headers: Vec<HeaderMap>) -> Result<Reply, PublishError> {
        let mut each = self.messages.iter().zip(headers);
        let Some((first, first_headers)) = each.next() else {
            return Err(refused("a batch of nothing"));
        };
        let opened = pin!(self.request(first, first_headers));
        let rest = pin!(async {
            let client = self.line.client();
            while let Some((message, headers)) = each.next() {
                if each.len() == 0 {
                    return self.request(message, headers).await;
                }
                let (subject, payload) = (message.subject.clone(), message.payload.clone());
                let sent = client.publish_with_headers(subject, headers, payload).await;
                sent.map_err(not_sent)?;
            }
            Err(RequestError::new(RequestErrorKind::Other))
        });
        // Polled in this order, so the first message goes first.
        Ok(match select(opened, rest).await {
            Either::Left((opened, rest)) => match refusal(&opened) {
                Some(refusal) => refusal,
                None => self.committed(id, rest.await),
            },
            Either::Right((committed, opened)) => match self.committed(id, committed) {
                stored @ Reply::Committed { .. } => stored,
                // What the first one was refused for says more than that the rest was incomplete.
                other => opened.now_or_never().and_then(|opened| refusal(&opened)).unwrap_or(other),
            },
        })
    }

    async fn request(&self, message: &Outgoing, headers: HeaderMap) -> Result<Message, RequestError> {
        let request = Request::new().payload(message.payload.clone()).headers(headers);
        self.line.request(message.subject.clone(), request, ACK_WAIT).await
    }

    fn committed(&self, id: &str, answer: Result<Message, RequestError>) -> Reply {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => return unanswered(&why),
        };
        match serde_json::from_slice::<BatchAck>(&answer.payload) {
            Ok(BatchAck { error: Some(refusal), .. }) => Reply::Refused(refusal),
            Ok(ack) if ack.batch == id && ack.count == self.messages.len() => {
                Reply::Committed { last: ack.seq }
            }
            // Whoever answers so knows no batches.
            Ok(_) | Err(_) => Reply::NoStream,
        }
    }

    /// The messages of a batch follow each other.
    fn stored(&self, last: u64) -> Vec<Stored> {
        let first = (last + 1).saturating_sub(self.messages.len() as u64);
        let stored = |sequence| Stored { stream: self.stream.name.to_string(), sequence, duplicate: false };
        (first..=last).map(stored).collect()
    }
}

fn singly(why: String, belief: Belief) -> NotStored {
    NotStored::Singly { why, belief }
}

fn not_sent(why: NotSent) -> RequestError {
    let kind = match why.kind() {
        PublishErrorKind::MaxPayloadExceeded => RequestErrorKind::MaxPayloadExceeded,
        PublishErrorKind::InvalidSubject => RequestErrorKind::InvalidSubject,
        PublishErrorKind::Send => RequestErrorKind::Other,
    };
    RequestError::with_source(kind, why)
}

fn unanswered(why: &RequestError) -> Reply {
    match why.kind() {
        RequestErrorKind::NoResponders => Reply::NoStream,
        RequestErrorKind::MaxPayloadExceeded => {
            Reply::NotSendable(NotStored::Failed(PublishError::TooLarge(why.to_string())))
        }
        RequestErrorKind::InvalidSubject => Reply::NotSendable(NotStored::Failed(refused("not a subject"))),
        RequestErrorKind::TimedOut | RequestErrorKind::Other => Reply::NoAnswer(why.to_string()),
    }
}

/// What the first message was refused for. An empty answer says that the batch is open.
fn refusal(opened: &Result<Message, RequestError>) -> Option<Reply> {
    match opened {
        Ok(answer) if answer.payload.is_empty() => None,
        Ok(answer) => match serde_json::from_slice::<BatchAck>(&answer.payload) {
            Ok(BatchAck { error: Some(refusal), .. }) => Some(Reply::Refused(refusal)),
            Ok(_) | Err(_) => Some(Reply::NoStream),
        },
        // The last message's answer decides.
        Err(why) if why.kind() == RequestErrorKind::TimedOut => None,
        Err(why) => Some(unanswered(why)),
    }
}

/// What a refusal of a batch means. The broker has stored nothing of it.
fn meaning(refusal: &api::Refusal) -> Meaning {
    match refusal.err_code {
        // A message got lost on the way, a leader changed, or too many batches are open: that passes.
        code::BATCH_INCOMPLETE | code::BATCHES_IN_FLIGHT | code::DUPLICATE_IN_PROCESS => Meaning::Again,
        // Some were stored before, by an earlier release: the others are stored one by one.
        code::BATCH_HAS_DUPLICATE => Meaning::Singly(Belief::Kept),
        // This broker takes smaller batches only.
        code::BATCH_TOO_LARGE => Meaning::Singly(Belief::Kept),
        code::BATCH_DISABLED
        | code::BATCH_WITHOUT_SEQUENCE
        | code::BATCH_HEADER_UNSUPPORTED
        | code::BATCH_ID_INVALID
        | code::BATCH_COMMIT_INVALID => Meaning::Singly(Belief::Shaken),
        // Not about batches. What one by one would fail as well should not leave a part behind.
        _ => match classify(refusal) {
            PublishError::TooLarge(_) | PublishError::NotNow(_) => Meaning::Failed,
            _ => Meaning::Singly(Belief::Shaken),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_batch_is_tried_again_or_singly_or_fails_by_its_code() {
        let table = [
            (400, 10174, Meaning::Singly(Belief::Shaken)),
            (400, 10175, Meaning::Singly(Belief::Shaken)),
            (400, 10176, Meaning::Again),
            (400, 10177, Meaning::Singly(Belief::Shaken)),
            (400, 10179, Meaning::Singly(Belief::Shaken)),
            (400, 10199, Meaning::Singly(Belief::Kept)),
            (400, 10200, Meaning::Singly(Belief::Shaken)),
            (400, 10201, Meaning::Singly(Belief::Kept)),
            (429, 10210, Meaning::Again),
            (409, 10158, Meaning::Again),
            (503, 10077, Meaning::Failed),
            (400, 10054, Meaning::Failed),
            (500, 10023, Meaning::Failed),
            (400, 10071, Meaning::Singly(Belief::Shaken)),
        ];
        for (class, err_code, expected) in table {
            let refusal = api::Refusal { code: class, err_code, description: String::new() };
            assert_eq!(meaning(&refusal), expected, "{err_code}");
        }
    }
}
