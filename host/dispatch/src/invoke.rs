//! Step 4: one call of the handler, with a deadline around it.
//!
//! The sandbox keeps the deadline itself and can tell more about how it ended; the one here is a little later and holds
//! whatever the handler does. A handler whose event is not this host's any more is cancelled: nothing that it does now could
//! be published, and another host may be running the same event.

use crate::{admit::Admitted, lane::Lane};
use busway_core::{Attempt, Failure, FailureClass, Ran, Receipt, Refusal, Report, Used};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument as _, debug_span};

/// How much later than the limit the outer deadline is.
const GRACE: Duration = Duration::from_millis(250);
/// How often it is looked whether the event is still this host's.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Runs one attempt.
pub(crate) async fn call(lane: &Lane, receipt: &Receipt, event: &Admitted, attempt: Attempt) -> Report {
    let limit = lane.binding.limits.timeout;
    let started = Instant::now();
    let span = debug_span!("event", plugin = %lane.binding.plugin, id = %event.id, attempt = attempt.0);
    let call = lane.handler.call(event, attempt).instrument(span);
    let ran = tokio::select! {
        biased;
        answer = timeout(limit + GRACE, call) => match answer {
            Ok(report) => return report,
            Err(_) => Ran::Failed(Failure::new(
                FailureClass::Timeout,
                "wall-clock",
                format!("not done within {} ms", limit.as_millis()),
            )),
        },
        () = lost(lane, receipt) => Ran::Refused(Refusal::LeaseLost),
    };
    Report { ran, used: Used { wall: started.elapsed(), ..Used::default() }, logs: Vec::new() }
}

/// Returns when the event is not this host's any more.
async fn lost(lane: &Lane, receipt: &Receipt) {
    loop {
        sleep(LOOK_INTERVAL).await;
        if !lane.holds(receipt) {
            return;
        }
    }
}
