//! Which deliveries this host holds, until when the broker leaves them to it, and which are settled already.
//!
//! A broker gives an event again when it has not heard of it for the acknowledgement wait. So held events (queued and
//! running alike) report progress well before; an event that is given again while it is held is dropped here; one that
//! is given again after it was settled (its acknowledgement was lost) is acknowledged again without another run; and
//! one for which no progress could be reported for nine tenths of the wait is considered lost: what it wants to publish
//! is not published, since another host may be running it by now.

use busway_core::Receipt;
use std::{
    collections::{BTreeMap, HashSet, VecDeque, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Settled events that are remembered per binding, unless told otherwise.
pub const SETTLED_MAX: usize = 16_384;

/// What a delivery is to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// New: it is held now.
    Held,
    /// The same event is held already: drop this copy.
    AlreadyHeld,
    /// The same event was settled: settle this copy too, without a run.
    AlreadyDone,
}

/// The held and the settled deliveries of one binding.
#[derive(Debug)]
pub(crate) struct Leases {
    ack_wait: Duration,
    settled_max: usize,
    // Guards plain data; never held across an await.
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    // In the order of the stream, so that progress is reported and events are given back in that order too.
    held: BTreeMap<u64, Lease>,
    done: Memory,
    given_back: Memory,
}

/// The sequences that were remembered most lately.
#[derive(Debug, Default)]
struct Memory {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Lease {
    receipt: Receipt,
    confirmed: Instant,
    asked: Instant,
}

impl Leases {
    pub(crate) fn new(ack_wait: Duration, settled_max: usize) -> Self {
        Self { ack_wait, settled_max, inner: Mutex::default(), changed: Notify::new() }
    }

    /// How long the broker waits for word of a delivery.
    pub(crate) fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    /// How often held deliveries should be looked at.
    pub(crate) fn interval(&self) -> Duration {
        self.ack_wait / 6
    }

    /// Takes a delivery into custody. Events that no stream holds are not tracked: nobody gives them again.
    pub(crate) fn claim(&self, receipt: &Receipt) -> Claim {
        let Some(sequence) = sequence(receipt) else { return Claim::Held };
        let mut inner = self.lock();
        if inner.done.known.contains(&sequence) {
            return Claim::AlreadyDone;
        }
        match inner.held.entry(sequence) {
            Entry::Occupied(mut held) => {
                // Its newest receipt is the one that the broker listens to.
                held.get_mut().receipt = receipt.clone();
                Claim::AlreadyHeld
            }
            Entry::Vacant(vacant) => {
                let now = Instant::now();
                vacant.insert(Lease { receipt: receipt.clone(), confirmed: now, asked: now });
                Claim::Held
            }
        }
    }

    /// Whether the broker still leaves the event to this host.
    pub(crate) fn is_valid(&self, receipt: &Receipt) -> bool {
        let Some(sequence) = sequence(receipt) else { return true };
        let lost_after = self.lost_after();
        self.lock().held.get(&sequence).is_some_and(|lease| lease.confirmed.elapsed() < lost_after)
    }

    /// The broker gave a held event to this host once more, and no other host can have had it in between.
    pub(crate) fn given_again(&self, receipt: &Receipt) {
        if let Some(sequence) = sequence(receipt)
            && let Some(lease) = self.lock().held.get_mut(&sequence)
        {
            lease.confirmed = Instant::now();
        }
    }

    fn lost_after(&self) -> Duration {
        self.ack_wait.mul_f64(0.9)
    }

    /// Gives an event back to the broker's care: it was put back, or could not be settled.
    pub(crate) fn release(&self, receipt: &Receipt) {
        if let Some(sequence) = sequence(receipt) {
            let mut inner = self.lock();
            inner.held.remove(&sequence);
            inner.given_back.remember(sequence, self.settled_max);
            drop(inner);
            self.changed.notify_waiters();
        }
    }

    /// Whether this host gave the event back before: a delivery that the broker calls the first one is not, then.
    pub(crate) fn was_given_back(&self, receipt: &Receipt) -> bool {
        sequence(receipt).is_some_and(|sequence| self.lock().given_back.known.contains(&sequence))
    }

    /// Remembers an event as settled for good.
    pub(crate) fn done(&self, receipt: &Receipt) {
        let Some(sequence) = sequence(receipt) else { return };
        let mut inner = self.lock();
        inner.held.remove(&sequence);
        inner.done.remember(sequence, self.settled_max);
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Waits until nothing is held. Cancel safe.
    pub(crate) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.held() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// The receipts for which progress is due; they count as asked from now on. For a lost one it would only keep the
    /// broker from giving it to somebody who can publish.
    pub(crate) fn due(&self) -> Vec<Receipt> {
        let (due_after, lost_after) = (self.ack_wait / 3, self.lost_after());
        let now = Instant::now();
        let mut inner = self.lock();
        let due = inner.held.values_mut().filter(|lease| {
            now - lease.asked >= due_after && now.saturating_duration_since(lease.confirmed) < lost_after
        });
        due.map(|lease| {
            lease.asked = now;
            lease.receipt.clone()
        })
        .collect()
    }

    /// The broker confirmed progress that was asked at this time. It confirms whoever asks: a lease that was lost by then
    /// stays lost, since another host may have the event.
    pub(crate) fn confirm(&self, receipt: &Receipt, asked: Instant) {
        let lost_after = self.lost_after();
        if let Some(sequence) = sequence(receipt)
            && let Some(lease) = self.lock().held.get_mut(&sequence)
            && asked.saturating_duration_since(lease.confirmed) < lost_after
        {
            lease.confirmed = lease.confirmed.max(asked);
        }
    }

    /// How many deliveries are held.
    pub(crate) fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// Everything that is held, for the end of a shutdown.
    pub(crate) fn all(&self) -> Vec<Receipt> {
        self.lock().held.values().map(|lease| lease.receipt.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is a whole one, so a panic elsewhere leaves nothing half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn remember(&mut self, sequence: u64, most: usize) {
        if self.known.insert(sequence) {
            self.order.push_back(sequence);
        }
        if self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn sequence(receipt: &Receipt) -> Option<u64> {
    receipt.held_as
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Leases {
        Leases::new(Duration::from_secs(30), 3)
    }

    #[test]
    fn a_copy_of_a_held_event_is_dropped_and_one_of_a_settled_event_is_settled_again() {
        let (leases, receipt) = (leases(), Receipt::for_test("S", 1));
        assert_eq!(leases.claim(&receipt), Claim::Held);
        assert_eq!(leases.claim(&receipt), Claim::AlreadyHeld);
        leases.done(&receipt);
        assert_eq!(leases.claim(&receipt), Claim::AlreadyDone);
    }

    #[test]
    fn an_event_that_was_put_back_is_new_when_it_returns() {
        let (leases, receipt) = (leases(), Receipt::for_test("S", 1));
        leases.claim(&receipt);
        leases.release(&receipt);
        assert_eq!(leases.claim(&receipt), Claim::Held);
    }

    #[test]
    fn the_memory_of_settled_events_is_bounded() {
        let leases = leases();
        for sequence in 0..=3 {
            leases.done(&Receipt::for_test("S", sequence));
        }
        assert_eq!(leases.claim(&Receipt::for_test("S", 0)), Claim::Held);
        assert_eq!(leases.claim(&Receipt::for_test("S", 1)), Claim::AlreadyDone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_lost_when_no_progress_was_confirmed_for_nine_tenths_of_the_wait() {
        let (leases, receipt) = (leases(), Receipt::for_test("S", 1));
        leases.claim(&receipt);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(leases.due().len(), 1);
        assert_eq!(leases.due().len(), 0, "asked just now");
        leases.confirm(&receipt, Instant::now());
        tokio::time::advance(Duration::from_secs(26)).await;
        assert!(leases.is_valid(&receipt));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!leases.is_valid(&receipt));
        leases.confirm(&receipt, Instant::now());
        assert!(!leases.is_valid(&receipt), "another host may have it, whatever the broker says to this one");
        assert_eq!(leases.due().len(), 0);
        leases.given_again(&receipt);
        assert!(leases.is_valid(&receipt));
    }
}
