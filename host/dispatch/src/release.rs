//! Step 5: what the handler published goes out, now that it returned ok.
//!
//! All outputs are stored before the outcome is `Done`; the acknowledgement of the input comes after that, in `settle`.
//! Each has an id made of the event, the plugin and its place, so a repeated release stores nothing twice within the
//! stream's duplicate window. What the broker refuses for good is the attempt's failure; what it does not take now is
//! nobody's.

use crate::{admit::Admitted, decode::HOPS_MAX, lane::Lane};
use busway_core::{
    Attempt, Failure, FailureClass, Guarantee, Outcome, Output, Ran, Receipt, Refusal,
    dead_letter::{EVENT_ID, HOPS},
    port::{NotReleased, Outgoing, PublishError, Released},
    trace,
};

/// Turns what the sandbox answered into an outcome.
pub(crate) async fn outputs(
    lane: &Lane,
    event: &Admitted,
    receipt: &Receipt,
    attempt: Attempt,
    ran: Ran,
) -> Outcome {
    let outputs = match ran {
        Ran::Ok(outputs) => outputs,
        Ran::Failed(failure) => return Outcome::Failed(failure),
        Ran::Refused(refusal) => return Outcome::Refused(refusal),
    };
    if !lane.leases.is_valid(receipt) {
        return Outcome::Refused(Refusal::LeaseLost);
    }
    let trace = trace::traceparent(&event.headers, &event.id, lane.binding.plugin.as_str(), attempt.0);
    let messages = outputs.messages.iter().enumerate();
    let (stored, core): (Vec<_>, Vec<_>) = messages
        .map(|(index, output)| (output.guarantee, outgoing(lane, event, index, output, &trace)))
        .partition(|(guarantee, _)| *guarantee == Guarantee::Stored);
    let stored: Vec<_> = stored.into_iter().map(|(_, message)| message).collect();
    if stored.is_empty() {
        return Outcome::Done { released: Released::default(), core: core.len() };
    }
    match lane.publish.publish_all(&stored).await {
        Ok(released) => Outcome::Done { released, core: core.len() },
        Err(NotReleased { why, subject }) => not_released(why, &subject),
    }
}

fn outgoing(lane: &Lane, event: &Admitted, index: usize, output: &Output, trace: &str) -> Outgoing {
    let mut headers = output.headers.clone();
    headers.push(trace::TRACEPARENT, trace);
    headers.push(HOPS, &event.hops.saturating_add(1).min(HOPS_MAX + 1).to_string());
    headers.push(EVENT_ID, event.id.as_str());
    Outgoing {
        subject: output.subject.as_str().to_owned(),
        headers,
        payload: output.payload.clone(),
        message_id: event.id.output_id(lane.binding.plugin.as_str(), index),
    }
}

fn not_released(why: PublishError, subject: &str) -> Outcome {
    let unroutable = |code: &str| {
        let reason = format!("an output on {subject} was not stored: {why}");
        Outcome::Failed(Failure::new(FailureClass::Unroutable, code, reason))
    };
    match why {
        PublishError::NoStream => unroutable("no-stream"),
        PublishError::TooLarge(_) => unroutable("too-large"),
        PublishError::Refused(_) => unroutable("refused"),
        PublishError::NotNow(_) | PublishError::Unreachable(_) => {
            Outcome::Refused(Refusal::BrokerTrouble(format!("an output on {subject} was not stored: {why}")))
        }
    }
}
