//! Step 5: what the handler published goes out, now that it returned ok.
//!
//! All outputs are stored before the outcome is `Done`; the acknowledgement of the input comes after that, in `settle`.
//! Each has an id made of the event, the plugin and its place, so a repeated release stores nothing twice within the
//! stream's duplicate window. What the broker refuses for good is the attempt's failure; what it does not take now is
//! nobody's.

use crate::{admit::Admitted, decode::HOPS_MAX, lane::Lane};
use busway_core::{
    Attempt, Failure, FailureClass, Outcome, Output, Ran, Receipt, Refusal,
    dead_letter::{EVENT_ID, HOPS},
    port::{Outgoing, PublishError},
    trace,
};
use futures_util::future::join_all;

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
    if outputs.is_empty() {
        return Outcome::Done { outputs: 0 };
    }
    let trace = trace::traceparent(&event.headers, &event.id, lane.binding.plugin.as_str(), attempt.0);
    let messages: Vec<_> = outputs
        .iter()
        .enumerate()
        .map(|(index, output)| outgoing(lane, event, index, output, &trace))
        .collect();
    // Sent in order on one connection, awaited together.
    let answers = join_all(messages.iter().map(|message| lane.publish.publish(message))).await;
    let refused =
        answers.into_iter().zip(&messages).find_map(|(answer, message)| Some((answer.err()?, message)));
    match refused {
        None => Outcome::Done { outputs: messages.len() },
        Some((why, message)) => not_released(why, &message.subject),
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
