//! Step 6: the only place that settles.
//!
//! The order is what keeps the promise that nothing is lost. A failed run is recorded before its event is put back, so
//! that no crash makes it forgotten. A dead letter is stored before its event is terminated, so that no crash makes it
//! missing. The key of a dead event is given up before the event is terminated, so that no crash keeps its correction out.
//! Whatever the broker does not confirm is left to be given again.

use crate::{clock::Clock, dedup, lane::Lane, park, record, send};
use busway_core::{
    AttemptRecord, DeadLetter, Delivery, FailedRun, Failure, Outcome, Receipt, Verdict,
    dead_letter::Writer,
    outcome::clean,
    port::{Content, SettleError},
    trace,
    verdict::DEAD_LETTER_REFUSED_WAIT,
};
use std::time::Duration;

/// How long an event is put back that a draining host had not begun.
pub(crate) const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);
/// How long an event is put back when its failed run could not be recorded.
const NOT_RECORDED_WAIT: Duration = Duration::from_secs(5);

/// How long an event is put back whose dead letter is stored and whose key could not be given up.
const KEY_NOT_RELEASED_WAIT: Duration = Duration::from_secs(5);

/// What was done with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Acknowledged.
    Finished,
    /// Terminated after its dead letter was stored.
    DeadLettered {
        /// The letter's sequence in its stream.
        letter: u64,
    },
    /// A copy comes back after a wait; this message is acknowledged.
    Parked(Duration),
    /// Put back with a wait.
    PutBack(Duration),
    /// It stays here, its lease kept, and runs again after this wait: put back, it would be overtaken.
    Kept(Duration),
    /// The broker did not confirm; it will give the event again by itself.
    LeftToBroker,
}

/// Carries a verdict out.
pub(crate) async fn apply(
    lane: &Lane,
    delivery: &Delivery,
    history: AttemptRecord,
    outcome: &Outcome,
    verdict: Verdict,
) -> Settled {
    let receipt = &delivery.receipt;
    match (verdict, outcome) {
        (Verdict::Ack, _) => finish(lane, receipt, lane.settle.ack(receipt).await),
        (Verdict::Retry { after }, Outcome::Failed(failure)) => {
            retry(lane, delivery, history, failure, after).await
        }
        (Verdict::DeadLetter(_), Outcome::Failed(failure)) => {
            dead_letter(lane, delivery, history, failure).await
        }
        (Verdict::PutBack { after }, _) => wait(lane, receipt, after).await,
        (Verdict::Leave, _) => {
            lane.leases.release(receipt);
            Settled::LeftToBroker
        }
        // No policy says these: only a failed attempt is retried or dead-lettered. Nothing is lost if one ever does.
        (Verdict::Retry { .. } | Verdict::DeadLetter(_), _) => wait(lane, receipt, SHUTDOWN_WAIT).await,
    }
}

/// Lets an event wait for its next run: at the broker, or here where those behind it must not pass. A host that drains
/// has no next run.
pub(crate) async fn wait(lane: &Lane, receipt: &Receipt, after: Duration) -> Settled {
    if lane.binding.ordering.is_ordered() && !lane.host.draining.is_cancelled() {
        return Settled::Kept(after);
    }
    put_back(lane, receipt, after).await
}

/// Gives an event back to the broker. One whose lease is lost is left alone: another host may have it by now, and word of
/// this host's would take it from there.
pub(crate) async fn put_back(lane: &Lane, receipt: &Receipt, after: Duration) -> Settled {
    if !lane.holds(receipt) {
        lane.leases.release(receipt);
        return Settled::LeftToBroker;
    }
    let answer = lane.settle.put_back(receipt, after).await;
    lane.leases.release(receipt);
    match answer {
        Ok(()) => Settled::PutBack(after),
        Err(why) => left(lane, receipt, &why),
    }
}

async fn retry(
    lane: &Lane,
    delivery: &Delivery,
    mut history: AttemptRecord,
    failure: &Failure,
    after: Duration,
) -> Settled {
    let receipt = &delivery.receipt;
    let parked = park::is_long(lane, receipt, after);
    history.push(FailedRun { parked, ..failed_run(lane, failure, Some(after)) });
    match lane.settle.record_attempts(receipt, &history).await {
        Ok(()) if parked => park::park(lane, delivery, history, after).await,
        Ok(()) => wait(lane, receipt, after).await,
        Err(why) => {
            record::not_recorded(lane, receipt, &why);
            wait(lane, receipt, NOT_RECORDED_WAIT).await
        }
    }
}

async fn dead_letter(
    lane: &Lane,
    delivery: &Delivery,
    mut history: AttemptRecord,
    failure: &Failure,
) -> Settled {
    let receipt = &delivery.receipt;
    if history.final_run().is_none() {
        history.push(failed_run(lane, failure, None));
        if let Err(why) = lane.settle.record_attempts(receipt, &history).await {
            record::not_recorded(lane, receipt, &why);
            return wait(lane, receipt, NOT_RECORDED_WAIT).await;
        }
    }
    let letter = compose(lane, delivery, failure, &history);
    let stored = match lane.publish.dead_letter(&letter).await {
        Ok(stored) => stored,
        Err(why) => {
            record::dead_letter_refused(lane, receipt, &why);
            lane.gate.letter_refused();
            return wait(lane, receipt, DEAD_LETTER_REFUSED_WAIT).await;
        }
    };
    lane.gate.letter_stored();
    record::dead_lettered(lane, receipt, failure, &history);
    if let Err(why) = dedup::release(lane, delivery).await {
        record::key_not_released(lane, receipt, &why);
        return wait(lane, receipt, KEY_NOT_RELEASED_WAIT).await;
    }
    send::failure(lane, delivery, failure, history.failed_runs()).await;
    let reason = format!("dead-lettered:{}", failure.class);
    match finish(lane, receipt, lane.settle.terminate(receipt, &reason).await) {
        Settled::Finished => Settled::DeadLettered { letter: stored.sequence },
        other => other,
    }
}

fn compose(lane: &Lane, delivery: &Delivery, failure: &Failure, history: &AttemptRecord) -> DeadLetter {
    let plugin = &lane.binding.plugin;
    let behind = lane.binding.ordering.behind();
    let writer = Writer {
        plugin,
        digest: &lane.digest,
        host: &lane.host.name,
        behind,
        now_ms: lane.host.clock.now_ms(),
    };
    let none = Default::default();
    let headers = match &delivery.content {
        Content::Message(message) => &message.headers,
        Content::Malformed(_) => &none,
    };
    let trace =
        trace::traceparent(headers, &delivery.receipt.event_id, plugin.as_str(), history.failed_runs());
    DeadLetter::compose(&writer, delivery, failure, history, &trace)
}

fn failed_run(lane: &Lane, failure: &Failure, wait: Option<Duration>) -> FailedRun {
    FailedRun {
        at_ms: lane.host.clock.now_ms(),
        class: failure.class,
        code: failure.code.clone(),
        reason: clean(&failure.reason, 256),
        wait,
        parked: false,
        host: lane.host.name.clone(),
        version: lane.version(),
        ran: failure.evidence.used.wall,
        fingerprint: failure.fingerprint(),
    }
}

pub(crate) fn finish(lane: &Lane, receipt: &Receipt, answer: Result<(), SettleError>) -> Settled {
    match answer {
        // A message or consumer that is gone can't be given again either.
        Ok(()) | Err(SettleError::Gone) => {
            lane.leases.done(receipt);
            Settled::Finished
        }
        Err(why) => {
            lane.leases.release(receipt);
            left(lane, receipt, &why)
        }
    }
}

fn left(lane: &Lane, receipt: &Receipt, why: &SettleError) -> Settled {
    record::left_to_broker(lane, receipt, why);
    Settled::LeftToBroker
}

/// Milliseconds since the Unix epoch, for what people are shown.
pub(crate) fn now_ms() -> u64 {
    Clock::System.now_ms()
}
