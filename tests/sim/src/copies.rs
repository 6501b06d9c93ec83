//! The stream of what is parked: schedules that fire into copies, and the consumer of those.

use crate::scenario::ACK_WAIT_MS;
use busway_core::{
    Delivery, Message, Receipt,
    again::{self, Copy},
    port::Content,
};
use busway_testkit::simulated::Consumer;
use std::collections::{BTreeMap, HashSet};

/// The name of the stream.
pub const AGAIN_STREAM: &str = "BUSWAY_AGAIN";

/// Everything that is parked or has come back.
pub struct Copies {
    /// By when they fire, and by the order in which they were stored.
    scheduled: BTreeMap<(u64, u64), Copy>,
    known: HashSet<String>,
    fired: Vec<Copy>,
    /// Who was given which.
    pub consumer: Consumer,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            scheduled: BTreeMap::new(),
            known: HashSet::new(),
            fired: Vec::new(),
            consumer: Consumer::new(ACK_WAIT_MS, 1_024),
        }
    }
}

impl Copies {
    /// Stores a copy that fires at this time, unless it was stored before.
    pub fn store(&mut self, copy: Copy, at_ms: u64) {
        if self.known.insert(copy.message_id.clone()) {
            self.scheduled.insert((at_ms, self.known.len() as u64), copy);
        }
    }

    /// The next delivery.
    pub fn next(&mut self, now_ms: u64) -> Option<Delivery> {
        self.fire(now_ms);
        let given = self.consumer.next(self.fired.len() as u64, now_ms)?;
        let copy = self.fired.get(usize::try_from(given.sequence).ok()?.checked_sub(1)?)?;
        let held = Receipt { delivered: given.delivered, ..Receipt::for_test(AGAIN_STREAM, given.sequence) };
        let (subject, headers, receipt) = again::restored(held, &copy.headers)?;
        let message = Message { subject, headers, payload: copy.payload.clone() };
        Some(Delivery { content: Content::Message(message), receipt })
    }

    /// When something will be due.
    pub fn due(&self) -> Option<u64> {
        let first = self.scheduled.keys().next().map(|(at_ms, _)| *at_ms);
        first.into_iter().chain(self.consumer.due()).min()
    }

    /// The copies that are not settled.
    pub fn pending(&mut self) -> Vec<&Copy> {
        let fired = self.fired.len() as u64;
        let new = fired - self.consumer.never_given(fired) + 1..=fired;
        let sequences: Vec<u64> = self.consumer.pending().into_iter().chain(new).collect();
        let given = sequences.into_iter().filter_map(|sequence| self.fired.get(sequence as usize - 1));
        given.chain(self.scheduled.values()).collect()
    }

    fn fire(&mut self, now_ms: u64) {
        while let Some(first) = self.scheduled.first_entry().filter(|first| first.key().0 <= now_ms) {
            self.fired.push(first.remove());
        }
    }
}
