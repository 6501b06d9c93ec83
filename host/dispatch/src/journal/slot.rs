//! One slot of the in-flight journal, byte by byte. No I/O, so that it can be read and tested as a table.
//!
//! ```text
//!   0  state          16  started, ms since the Unix epoch     156  sequence in the stream
//!   8  checksum       24  digest of the plugin                 164  binding (checksum of its durable name)
//!                     56  event id (52)                        172  stream, cut at 84 bytes
//!                    108  plugin (48)
//! ```
//! Numbers are little-endian, texts padded with zeros. The checksum covers everything from 16 on, and not the state: the
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

/// The header, padded.
pub(super) fn header() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    put(&mut bytes, 0, MAGIC);
    bytes
}

impl Record {
    pub(super) fn encode(&self, state: State) -> [u8; BYTES] {
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
        put(&mut bytes, 0, &[state as u8]);
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
            let bytes = record().encode(state);
            assert_eq!(State::of(bytes[0]), Some(state));
            assert_eq!(Record::decode(&bytes), Some(expected.clone()));
        }
    }

    #[test]
    fn a_record_that_is_not_whole_is_none() {
        let bytes = record().encode(State::Running);
        for at in 8..BYTES {
            let mut torn = bytes;
            torn[at] ^= 0x20;
            assert_eq!(Record::decode(&torn), None, "byte {at}");
        }
        assert_eq!(Record::decode(&bytes[..100]), None);
        assert_eq!(Record::decode(&[0; BYTES]), None);
        assert_eq!(State::of(9), None);
    }
}
