//! Step 7: what happened, once, as a log line, a metric and an entry of the history.
//!
//! Labels are bounded sets: plugin, verdict, class. Subjects, ids and payloads never become labels, and payloads are
//! never logged. Handles are looked up once per binding, not per event.

use crate::{
    gate_metrics::GateMetrics,
    history::{self, History},
    lane::Lane,
    order::{OrderGauges, OrderMetrics},
    settle::Settled,
};
use busway_core::{
    Attempt, AttemptRecord, Binding, Delivery, Failure, FailureClass, HistoryEntry, Outcome, Receipt,
    Refusal, Used, Verdict,
    key::KeyError,
    port::{ParkError, PublishError, Released, SettleError},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::time::Duration;
use tokio::{sync::mpsc, time::Instant};
use tracing::{Level, debug, enabled, error, info, warn};

type HistogramFamily = Family<PluginLabels, Histogram, fn() -> Histogram>;

const BATCH: &str = "batch";
const SINGLE: &str = "single";
const CORE: &str = "core";

/// The metrics of the path. Made once, from the registry that the admin listener prints.
#[derive(Clone)]
pub struct Recorder {
    received: Family<PluginLabels, Counter>,
    settled: Family<VerdictLabels, Counter>,
    failures: Family<ClassLabels, Counter>,
    refusals: Family<ClassLabels, Counter>,
    outputs: Family<HowLabels, Counter>,
    duplicates: Family<PluginLabels, Counter>,
    without_key: Family<PluginLabels, Counter>,
    copies: Family<ReasonLabels, Counter>,
    history_dropped: Family<DroppedLabels, Counter>,
    trouble: Family<ReasonLabels, Counter>,
    held: Family<PluginLabels, Gauge>,
    duration: HistogramFamily,
    gates: GateMetrics,
    order: OrderMetrics,
}

/// The label of everything that is counted for each plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PluginLabels {
    pub plugin: String,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    plugin: String,
    verdict: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    plugin: String,
    class: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    plugin: String,
    reason: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HowLabels {
    plugin: String,
    how: &'static str,
}

/// A binding's handles.
pub(crate) struct LaneRecorder {
    received: Counter,
    acknowledged: Counter,
    retried: Counter,
    parked: Counter,
    dead_lettered: Counter,
    put_back: Counter,
    given_back: Counter,
    left_to_broker: Counter,
    failures: [Counter; FailureClass::ALL.len()],
    refusals: Family<ClassLabels, Counter>,
    outputs_in_batches: Counter,
    outputs_singly: Counter,
    outputs_core: Counter,
    duplicates: Counter,
    without_key: Counter,
    copies_held: Counter,
    copies_done: Counter,
    copies_passed_on: Counter,
    not_recorded: Counter,
    key_not_released: Counter,
    not_parked: Counter,
    dead_letter_refused: Counter,
    output_not_sent: Counter,
    answer_not_sent: Counter,
    host_faults: Counter,
    held: Gauge,
    duration: Histogram,
    /// Who is held up; nothing where events are in no order.
    pub(crate) order: OrderGauges,
    plugin: String,
}

impl Recorder {
    /// Registers the path's metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let this = Self {
            received: Family::default(),
            settled: Family::default(),
            failures: Family::default(),
            refusals: Family::default(),
            outputs: Family::default(),
            duplicates: Family::default(),
            without_key: Family::default(),
            copies: Family::default(),
            history_dropped: Family::default(),
            trouble: Family::default(),
            held: Family::default(),
            duration: Family::new_with_constructor(duration_histogram),
            gates: GateMetrics::new(registry),
            order: OrderMetrics::default(),
        };
        this.order.register(registry);
        registry.register(
            "busway_events_received",
            "Deliveries that began their path",
            this.received.clone(),
        );
        registry.register(
            "busway_events_settled",
            "Deliveries by what was done with them",
            this.settled.clone(),
        );
        registry.register("busway_attempts_failed", "Failed attempts by class", this.failures.clone());
        registry.register(
            "busway_attempts_refused",
            "Attempts that were put back uncounted",
            this.refusals.clone(),
        );
        registry.register(
            "busway_outputs_released",
            "Messages that plugins published: in an atomic batch, singly, or to whoever listens",
            this.outputs.clone(),
        );
        registry.register(
            "busway_duplicates_dropped",
            "Events that were not run because another event has the same key",
            this.duplicates.clone(),
        );
        registry.register(
            "busway_events_without_key",
            "Events that were run although no key was found in them",
            this.without_key.clone(),
        );
        registry.register(
            "busway_copies_dropped",
            "Redelivered copies that were not run",
            this.copies.clone(),
        );
        registry.register(
            "busway_history_dropped",
            "Attempts that `busway explain` will not know of",
            this.history_dropped.clone(),
        );
        registry.register("busway_host_trouble", "What the host could not do", this.trouble.clone());
        registry.register("busway_events_held", "Deliveries held and not settled", this.held.clone());
        registry.register(
            "busway_event_duration_seconds",
            "From the start of an event's path to its settlement",
            this.duration.clone(),
        );
        this
    }

    /// The account of a host's attempts, and what is to be written down of it.
    pub fn history(&self) -> (History, mpsc::Receiver<HistoryEntry>) {
        History::channel(self.dropped("queue-full"))
    }

    /// Counts entries that were taken from the account and could not be written down.
    pub fn history_not_stored(&self) -> impl Fn(u64) + Send + Sync + 'static {
        let counter = self.dropped("not-stored");
        move |entries| {
            counter.inc_by(entries);
        }
    }

    fn dropped(&self, reason: &'static str) -> Counter {
        self.history_dropped.get_or_create_owned(&DroppedLabels { reason })
    }

    /// Those of breakers and pauses.
    pub(crate) fn gates(&self) -> &GateMetrics {
        &self.gates
    }

    pub(crate) fn lane(&self, binding: &Binding) -> LaneRecorder {
        let plugin = binding.plugin.as_str().to_owned();
        let by_plugin = PluginLabels { plugin: plugin.clone() };
        let settled =
            |verdict| self.settled.get_or_create_owned(&VerdictLabels { plugin: plugin.clone(), verdict });
        let failed = |class: FailureClass| {
            self.failures.get_or_create_owned(&ClassLabels { plugin: plugin.clone(), class: class.code() })
        };
        let copies =
            |reason| self.copies.get_or_create_owned(&ReasonLabels { plugin: plugin.clone(), reason });
        let trouble =
            |reason| self.trouble.get_or_create_owned(&ReasonLabels { plugin: plugin.clone(), reason });
        let outputs = |how| self.outputs.get_or_create_owned(&HowLabels { plugin: plugin.clone(), how });
        LaneRecorder {
            received: self.received.get_or_create_owned(&by_plugin),
            acknowledged: settled("ack"),
            retried: settled("retry"),
            parked: settled("parked"),
            dead_lettered: settled("dead-letter"),
            put_back: settled("put-back"),
            given_back: settled("given-back"),
            left_to_broker: settled("left-to-broker"),
            failures: FailureClass::ALL.map(failed),
            refusals: self.refusals.clone(),
            outputs_in_batches: outputs(BATCH),
            outputs_singly: outputs(SINGLE),
            outputs_core: outputs(CORE),
            duplicates: self.duplicates.get_or_create_owned(&by_plugin),
            without_key: self.without_key.get_or_create_owned(&by_plugin),
            copies_held: copies("held"),
            copies_done: copies("done"),
            copies_passed_on: copies("passed-on"),
            not_recorded: trouble("attempt-not-recorded"),
            key_not_released: trouble("key-not-released"),
            not_parked: trouble("not-parked"),
            dead_letter_refused: trouble("dead-letter-refused"),
            output_not_sent: trouble("output-not-sent"),
            answer_not_sent: trouble("answer-not-sent"),
            host_faults: trouble("host-fault"),
            held: self.held.get_or_create_owned(&by_plugin),
            duration: self.duration.get_or_create_owned(&by_plugin),
            order: self.order.lane(&plugin, &binding.ordering),
            plugin,
        }
    }
}

fn duration_histogram() -> Histogram {
    // 50 us to about 13 s, doubling.
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_05, 2.0, 18))
}

impl LaneRecorder {
    pub(crate) fn held(&self, held: usize) {
        self.held.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    pub(crate) fn copy_dropped(&self) {
        self.copies_held.inc();
    }

    pub(crate) fn acknowledged_again(&self) {
        self.copies_done.inc();
    }

    pub(crate) fn host_fault(&self) {
        self.host_faults.inc();
    }

    fn released(&self, released: &Released, core: usize) {
        let stored = if released.atomic { &self.outputs_in_batches } else { &self.outputs_singly };
        stored.inc_by(released.stored.len() as u64);
        self.outputs_core.inc_by(core as u64);
    }

    fn failed(&self, class: FailureClass) {
        if let Some(counter) =
            FailureClass::ALL.iter().position(|known| *known == class).and_then(|at| self.failures.get(at))
        {
            counter.inc();
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        let labels = ClassLabels { plugin: self.plugin.clone(), class: refusal.code() };
        self.refusals.get_or_create(&labels).inc();
    }
}

/// How the stored outputs of an event were released.
fn how(released: &Released) -> &'static str {
    match released {
        Released { stored, .. } if stored.is_empty() => "none",
        Released { atomic: true, .. } => BATCH,
        Released { atomic: false, .. } => SINGLE,
    }
}

/// The moment at which an event's path began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// An event began its path.
pub(crate) fn received(lane: &Lane) -> Clock {
    lane.record.received.inc();
    Clock(Instant::now())
}

/// How an event's path ended.
pub(crate) struct Ended<'a> {
    pub took: Duration,
    pub attempt: Attempt,
    /// None where the handler was not called.
    pub used: Option<Used>,
    pub outcome: &'a Outcome,
    pub verdict: Verdict,
    pub settled: Settled,
}

/// An event ended its path.
pub(crate) fn settled(lane: &Lane, delivery: &Delivery, ended: &Ended<'_>) {
    let Ended { took, outcome, verdict, settled, .. } = *ended;
    let record = &lane.record;
    record.duration.observe(took.as_secs_f64());
    record.held(lane.leases.held());
    match (settled, verdict) {
        (Settled::LeftToBroker, _) => record.left_to_broker.inc(),
        (Settled::Finished, _) => record.acknowledged.inc(),
        (Settled::DeadLettered { .. }, _) => record.dead_lettered.inc(),
        (Settled::Parked(_), _) => record.parked.inc(),
        (Settled::PutBack(_) | Settled::Kept(_), Verdict::Retry { .. }) => record.retried.inc(),
        (Settled::PutBack(_) | Settled::Kept(_), _) => record.put_back.inc(),
    };
    let plugin = &lane.binding.plugin;
    let id = &delivery.receipt.event_id;
    match outcome {
        Outcome::Done { released, core } => {
            record.released(released, *core);
            if enabled!(Level::DEBUG) {
                let (outputs, how) = (released.stored.len() + core, how(released));
                debug!(%plugin, %id, outputs, how, elapsed_ms = took.as_millis() as u64, "handled");
            }
        }
        Outcome::Duplicate { of } => {
            record.duplicates.inc();
            debug!(%plugin, %id, %of, "not run: the other event has the same key");
        }
        Outcome::Failed(failure) => {
            record.failed(failure.class);
            if let Settled::PutBack(after) | Settled::Kept(after) | Settled::Parked(after) = settled {
                let Failure { class, code, reason, .. } = failure;
                info!(%plugin, %id, %class, code, reason, after_ms = after.as_millis() as u64, "attempt failed, will be tried again");
            }
        }
        Outcome::Refused(refusal) => {
            record.refused(refusal);
            // Told once, by whoever paused it.
            if !matches!(refusal, Refusal::Paused(_)) {
                info!(%plugin, %id, refusal = refusal.code(), why = ?refusal, "not counted as an attempt");
            }
        }
    }
    history::settled(lane, delivery, ended);
}

/// An event was given up that had not begun its path, or, at the end of the host, not finished it.
pub(crate) fn given_back(lane: &Lane) {
    lane.record.given_back.inc();
}

/// A dead letter is stored.
pub(crate) fn dead_lettered(lane: &Lane, receipt: &Receipt, failure: &Failure, history: &AttemptRecord) {
    let Failure { class, code, reason, .. } = failure;
    let plugin = &lane.binding.plugin;
    warn!(%plugin, id = %receipt.event_id, attempts = history.failed_runs(), %class, code, reason, "dead-lettered");
}

/// A dead letter could not be stored; its event stays.
pub(crate) fn dead_letter_refused(lane: &Lane, receipt: &Receipt, why: &PublishError) {
    lane.record.dead_letter_refused.inc();
    error!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "the dead letter was not stored; the event stays in its stream");
}

/// A message that is sent at most once could not be sent, and will not be.
pub(crate) fn output_not_sent(lane: &Lane, receipt: &Receipt, subject: &str, why: &PublishError) {
    lane.record.output_not_sent.inc();
    warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, subject, %why, "an output that is sent at most once was not sent");
}

/// An answer could not be sent: its requester waits until its own patience ends.
pub(crate) fn answer_not_sent(lane: &Lane, receipt: &Receipt, why: &PublishError) {
    lane.record.answer_not_sent.inc();
    warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "an answer was not sent");
}

/// An event whose repetitions can't be recognised is run.
pub(crate) fn without_key(lane: &Lane, receipt: &Receipt, why: &KeyError) {
    lane.record.without_key.inc();
    debug!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "has no key, so a repetition will not be recognised");
}

/// The dead letter is stored and the key is still the event's; the event comes again until it is not.
pub(crate) fn key_not_released(lane: &Lane, receipt: &Receipt, why: &SettleError) {
    lane.record.key_not_released.inc();
    warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "the key of a dead event could not be given up yet");
}

/// A message was settled without a run, because a later copy of it is the event by now.
pub(crate) fn passed_on(lane: &Lane, delivery: &Delivery, settled: Settled) {
    lane.record.copies_passed_on.inc();
    lane.record.held(lane.leases.held());
    debug!(plugin = %lane.binding.plugin, id = %delivery.receipt.event_id, ?settled, "not run: a later copy is the event");
}

/// A copy could not be stored; the event waits in its consumer.
pub(crate) fn not_parked(lane: &Lane, receipt: &Receipt, why: &ParkError) {
    lane.record.not_parked.inc();
    debug!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "not parked; the event waits in its consumer");
}

/// A failed run could not be recorded; the event is put back as if it had not run.
pub(crate) fn not_recorded(lane: &Lane, receipt: &Receipt, why: &SettleError) {
    lane.record.not_recorded.inc();
    warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "the failed run was not recorded and will not count");
}

/// The broker did not confirm.
pub(crate) fn left_to_broker(lane: &Lane, receipt: &Receipt, why: &SettleError) {
    warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "not settled; the broker will give the event again");
}
