//! Step 3a: was this input handled before, under another event's name?
//!
//! An event claims its key before it runs and keeps it while it is tried again and after it is done, until the claim
//! lapses. Another event with the same key is acknowledged without a run. An event whose claim is its own (the host died,
//! or an earlier attempt failed) runs again: a claim says who may run, not what has been done.
//!
//! An event that becomes a dead letter gives its key up, so that a corrected input is handled: after its dead letter is
//! stored and before it is terminated, because a key that was not given up would make the correction vanish as a duplicate.
//! What has no key can't be recognised, and is run.

use crate::{lane::Lane, record};
use busway_core::{
    Delivery, Outcome, Refusal,
    key::KeyError,
    port::{Content, KeyClaim, SettleError},
};

/// Claims the event's key.
///
/// # Errors
/// The outcome without a run: [`Outcome::Duplicate`] where another event has the key, [`Refusal::BrokerTrouble`] where
/// that can't be told.
pub(crate) async fn claim(lane: &Lane, delivery: &Delivery) -> Result<(), Outcome> {
    let Some(dedup) = &lane.binding.dedup else { return Ok(()) };
    let receipt = &delivery.receipt;
    let key = match key(lane, delivery) {
        Some(Ok(key)) => key,
        Some(Err(why)) => {
            record::without_key(lane, receipt, &why);
            return Ok(());
        }
        None => return Ok(()),
    };
    match lane.settle.claim_key(&key, dedup.ttl, &receipt.event_id).await {
        Ok(KeyClaim::Own) => Ok(()),
        Ok(KeyClaim::Taken(of)) => Err(Outcome::Duplicate { of }),
        Err(why) => Err(Outcome::Refused(Refusal::BrokerTrouble(format!(
            "whether the input is a repeated one could not be told: {why}"
        )))),
    }
}

/// Gives up the key of an event that has failed for good.
///
/// # Errors
/// The broker did not confirm; the event must not be settled before it does.
pub(crate) async fn release(lane: &Lane, delivery: &Delivery) -> Result<(), SettleError> {
    match key(lane, delivery) {
        Some(Ok(key)) => lane.settle.release_key(&key, &delivery.receipt.event_id).await,
        // Nothing was claimed.
        Some(Err(_)) | None => Ok(()),
    }
}

/// None where the binding does not look for one, or the message can't be read.
fn key(lane: &Lane, delivery: &Delivery) -> Option<Result<String, KeyError>> {
    let dedup = lane.binding.dedup.as_ref()?;
    match &delivery.content {
        Content::Message(message) => {
            Some(dedup.key.key_of(&message.subject, &message.headers, &message.payload))
        }
        Content::Malformed(_) => None,
    }
}
