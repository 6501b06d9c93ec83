//! Step 3: may this event run here and now? What is refused here is put back and does not count as an attempt; only an
//! event that is too old ends here.

use crate::lane::Lane;
use busway_core::{
    Delivery, Event, Failure, FailureClass, Receipt, Refusal, again::TO_VERSION, port::Content,
};
use std::{ops::Deref, time::Duration};

/// An event that may run. Only [`check`] makes one.
#[derive(Debug)]
pub(crate) struct Admitted(Event);

/// An event that is older than the policy lets it become is not run, unless somebody redrove it. The age is the broker's clock against this host's.
///
/// # Errors
/// Class `expired`.
pub(crate) fn in_time(lane: &Lane, receipt: &Receipt) -> Result<(), Failure> {
    if receipt.round() > 0 {
        return Ok(());
    }
    let (Some(age_max), Some(published_at_ms)) = (lane.binding.retry.age_max, receipt.published_at_ms) else {
        return Ok(());
    };
    let age = Duration::from_millis(lane.host.clock.now_ms().saturating_sub(published_at_ms));
    if age <= age_max {
        return Ok(());
    }
    let reason = format!("{} s old, more than the {} s that it may become", age.as_secs(), age_max.as_secs());
    Err(Failure::new(FailureClass::Expired, "age", reason))
}

/// Whether a redriven event was meant for the version of the plugin that this host has. Only our own copies say so.
///
/// # Errors
/// [`Refusal::OtherVersion`].
pub(crate) fn meant_for(lane: &Lane, delivery: &Delivery) -> Result<(), Refusal> {
    let (Content::Message(message), Some(_)) = (&delivery.content, delivery.receipt.returned) else {
        return Ok(());
    };
    match message.headers.get(TO_VERSION) {
        Some(wanted) if !lane.digest.to_string().trim_start_matches("sha256:").starts_with(wanted) => {
            let own = lane.version();
            Err(Refusal::OtherVersion(format!("redriven for version {wanted}, and this host has {own}")))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// [`Refusal::Draining`] when the host is shutting down, [`Refusal::LeaseLost`] when the event has waited here for so long
/// that another host may have it.
pub(crate) fn check(lane: &Lane, receipt: &Receipt, event: Event) -> Result<Admitted, Refusal> {
    if lane.host.draining.is_cancelled() {
        return Err(Refusal::Draining);
    }
    if !lane.holds(receipt) {
        return Err(Refusal::LeaseLost);
    }
    Ok(Admitted(event))
}

impl Deref for Admitted {
    type Target = Event;
    fn deref(&self) -> &Event {
        &self.0
    }
}
