//! What an event is, and its identity.
//!
//! The identity must outlive redeliveries, host restarts and redrives, and must not be guessable into a collision by a
//! stream that was deleted and made again: it is a hash over the stream's name, its creation time and the sequence.

use crate::{Headers, Subject};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr, sync::Arc};

/// An event on its way to a plugin.
#[derive(Debug, Clone)]
pub struct Event {
    /// Stable over redeliveries and retries.
    pub id: EventId,
    /// What it was published on.
    pub subject: Subject,
    /// The publisher's headers; the broker's and the host's are taken out.
    pub headers: Headers,
    /// The bytes as published.
    pub payload: Bytes,
    /// Where it is stored; none for an event that no stream holds.
    pub position: Option<Position>,
    /// When the broker stored it, in milliseconds since the Unix epoch.
    pub published_at_ms: Option<u64>,
    /// How many plugins its ancestors went through.
    pub hops: u32,
    /// Whether somebody waits for an answer: a core request.
    pub can_reply: bool,
}

/// Where an event is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The stream's name.
    pub stream: Arc<str>,
    /// When the stream was created, in nanoseconds since the Unix epoch: a stream made again under the same name counts
    /// from 1 again.
    pub stream_created_ns: i128,
    /// The sequence in the stream.
    pub sequence: u64,
}

/// 52 characters of lower-case base32: a sha256 over the position.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Box<str>);

/// A string that is not an event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event id has 52 characters of a-z and 2-7")]
pub struct NotAnEventId;

impl EventId {
    /// The id of a stored event.
    pub fn of(position: &Position) -> Self {
        let mut hash = Sha256::new();
        hash.update(position.stream.as_bytes());
        hash.update([0]);
        hash.update(position.stream_created_ns.to_be_bytes());
        hash.update(position.sequence.to_be_bytes());
        Self(base32(&hash.finalize()).into())
    }

    /// The id of an event that no stream holds, from bytes that the caller drew at random.
    pub fn random(bytes: [u8; 32]) -> Self {
        Self(base32(&bytes).into())
    }

    /// The id of the nth message that a plugin publishes for this event: the same on every attempt and in every version
    /// of the plugin, so that the broker's duplicate window absorbs a repeated release.
    pub fn output_id(&self, plugin: &str, index: usize) -> String {
        let mut hash = Sha256::new();
        for part in [self.0.as_bytes(), plugin.as_bytes()] {
            hash.update(part);
            hash.update([0]);
        }
        hash.update((index as u64).to_be_bytes());
        base32(&hash.finalize())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lower-case base32 without padding (RFC 4648): safe in subjects, keys and file names.
pub fn base32(bytes: &[u8]) -> String {
    let mut text = data_encoding::BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

impl FromStr for EventId {
    type Err = NotAnEventId;
    fn from_str(text: &str) -> Result<Self, NotAnEventId> {
        let valid = text.len() == 52 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        if valid { Ok(Self(text.into())) } else { Err(NotAnEventId) }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(stream: &str, created: i128, sequence: u64) -> Position {
        Position { stream: stream.into(), stream_created_ns: created, sequence }
    }

    #[test]
    fn an_id_differs_with_every_part_of_the_position() {
        let base = EventId::of(&position("ORDERS", 1, 1));
        assert_eq!(base, EventId::of(&position("ORDERS", 1, 1)));
        for other in [position("ORDERT", 1, 1), position("ORDERS", 2, 1), position("ORDERS", 1, 2)] {
            assert_ne!(base, EventId::of(&other));
        }
        assert_eq!(base.as_str().parse(), Ok(base));
    }

    #[test]
    fn an_output_id_differs_with_plugin_and_index_only() {
        let id = EventId::of(&position("ORDERS", 1, 1));
        assert_eq!(id.output_id("enrich", 0), id.output_id("enrich", 0));
        assert_ne!(id.output_id("enrich", 0), id.output_id("enrich", 1));
        assert_ne!(id.output_id("enrich", 0), id.output_id("route", 0));
    }
}
