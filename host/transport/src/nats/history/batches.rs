//! Which records go into one message: failures alone and at once, successes with others of the same runner on the same
//! shelf, at most [`BATCH_MAX`] of them, about [`BATCH_BYTES_MAX`] bytes, and for at most [`BATCH_WAIT`].

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
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub subject: String,
    pub entries: Vec<HistoryEntry>,
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
    entries: Vec<HistoryEntry>,
}

impl Open {
    fn new(first: HistoryEntry) -> Self {
        let bytes = bytes(&first);
        let mut entries = Vec::with_capacity(BATCH_MAX);
        entries.push(first);
        Self { due: Instant::now() + BATCH_WAIT, bytes, entries }
    }

    /// Adds a record; gives whether that completes the batch.
    fn push(&mut self, entry: HistoryEntry) -> bool {
        self.bytes += bytes(&entry);
        self.entries.push(entry);
        self.entries.len() >= BATCH_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl Batches {
    /// Adds a record; gives the batch that is to be stored now, if that completes one.
    pub(super) fn push(&mut self, entry: HistoryEntry) -> Option<Batch> {
        if !entry.is_success() {
            let subject = history::event_subject(&entry.event_id, &entry.runner.plugin);
            return Some(Batch { subject, entries: vec![entry] });
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
                place.get_mut().push(entry).then(|| place.remove()).and_then(|open| batch(open.entries))
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
        due.filter_map(|(_, open)| batch(open.entries)).collect()
    }

    /// Takes all batches.
    pub(super) fn take_all(&mut self) -> Vec<Batch> {
        self.open.drain().filter_map(|(_, open)| batch(open.entries)).collect()
    }
}

/// About how much an entry adds to a message.
fn bytes(entry: &HistoryEntry) -> usize {
    const RECORD: usize = 100;
    const OUTPUT: usize = 16;
    RECORD + entry.subject.len() + entry.outputs.len() * OUTPUT
}

/// None where there is nothing to store.
fn batch(entries: Vec<HistoryEntry>) -> Option<Batch> {
    let first = entries.first()?;
    let subject = match &first.position {
        Some(position) => history::shelf_subject(position, &first.runner.plugin),
        None => history::plain_subject(&first.runner.plugin),
    };
    Some(Batch { subject, entries })
}

#[cfg(test)]
mod tests {
    use super::{super::page::tests::success, *};
    use busway_core::history::{Cause, Counts, Disposition};

    fn sequences(batch: &Batch) -> Vec<u64> {
        batch.entries.iter().map(|entry| entry.position.as_ref().unwrap().sequence).collect()
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
            assert_eq!(batches.push(success(sequence)), None);
        }
        let full = batches.push(success(255)).unwrap();
        assert_eq!((full.entries.len(), &*full.subject), (256, "busway.history.done.IN.17.0.p"));
        assert_eq!(batches.due(), None);
        assert_eq!(batches.push(success(256)), None);
        assert_eq!(batches.take_all().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_full_with_long_subjects_long_before() {
        let mut batches = Batches::default();
        let long = |sequence| HistoryEntry { subject: "a".repeat(4_000), ..success(sequence) };
        let full = (0..256).find_map(|sequence| batches.push(long(sequence))).unwrap();
        assert_eq!(full.entries.len(), 16);
        assert!(super::super::page::write(&full.entries).unwrap().len() < 128 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_100_ms_from_its_first_record() {
        let mut batches = Batches::default();
        assert_eq!(batches.due(), None);
        let began = Instant::now();
        batches.push(success(1));
        tokio::time::advance(Duration::from_millis(60)).await;
        batches.push(success(2));
        assert_eq!(batches.due(), Some(began + BATCH_WAIT));
        assert_eq!(batches.take_due(Instant::now()), []);
        tokio::time::advance(Duration::from_millis(40)).await;
        let due = batches.take_due(Instant::now());
        assert_eq!(due.iter().map(sequences).collect::<Vec<_>>(), [[1, 2]]);
        assert_eq!(batches.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_waits_for_nobody_and_is_kept_under_its_events_id() {
        let mut batches = Batches::default();
        batches.push(success(1));
        let alone = batches.push(failure(2)).unwrap();
        assert_eq!(sequences(&alone), [2]);
        assert_eq!(alone.subject, format!("busway.history.event.{}.p", failure(2).event_id));
        assert_eq!(batches.take_all().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_be_looked_for_in_another_place_goes_into_another_message() {
        let mut batches = Batches::default();
        let mut other_host = success(3);
        other_host.runner = Arc::new(Runner { host: "h2".into(), ..(*other_host.runner).clone() });
        let plain = HistoryEntry { position: None, ..success(4) };
        for entry in [success(1023), success(1024), success(1), other_host, plain] {
            assert_eq!(batches.push(entry), None);
        }
        let mut subjects: Vec<_> = batches.take_all().into_iter().map(|batch| batch.subject).collect();
        subjects.sort();
        let shelf = |shelf| format!("busway.history.done.IN.17.{shelf}.p");
        assert_eq!(subjects, [shelf(0), shelf(0), shelf(1), "busway.history.plain.p".to_owned()]);
    }
}
