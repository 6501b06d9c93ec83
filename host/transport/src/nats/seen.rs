//! Which event an input's key belongs to: a bucket whose entries have a stay of their own.
//!
//! A key is claimed by being written where nothing is, which the broker decides, so of two hosts with the same key one
//! wins. The entry names the event: the same event claims its key again after a crash or a failed run, and by that its
//! stay begins anew, so that a claim outlives the retries of its event however long they take. Entries are stored under a
//! hash: keys come from publishers and may hold anything.

use super::{
    api::{self, ApiError, Wanted, code},
    connect::Line,
    consumer::OpenError,
    publish::{Ack, Store},
    settle::settle_error,
    topology,
    version::{MESSAGE_TTL, Version},
    wire,
};
use async_nats::HeaderMap;
use busway_core::{
    EventId, PluginName,
    key::entry_name,
    port::{KeyClaim, SettleError},
};
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;

/// The bucket of keys.
pub const SEEN_BUCKET: &str = "BUSWAY_SEEN";
/// What an entry stands at, so that it replaces nothing else.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// How long an entry stays, in seconds.
const TTL: &str = "Nats-TTL";
/// How often a claim is begun anew that met another one, or an entry that was about to end.
const TRIES: usize = 5;

/// The keys of one plugin's inputs.
pub(super) struct Seen<'a> {
    pub control: &'a Line,
    pub plugin: &'a PluginName,
}

/// An entry, and where it stands.
struct Entry {
    event: Bytes,
    sequence: u64,
}

/// Whether this broker and its bucket can do what claims need.
pub(super) async fn check(control: &Line, consumer: &str) -> Result<(), OpenError> {
    if Version::of(control) < MESSAGE_TTL {
        return Err(OpenError::TooOldForDedup { version: control.client().server_info().version });
    }
    let failed = |source| OpenError::Api { stream: stream(), consumer: consumer.to_owned(), source };
    match topology::info(control, &stream()).await.map_err(failed)? {
        Some(info) if info.config.allow_message_ttl && info.config.max_messages_per_subject == 1 => Ok(()),
        _ => Err(OpenError::KeysNotKept { stream: stream() }),
    }
}

/// The stream behind the bucket.
pub(super) fn stream() -> String {
    format!("KV_{SEEN_BUCKET}")
}

impl Seen<'_> {
    pub(super) async fn claim(
        &self,
        key: &str,
        ttl: Duration,
        event: &EventId,
    ) -> Result<KeyClaim, SettleError> {
        let subject = self.subject(key);
        let mut stands_at = 0;
        for _ in 0..TRIES {
            if self.write(&subject, stands_at, ttl, event).await? {
                return Ok(KeyClaim::Own);
            }
            match self.read(&subject).await? {
                // It has ended meanwhile.
                None => stands_at = 0,
                Some(entry) if entry.event == event.as_str() => stands_at = entry.sequence,
                Some(entry) => return Ok(KeyClaim::Taken(event_of(&entry)?)),
            }
        }
        Err(SettleError::Unreachable(format!("a key in {SEEN_BUCKET} changes all the time")))
    }

    pub(super) async fn release(&self, key: &str, event: &EventId) -> Result<(), SettleError> {
        let subject = self.subject(key);
        let mut last = String::new();
        for _ in 0..TRIES {
            let sequence = match self.read(&subject).await? {
                Some(entry) if entry.event == event.as_str() => entry.sequence,
                Some(_) | None => return Ok(()),
            };
            // By its sequence: what another event claims meanwhile is not touched.
            let delete = json!({ "seq": sequence, "no_erase": true });
            let subject = format!("STREAM.MSG.DELETE.{}", stream());
            match api::call::<serde_json::Value>(self.control, &subject, &delete).await {
                Ok(_) => return Ok(()),
                Err(why @ ApiError::Refused { .. }) => last = why.to_string(),
                Err(why) => return Err(settle_error(why)),
            }
        }
        Err(SettleError::Refused(format!("a key in {SEEN_BUCKET} can't be deleted: {last}")))
    }

    /// False where the entry does not stand there.
    async fn write(
        &self,
        subject: &str,
        stands_at: u64,
        ttl: Duration,
        event: &EventId,
    ) -> Result<bool, SettleError> {
        let refused = |why: String| SettleError::Refused(format!("claiming a key in {SEEN_BUCKET}: {why}"));
        let mut headers = HeaderMap::new();
        for (name, value) in [(EXPECTED, stands_at), (TTL, ttl.as_secs().max(1))] {
            wire::append(&mut headers, name, &value.to_string()).map_err(|why| refused(why.to_string()))?;
        }
        let body = Bytes::copy_from_slice(event.as_str().as_bytes());
        let store = Store { line: self.control, control: self.control };
        match store.until_answered(subject, &headers, body).await {
            Ack::Stored(_) => Ok(true),
            Ack::Refused(refusal)
                if matches!(
                    refusal.err_code,
                    code::WRONG_LAST_SEQUENCE | code::WRONG_LAST_SEQUENCE_IN_PROCESS
                ) =>
            {
                Ok(false)
            }
            Ack::Refused(refusal) => Err(refused(refusal.description)),
            Ack::NoStream => Err(refused("the bucket is missing".into())),
            Ack::TooLarge(why) => Err(refused(why)),
            Ack::NoAnswer(why) => Err(SettleError::Unreachable(why)),
        }
    }

    async fn read(&self, subject: &str) -> Result<Option<Entry>, SettleError> {
        match api::stored(self.control, &stream(), Wanted::last(subject)).await {
            Ok(raw) => Ok(raw.map(|raw| Entry { event: raw.payload, sequence: raw.sequence })),
            // Where nothing is kept, nothing was claimed.
            Err(why) if why.is(code::STREAM_NOT_FOUND) => Ok(None),
            Err(why) => Err(settle_error(why)),
        }
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{SEEN_BUCKET}.{}", entry_name(self.plugin, key))
    }
}

fn event_of(entry: &Entry) -> Result<EventId, SettleError> {
    let text = std::str::from_utf8(&entry.event).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(|| {
        SettleError::Refused(format!("{SEEN_BUCKET} has an entry that names no event: it is not this host's"))
    })
}
