//! A durable pull consumer with explicit acknowledgement, without a limit of deliveries.
//!
//! In the broker's own order: what is to be given again comes before what is new, and is given even where as many are
//! pending as may be; a delivery's patience ends after the acknowledgement wait, and a message that is queued for
//! redelivery by then is taken out of there by its settlement or by being put back, not by word of progress. Word of any delivery of a message settles the message,
//! also of one that was given again since.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// The state of one consumer.
#[derive(Debug, Clone)]
pub struct Consumer {
    ack_wait_ms: u64,
    pending_max: usize,
    /// The sequence that was given for the first time most lately.
    given: u64,
    pending: BTreeMap<u64, u64>,
    again: VecDeque<u64>,
    deliveries: HashMap<u64, u64>,
}

/// One delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Given {
    /// What was given.
    pub sequence: u64,
    /// How often it has been given by now.
    pub delivered: u64,
}

impl Consumer {
    /// A consumer that has given nothing.
    pub fn new(ack_wait_ms: u64, pending_max: usize) -> Self {
        Self {
            ack_wait_ms,
            pending_max,
            given: 0,
            pending: BTreeMap::new(),
            again: VecDeque::new(),
            deliveries: HashMap::new(),
        }
    }

    /// The next delivery out of a stream whose newest message is `last`.
    pub fn next(&mut self, last: u64, now_ms: u64) -> Option<Given> {
        self.sweep(now_ms);
        let sequence = match self.again.pop_front() {
            Some(sequence) => sequence,
            None if self.pending.len() < self.pending_max && self.given < last => {
                self.given += 1;
                self.given
            }
            None => return None,
        };
        self.pending.insert(sequence, now_ms + self.ack_wait_ms);
        let delivered = self.deliveries.entry(sequence).or_default();
        *delivered += 1;
        Some(Given { sequence, delivered: *delivered })
    }

    /// Takes a message as done, or never to be given again; whether it was pending until now.
    pub fn settle(&mut self, sequence: u64, now_ms: u64) -> bool {
        self.sweep(now_ms);
        self.again.retain(|queued| *queued != sequence);
        self.deliveries.remove(&sequence);
        self.pending.remove(&sequence).is_some()
    }

    /// Gives a message again after a wait; whether it was pending.
    pub fn put_back(&mut self, sequence: u64, wait_ms: u64, now_ms: u64) -> bool {
        let was_pending = self.patience(sequence, wait_ms, now_ms);
        self.again.retain(|queued| *queued != sequence);
        was_pending
    }

    /// Starts a message's patience anew; whether it was pending.
    pub fn progress(&mut self, sequence: u64, now_ms: u64) -> bool {
        self.patience(sequence, self.ack_wait_ms, now_ms)
    }

    /// When the next message will be due for redelivery.
    pub fn due(&self) -> Option<u64> {
        let queued = self.again.iter().map(|_| 0);
        let waiting = self.pending.iter().filter(|(sequence, _)| !self.again.contains(sequence));
        queued.chain(waiting.map(|(_, due)| *due)).min()
    }

    /// Every time at which a message will be due.
    pub fn dues(&self) -> impl Iterator<Item = u64> + '_ {
        self.pending.values().copied()
    }

    /// Whether there is something to give.
    pub fn has_next(&mut self, last: u64, now_ms: u64) -> bool {
        self.sweep(now_ms);
        !self.again.is_empty() || (self.pending.len() < self.pending_max && self.given < last)
    }

    /// What was given and is not settled, in order.
    pub fn pending(&self) -> Vec<u64> {
        self.pending.keys().copied().collect()
    }

    /// How many messages were never given, of a stream whose newest message is `last`.
    pub fn never_given(&self, last: u64) -> u64 {
        last.saturating_sub(self.given)
    }

    fn patience(&mut self, sequence: u64, wait_ms: u64, now_ms: u64) -> bool {
        self.sweep(now_ms);
        let Some(due) = self.pending.get_mut(&sequence) else { return false };
        *due = now_ms + wait_ms;
        true
    }

    /// Queues what is due, in the order in which it became so; what became so at once, in the order of the stream.
    fn sweep(&mut self, now_ms: u64) {
        let due = self.pending.iter().filter(|(_, due)| **due <= now_ms);
        let new = due.filter(|(sequence, _)| !self.again.contains(sequence));
        let mut new: Vec<(u64, u64)> = new.map(|(sequence, due)| (*due, *sequence)).collect();
        new.sort_unstable();
        self.again.extend(new.into_iter().map(|(_, sequence)| sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(sequence: u64, delivered: u64) -> Option<Given> {
        Some(Given { sequence, delivered })
    }

    #[test]
    fn what_nobody_speaks_of_is_given_again_before_what_is_new() {
        let mut consumer = Consumer::new(1_000, 10);
        assert_eq!((consumer.next(3, 0), consumer.next(3, 0)), (given(1, 1), given(2, 1)));
        assert_eq!(consumer.next(2, 999), None);
        assert_eq!(consumer.due(), Some(1_000));
        assert_eq!(consumer.next(3, 1_000), given(1, 2));
        assert_eq!((consumer.next(3, 1_000), consumer.next(3, 1_000)), (given(2, 2), given(3, 1)));
    }

    #[test]
    fn a_wait_and_progress_move_the_patience_and_an_old_delivery_settles_too() {
        let mut consumer = Consumer::new(1_000, 10);
        consumer.next(1, 0);
        assert!(consumer.progress(1, 900) && consumer.put_back(1, 5_000, 950));
        assert_eq!((consumer.next(1, 5_949), consumer.next(1, 5_950)), (None, given(1, 2)));
        assert!(consumer.settle(1, 6_000));
        assert!(!consumer.settle(1, 6_001) && !consumer.progress(1, 6_001));
        assert_eq!(consumer.next(1, 99_000), None);
    }

    #[test]
    fn nothing_new_is_given_beyond_the_pending_limit() {
        let mut consumer = Consumer::new(1_000, 2);
        assert_eq!(
            (consumer.next(9, 0), consumer.next(9, 0), consumer.next(9, 0)),
            (given(1, 1), given(2, 1), None)
        );
        assert_eq!(consumer.next(9, 1_000), given(1, 2), "what was given before is given again all the same");
        consumer.settle(1, 1_000);
        assert_eq!(consumer.never_given(9), 7);
    }
}
