//! Step 7: what happened, once, as a log line and a metric.
//!
//! Labels are bounded sets: plugin, verdict, class. Subjects, ids and payloads never become labels, and payloads are
//! never logged. Handles are looked up once per binding, not per event.

use crate::{lane::Lane, settle::Settled};
use busway_core::{
    AttemptRecord, Binding, Failure, FailureClass, Outcome, Receipt, Refusal, Verdict,
    key::KeyError,
    port::{PublishError, Released, SettleError},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;
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
    trouble: Family<ReasonLabels, Counter>,
    held: Family<PluginLabels, Gauge>,
    duration: HistogramFamily,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
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
struct HowLabels {
    plugin: String,
    how: &'static str,
}

/// A binding's handles.
pub(crate) struct LaneRecorder {
    received: Counter,
    acknowledged: Counter,
    retried: Counter,
    dead_lettered: Counter,
    put_back: Counter,
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
    not_recorded: Counter,
    key_not_released: Counter,
    dead_letter_refused: Counter,
    host_faults: Counter,
    held: Gauge,
    duration: Histogram,
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
            trouble: Family::default(),
            held: Family::default(),
            duration: Family::new_with_constructor(duration_histogram),
        };
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
        registry.register("busway_host_trouble", "What the host could not do", this.trouble.clone());
        registry.register("busway_events_held", "Deliveries held and not settled", this.held.clone());
        registry.register(
            "busway_event_duration_seconds",
            "From the start of an event's path to its settlement",
            this.duration.clone(),
        );
        this
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
            dead_lettered: settled("dead-letter"),
            put_back: settled("put-back"),
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
            not_recorded: trouble("attempt-not-recorded"),
            key_not_released: trouble("key-not-released"),
            dead_letter_refused: trouble("dead-letter-refused"),
            host_faults: trouble("host-fault"),
            held: self.held.get_or_create_owned(&by_plugin),
            duration: self.duration.get_or_create_owned(&by_plugin),
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

    fn refused(&self, refusal: &Refusal) {
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

/// An event began its path.
pub(crate) fn received(lane: &Lane) -> Clock {
    lane.record.received.inc();
    Clock(Instant::now())
}

/// An event ended its path.
pub(crate) fn settled(
    lane: &Lane,
    receipt: &Receipt,
    clock: Clock,
    outcome: &Outcome,
    verdict: Verdict,
    settled: Settled,
) {
    let elapsed = clock.0.elapsed();
    let record = &lane.record;
    record.duration.observe(elapsed.as_secs_f64());
    record.held(lane.leases.held());
    match (settled, verdict) {
        (Settled::LeftToBroker, _) => record.left_to_broker.inc(),
        (Settled::Finished, Verdict::Ack) => record.acknowledged.inc(),
        (Settled::Finished, _) => record.dead_lettered.inc(),
        (Settled::PutBack(_), Verdict::Retry { .. }) => record.retried.inc(),
        (Settled::PutBack(_), _) => record.put_back.inc(),
    };
    let plugin = &lane.binding.plugin;
    let id = &receipt.event_id;
    match outcome {
        Outcome::Done { released, core } => {
            record.released(released, *core);
            if enabled!(Level::DEBUG) {
                let (outputs, how) = (released.stored.len() + core, how(released));
                debug!(%plugin, %id, outputs, how, elapsed_ms = elapsed.as_millis() as u64, "handled");
            }
        }
        Outcome::Duplicate { of } => {
            record.duplicates.inc();
            debug!(%plugin, %id, %of, "not run: the other event has the same key");
        }
        Outcome::Failed(failure) => {
            record.failed(failure.class);
            if let Settled::PutBack(after) = settled {
                let Failure { class, code, reason, .. } = failure;
                info!(%plugin, %id, %class, code, reason, after_ms = after.as_millis() as u64, "attempt failed, will be tried again");
            }
        }
        Outcome::Refused(refusal) => {
            record.refused(refusal);
            info!(%plugin, %id, refusal = refusal.code(), why = ?refusal, "not counted as an attempt");
        }
    }
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

/// A failed run could not be recorded; the event is put back as if it had not run.
pub(crate) fn not_recorded(lane: &Lane, receipt: &Receipt, why: &SettleError) {
    lane.record.not_recorded.inc();
    warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "the failed run was not recorded and will not count");
}

/// The broker did not confirm.
pub(crate) fn left_to_broker(lane: &Lane, receipt: &Receipt, why: &SettleError) {
    warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, %why, "not settled; the broker will give the event again");
}
