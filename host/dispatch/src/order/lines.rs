//! Who stands in front of whom: one line per key, each in the order of the stream, at most one of each running.
//!
//! No clock and no lock in here, so that it can be read and tested as a table. A line's first event is the one with the
//! lowest sequence, whenever it came: an event that the broker gives again goes back to its place.

use busway_core::Delivery;
use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Whose events wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// Every event's: strict order.
    All,
    /// The events' with this key.
    Of(Arc<str>),
    /// Nobody else's: the event's key can't be read, so it becomes a dead letter and has nobody to wait for.
    Alone(u64),
}

/// Which lines may send somebody off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    /// All of them.
    All,
    /// Only those that wait for nobody.
    Alone,
}

/// The lines of one binding.
#[derive(Debug, Default)]
pub(super) struct Lines {
    // By key, so that what goes at once goes in the same order every time.
    lines: BTreeMap<Key, Line>,
    running: HashMap<u64, Key>,
    waiting: usize,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<u64, Waiting>,
    is_running: Option<u64>,
    /// When its first event failed first, in milliseconds since the Unix epoch.
    blocked_since_ms: Option<u64>,
}

#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    arrived: Instant,
    not_before: Instant,
}

/// How a line is held up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Blocked {
    /// Lines whose first event has failed and waits for its next run.
    pub lines: usize,
    /// When the first event that has failed for longest failed first, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
}

impl Lines {
    /// Takes its place among the events of its key.
    pub(super) fn join(&mut self, key: Key, sequence: u64, delivery: Delivery, now: Instant) {
        self.insert(key, sequence, Waiting { delivery, arrived: now, not_before: now });
    }

    /// A run has ended and another one must follow, here and after this wait; nobody behind passes. `failed_ms` is the
    /// time of the run where it failed.
    pub(super) fn again(
        &mut self,
        sequence: u64,
        delivery: Delivery,
        (now, wait): (Instant, Duration),
        failed_ms: u64,
    ) {
        let Some(key) = self.running.remove(&sequence) else { return };
        let line = self.lines.entry(key.clone()).or_default();
        line.is_running = None;
        line.blocked_since_ms.get_or_insert(failed_ms);
        self.insert(key, sequence, Waiting { delivery, arrived: now, not_before: now + wait });
    }

    /// A run was the event's last one here. Gives the key behind which the next may go.
    pub(super) fn left(&mut self, sequence: u64) -> Option<Key> {
        let key = self.running.remove(&sequence)?;
        if let Entry::Occupied(mut line) = self.lines.entry(key.clone()) {
            line.get_mut().is_running = None;
            line.get_mut().blocked_since_ms = None;
            if line.get().waiting.is_empty() {
                line.remove();
            }
        }
        Some(key)
    }

    /// Sends off the first of this line, if it may go now.
    pub(super) fn pass(&mut self, key: &Key, passing: Passing, now: Instant) -> Option<Delivery> {
        let line = self.lines.get_mut(key)?;
        if line.is_running.is_some() || (passing == Passing::Alone && !matches!(key, Key::Alone(_))) {
            return None;
        }
        let first = line.waiting.first_entry().filter(|first| first.get().not_before <= now)?;
        let (sequence, waiting) = first.remove_entry();
        line.is_running = Some(sequence);
        self.running.insert(sequence, key.clone());
        self.waiting -= 1;
        self.bytes -= bytes(&waiting.delivery);
        Some(waiting.delivery)
    }

    /// Sends off the first of each line that may go now.
    pub(super) fn pass_all(&mut self, passing: Passing, now: Instant) -> Vec<Delivery> {
        let idle = self.lines.iter().filter(|(_, line)| line.is_running.is_none());
        let keys: Vec<_> = idle.map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| self.pass(key, passing, now)).collect()
    }

    /// When the next first of a line may go that must wait for its time.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        let idle = self.lines.values().filter(|line| line.is_running.is_none());
        let firsts = idle.filter_map(|line| line.waiting.first_key_value());
        firsts.map(|(_, first)| first.not_before).filter(|time| *time > now).min()
    }

    /// Everybody who waits, lowest sequence first; what runs stays.
    pub(super) fn take_waiting(&mut self) -> Vec<Delivery> {
        let mut taken = BTreeMap::new();
        self.lines.retain(|_, line| {
            taken.append(&mut line.waiting);
            line.is_running.is_some()
        });
        (self.waiting, self.bytes) = (0, 0);
        taken.into_values().map(|waiting| waiting.delivery).collect()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Payload bytes of those who wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many wait that came before this time.
    pub(super) fn waiting_since(&self, time: Instant) -> usize {
        let waiting = self.lines.values().flat_map(|line| line.waiting.values());
        waiting.filter(|waiting| waiting.arrived < time).count()
    }

    pub(super) fn blocked(&self) -> Blocked {
        let since = || self.lines.values().filter_map(|line| line.blocked_since_ms);
        Blocked { lines: since().count(), since_ms: since().min() }
    }

    fn insert(&mut self, key: Key, sequence: u64, waiting: Waiting) {
        self.waiting += 1;
        self.bytes += bytes(&waiting.delivery);
        let line = self.lines.entry(key).or_default();
        if let Some(copy) = line.waiting.insert(sequence, waiting) {
            self.waiting -= 1;
            self.bytes -= bytes(&copy.delivery);
        }
    }
}

fn bytes(delivery: &Delivery) -> u64 {
    delivery.content.payload().len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use busway_core::{Message, Receipt, port::Content};
    use proptest::prelude::*;

    fn delivery(sequence: u64) -> Delivery {
        let message = Message {
            subject: "a".into(),
            headers: Default::default(),
            payload: bytes::Bytes::from_static(b"1234"),
        };
        Delivery { content: Content::Message(message), receipt: Receipt::for_test("S", sequence) }
    }

    fn join(lines: &mut Lines, key: &str, sequence: u64, now: Instant) {
        lines.join(Key::Of(key.into()), sequence, delivery(sequence), now);
    }

    fn pass(lines: &mut Lines, now: Instant) -> Vec<u64> {
        let passed = lines.pass_all(Passing::All, now);
        let mut passed: Vec<_> = passed.into_iter().filter_map(|it| it.receipt.held_as).collect();
        passed.sort_unstable();
        passed
    }

    #[test]
    fn one_of_each_key_passes_and_the_next_when_it_has_left() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        for (key, sequence) in [("a", 1), ("a", 2), ("b", 3)] {
            join(&mut lines, key, sequence, now);
        }
        assert_eq!(pass(&mut lines, now), [1, 3]);
        assert_eq!(pass(&mut lines, now), [0; 0]);
        lines.left(3);
        assert_eq!(pass(&mut lines, now), [0; 0]);
        lines.left(1);
        assert_eq!(pass(&mut lines, now), [2]);
        lines.left(2);
        assert!(lines.lines.is_empty() && lines.running.is_empty());
        assert_eq!((lines.waiting(), lines.bytes()), (0, 0));
    }

    #[test]
    fn nobody_passes_an_event_that_waits_for_its_next_run() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        join(&mut lines, "a", 1, now);
        join(&mut lines, "a", 2, now);
        pass(&mut lines, now);
        lines.again(1, delivery(1), (now, Duration::from_secs(5)), 77);
        assert_eq!(lines.blocked(), Blocked { lines: 1, since_ms: Some(77) });
        assert_eq!(pass(&mut lines, now + Duration::from_secs(4)), [0; 0]);
        let due = now + Duration::from_secs(5);
        assert_eq!(lines.next_time(now), Some(due));
        assert_eq!(pass(&mut lines, due), [1]);
        lines.left(1);
        assert_eq!(lines.blocked(), Blocked::default());
        assert_eq!(pass(&mut lines, due), [2]);
    }

    #[test]
    fn an_event_that_comes_late_goes_to_its_place() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        for sequence in [7, 3, 5] {
            join(&mut lines, "a", sequence, now);
        }
        for expected in [3, 5, 7] {
            assert_eq!(pass(&mut lines, now), [expected]);
            lines.left(expected);
        }
    }

    #[test]
    fn who_waits_for_nobody_passes_while_the_others_are_held() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        join(&mut lines, "a", 1, now);
        lines.join(Key::Alone(2), 2, delivery(2), now);
        let passed = lines.pass_all(Passing::Alone, now);
        assert_eq!(passed.iter().map(|it| it.receipt.held_as).collect::<Vec<_>>(), [Some(2)]);
    }

    proptest! {
        #[test]
        fn whatever_happens_a_key_runs_in_order_and_one_at_a_time(
            steps in prop::collection::vec((0u8..3, 0usize..8), 1..300)
        ) {
            let (mut lines, mut now) = (Lines::default(), Instant::now());
            let (mut next, mut running, mut seen) = (0u64, Vec::new(), HashMap::new());
            for (step, which) in steps {
                match step {
                    0 => {
                        next += 1;
                        join(&mut lines, &(next % 3).to_string(), next, now);
                    }
                    _ if running.is_empty() => now += Duration::from_secs(1),
                    1 => drop(lines.left(running.swap_remove(which % running.len()))),
                    _ => {
                        let again: u64 = running.swap_remove(which % running.len());
                        seen.insert(again % 3, again - 1);
                        lines.again(again, delivery(again), (now, Duration::from_secs(which as u64)), 0);
                    }
                }
                for passed in pass(&mut lines, now) {
                    prop_assert!(!running.iter().any(|other| other % 3 == passed % 3));
                    let before = seen.insert(passed % 3, passed);
                    prop_assert!(before.is_none_or(|before| before < passed), "{before:?} before {passed}");
                    running.push(passed);
                }
                prop_assert_eq!(lines.running(), running.len());
                prop_assert_eq!(lines.bytes(), lines.waiting() as u64 * 4);
            }
        }
    }
}
