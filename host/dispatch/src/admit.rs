//! Step 3: may this event run here and now? What is refused here is put back and does not count as an attempt.

use crate::lane::Lane;
use busway_core::{Event, Receipt, Refusal};
use std::ops::Deref;

/// An event that may run. Only [`check`] makes one.
#[derive(Debug)]
pub(crate) struct Admitted(Event);

/// # Errors
/// [`Refusal::Draining`] when the host is shutting down, [`Refusal::LeaseLost`] when the event has waited here for so long
/// that another host may have it.
pub(crate) fn check(lane: &Lane, receipt: &Receipt, event: Event) -> Result<Admitted, Refusal> {
    if lane.host.draining.is_cancelled() {
        return Err(Refusal::Draining);
    }
    if !lane.leases.is_valid(receipt) {
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
