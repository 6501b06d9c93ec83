//! Stored messages that the client library can't receive, and how they are got out of the way.
//!
//! The library drops its connection over such a message, again and again: after each reconnect the broker gives it once
//! more. So when the pulls' connection breaks while the broker is well, what was delivered and not acknowledged is read
//! through JetStream's own requests on another connection (JSON, nothing can break there) and held against the library's
//! rules. What fails them becomes a [`Content::Malformed`] delivery. Pulling goes on when it is settled: until then the
//! broker would give it again.

use super::{
    api::{self, ApiError, Raw, Wanted},
    connect::Line,
    consumer::Spec,
    delivery::{AckSubject, Origin},
    wire,
};
use async_nats::jetstream::consumer::Info;
use busway_core::{
    Delivery, Receipt,
    port::{Content, Malformed},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tracing::warn;

/// Messages that one search reads at most. A consumer has at most about a thousand unacknowledged ones, but between them
/// may lie many that were acknowledged.
const READS_MAX: usize = 20_000;

/// Malformed messages that were given out; shared by a source, which waits for them, and its settle, which ends them.
#[derive(Debug, Default)]
pub(super) struct GivenOut {
    /// Whether `state.open` has any; asked for every event, and nearly always false.
    any_open: AtomicBool,
    state: Mutex<State>,
    settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By sequence, until when we wait for a word about it.
    open: BTreeMap<u64, Instant>,
    /// Terminated: still in the stream, and not to be found again.
    done: BTreeSet<u64>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It will not come again.
    Final,
    /// It will.
    PutBack,
}

impl GivenOut {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what became of a delivery, if it is one of these.
    pub(super) fn ended(&self, receipt: &Receipt, end: End) {
        let Some(held_as) = receipt.held_as else { return };
        if !self.is_any_open() {
            return;
        }
        let mut state = self.state();
        if state.open.remove(&held_as).is_some() {
            if end == End::Final {
                state.done.insert(held_as);
            }
            self.any_open.store(!state.open.is_empty(), Ordering::Release);
            drop(state);
            self.settled.notify_waiters();
        }
    }

    /// Notes that somebody still works on a delivery, if it is one of these.
    pub(super) fn progressed(&self, receipt: &Receipt, patience: Duration) {
        let Some(held_as) = receipt.held_as else { return };
        if !self.is_any_open() {
            return;
        }
        if let Some(until) = self.state().open.get_mut(&held_as) {
            *until = Instant::now() + patience;
        }
    }

    /// Returns when none is open any more: each was settled, or nobody said a word about it for as long as the broker
    /// waits. Cancel safe.
    pub(super) async fn all_ended(&self) {
        loop {
            let settled = self.settled.notified();
            let Some(last) = self.state().open.values().max().copied() else { return };
            if tokio::time::timeout_at(last, settled).await.is_err() {
                let mut state = self.state();
                state.open.retain(|_, until| *until > Instant::now());
                self.any_open.store(!state.open.is_empty(), Ordering::Release);
            }
        }
    }

    /// Whether one is open.
    pub(super) fn is_any_open(&self) -> bool {
        self.any_open.load(Ordering::Acquire)
    }

    /// Notes what was found and is given out now.
    fn give_out(&self, found: &[Delivery], patience: Duration) {
        let until = Instant::now() + patience;
        let sequences = found.iter().filter_map(|delivery| delivery.receipt.held_as);
        let mut state = self.state();
        state.open = sequences.map(|sequence| (sequence, until)).collect();
        self.any_open.store(!state.open.is_empty(), Ordering::Release);
    }
}

/// Looks for messages that can't be received among those that were delivered and not acknowledged.
pub(super) async fn search(
    line: &Line,
    spec: &Spec,
    origin: &Origin,
    given_out: &GivenOut,
) -> Result<Vec<Delivery>, ApiError> {
    let Some(info) = spec.info(line).await? else { return Ok(Vec::new()) };
    let (from, to) = (info.ack_floor.stream_sequence + 1, info.delivered.stream_sequence);
    given_out.state().done.retain(|sequence| *sequence >= from);
    let mut found = Vec::new();
    let mut reads = 0;
    for filter in &spec.filters {
        let mut next = from;
        while next <= to {
            if reads == READS_MAX {
                warn!(consumer = %spec.durable, from, to, "too much to search for a malformed message; searched a part");
                break;
            }
            reads += 1;
            let Some(raw) = api::stored(line, &spec.stream, Wanted::next(next, filter.as_str())).await?
            else {
                break;
            };
            if raw.sequence > to {
                break;
            }
            next = raw.sequence + 1;
            let Err(why) = check(&raw) else { continue };
            if !given_out.state().done.contains(&raw.sequence) {
                warn!(stream = %spec.stream, sequence = raw.sequence, %why, "a stored message can't be received");
                found.push(delivery(origin, &info, raw, why));
            }
        }
    }
    given_out.give_out(&found, spec.ack_wait);
    Ok(found)
}

fn check(raw: &Raw) -> Result<(), String> {
    wire::check_subject(&raw.subject, !raw.header_block.is_empty())?;
    if raw.header_block.is_empty() { Ok(()) } else { wire::parse(&raw.header_block).map(drop) }
}

fn delivery(origin: &Origin, info: &Info, raw: Raw, why: String) -> Delivery {
    let Raw { subject, sequence, header_block, payload, stored_at_ns } = raw;
    let token = AckSubject::compose(origin, sequence, info.delivered.consumer_sequence, stored_at_ns);
    let receipt = origin.receipt(sequence, 1, stored_at_ns);
    let content = Content::Malformed(Malformed { subject, header_block, payload, why });
    Delivery { content, receipt: Receipt { token, ..receipt } }
}
