//! Which stream captures a subject, and whether it takes atomic batches.
//!
//! Asked of the broker once per stream and remembered for half a minute, or until an answer shows that it is no longer so.
//! Nothing depends on it being right: a batch that a stream does not take is published singly. Who may not ask gets no
//! batches, and is not asked again for a while either, because a broker answers a forbidden request with silence.

use super::{
    api::{self, ApiError},
    connect::Line,
    topology,
    version::{ATOMIC_BATCHES, Version},
};
use busway_core::{SubjectFilter, port::Outgoing};
use serde::Deserialize;
use serde_json::json;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tracing::debug;

/// How long an answer is believed.
const BELIEVED: Duration = Duration::from_secs(30);
/// How long nothing is asked after the broker did not answer.
const SILENCE: Duration = Duration::from_secs(60);
/// How long somebody's outputs wait for an answer.
const ASKED: Duration = Duration::from_secs(2);
/// Streams that are remembered.
const STREAMS_MAX: usize = 256;

/// What is known of the streams that outputs go to.
#[derive(Debug, Default)]
pub(super) struct Captures {
    // Guards plain data; never held across an await.
    known: Mutex<Known>,
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    streams: Vec<Capture>,
    silent_until: Option<Instant>,
}

/// A stream that takes atomic batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AtomicStream {
    pub name: Arc<str>,
    /// Bytes of the largest message that it takes, headers included.
    pub message_bytes_max: Option<usize>,
}

#[derive(Debug, Clone)]
struct Capture {
    stream: Arc<str>,
    message_bytes_max: Option<usize>,
    filters: Arc<[SubjectFilter]>,
    atomic: bool,
    asked: Instant,
}

impl Captures {
    /// The stream that captures all of these and takes atomic batches.
    pub(super) async fn atomic(&self, control: &Line, messages: &[Outgoing]) -> Option<AtomicStream> {
        let first = messages.first()?;
        let capture = match self.remembered(&first.subject) {
            Remembered::Yes(capture) => capture,
            Remembered::Silence => return None,
            Remembered::No => self.ask(control, &first.subject).await?,
        };
        let all = messages.iter().all(|message| capture.captures(&message.subject));
        let Capture { stream: name, message_bytes_max, .. } = capture;
        (capture.atomic && all).then_some(AtomicStream { name, message_bytes_max })
    }

    /// The stream is not what it was thought to be.
    pub(super) fn forget(&self, stream: &str) {
        self.lock().streams.retain(|known| &*known.stream != stream);
    }

    fn remembered(&self, subject: &str) -> Remembered {
        let now = Instant::now();
        let mut known = self.lock();
        if known.silent_until.is_some_and(|until| now < until) {
            return Remembered::Silence;
        }
        known.streams.retain(|known| now - known.asked < BELIEVED);
        match known.streams.iter().find(|known| known.captures(subject)) {
            Some(capture) => Remembered::Yes(capture.clone()),
            None => Remembered::No,
        }
    }

    async fn ask(&self, control: &Line, subject: &str) -> Option<Capture> {
        let _one_at_a_time = self.asking.lock().await;
        match self.remembered(subject) {
            Remembered::Yes(capture) => return Some(capture),
            Remembered::Silence => return None,
            Remembered::No => {}
        }
        let asked = tokio::time::timeout(ASKED, capture(control, subject)).await;
        let mut known = self.lock();
        match asked {
            Ok(Ok(Some(capture))) => {
                if known.streams.len() >= STREAMS_MAX {
                    known.streams.clear();
                }
                known.streams.push(capture.clone());
                Some(capture)
            }
            // Publishing will tell.
            Ok(Ok(None)) => None,
            Ok(Err(why)) => {
                debug!(%why, "which stream captures an output is not known; outputs are published singly for a while");
                known.silent_until = Some(Instant::now() + SILENCE);
                None
            }
            Err(_) => {
                debug!(
                    "which stream captures an output is not told; outputs are published singly for a while"
                );
                known.silent_until = Some(Instant::now() + SILENCE);
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change under the lock is a whole one, so a panic elsewhere leaves nothing half-done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Remembered {
    Yes(Capture),
    No,
    Silence,
}

impl Capture {
    fn captures(&self, subject: &str) -> bool {
        self.filters.iter().any(|filter| filter.matches(subject))
    }
}

/// The names of the streams that capture a subject: one, or none.
pub(super) async fn names(control: &Line, subject: &str) -> Result<Vec<String>, ApiError> {
    #[derive(Deserialize)]
    struct Names {
        streams: Option<Vec<String>>,
    }
    let names = api::call::<Names>(control, "STREAM.NAMES", &json!({ "subject": subject })).await?;
    Ok(names.streams.unwrap_or_default())
}

async fn capture(control: &Line, subject: &str) -> Result<Option<Capture>, ApiError> {
    let names = names(control, subject).await?;
    let Some(name) = names.into_iter().next() else { return Ok(None) };
    let Some(info) = topology::info(control, &name).await? else { return Ok(None) };
    let filters = info.config.subjects.iter().filter_map(|subject| subject.parse().ok()).collect();
    Ok(Some(Capture {
        stream: name.into(),
        message_bytes_max: usize::try_from(info.config.max_message_size).ok().filter(|bytes| *bytes > 0),
        filters,
        atomic: info.config.allow_atomic_publish && Version::of(control) >= ATOMIC_BATCHES,
        asked: Instant::now(),
    }))
}
