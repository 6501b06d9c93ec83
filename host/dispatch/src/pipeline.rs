//! The path of one event. Every branch meets in an outcome, every outcome in a verdict, every verdict in `settle`.

use crate::{admit, decode, dedup, invoke, lane::Lane, record, release, settle, slots::Slot};
use busway_core::{AttemptRecord, Delivery, LogLine, Outcome, Refusal, Used, Verdict, dead_letter};

/// Walks one delivery from its arrival to its settlement.
pub(crate) async fn process(lane: &Lane, delivery: &Delivery, slot: Slot) {
    let clock = record::received(lane);
    let history = history(lane, delivery).await;
    let outcome = match &history {
        Ok(history) => attempt(lane, delivery, history).await,
        Err(refusal) => Outcome::Refused(refusal.clone()),
    };
    let history = history.unwrap_or_default();
    let verdict = verdict(lane, delivery, &history, &outcome);
    let settled = settle::apply(lane, delivery, history, &outcome, verdict).await;
    drop(slot);
    record::settled(lane, &delivery.receipt, clock, &outcome, verdict, settled);
}

/// The failed runs so far. An event that the broker gives for the first time has none, so nothing is asked for it; one
/// that came back from a long wait or from the dead letters may have.
async fn history(lane: &Lane, delivery: &Delivery) -> Result<AttemptRecord, Refusal> {
    if delivery.receipt.delivered <= 1 && delivery.receipt.returned.is_none() {
        return Ok(AttemptRecord::default());
    }
    let attempts = lane.settle.attempts(&delivery.receipt).await;
    attempts.map_err(|why| Refusal::BrokerTrouble(format!("the attempts so far could not be read: {why}")))
}

/// One attempt: decode, admit, claim the key, invoke, release.
async fn attempt(lane: &Lane, delivery: &Delivery, history: &AttemptRecord) -> Outcome {
    if let Some(run) = history.final_run() {
        return Outcome::Failed(dead_letter::failure_of(run));
    }
    let event = match decode::event(delivery) {
        Ok(event) => event,
        Err(failure) => return Outcome::Failed(failure),
    };
    if let Err(failure) = admit::in_time(lane, &delivery.receipt) {
        return Outcome::Failed(failure);
    }
    let admitted = match admit::check(lane, &delivery.receipt, event) {
        Ok(admitted) => admitted,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    if let Err(outcome) = dedup::claim(lane, delivery).await {
        return outcome;
    }
    let report = invoke::call(lane, &admitted, history.next()).await;
    let outcome = release::outputs(lane, &admitted, &delivery.receipt, history.next(), report.ran).await;
    with_evidence(outcome, report.logs, report.used)
}

/// What a failed attempt logged and used belongs to its evidence.
fn with_evidence(outcome: Outcome, mut logs: Vec<LogLine>, used: Used) -> Outcome {
    let Outcome::Failed(mut failure) = outcome else { return outcome };
    failure.evidence.logs = logs.split_off(logs.len().saturating_sub(dead_letter::LOGS_MAX));
    failure.evidence.used = used;
    Outcome::Failed(failure)
}

/// The policy's verdict; an event whose last run was recorded as its final one has had its verdict already.
fn verdict(lane: &Lane, delivery: &Delivery, history: &AttemptRecord, outcome: &Outcome) -> Verdict {
    if let Some(run) = history.final_run() {
        return Verdict::DeadLetter(run.class);
    }
    lane.binding.retry.verdict(outcome, history, &delivery.receipt)
}
