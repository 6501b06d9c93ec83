//! Dead letters: stored once, read by operators.
//!
//! A letter's subject holds the event, the plugin and the round, and is written with "nothing may be there yet". Refused
//! for that, the letter that is there is read: the same event with the same payload is a success that somebody had
//! before us, anything else is not. A full stream gives the same kind of refusal and is never taken for a success.
//!
//! Broker and stream bound a message: payload and headers by the broker's maximum, headers by 64 KiB. What does not fit
//! goes into an object store first, whole; the letter says where.

use super::{
    api::{self, ApiError, Raw, Wanted, code},
    connect::Line,
    own_streams::{DEAD_LETTER_STREAM, PAYLOADS_BUCKET},
    publish::{Ack, Store, answer, refused},
    wire,
};
use async_nats::jetstream;
use busway_core::{
    DeadLetter, Headers, PluginName,
    dead_letter::{self, PAYLOAD_OBJECT, RAW_HEADERS},
    headers,
    port::{PublishError, Stored},
};
use bytes::Bytes;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;

/// Refuses the letter where there is one already.
const NOTHING_THERE: (&str, &str) = ("Nats-Expected-Last-Subject-Sequence", "0");
/// The object that holds the publisher's headers, where they don't fit beside the host's account.
pub const HEADERS_OBJECT: &str = "Busway-Headers-Object";
/// Letters that are read for one page at most, whether or not they are listed.
const READS_MAX: u64 = 10_000;

/// Writes letters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letters<'a> {
    pub egress: &'a Line,
    pub control: &'a Line,
}

impl Letters<'_> {
    pub(super) async fn store(&self, letter: &DeadLetter) -> Result<Stored, PublishError> {
        let fitted = self.fit(letter).await?;
        let mut headers = wire::to_library(&fitted.headers).map_err(refused)?;
        wire::append(&mut headers, NOTHING_THERE.0, NOTHING_THERE.1).map_err(refused)?;
        let store = Store { line: self.egress, control: self.control };
        match store.until_answered(&letter.subject, &headers, fitted.payload).await {
            Ack::Refused(refusal) if refusal.err_code == code::WRONG_LAST_SEQUENCE => {
                self.compare(letter).await
            }
            Ack::Stored(stored) if stored.stream != DEAD_LETTER_STREAM => Err(PublishError::Refused(
                format!("the stream {} captures dead letters instead of {DEAD_LETTER_STREAM}", stored.stream),
            )),
            ack => answer(ack),
        }
    }

    /// Is the letter that is there already this one?
    async fn compare(&self, letter: &DeadLetter) -> Result<Stored, PublishError> {
        let stored = api::stored(self.control, DEAD_LETTER_STREAM, Wanted::last(&letter.subject)).await;
        let Some(raw) = stored.map_err(api_error)? else {
            return Err(PublishError::NotNow("a letter that was there is gone; once more, then".into()));
        };
        let there = wire::parse(&raw.header_block).unwrap_or_default();
        if letter.is_same(&there) {
            Ok(Stored { stream: DEAD_LETTER_STREAM.into(), sequence: raw.sequence, duplicate: true })
        } else {
            Err(PublishError::Refused(format!("a different letter is stored under {}", letter.subject)))
        }
    }

    /// What of the letter goes into the message; the rest is in the object store afterwards.
    async fn fit(&self, letter: &DeadLetter) -> Result<Fitted, PublishError> {
        let mut fitted = Fitted { headers: letter.headers.clone(), payload: letter.payload.clone() };
        if wire::block_bytes(&fitted.headers) + MARGIN > wire::BLOCK_BYTES_MAX {
            let (own, publishers): (Headers, Headers) = (
                letter.headers.iter().filter(|(name, _)| is_account(name)).collect(),
                letter.headers.iter().filter(|(name, _)| !is_account(name)).collect(),
            );
            let name = format!("{}-headers", letter.object_name());
            self.put_object(&name, &wire::to_block(&publishers)).await?;
            fitted.headers = own;
            fitted.headers.push(HEADERS_OBJECT, &name);
        }
        let bytes = wire::block_bytes(&fitted.headers) + MARGIN + fitted.payload.len();
        if bytes > self.egress.client().max_payload() {
            let name = letter.object_name();
            self.put_object(&name, &fitted.payload).await?;
            fitted.headers.push(PAYLOAD_OBJECT, &name);
            fitted.payload = Bytes::new();
        }
        Ok(fitted)
    }

    async fn put_object(&self, name: &str, bytes: &[u8]) -> Result<(), PublishError> {
        let store = objects(self.egress).await?;
        store.put(name, &mut &*bytes).await.map_err(not_now)?;
        Ok(())
    }
}

/// What a letter's headers may grow by before it is sent.
const MARGIN: usize = 512;

struct Fitted {
    headers: Headers,
    payload: Bytes,
}

/// Whether a letter's line is the host's account, which is bounded; everything else is the publisher's.
fn is_account(name: &str) -> bool {
    headers::is_reserved(name) && !name.eq_ignore_ascii_case(RAW_HEADERS)
}

async fn objects(line: &Line) -> Result<jetstream::object_store::ObjectStore, PublishError> {
    jetstream::new(line.client()).get_object_store(PAYLOADS_BUCKET).await.map_err(not_now)
}

fn not_now(why: impl std::error::Error + 'static) -> PublishError {
    PublishError::NotNow(format!("the object store {PAYLOADS_BUCKET}: {}", super::refusal::chain(&why)))
}

fn api_error(why: ApiError) -> PublishError {
    match why {
        ApiError::Refused { .. } => PublishError::NotNow(why.to_string()),
        ApiError::NoAnswer(_) | ApiError::NoJetStream | ApiError::Unreadable(_) => {
            PublishError::Unreachable(why.to_string())
        }
    }
}

/// Reads letters, for operators.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    pub(super) control: Arc<Line>,
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
    #[error("the object {object} of dead letter {sequence} can't be read: {why}")]
    Object {
        /// The letter.
        sequence: u64,
        /// The object.
        object: String,
        /// Why.
        why: String,
    },
}

impl DeadLetters {
    /// A page of letters, newest first. Payloads and headers in the object store are left there.
    ///
    /// # Errors
    /// See [`LetterError`].
    pub async fn list(&self, filter: &LetterFilter) -> Result<LetterPage, LetterError> {
        let info =
            super::topology::info(&self.control, DEAD_LETTER_STREAM).await?.ok_or(LetterError::NoStream)?;
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
        if let Some(object) = letter.headers.get(PAYLOAD_OBJECT).map(str::to_owned) {
            letter.payload = read_object(&self.control, sequence, object).await?.into();
        }
        if let Some(object) = letter.headers.get(HEADERS_OBJECT).map(str::to_owned) {
            let block = read_object(&self.control, sequence, object.clone()).await?;
            let mut whole =
                wire::parse(&block).map_err(|why| LetterError::Object { sequence, object, why })?;
            for (name, value) in letter.headers.iter() {
                whole.push(name, value);
            }
            letter.headers = whole;
        }
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

async fn read_object(line: &Line, sequence: u64, object: String) -> Result<Vec<u8>, LetterError> {
    let failed = |object: &str, why: String| LetterError::Object { sequence, object: object.to_owned(), why };
    let store = objects(line).await.map_err(|why| failed(&object, why.to_string()))?;
    let mut reader = store.get(&object).await.map_err(|why| failed(&object, why.to_string()))?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.map_err(|why| failed(&object, why.to_string()))?;
    Ok(bytes)
}
