//! The path of one event. Every branch meets in an outcome, every outcome in a verdict, every verdict in `settle`.

use crate::{
    admit, decode, dedup, invoke,
    journal::{self, Standing},
    lane::Lane,
    park,
    record::{self, Ended},
    release,
    settle::{self, Settled},
    slots::Slot,
};
use busway_core::{AttemptRecord, Delivery, LogLine, Outcome, Ran, Refusal, Used, Verdict, dead_letter};

/// Walks one delivery from its arrival to its settlement, and says what that was.
pub(crate) async fn process(lane: &Lane, delivery: &Delivery, slot: Slot) -> Settled {
    let clock = record::received(lane);
    let history = history(lane, delivery).await;
    if let Ok(history) = &history
        && let Some(settled) = passed_on(lane, delivery, history).await
    {
        return settled;
    }
    let Attempted { outcome, used } = match &history {
        Ok(history) => attempt(lane, delivery, history).await,
        Err(refusal) => Attempted::without_a_run(Outcome::Refused(refusal.clone())),
    };
    let (history, outcome) = recorded_before(lane, delivery, history.unwrap_or_default(), outcome).await;
    let outcome = unless_lost(lane, delivery, outcome);
    if matches!(outcome, Outcome::Failed(_))
        && let Some(settled) = passed_on(lane, delivery, &history).await
    {
        return settled;
    }
    let attempt = history.current();
    let verdict = verdict(lane, delivery, &history, &outcome);
    let settled = settle::apply(lane, delivery, history, &outcome, verdict).await;
    if matches!(settled, Settled::Finished | Settled::DeadLettered { .. }) {
        lane.forget(&delivery.receipt);
    }
    drop(slot);
    let ended = Ended { took: clock.elapsed(), attempt, used, outcome: &outcome, verdict, settled };
    record::settled(lane, delivery, &ended);
    settled
}

/// How this delivery was settled, if the event is a later copy's by now. Asked again after a failure, because only
/// then the record of what is given for the first time is known.
async fn passed_on(lane: &Lane, delivery: &Delivery, history: &AttemptRecord) -> Option<Settled> {
    let settled = park::passed_on(lane, delivery, history).await;
    if let Some(settled) = settled {
        record::passed_on(lane, delivery, settled);
    }
    settled
}

/// What came of an attempt.
struct Attempted {
    outcome: Outcome,
    /// None where the handler was not called.
    used: Option<Used>,
}

impl Attempted {
    fn without_a_run(outcome: Outcome) -> Self {
        Self { outcome, used: None }
    }
}

/// The failed runs so far. An event that the broker gives for the first time has none, so nothing is asked for it; one
/// that came back from a long wait or from the dead letters may have.
async fn history(lane: &Lane, delivery: &Delivery) -> Result<AttemptRecord, Refusal> {
    if is_first(lane, delivery) { Ok(AttemptRecord::default()) } else { recorded(lane, delivery).await }
}

fn is_first(lane: &Lane, delivery: &Delivery) -> bool {
    let receipt = &delivery.receipt;
    receipt.delivered <= 1 && receipt.returned.is_none() && !lane.leases.was_given_back(receipt)
}

async fn recorded(lane: &Lane, delivery: &Delivery) -> Result<AttemptRecord, Refusal> {
    let attempts = lane.settle.attempts(&delivery.receipt).await;
    attempts.map_err(|why| Refusal::BrokerTrouble(format!("the attempts so far could not be read: {why}")))
}

/// No record is written that was not read: a broker that lost its leader or was killed forgets how often it gave an
/// event, and the first delivery by its count may come after failed runs. Only failures pay for this.
async fn recorded_before(
    lane: &Lane,
    delivery: &Delivery,
    history: AttemptRecord,
    outcome: Outcome,
) -> (AttemptRecord, Outcome) {
    if !matches!(outcome, Outcome::Failed(_)) || !is_first(lane, delivery) {
        return (history, outcome);
    }
    match recorded(lane, delivery).await {
        Ok(history) => (history, outcome),
        Err(refusal) => (history, Outcome::Refused(refusal)),
    }
}

/// What did not end well after the broker may have given the event to another host is nothing at all: a record or a
/// put-back of this host would count against the other one's run, or take the event from it.
fn unless_lost(lane: &Lane, delivery: &Delivery, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(_) | Outcome::Refused(_) if !lane.holds(&delivery.receipt) => {
            Outcome::Refused(Refusal::LeaseLost)
        }
        outcome => outcome,
    }
}

/// One attempt: decode, admit, claim the key, invoke, release. What has been decided before is not run again: an event whose last run was
/// recorded as its final one, and one that ended the host twice.
async fn attempt(lane: &Lane, delivery: &Delivery, history: &AttemptRecord) -> Attempted {
    if let Some(run) = history.final_run() {
        return Attempted::without_a_run(Outcome::Failed(dead_letter::failure_of(run)));
    }
    if lane.standing(&delivery.receipt) == Standing::Convicted {
        return Attempted::without_a_run(Outcome::Failed(journal::host_crash()));
    }
    let event = match decode::event(delivery) {
        Ok(event) => event,
        Err(failure) => return Attempted::without_a_run(Outcome::Failed(failure)),
    };
    if let Err(failure) = decode::order_key(lane, delivery) {
        return Attempted::without_a_run(Outcome::Failed(failure));
    }
    if let Err(failure) = admit::in_time(lane, &delivery.receipt) {
        return Attempted::without_a_run(Outcome::Failed(failure));
    }
    let admitted =
        match admit::meant_for(lane, delivery).and_then(|()| admit::check(lane, &delivery.receipt, event)) {
            Ok(admitted) => admitted,
            Err(refusal) => return Attempted::without_a_run(Outcome::Refused(refusal)),
        };
    if let Err(outcome) = dedup::claim(lane, delivery).await {
        return Attempted::without_a_run(outcome);
    }
    let passed = match lane.pass() {
        Ok(passed) => passed,
        Err(refusal) => return Attempted::without_a_run(Outcome::Refused(refusal)),
    };
    let noted = lane.note(&delivery.receipt);
    let report = invoke::call(lane, &delivery.receipt, &admitted, history.next()).await;
    // A run that was given up proves nothing of a suspect.
    if let (Some(noted), Ran::Ok(_) | Ran::Failed(_)) = (noted, &report.ran) {
        noted.ended();
    }
    let outcome = release::outputs(lane, &admitted, &delivery.receipt, history.next(), report.ran).await;
    passed.ended(&outcome);
    Attempted { outcome: with_evidence(outcome, report.logs, report.used), used: Some(report.used) }
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
    let verdict = lane.binding.retry.verdict(outcome, history, &delivery.receipt);
    verdict.in_order(&lane.binding.ordering, outcome)
}
