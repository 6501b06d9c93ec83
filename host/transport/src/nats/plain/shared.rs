//! What a plain subscription's source, settle and pump share: the queue, the events in a worker's hands, the counters.

use super::{
    queue::{Entry, Queue},
    service::{Outcome, Service},
};
use crate::nats::{
    connect::Line,
    opening::{SourceCounters, SourceStatus},
    wire,
};
use async_nats::Client;
use busway_core::{
    AttemptRecord, Delivery, PluginName, Receipt, ReplySubject, SubjectFilter, outcome::clean, reply,
};
use futures_util::FutureExt as _;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::warn;

/// Everything about one binding on plain subjects.
#[derive(Debug)]
pub(in crate::nats) struct Shared {
    pub(super) name: String,
    pub(super) plugin: PluginName,
    pub(super) filters: Vec<SubjectFilter>,
    pub(super) group: Option<String>,
    pub(super) line: Arc<Line>,
    pub(super) inputs: Arc<Inputs>,
    pub(super) service: Arc<Service>,
    /// The service's number of this binding's first subscription.
    pub(super) first_endpoint: usize,
    pub(super) counters: Arc<SourceCounters>,
    pub(super) status: watch::Sender<SourceStatus>,
    // Guards plain data; never held across an await.
    pub(super) state: Mutex<State>,
    /// Something came, is due, or the source was closed. One waits: the source.
    pub(super) changed: Notify,
    /// The source was closed. One waits: the pump.
    pub(super) closing: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub queue: Queue,
    /// What a worker has, by the number in its receipt.
    held: HashMap<u64, Held>,
    pub closed: bool,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    since: Instant,
}

/// Why an event was shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// More came than the buffer holds.
    BufferFull,
    /// It failed, or could not be run, and there is no room to let it wait.
    NoRoomToWait,
    /// The host stops.
    Stopping,
}

/// What the plugins of this host listen to: an answer must not become somebody's event.
#[derive(Debug, Default)]
pub(in crate::nats) struct Inputs(Mutex<Vec<SubjectFilter>>);

impl Inputs {
    pub(in crate::nats) fn add(&self, filters: &[SubjectFilter]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(filters);
    }

    pub(super) fn capture(&self, subject: &str) -> bool {
        let filters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        filters.iter().any(|filter| filter.matches(subject))
    }
}

impl State {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, held: HashMap::new(), closed: false }
    }
}

impl Shared {
    /// Whether the broker has confirmed the subscription.
    pub(in crate::nats) fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    pub(in crate::nats) fn counters(&self) -> Arc<SourceCounters> {
        Arc::clone(&self.counters)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a whole one, so a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event that came.
    pub(super) fn came(&self, entry: Entry) {
        self.service.came(entry.endpoint);
        let shed = {
            let mut state = self.state();
            if state.closed { vec![entry] } else { state.queue.push(entry) }
        };
        self.changed.notify_one();
        self.shed(shed, Why::BufferFull);
    }

    /// A worker takes an event.
    pub(super) fn hand_out(&self, entry: Entry) -> Delivery {
        let delivery = entry.delivery.clone();
        if let Some(number) = delivery.receipt.held_as {
            self.state().held.insert(number, Held { entry, since: Instant::now() });
        }
        delivery
    }

    /// A worker is done with an event, for good or for now. None where it is not one that was handed out.
    pub(super) fn give_back(&self, receipt: &Receipt) -> Option<Entry> {
        let Held { entry, since } = self.state().held.remove(&receipt.held_as?)?;
        self.service.ran(entry.endpoint, since.elapsed());
        Some(entry)
    }

    pub(super) fn attempts(&self, receipt: &Receipt) -> Option<AttemptRecord> {
        Some(self.state().held.get(&receipt.held_as?)?.entry.attempts.clone())
    }

    /// Keeps the record of failed runs with the event.
    pub(super) fn record(&self, receipt: &Receipt, record: &AttemptRecord) -> Option<()> {
        let endpoint = {
            let mut state = self.state();
            let held = state.held.get_mut(&receipt.held_as?)?;
            held.entry.attempts.clone_from(record);
            held.entry.endpoint
        };
        if let Some(run) = record.runs.last() {
            let words = clean(&format!("{}: {}", run.class, run.reason), 256);
            self.service.failed(endpoint, Outcome::Failed(words));
        }
        Some(())
    }

    /// Ends the subscription; gives what waited.
    pub(super) fn close(&self) -> Vec<Entry> {
        let waiting = {
            let mut state = self.state();
            if state.closed {
                return Vec::new();
            }
            state.closed = true;
            state.queue.take_all()
        };
        self.changed.notify_one();
        self.closing.notify_one();
        let endpoints = self.first_endpoint..self.first_endpoint + self.filters.len();
        self.service.remove(endpoints);
        waiting
    }

    /// Counts events that nobody will handle, and tells those who wait for an answer.
    pub(super) fn shed(&self, entries: impl IntoIterator<Item = Entry>, why: Why) {
        let client = self.line.client();
        for entry in entries {
            if self.counters.shed.fetch_add(1, Ordering::Relaxed) == 0 {
                warn!(plugin = %self.plugin, subscription = self.name, ?why, "an event on a plain subject was shed; this is told once and counted always");
            }
            self.service.failed(entry.endpoint, Outcome::Shed);
            if let Some(to) = &entry.delivery.receipt.reply_to {
                refuse(&client, to, why);
            }
        }
    }

    /// The subject that an answer to a message may go to; one that may not be answered is counted.
    pub(super) fn reply_subject(&self, asked: &str) -> Option<ReplySubject> {
        let denied = match asked.parse::<ReplySubject>() {
            Ok(reply) if reply.is_inbox() || !self.inputs.capture(asked) => return Some(reply),
            Ok(_) => "it is what a plugin listens to".to_owned(),
            Err(why) => why.to_string(),
        };
        if self.counters.replies_denied.fetch_add(1, Ordering::Relaxed) == 0 {
            let asked = clean(asked, 128);
            warn!(plugin = %self.plugin, subscription = self.name, reply_subject = asked, why = denied, "somebody asks for an answer to a subject that may not be answered to; told once and counted always");
        }
        None
    }
}

/// An answer that nobody waits to see sent: where the connection has no room for it, the requester's patience has to do.
fn refuse(client: &Client, to: &ReplySubject, why: Why) {
    let words = match why {
        Why::BufferFull | Why::NoRoomToWait => "overloaded: the request was not handled",
        Why::Stopping => "stopping: the request was not handled",
    };
    let answer = reply::error(503, words);
    if let Ok(headers) = wire::to_library(&answer.headers) {
        let sending = client.publish_with_headers(to.as_str().to_owned(), headers, answer.payload);
        drop(sending.now_or_never());
    }
}
