//! The in-memory stream of copies: what is parked, and what is redriven, comes back through a source of its own.

use super::{MemoryBroker, Shared, State};
use busway_core::{
    Delivery, Message, PluginName, Receipt, Source,
    again::{self, Copy},
    port::{BoxFuture, Content, Opening, ParkError},
};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// The name of the stream of copies.
pub const AGAIN_STREAM: &str = "BUSWAY_AGAIN";

/// Copies by their sequence.
#[derive(Default)]
pub(super) struct Copies {
    pub(super) stored: BTreeMap<u64, StoredCopy>,
    known: HashSet<String>,
    pub(super) answers: VecDeque<Result<(), ParkError>>,
}

pub(super) struct StoredCopy {
    copy: Copy,
    pub(super) delivered: u64,
    pub(super) due: Instant,
    pub(super) settled: bool,
}

impl Copies {
    /// Stores a copy that is due after a wait, unless one with its id was stored before.
    fn store(&mut self, copy: Copy, after: Duration) -> bool {
        if !self.known.insert(copy.message_id.clone()) {
            return false;
        }
        let sequence = self.stored.len() as u64 + 1;
        let due = Instant::now() + after;
        self.stored.insert(sequence, StoredCopy { copy, delivered: 0, due, settled: false });
        true
    }

    fn take_due(&mut self, ack_wait: Duration) -> Result<Delivery, Option<Instant>> {
        let waiting = self.stored.iter_mut().filter(|(_, copy)| !copy.settled);
        let Some((sequence, stored)) = waiting.min_by_key(|(_, copy)| copy.due) else { return Err(None) };
        let now = Instant::now();
        if stored.due > now {
            return Err(Some(stored.due));
        }
        stored.delivered += 1;
        stored.due = now + ack_wait;
        let held = Receipt { delivered: stored.delivered, ..Receipt::for_test(AGAIN_STREAM, *sequence) };
        let Some((subject, headers, receipt)) = again::restored(held, &stored.copy.headers) else {
            return Err(None);
        };
        let payload = stored.copy.payload.clone();
        Ok(Delivery { content: Content::Message(Message { subject, headers, payload }), receipt })
    }
}

impl MemoryBroker {
    /// The next parkings answer so; after that they succeed.
    pub fn answer_parks(&self, answers: impl IntoIterator<Item = Result<(), ParkError>>) {
        self.lock().copies.answers.extend(answers);
    }

    /// How many copies were stored in all.
    pub fn copies(&self) -> usize {
        self.lock().copies.stored.len()
    }

    /// Makes a copy due at once, as after a lost acknowledgement.
    pub fn redeliver_copy(&self, sequence: u64) {
        if let Some(copy) = self.lock().copies.stored.get_mut(&sequence) {
            copy.settled = false;
            copy.due = Instant::now();
        }
        self.shared.changed.notify_waiters();
    }

    /// Redrives the dead letter under this subject, as an operator does.
    pub fn redrive(&self, subject: &str, version: Option<&str>) -> Result<(), again::NotRedrivable> {
        let mut state = self.lock();
        let State { letters, copies, .. } = &mut *state;
        let letter = letters.get(subject).ok_or(again::NotRedrivable::Header("subject"))?;
        copies.store(Copy::redriven(&letter.headers, letter.payload.clone(), version)?, Duration::ZERO);
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(())
    }

    /// The source of what comes back.
    pub fn returned_source(&self) -> Box<dyn Source> {
        Box::new(ReturnedSource(self.clone()))
    }

    pub(super) fn store_copy(
        &self,
        delivery: &Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> Result<(), ParkError> {
        let answer = self.lock().copies.answers.pop_front().unwrap_or(Ok(()));
        let plugin: Option<PluginName> = "p".parse().ok();
        let copy = plugin.and_then(|plugin| Copy::parked(&plugin, delivery, failed_runs));
        let is_new = answer.is_ok() && copy.is_some_and(|copy| self.lock().copies.store(copy, after));
        let how = if is_new {
            ""
        } else if answer.is_ok() {
            " (known)"
        } else {
            " (refused)"
        };
        self.write(format!("park after {failed_runs} failed for {} ms{how}", after.as_millis()));
        answer
    }
}

struct ReturnedSource(MemoryBroker);

impl Source for ReturnedSource {
    fn next(&mut self, _room: usize) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async {
            let shared: &Shared = &self.0.shared;
            loop {
                let changed = shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let taken = {
                    let mut state = self.0.lock();
                    let ack_wait = state.ack_wait;
                    state.copies.take_due(ack_wait)
                };
                let due = match taken {
                    Ok(delivery) => return Some(delivery),
                    Err(due) => due,
                };
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                }
            }
        })
    }

    fn opening(&self) -> Opening {
        Opening { number: 1, unsettled: 0 }
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async { Vec::new() })
    }
}
