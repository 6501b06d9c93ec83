//! Stores the account of attempts.
//!
//! It is an account: storing it holds nothing up. At most [`IN_FLIGHT_MAX`] messages wait for the broker's word; while they
//! do, records wait in the queue, and what finds no room there is dropped by the one who tells. What the broker does not
//! take is counted and dropped too. A message has no id: one that is stored twice after a lost answer is one that a reader
//! sees once, and the broker's memory of ids is worth more elsewhere.

use super::{
    super::{
        connect::Line,
        publish::{Ack, Store},
    },
    batches::{BATCH_MAX, Batch, Batches},
};
use async_nats::HeaderMap;
use busway_core::HistoryEntry;
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};

/// Messages that wait for the broker's word.
const IN_FLIGHT_MAX: usize = 64;
/// How often a page is offered, each time as patiently as an output: a stream that loses its leader is back by then.
const ROUNDS: usize = 3;
/// Between two looks into the queue, unless it was full: waking up for every event would cost more than the rest.
const REST: Duration = Duration::from_millis(5);
/// Between two complaints.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Stores records as they come out of a queue.
pub struct HistoryWriter {
    line: Arc<Line>,
    control: Arc<Line>,
    not_stored: Box<dyn Fn(u64) + Send + Sync>,
    // Held by the one that writes, across its waits: nobody else needs it meanwhile.
    state: Mutex<State>,
}

struct State {
    entries: mpsc::Receiver<HistoryEntry>,
    /// When the queue is looked into again.
    rested: Instant,
    /// Empty between two looks into the queue.
    taken: Vec<HistoryEntry>,
    batches: Batches,
    in_flight: FuturesUnordered<BoxFuture<'static, Result<(), Lost>>>,
    complained: Option<Instant>,
}

/// Records that were not stored.
struct Lost {
    entries: u64,
    why: String,
}

impl HistoryWriter {
    pub(crate) fn new(
        line: Arc<Line>,
        control: Arc<Line>,
        entries: mpsc::Receiver<HistoryEntry>,
        not_stored: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            entries,
            rested: Instant::now(),
            taken: Vec::with_capacity(BATCH_MAX),
            batches: Batches::default(),
            in_flight: FuturesUnordered::new(),
            complained: None,
        };
        Self { line, control, not_stored: Box::new(not_stored), state: Mutex::new(state) }
    }

    /// Stores what comes out of the queue, until nobody can put anything in and everything is stored. Cancel safe: what was
    /// taken from the queue is kept for [`HistoryWriter::finish`].
    pub async fn run(&self) {
        let state = &mut *self.state.lock().await;
        loop {
            let due = state.batches.due();
            let has_room = state.in_flight.len() < IN_FLIGHT_MAX;
            tokio::select! {
                Some(stored) = state.in_flight.next() => self.told(stored, &mut state.complained),
                taken = look(&mut state.entries, &mut state.taken, state.rested), if has_room => {
                    if taken == 0 {
                        break;
                    }
                    state.rested = Instant::now() + if taken < BATCH_MAX { REST } else { Duration::ZERO };
                    let full = state.taken.drain(..).filter_map(|entry| state.batches.push(&entry));
                    self.send(full, &state.in_flight);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if has_room && due.is_some() => {
                    let due = state.batches.take_due(Instant::now());
                    self.send(due, &state.in_flight);
                }
            }
        }
        self.empty(state).await;
    }

    /// Stores what is left in the queue and in hand, for at most `patience`. To be called when no more attempts are made
    /// and [`HistoryWriter::run`] is over; does nothing where it is not.
    pub async fn finish(&self, patience: Duration) {
        let Ok(mut state) = self.state.try_lock() else { return };
        state.entries.close();
        if timeout(patience, self.empty(&mut state)).await.is_err() {
            warn!("the last records of the history were not stored in time");
        }
    }

    /// Stores everything, whether due or not.
    async fn empty(&self, state: &mut State) {
        while let Ok(entry) = state.entries.try_recv() {
            let batch = state.batches.push(&entry);
            self.send(batch, &state.in_flight);
        }
        self.send(state.batches.take_all(), &state.in_flight);
        while let Some(stored) = state.in_flight.next().await {
            self.told(stored, &mut state.complained);
        }
    }

    fn send(
        &self,
        batches: impl IntoIterator<Item = Batch>,
        in_flight: &FuturesUnordered<BoxFuture<'static, Result<(), Lost>>>,
    ) {
        for batch in batches {
            in_flight.push(Box::pin(store(Arc::clone(&self.line), Arc::clone(&self.control), batch)));
        }
    }

    fn told(&self, stored: Result<(), Lost>, complained: &mut Option<Instant>) {
        let Err(Lost { entries, why }) = stored else { return };
        (self.not_stored)(entries);
        if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            warn!(
                entries,
                why, "records of the history were not stored; `busway explain` will not know of them"
            );
        } else {
            debug!(entries, why, "records of the history were not stored");
        }
    }
}

/// Takes what is in the queue, at `rested` or later; waits where it is empty. Cancel safe.
async fn look(
    entries: &mut mpsc::Receiver<HistoryEntry>,
    taken: &mut Vec<HistoryEntry>,
    rested: Instant,
) -> usize {
    sleep_until(rested).await;
    entries.recv_many(taken, BATCH_MAX).await
}

async fn store(line: Arc<Line>, control: Arc<Line>, batch: Batch) -> Result<(), Lost> {
    let entries = batch.page.records() as u64;
    let lost = |why: String| Lost { entries, why };
    let bytes = batch.page.finish().map_err(|why| lost(why.to_string()))?;
    let store = Store { line: &line, control: &control };
    let bytes = Bytes::from(bytes);
    let mut ack = store.until_answered(&batch.subject, &HeaderMap::new(), bytes.clone()).await;
    for _ in 1..ROUNDS {
        // A page that was stored all the same is read once: its records are recognised.
        if !matches!(ack, Ack::NoAnswer(_)) {
            break;
        }
        ack = store.until_answered(&batch.subject, &HeaderMap::new(), bytes.clone()).await;
    }
    match ack {
        Ack::Stored(_) => Ok(()),
        Ack::NoStream => Err(lost("there is no stream for them".to_owned())),
        Ack::TooLarge(why) | Ack::NoAnswer(why) => Err(lost(why)),
        Ack::Refused(refusal) => Err(lost(refusal.description)),
    }
}
