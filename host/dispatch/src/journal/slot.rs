//! One slot of the in-flight journal, byte by byte. No I/O, so that it can be read and tested as a table.
//!
//! ```text
//!   0  state          16  started, ms since the Unix epoch     156  sequence in the stream
//!   8  checksum       24  digest of the plugin                 164  binding (checksum of its durable name)
//!                     56  event id (52)                        172  stream, cut at 84 bytes
//!                    108  plugin (48)
//! ```
//! Byte 1 counts the deaths while the event ran alone, 2 and 3 number the latest death that it was in; they change with the
//! state. The header holds, after its first line: 64 whether a host runs, 66 the number of the latest death, 72 when a death
//! was last known to have come from outside. Numbers are little-endian, texts padded with zeros. The checksum covers everything from 16 on, and not the state: the
//! state changes by writing one byte.

use busway_core::{Digest, EventId, PluginName};

/// Bytes of a slot, and of the header that stands before the first.
pub(super) const BYTES: usize = 256;
/// The file's first bytes.
pub(super) const MAGIC: &[u8] = b"busway in-flight journal 1\n";

/// What a slot says of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Nothing: the slot is free.
    Free = 0,
    /// It runs, beside others.
    Running = 1,
    /// It ran when the host died, beside others; it has not run since.
    Suspect = 2,
    /// It was a suspect and runs alone.
    Alone = 3,
    /// It ran alone when the host died again.
    Convicted = 4,
}

/// What changes about a slot without its record: the first four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub state: State,
    /// Deaths of the host while it ran alone.
    pub alone: u8,
    /// The latest death that it was in; 0 where that says nothing any more.
    pub death: u16,
}

/// What the header holds besides its first line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Whether a host runs, or died.
    pub runs: bool,
    /// The number of the latest death.
    pub death: u16,
    /// When a death was last known to have come from outside, in milliseconds since the Unix epoch.
    pub outside_ms: u64,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub started_ms: u64,
    pub digest: Digest,
    pub event: EventId,
    pub plugin: PluginName,
    pub sequence: u64,
    pub binding: u64,
    /// For people.
    pub stream: String,
}

impl State {
    pub(super) fn of(byte: u8) -> Option<Self> {
        [Self::Free, Self::Running, Self::Suspect, Self::Alone, Self::Convicted]
            .into_iter()
            .find(|state| *state as u8 == byte)
    }
}

impl Standing {
    pub(super) fn bytes(self) -> [u8; 4] {
        let [low, high] = self.death.to_le_bytes();
        [self.state as u8, self.alone, low, high]
    }

    /// None where the first byte is no state.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let [state, alone, low, high]: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        Some(Self { state: State::of(state)?, alone, death: u16::from_le_bytes([low, high]) })
    }
}

impl Head {
    /// The whole header, padded.
    pub(super) fn bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 64, &[u8::from(self.runs)]);
        put(&mut bytes, 66, &self.death.to_le_bytes());
        put(&mut bytes, 72, &self.outside_ms.to_le_bytes());
        bytes
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let death = bytes.get(66..68).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
        Self {
            runs: bytes.get(64) == Some(&1),
            death: death.unwrap_or_default(),
            outside_ms: number(72).unwrap_or_default(),
        }
    }
}

impl Record {
    pub(super) fn encode(&self, standing: Standing) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        put(&mut bytes, 16, &self.started_ms.to_le_bytes());
        put(&mut bytes, 24, self.digest.as_bytes());
        put(&mut bytes, 56, self.event.as_str().as_bytes());
        put(&mut bytes, 108, self.plugin.as_str().as_bytes());
        put(&mut bytes, 156, &self.sequence.to_le_bytes());
        put(&mut bytes, 164, &self.binding.to_le_bytes());
        let stream = self.stream.as_bytes();
        put(&mut bytes, 172, stream.get(..84).unwrap_or(stream));
        let sum = checksum(bytes.get(16..).unwrap_or_default());
        put(&mut bytes, 8, &sum.to_le_bytes());
        put(&mut bytes, 0, &standing.bytes());
        bytes
    }

    /// None where the slot holds no record that was written whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes.len() != BYTES || number(8)? != checksum(bytes.get(16..)?) {
            return None;
        }
        let text = |from: usize, to: usize| {
            let text = String::from_utf8_lossy(bytes.get(from..to)?).trim_end_matches('\0').to_owned();
            Some(text)
        };
        let digest: [u8; 32] = bytes.get(24..56)?.try_into().ok()?;
        Some(Self {
            started_ms: number(16)?,
            digest: format!("sha256:{}", hex(&digest)).parse().ok()?,
            event: text(56, 108)?.parse().ok()?,
            plugin: text(108, 156)?.parse().ok()?,
            sequence: number(156)?,
            binding: number(164)?,
            stream: text(172, BYTES)?,
        })
    }
}

/// FNV-1a, 64 bits: it tells a torn write from a whole one, and needs no table.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn put(bytes: &mut [u8; BYTES], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            started_ms: 1_700_000_000_000,
            digest: Digest::of(b"plugin"),
            event: EventId::random([7; 32]),
            plugin: "p".parse().expect("a literal plugin name"),
            sequence: 42,
            binding: checksum(b"busway-p"),
            stream: "S".repeat(200),
        }
    }

    #[test]
    fn a_record_reads_back_whatever_its_state() {
        let expected = Record { stream: "S".repeat(84), ..record() };
        for state in [State::Running, State::Suspect, State::Alone, State::Convicted] {
            let standing = Standing { state, alone: 1, death: 300 };
            let bytes = record().encode(standing);
            assert_eq!(Standing::of(&bytes), Some(standing));
            assert_eq!(Record::decode(&bytes), Some(expected.clone()));
        }
    }

    #[test]
    fn a_record_that_is_not_whole_is_none() {
        let bytes = record().encode(Standing { state: State::Running, alone: 0, death: 0 });
        for at in 8..BYTES {
            let mut torn = bytes;
            torn[at] ^= 0x20;
            assert_eq!(Record::decode(&torn), None, "byte {at}");
        }
        assert_eq!(Record::decode(&bytes[..100]), None);
        assert_eq!(Record::decode(&[0; BYTES]), None);
        assert_eq!(Standing::of(&[9, 0, 0, 0]), None);
        let head = Head { runs: true, death: 300, outside_ms: 1_700_000_000_000 };
        assert_eq!(Head::of(&head.bytes()), head);
        assert_eq!(Head::of(MAGIC), Head::default());
    }
}
