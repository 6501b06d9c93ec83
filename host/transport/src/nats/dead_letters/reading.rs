//! Reading letters, for operators.

use super::super::{
    api::{self, ApiError, Raw, Wanted, code},
    connect::Line,
    fit::{self, NoObject},
    own_streams::DEAD_LETTER_STREAM,
    topology, wire,
};
use busway_core::{Headers, PluginName, dead_letter};
use bytes::Bytes;
use std::sync::Arc;

/// Letters that are read for one page at most, whether or not they are listed.
const READS_MAX: u64 = 10_000;

/// Reads letters, for operators.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    pub(in super::super) control: Arc<Line>,
    pub(in super::super) egress: Arc<Line>,
}

/// A letter as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLetter {
    /// The sequence in [`DEAD_LETTER_STREAM`]: its name for operators.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub stored_at_ms: u64,
    /// `busway.dlq.<plugin>.<event id>.<round>`.
    pub subject: String,
    /// The publisher's headers and the host's account; the names are in [`busway_core::dead_letter`].
    pub headers: Headers,
    /// The original bytes. In a list: empty where they are in the object store.
    pub payload: Bytes,
}

/// Which letters are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterFilter {
    /// Only this plugin's.
    pub plugin: Option<PluginName>,
    /// Only those before this sequence; none for the newest.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A page of letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterPage {
    /// Newest first.
    pub letters: Vec<StoredLetter>,
    /// What to set as `before` for the next page; none at the end.
    pub before: Option<u64>,
    /// How many letters are stored in all, whatever the filter.
    pub stored: u64,
}

/// Why letters can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// Nothing under this sequence.
    #[error("no dead letter {0}")]
    None(u64),
    /// There is no stream of dead letters.
    #[error("the stream {DEAD_LETTER_STREAM} does not exist: no host has run on this broker yet")]
    NoStream,
    /// JetStream gave no good answer.
    #[error("dead letters can't be read")]
    Api(#[from] ApiError),
    /// The payload or the headers are in the object store and can't be read from there.
    #[error("what of dead letter {sequence} is in the object store can't be read: {why}")]
    Object {
        /// The letter.
        sequence: u64,
        /// Which object, and why.
        why: String,
    },
}

impl DeadLetters {
    /// A page of letters, newest first. Payloads and headers in the object store are left there.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn list(&self, filter: &LetterFilter) -> Result<LetterPage, LetterError> {
        let info = topology::info(&self.control, DEAD_LETTER_STREAM).await?.ok_or(LetterError::NoStream)?;
        let prefix =
            filter.plugin.as_ref().map(|plugin| format!("{}.{plugin}.", dead_letter::SUBJECT_PREFIX));
        let mut page = LetterPage { stored: info.state.messages, ..LetterPage::default() };
        let newest = filter.before.map_or(info.state.last_sequence, |before| before.saturating_sub(1));
        let newest = newest.min(info.state.last_sequence);
        let oldest = info.state.first_sequence.max(1);
        for sequence in (oldest..=newest).rev().take(READS_MAX as usize) {
            if page.letters.len() == filter.limit {
                return Ok(page);
            }
            page.before = Some(sequence);
            let Some(raw) =
                api::stored(&self.control, DEAD_LETTER_STREAM, Wanted::sequence(sequence)).await?
            else {
                continue;
            };
            if prefix.as_ref().is_none_or(|prefix| raw.subject.starts_with(prefix)) {
                page.letters.push(letter(raw));
            }
        }
        page.before = page.before.filter(|sequence| *sequence > oldest);
        Ok(page)
    }

    /// One letter, whole.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn get(&self, sequence: u64) -> Result<StoredLetter, LetterError> {
        let raw = api::stored(&self.control, DEAD_LETTER_STREAM, Wanted::sequence(sequence)).await;
        let raw = match raw {
            Err(why) if why.is(code::STREAM_NOT_FOUND) => return Err(LetterError::NoStream),
            other => other?.ok_or(LetterError::None(sequence))?,
        };
        let mut letter = letter(raw);
        let whole = fit::whole(&self.control, &mut letter.headers, &mut letter.payload).await;
        whole.map_err(|why| {
            let (NoObject::Gone(why) | NoObject::NotNow(why)) = why;
            LetterError::Object { sequence, why }
        })?;
        Ok(letter)
    }
}

fn letter(raw: Raw) -> StoredLetter {
    StoredLetter {
        sequence: raw.sequence,
        stored_at_ms: u64::try_from(raw.stored_at_ns / 1_000_000).unwrap_or_default(),
        headers: wire::parse(&raw.header_block).unwrap_or_default(),
        subject: raw.subject,
        payload: raw.payload,
    }
}
