//! Steps 5 and 7, the part that nobody confirms: messages that are sent at most once, the answer to a request, and what a
//! requester is told whose request became a dead letter.
//!
//! What is sent here is sent after everything durable is stored, in the order in which the handler spoke, and the answer
//! last: a requester that has its answer may rely on what it caused. What can't be sent is counted and not tried again,
//! and the event does not fail by it: a second attempt would send the others twice.

use crate::{
    decode::{self, HOPS_MAX},
    lane::Lane,
    record,
};
use busway_core::{
    Delivery, Event, EventId, Failure, Headers, Receipt, Reply, ReplySubject,
    dead_letter::{EVENT_ID, HOPS},
    port::{Content, Outgoing, PublishError},
    reply, trace,
};

/// Adds the host's own headers to what an event causes.
pub(crate) fn push_cause(headers: &mut Headers, trace: &str, hops: u32, id: &EventId) {
    headers.push(trace::TRACEPARENT, trace);
    headers.push(HOPS, &hops.saturating_add(1).min(HOPS_MAX + 1).to_string());
    headers.push(EVENT_ID, id.as_str());
}

/// Sends what a plugin published at most once, in its order.
pub(crate) async fn core_outputs(lane: &Lane, receipt: &Receipt, messages: &[Outgoing]) {
    for message in messages {
        if let Err(why) = lane.publish.send(message).await {
            record::output_not_sent(lane, receipt, &message.subject, &why);
        }
    }
}

/// Sends a plugin's answer. Where it can't be sent as it is, the requester is told so.
pub(crate) async fn answer(lane: &Lane, event: &Event, receipt: &Receipt, trace: &str, answer: Reply) {
    let Some(to) = &receipt.reply_to else { return };
    let sent = send(lane, to, answer, |headers| push_cause(headers, trace, event.hops, &event.id)).await;
    let Err(why) = sent else { return };
    record::answer_not_sent(lane, receipt, &why);
    if matches!(why, PublishError::TooLarge(_) | PublishError::Refused(_)) {
        let instead = reply::error(500, "the answer could not be sent");
        // Nobody is left to be told when this one can't be sent either; the first loss is counted.
        drop(send(lane, to, instead, |headers| push_cause(headers, trace, event.hops, &event.id)).await);
    }
}

/// Tells a requester that its request failed for good, so that it need not wait until its patience ends.
pub(crate) async fn failure(lane: &Lane, delivery: &Delivery, failure: &Failure, failed_runs: u32) {
    let receipt = &delivery.receipt;
    let Some(to) = &receipt.reply_to else { return };
    let none = Headers::new();
    let came = match &delivery.content {
        Content::Message(message) => &message.headers,
        Content::Malformed(_) => &none,
    };
    let trace = trace::traceparent(came, &receipt.event_id, lane.binding.plugin.as_str(), failed_runs);
    let hops = decode::hops(came);
    let cause = |headers: &mut Headers| push_cause(headers, &trace, hops, &receipt.event_id);
    if let Err(why) = send(lane, to, reply::of_failure(failure), cause).await {
        record::answer_not_sent(lane, receipt, &why);
    }
}

async fn send(
    lane: &Lane,
    to: &ReplySubject,
    reply: Reply,
    cause: impl FnOnce(&mut Headers),
) -> Result<(), PublishError> {
    let Reply { mut headers, payload } = reply;
    cause(&mut headers);
    let message = Outgoing { subject: to.to_string(), headers, payload, message_id: String::new() };
    lane.publish.send(&message).await
}
