//! Between the intake and the workers of an ordered binding: who may go now.
//!
//! Deliveries are released one at a time per key, in the order of the stream. Three things could let a later event pass an
//! earlier one, and each is decided here:
//!
//! - **A failed run.** The event is not put back: its run is recorded, it waits here, its lease kept by progress reports,
//!   and runs again. Those of its key wait behind it.
//! - **An event that is not here although it was given out**: a crash, a lost connection, a lost lease, an
//!   acknowledgement that nobody confirmed. The broker gives it again only when its patience has ended, and gives later
//!   ones before. So whenever a delivery may be missing, the gate closes: nothing new is released until the broker counts
//!   no more unsettled deliveries than wait here. A delivery that came before the question and waits after the answer was
//!   unsettled when the broker counted, so if there are as many of them as it counted, none is missing.
//! - **Another host.** One host is active at a time ([`busway_core::Settle::is_active`]). One that is not any more forgets
//!   everything that waits, and what runs publishes nothing.
//!
//! What waits is bounded by the binding's window ([`busway_core::binding::PER_KEY_WINDOW`]); the consumer gives out no more.

mod lines;
mod metrics;

pub(crate) use metrics::{OrderGauges, OrderMetrics};

use crate::{
    lane::Lane,
    settle::{Settled, now_ms},
};
use busway_core::{Delivery, binding::Ordering, port::Content, port::Opening};
use lines::{Key, Lines, Passing};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

/// Deliveries that can be released and not taken by a worker: more than any consumer of a host ever gave out at once.
pub(crate) const RELEASED_MAX: usize = 2_048;
/// While the gate is open, about so many payload bytes wait.
const WAITING_BYTES_MAX: u64 = 16 << 20;
/// Between two questions to the broker while the gate is closed.
const QUESTION_WAIT_MIN: Duration = Duration::from_millis(20);
/// The same when it has been closed for long.
const QUESTION_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often the gauges are set, whatever happens.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is seen to that this host stays the active one.
const ACTIVE_INTERVAL: Duration = Duration::from_millis(500);

/// The order of one binding.
pub(crate) struct Order {
    ordering: Ordering,
    released: async_channel::Sender<Delivery>,
    // Guards plain data; never held across an await.
    state: Mutex<State>,
    gate_changed: Notify,
    times_changed: Notify,
}

struct State {
    lines: Lines,
    gate: Gate,
    opening: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Since then a delivery may be missing.
    Closed(Instant),
    /// The host drains: nothing is released any more.
    Ended,
}

impl Gate {
    fn passing(self) -> Option<Passing> {
        match self {
            Self::Open => Some(Passing::All),
            Self::Closed(_) => Some(Passing::Alone),
            Self::Ended => None,
        }
    }
}

impl Order {
    /// The order of a binding that has one; `released` leads to its workers and holds [`RELEASED_MAX`].
    pub(crate) fn of(ordering: &Ordering, released: async_channel::Sender<Delivery>) -> Option<Self> {
        ordering.is_ordered().then(|| Self {
            ordering: ordering.clone(),
            released,
            state: Mutex::new(State { lines: Lines::default(), gate: Gate::Open, opening: 0 }),
            gate_changed: Notify::new(),
            times_changed: Notify::new(),
        })
    }

    /// How many more deliveries may be held, now that so many are. While the gate is closed there is always room: what
    /// is missing must be able to come, and the consumer's own window bounds what comes before it.
    pub(crate) fn room(&self, held: usize) -> usize {
        let room = self.ordering.window().unwrap_or_default() as usize;
        let room = room.saturating_sub(held);
        let state = self.lock();
        let (bytes, waiting) = (state.lines.bytes(), state.lines.waiting() as u64);
        match state.gate {
            Gate::Open => {
                let average = bytes.checked_div(waiting).unwrap_or_default().max(1);
                room.min((WAITING_BYTES_MAX.saturating_sub(bytes) / average) as usize)
            }
            Gate::Closed(_) => room.max(1),
            Gate::Ended => 0,
        }
    }

    /// Says which opening of the source the next delivery comes from.
    pub(crate) fn opened(&self, opening: Opening) {
        let mut state = self.lock();
        if opening.number != state.opening {
            state.opening = opening.number;
            if opening.unsettled > 0 {
                self.close_gate(&mut state);
            }
        }
    }

    /// Takes a delivery that is held now. Gives it back where nothing is taken any more.
    pub(crate) fn arrive(&self, delivery: Delivery) -> Option<Delivery> {
        let Some(sequence) = delivery.receipt.held_as else { return Some(delivery) };
        let key = self.key(sequence, &delivery);
        let mut state = self.lock();
        if state.gate == Gate::Ended {
            return Some(delivery);
        }
        if delivery.receipt.delivered > 1 {
            // Somebody had it before and was not done; the same may be true of others.
            self.close_gate(&mut state);
        }
        state.lines.join(key.clone(), sequence, delivery, Instant::now());
        self.pass(&mut state, &key);
        None
    }

    /// What became of a delivery that was released. Gives it back where it was to wait here and can't any more.
    pub(crate) fn ended(&self, mut delivery: Delivery, settled: Settled) -> Option<Delivery> {
        let sequence = delivery.receipt.held_as?;
        let mut state = self.lock();
        match settled {
            Settled::Kept(_) if state.gate == Gate::Ended => {
                state.lines.left(sequence);
                return Some(delivery);
            }
            Settled::Kept(wait) => {
                // As if the broker had given it again: the failed runs are read, and waits grow.
                delivery.receipt.delivered += 1;
                state.lines.again(sequence, delivery, (Instant::now(), wait), now_ms());
                self.times_changed.notify_one();
            }
            // Nothing is parked where order is kept; if it were, it would be done here.
            Settled::Finished | Settled::DeadLettered { .. } | Settled::Parked(_) => {
                if let Some(key) = state.lines.left(sequence) {
                    self.pass(&mut state, &key);
                }
            }
            Settled::PutBack(_) | Settled::LeftToBroker => {
                state.lines.left(sequence);
                self.close_gate(&mut state);
            }
        }
        None
    }

    /// Releases nothing any more, and gives what waits, to be put back.
    pub(crate) fn end(&self) -> Vec<Delivery> {
        let mut state = self.lock();
        state.gate = Gate::Ended;
        state.lines.take_waiting()
    }

    /// Wakes those whose wait is over, asks the broker where a delivery may be missing, and sees to it that this host
    /// stays the active one. Goes on until it is dropped.
    pub(crate) async fn keep(&self, lane: &Lane) {
        tokio::join!(self.wake(lane), self.find_missing(lane), self.stay_active(lane));
    }

    async fn wake(&self, lane: &Lane) {
        loop {
            let next = {
                let mut state = self.lock();
                self.pass_all(&mut state);
                lane.record.order.show(state.lines.blocked(), state.lines.waiting());
                let refresh = Instant::now() + REFRESH_INTERVAL;
                state.lines.next_time(Instant::now()).map_or(refresh, |next| next.min(refresh))
            };
            tokio::select! {
                biased;
                () = self.times_changed.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn find_missing(&self, lane: &Lane) {
        loop {
            let gate = self.lock().gate;
            let Gate::Closed(since) = gate else {
                self.gate_changed.notified().await;
                continue;
            };
            sleep((since.elapsed() / 4).clamp(QUESTION_WAIT_MIN, QUESTION_WAIT_MAX)).await;
            if !lane.settle.is_active() {
                continue;
            }
            let asked = Instant::now();
            match lane.settle.unsettled().await {
                Ok(unsettled) => self.counted(lane, asked, unsettled),
                Err(why) => debug!(plugin = %lane.binding.plugin, %why, "the broker does not count"),
            }
        }
    }

    /// The broker counted so many unsettled deliveries at some time after this one.
    fn counted(&self, lane: &Lane, asked: Instant, unsettled: usize) {
        let mut state = self.lock();
        let Gate::Closed(since) = state.gate else { return };
        // What runs may have been settled before the broker counted, or not: it proves nothing.
        if state.lines.running() > 0 || state.lines.waiting_since(asked) < unsettled {
            return;
        }
        state.gate = Gate::Open;
        self.pass_all(&mut state);
        drop(state);
        lane.record.order.gate_opened();
        info!(
            plugin = %lane.binding.plugin, unsettled, held_ms = since.elapsed().as_millis() as u64,
            "every unsettled event is here; going on in order"
        );
    }

    async fn stay_active(&self, lane: &Lane) {
        loop {
            lane.settle.stay_active().await;
            if !lane.settle.is_active() {
                self.give_up(lane);
            }
            sleep(ACTIVE_INTERVAL).await;
        }
    }

    /// Another host is the active one, or will be: forgets what waits, without a word to the broker, which gives it there.
    fn give_up(&self, lane: &Lane) {
        let waiting = {
            let mut state = self.lock();
            let waiting = state.lines.take_waiting();
            if waiting.is_empty() {
                return;
            }
            self.close_gate(&mut state);
            waiting
        };
        warn!(plugin = %lane.binding.plugin, events = waiting.len(), "this host is not the active one any more; its events are left to the next");
        for delivery in waiting {
            lane.leases.release(&delivery.receipt);
        }
        self.times_changed.notify_one();
    }

    fn key(&self, sequence: u64, delivery: &Delivery) -> Key {
        match (&self.ordering, &delivery.content) {
            (_, Content::Malformed(_)) => Key::Alone(sequence),
            (Ordering::PerKey { key, .. }, Content::Message(message)) => {
                match key.key_of(&message.subject, &message.headers, &message.payload) {
                    Ok(key) => Key::Of(key.into()),
                    Err(_) => Key::Alone(sequence),
                }
            }
            (Ordering::Strict { .. } | Ordering::Unordered, _) => Key::All,
        }
    }

    fn close_gate(&self, state: &mut State) {
        if state.gate == Gate::Open {
            state.gate = Gate::Closed(Instant::now());
        }
        self.gate_changed.notify_one();
    }

    /// Releases the first of this key, if it may go.
    fn pass(&self, state: &mut State, key: &Key) {
        if let Some(passing) = state.gate.passing()
            && let Some(delivery) = state.lines.pass(key, passing, Instant::now())
        {
            self.release(state, delivery);
        }
    }

    /// Releases the first of each key that may go.
    fn pass_all(&self, state: &mut State) {
        let Some(passing) = state.gate.passing() else { return };
        for delivery in state.lines.pass_all(passing, Instant::now()) {
            self.release(state, delivery);
        }
    }

    fn release(&self, state: &mut State, delivery: Delivery) {
        let sequence = delivery.receipt.held_as.unwrap_or_default();
        if let Err(unsent) = self.released.try_send(delivery) {
            // More than there is room for: it keeps its place and goes a little later.
            state.lines.again(sequence, unsent.into_inner(), (Instant::now(), REFRESH_INTERVAL), now_ms());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a whole one, so a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
