//! Step 4: one call of the handler, with a deadline around it.
//!
//! The sandbox keeps the deadline itself and can tell more about how it ended; the one here is a little later and holds
//! whatever the handler does.

use crate::{admit::Admitted, lane::Lane};
use busway_core::{Attempt, Failure, FailureClass, Ran, Report, Used};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, debug_span};

/// How much later than the limit the outer deadline is.
const GRACE: Duration = Duration::from_millis(250);

/// Runs one attempt.
pub(crate) async fn call(lane: &Lane, event: &Admitted, attempt: Attempt) -> Report {
    let limit = lane.binding.limits.timeout;
    let started = Instant::now();
    let span = debug_span!("event", plugin = %lane.binding.plugin, id = %event.id, attempt = attempt.0);
    let call = lane.handler.call(event, attempt).instrument(span);
    match timeout(limit + GRACE, call).await {
        Ok(report) => report,
        Err(_) => Report {
            ran: Ran::Failed(Failure::new(
                FailureClass::Timeout,
                "wall-clock",
                format!("not done within {} ms", limit.as_millis()),
            )),
            used: Used { wall: started.elapsed(), ..Used::default() },
            logs: Vec::new(),
        },
    }
}
