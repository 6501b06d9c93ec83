//! Step 5: what the handler published goes out, now that it returned ok.
//!
//! First what streams store, then what is sent at most once, then the answer to a request; the acknowledgement of the input
//! comes after that, in `settle`. All stored outputs are confirmed before anything is sent and before the outcome is `Done`.
//! Each has an id made of the event, the plugin and its place, so a repeated release stores nothing twice within the
//! stream's duplicate window. What the broker refuses for good is the attempt's failure; what it does not take now is
//! nobody's.

use crate::{admit::Admitted, lane::Lane, send};
use busway_core::{
    Attempt, Failure, FailureClass, Guarantee, Outcome, Output, Ran, Receipt, Refusal,
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
    if !lane.holds(receipt) {
        return Outcome::Refused(Refusal::LeaseLost);
    }
    let trace = trace::traceparent(&event.headers, &event.id, lane.binding.plugin.as_str(), attempt.0);
    let messages = outputs.messages.iter().enumerate();
    let (stored, core): (Vec<_>, Vec<_>) = messages
        .map(|(index, output)| (output.guarantee, outgoing(lane, event, index, output, &trace)))
        .partition(|(guarantee, _)| *guarantee == Guarantee::Stored);
    let stored: Vec<_> = stored.into_iter().map(|(_, message)| message).collect();
    let released = match stored.is_empty() {
        true => Ok(Released::default()),
        false => lane.publish.publish_all(&stored).await,
    };
    let released = match released {
        Ok(released) => released,
        Err(NotReleased { why, subject }) => return not_released(why, &subject),
    };
    let core: Vec<_> = core.into_iter().map(|(_, message)| message).collect();
    send::core_outputs(lane, receipt, &core).await;
    if let Some(reply) = outputs.reply {
        send::answer(lane, event, receipt, &trace, reply).await;
    }
    Outcome::Done { released, core: core.len() }
}

fn outgoing(lane: &Lane, event: &Admitted, index: usize, output: &Output, trace: &str) -> Outgoing {
    let mut headers = output.headers.clone();
    send::push_cause(&mut headers, trace, event.hops, &event.id);
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
