//! What the account of attempts is told of each, once its event is settled.
//!
//! Telling never waits and never fails: entries go into a bounded queue, whose reader writes them down somewhere, and what
//! does not fit is counted and dropped. It comes after the settlement, so that an entry says what was done and not what
//! was meant; a crash between the two loses the entry and not the event.

use crate::{lane::Lane, record::Ended, settle::Settled};
use busway_core::{
    Delivery, HistoryEntry, Outcome, Refusal, Verdict,
    history::{Cause, Counts, Disposition, Waits},
    port::{Content, Released},
    trace,
};
use prometheus_client::metrics::counter::Counter;
use std::time::Duration;
use tokio::sync::mpsc;

/// Entries that wait to be written down.
const QUEUE_MAX: usize = 8_192;

/// Where a host's lanes tell of their attempts.
#[derive(Debug, Clone)]
pub struct History {
    queue: mpsc::Sender<HistoryEntry>,
    dropped: Counter,
}

impl History {
    /// The queue's two ends; entries that find no room are counted in `dropped`.
    pub(crate) fn channel(dropped: Counter) -> (Self, mpsc::Receiver<HistoryEntry>) {
        let (queue, entries) = mpsc::channel(QUEUE_MAX);
        (Self { queue, dropped }, entries)
    }

    fn tell(&self, entry: HistoryEntry) {
        if self.queue.try_send(entry).is_err() {
            self.dropped.inc();
        }
    }
}

/// An event ended its path.
pub(crate) fn settled(lane: &Lane, delivery: &Delivery, ended: &Ended<'_>) {
    let Some(history) = &lane.host.history else { return };
    let (released, sent, duplicate_of) = match ended.outcome {
        Outcome::Done { released, core } => (released.clone(), *core, None),
        Outcome::Duplicate { of } => (Released::default(), 0, Some(of.clone())),
        Outcome::Failed(_) | Outcome::Refused(_) => (Released::default(), 0, None),
    };
    history.tell(HistoryEntry {
        attempt: ended.attempt,
        used: ended.used,
        cause: cause(ended.outcome),
        outputs: released.stored,
        atomic: released.atomic,
        duplicate_of,
        sent: u32::try_from(sent).unwrap_or(u32::MAX),
        ..entry(lane, delivery, ended.took, disposition(ended.verdict, ended.settled))
    });
}

/// A fault of the host ended an event's path, and the event was put back.
pub(crate) fn host_fault(lane: &Lane, delivery: &Delivery, took: Duration, wait: Duration) {
    let Some(history) = &lane.host.history else { return };
    let fault = Outcome::Refused(Refusal::HostFault("a fault in the host, see its log".to_owned()));
    let entry = entry(lane, delivery, took, Disposition::PutBack { wait });
    history.tell(HistoryEntry { cause: cause(&fault), ..entry });
}

/// An entry of an attempt that left nothing.
fn entry(lane: &Lane, delivery: &Delivery, took: Duration, disposition: Disposition) -> HistoryEntry {
    let receipt = &delivery.receipt;
    HistoryEntry {
        event_id: receipt.event_id.clone(),
        position: receipt.position.clone(),
        subject: delivery.content.subject().to_owned(),
        trace_id: trace_id(&delivery.content),
        runner: lane.runner.clone(),
        attempt: busway_core::Attempt(0),
        round: receipt.round(),
        delivered: receipt.delivered,
        began_at_ms: lane
            .host
            .clock
            .now_ms()
            .saturating_sub(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        took,
        used: None,
        cause: None,
        disposition,
        outputs: Vec::new(),
        atomic: false,
        duplicate_of: None,
        sent: 0,
    }
}

fn trace_id(content: &Content) -> Option<String> {
    let Content::Message(message) = content else { return None };
    message.headers.get(trace::TRACEPARENT).and_then(trace::trace_id).map(str::to_owned)
}

fn disposition(verdict: Verdict, settled: Settled) -> Disposition {
    match (settled, verdict) {
        (Settled::Finished, _) => Disposition::Done,
        (Settled::DeadLettered { letter }, _) => Disposition::DeadLettered { letter },
        // After an attempt that could not be recorded the wait is another one, and so is the account.
        (Settled::PutBack(wait) | Settled::Kept(wait), Verdict::Retry { after }) if wait == after => {
            Disposition::Retried { wait, waits: Waits::InConsumer }
        }
        (Settled::Parked(wait), _) => Disposition::Retried { wait, waits: Waits::Parked },
        (Settled::PutBack(wait) | Settled::Kept(wait), _) => Disposition::PutBack { wait },
        (Settled::LeftToBroker, _) => Disposition::Left,
    }
}

fn cause(outcome: &Outcome) -> Option<Cause> {
    match outcome {
        Outcome::Done { .. } | Outcome::Duplicate { .. } => None,
        Outcome::Failed(failure) => Some(Cause {
            counts: Counts::Failed,
            class: failure.class.code().to_owned(),
            code: failure.code.clone(),
            reason: failure.reason.clone(),
        }),
        Outcome::Refused(refusal) => {
            let reason = match refusal {
                Refusal::Draining | Refusal::LeaseLost => "",
                Refusal::Paused(why)
                | Refusal::BrokerTrouble(why)
                | Refusal::NoSandbox(why)
                | Refusal::OtherVersion(why)
                | Refusal::HostFault(why) => why,
            };
            Some(Cause {
                counts: Counts::Refused,
                class: refusal.code().to_owned(),
                code: String::new(),
                reason: busway_core::outcome::clean(reason, 1024),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busway_core::{Attempt, EventId, history::Runner};
    use std::sync::Arc;

    #[test]
    fn a_full_queue_holds_nobody_up_and_what_it_drops_is_counted() {
        let dropped = Counter::default();
        let (history, mut told) = History::channel(dropped.clone());
        let runner = Runner {
            plugin: "p".parse().unwrap(),
            consumer: String::new(),
            version: String::new(),
            host: String::new(),
        };
        let entry = HistoryEntry {
            event_id: EventId::random([0; 32]),
            position: None,
            subject: "a".into(),
            trace_id: None,
            runner: Arc::new(runner),
            attempt: Attempt(1),
            round: 0,
            delivered: 1,
            began_at_ms: 0,
            took: Duration::ZERO,
            used: None,
            cause: None,
            disposition: Disposition::Done,
            outputs: Vec::new(),
            atomic: false,
            duplicate_of: None,
            sent: 0,
        };
        for _ in 0..QUEUE_MAX + 8 {
            history.tell(entry.clone());
        }
        assert_eq!(dropped.get(), 8);
        assert_eq!(std::iter::from_fn(|| told.try_recv().ok()).count(), QUEUE_MAX);
        drop(told);
        history.tell(entry);
        assert_eq!(dropped.get(), 9, "nobody reads any more");
    }
}
