//! Which records go into one message: failures alone and at once, successes with others of the same runner on the same
//! shelf, at most [`BATCH_MAX`] of them, about [`BATCH_BYTES_MAX`] bytes, and for at most [`BATCH_WAIT`].

use super::page::Draft;
use busway_core::{
    HistoryEntry,
    history::{self, Runner},
};
use std::{
    collections::{HashMap, hash_map},
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Successes in one message.
pub(super) const BATCH_MAX: usize = 256;
/// About so many bytes are in one message: little for a broker, whatever subjects publishers think of.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// How long a success waits for others.
pub(super) const BATCH_WAIT: Duration = Duration::from_millis(100);

/// Records that go into one message, and its subject.
#[derive(Debug)]
pub(super) struct Batch {
    pub subject: String,
    pub page: Draft,
}

/// The batches that wait for more. At most one for each runner and shelf that had a success within the last
/// [`BATCH_WAIT`].
#[derive(Debug, Default)]
pub(super) struct Batches {
    open: HashMap<Key, Open>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    runner: Arc<Runner>,
    /// The stream, its creation time and the shelf; none for events that no stream holds.
    shelf: Option<(Arc<str>, i128, u64)>,
}

impl Hash for Key {
    /// By the shelf's number alone, which tells almost all apart: this runs for every event.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shelf.as_ref().map_or(0, |(_, _, shelf)| *shelf).hash(state);
    }
}

#[derive(Debug)]
struct Open {
    due: Instant,
    bytes: usize,
    page: Draft,
}

impl Open {
    fn new(first: &HistoryEntry) -> Self {
        Self { due: Instant::now() + BATCH_WAIT, bytes: bytes(first), page: Draft::new(first) }
    }

    /// Adds a record; gives whether that completes the batch.
    fn push(&mut self, entry: &HistoryEntry) -> bool {
        self.bytes += bytes(entry);
        self.page.add(entry);
        self.page.records() >= BATCH_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    fn batch(self) -> Batch {
        let plugin = &self.page.runner().plugin;
        let subject = match self.page.position() {
            Some(position) => history::shelf_subject(position, plugin),
            None => history::plain_subject(plugin),
        };
        Batch { subject, page: self.page }
    }
}

impl Batches {
    /// Adds a record; gives the batch that is to be stored now, if that completes one.
    pub(super) fn push(&mut self, entry: &HistoryEntry) -> Option<Batch> {
        if !entry.is_success() {
            let subject = history::event_subject(&entry.event_id, &entry.runner.plugin);
            return Some(Batch { subject, page: Draft::new(entry) });
        }
        let shelf = entry.position.as_ref().map(|position| {
            (Arc::clone(&position.stream), position.stream_created_ns, position.sequence / history::SHELF)
        });
        let key = Key { runner: Arc::clone(&entry.runner), shelf };
        match self.open.entry(key) {
            hash_map::Entry::Vacant(place) => {
                place.insert(Open::new(entry));
                None
            }
            hash_map::Entry::Occupied(mut place) => {
                place.get_mut().push(entry).then(|| place.remove().batch())
            }
        }
    }

    /// When the next batch has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.values().map(|open| open.due).min()
    }

    /// Takes the batches that have waited long enough by then.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Batch> {
        let due = self.open.extract_if(|_, open| open.due <= now);
        due.map(|(_, open)| open.batch()).collect()
    }

    /// Takes all batches.
    pub(super) fn take_all(&mut self) -> Vec<Batch> {
        self.open.drain().map(|(_, open)| open.batch()).collect()
    }
}

/// About how much an entry adds to a message.
fn bytes(entry: &HistoryEntry) -> usize {
    const RECORD: usize = 100;
    const OUTPUT: usize = 16;
    RECORD + entry.subject.len() + entry.outputs.len() * OUTPUT
}

#[cfg(test)]
mod tests {
    use super::{
        super::page::{self, tests::success},
        *,
    };
    use busway_core::history::{Cause, Counts, Disposition};

    fn sequences(batch: Batch) -> Vec<u64> {
        let entries = page::read(&batch.page.finish().unwrap()).unwrap();
        entries.iter().map(|entry| entry.position.as_ref().unwrap().sequence).collect()
    }

    fn failure(sequence: u64) -> HistoryEntry {
        let cause = Cause {
            counts: Counts::Failed,
            class: "trap".into(),
            code: String::new(),
            reason: String::new(),
        };
        HistoryEntry { cause: Some(cause), disposition: Disposition::Left, ..success(sequence) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_full_with_256_records() {
        let mut batches = Batches::default();
        for sequence in 0..255 {
            assert!(batches.push(&success(sequence)).is_none());
        }
        let full = batches.push(&success(255)).unwrap();
        assert_eq!((full.page.records(), &*full.subject), (256, "busway.history.done.IN.17.0.p"));
        assert_eq!(batches.due(), None);
        assert!(batches.push(&success(256)).is_none());
        assert_eq!(batches.take_all().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_full_with_long_subjects_long_before() {
        let mut batches = Batches::default();
        let long = |sequence| HistoryEntry { subject: "a".repeat(4_000), ..success(sequence) };
        let full = (0..256).find_map(|sequence| batches.push(&long(sequence))).unwrap();
        assert_eq!(full.page.records(), 16);
        assert!(full.page.finish().unwrap().len() < 128 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_100_ms_from_its_first_record() {
        let mut batches = Batches::default();
        assert_eq!(batches.due(), None);
        let began = Instant::now();
        batches.push(&success(1));
        tokio::time::advance(Duration::from_millis(60)).await;
        batches.push(&success(2));
        assert_eq!(batches.due(), Some(began + BATCH_WAIT));
        assert!(batches.take_due(Instant::now()).is_empty());
        tokio::time::advance(Duration::from_millis(40)).await;
        let due = batches.take_due(Instant::now());
        assert_eq!(due.into_iter().map(sequences).collect::<Vec<_>>(), [[1, 2]]);
        assert_eq!(batches.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_waits_for_nobody_and_is_kept_under_its_events_id() {
        let mut batches = Batches::default();
        batches.push(&success(1));
        let alone = batches.push(&failure(2)).unwrap();
        assert_eq!(alone.subject, format!("busway.history.event.{}.p", failure(2).event_id));
        assert_eq!(sequences(alone), [2]);
        assert_eq!(batches.take_all().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_be_looked_for_in_another_place_goes_into_another_message() {
        let mut batches = Batches::default();
        let mut other_host = success(3);
        other_host.runner = Arc::new(Runner { host: "h2".into(), ..(*other_host.runner).clone() });
        let plain = HistoryEntry { position: None, ..success(4) };
        for entry in [success(1023), success(1024), success(1), other_host, plain] {
            assert!(batches.push(&entry).is_none());
        }
        let mut subjects: Vec<_> = batches.take_all().into_iter().map(|batch| batch.subject).collect();
        subjects.sort();
        let shelf = |shelf| format!("busway.history.done.IN.17.{shelf}.p");
        assert_eq!(subjects, [shelf(0), shelf(0), shelf(1), "busway.history.plain.p".to_owned()]);
    }
}
