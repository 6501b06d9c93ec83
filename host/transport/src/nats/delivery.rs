//! From a message of the broker to a [`Delivery`]. Runs once per event, so it copies what it must and nothing else.

use super::wire;
use async_nats::Message;
use busway_core::{Delivery, EventId, Position, Receipt};
use std::sync::Arc;

/// What every acknowledgement subject begins with.
const PREFIX: &str = "$JS.ACK.";

/// What an acknowledgement subject says about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AckSubject<'a> {
    pub stream: &'a str,
    pub consumer: &'a str,
    pub delivered: u64,
    pub sequence: u64,
    /// Counts everything that the consumer gave to anybody.
    pub consumer_sequence: u64,
    /// Nanoseconds since the Unix epoch.
    pub stored_at_ns: i128,
}

/// Where a consumer's events come from; shared by all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub stream: Arc<str>,
    pub stream_created_ns: i128,
    pub consumer: Arc<str>,
}

impl<'a> AckSubject<'a> {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`, or the
    /// newer form with domain and account hash before the stream and possibly more at the end.
    pub(super) fn parse(subject: &'a str) -> Option<Self> {
        let rest = subject.strip_prefix(PREFIX)?;
        let mut tokens = rest.split('.');
        if rest.bytes().filter(|byte| *byte == b'.').count() + 1 > 7 {
            tokens.nth(1)?;
        }
        let (stream, consumer) = (tokens.next()?, tokens.next()?);
        let delivered = tokens.next()?.parse().ok()?;
        let sequence = tokens.next()?.parse().ok()?;
        let consumer_sequence = tokens.next()?.parse().ok()?;
        let stored_at_ns = tokens.next()?.parse().ok()?;
        let _pending: u64 = tokens.next()?.parse().ok()?;
        Some(Self { stream, consumer, delivered, sequence, consumer_sequence, stored_at_ns })
    }

    /// An acknowledgement subject for a message that the client library can't receive, in the older form, which every
    /// broker understands. Acknowledging and terminating look at the stream sequence alone; putting back also wants a
    /// consumer sequence that was given out, so it is the latest one.
    pub(super) fn compose(
        origin: &Origin,
        sequence: u64,
        consumer_sequence: u64,
        stored_at_ns: i128,
    ) -> String {
        let Origin { stream, consumer, .. } = origin;
        format!("{PREFIX}{stream}.{consumer}.1.{sequence}.{consumer_sequence}.{stored_at_ns}.0")
    }
}

impl Origin {
    /// The delivery in a message on our own inbox; none where it isn't one of this consumer's: a status message, or
    /// something that somebody else sent here.
    pub(super) fn delivery(&self, message: Message) -> Option<Delivery> {
        let reply = message.reply.clone()?;
        let ack = AckSubject::parse(&reply)?;
        if *ack.stream != *self.stream || *ack.consumer != *self.consumer {
            return None;
        }
        let receipt = self.receipt(ack.sequence, ack.delivered, ack.stored_at_ns);
        Some(Delivery {
            content: wire::content(message),
            receipt: Receipt { token: reply.into_string(), ..receipt },
        })
    }

    /// A receipt that lacks its token.
    pub(super) fn receipt(&self, sequence: u64, delivered: u64, stored_at_ns: i128) -> Receipt {
        let position = Position {
            stream: Arc::clone(&self.stream),
            stream_created_ns: self.stream_created_ns,
            sequence,
        };
        Receipt {
            event_id: EventId::of(&position),
            position: Some(position),
            held_as: Some(sequence),
            returned: None,
            reply_to: None,
            delivered,
            published_at_ms: u64::try_from(stored_at_ns / 1_000_000).ok(),
            token: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_acknowledgement_subject_are_read() {
        let expected = AckSubject {
            stream: "ORDERS",
            consumer: "busway-a",
            delivered: 3,
            sequence: 100,
            consumer_sequence: 7,
            stored_at_ns: 1_790_230_470_084_404_000,
        };
        for subject in [
            "$JS.ACK.ORDERS.busway-a.3.100.7.1790230470084404000.42",
            "$JS.ACK._.szMpdrwD.ORDERS.busway-a.3.100.7.1790230470084404000.42",
            "$JS.ACK.hub.szMpdrwD.ORDERS.busway-a.3.100.7.1790230470084404000.42.rand",
            "$JS.ACK.hub.szMpdrwD.ORDERS.busway-a.3.100.7.1790230470084404000.42.rand.more",
        ] {
            assert_eq!(AckSubject::parse(subject), Some(expected), "{subject}");
        }
    }

    #[test]
    fn what_is_no_acknowledgement_subject_is_none() {
        for subject in [
            "",
            "$JS.ACK",
            "$JS.ACK.",
            "$JS.ACK.ORDERS.busway-a.3.100.7.1790230470084404000",
            "$JS.ACK.ORDERS.busway-a.x.100.7.1790230470084404000.42",
            "$JS.FC.ORDERS.busway-a.3.100.7.1790230470084404000.42",
            "_INBOX.abc",
        ] {
            assert_eq!(AckSubject::parse(subject), None, "{subject}");
        }
    }

    #[test]
    fn a_composed_acknowledgement_subject_is_read_back() {
        let origin = Origin { stream: "S".into(), stream_created_ns: 0, consumer: "c".into() };
        let subject = AckSubject::compose(&origin, 9, 4, 77);
        let read =
            AckSubject::parse(&subject).map(|ack| (ack.stream, ack.consumer, ack.sequence, ack.stored_at_ns));
        assert_eq!(read, Some(("S", "c", 9, 77)));
    }
}
