//! Parking: a long wait is spent outside of the consumer, as a copy that comes back to this plugin alone.
//!
//! An event that waits in its consumer takes one of the places that the broker has for unacknowledged events; enough
//! events that wait for an hour would stop all others. So the copy is stored first, then the given message is
//! acknowledged. The order is the promise: the failed run is recorded as one that parks, the copy is stored, the message
//! is acknowledged, each confirmed before the next begins.
//!
//! A host that dies between these leaves a message that the broker gives again while the record says that a copy was made
//! of it. Such a message is never run: either the copy may be missing, then it is stored once more (the broker recognises
//! it), or it has come back already. Which message is the event, of several, is decided in
//! `busway_core::again::passed_on`; two hosts that see two of them come to the same answer.

use crate::{
    lane::Lane,
    record,
    settle::{self, Settled},
};
use busway_core::{
    AttemptRecord, Delivery, Receipt,
    again::{self, PassedOn},
    binding::{Ordering, Subscription},
    port::{ParkError, PublishError},
    retry::WAIT_MIN,
};
use std::time::Duration;

/// How long a message whose copy could not be stored on arrival is put back, at least.
const NOT_PARKED_WAIT: Duration = Duration::from_secs(5);

/// Whether a wait is to be spent outside of the consumer. What keeps an order waits where it is, and a plain subject has no
/// place to wait in.
pub(crate) fn is_long(lane: &Lane, receipt: &Receipt, after: Duration) -> bool {
    let binding = &lane.binding;
    after >= binding.park_after
        && binding.ordering == Ordering::Unordered
        && matches!(binding.subscription, Subscription::Stream { .. } | Subscription::Returned)
        // Another host may have the event by now, and will do the same.
        && lane.leases.is_valid(receipt)
}

/// Parks an event whose failed run is recorded as one that parks. Where that can't be, the event is put back, and the
/// record corrected.
pub(crate) async fn park(
    lane: &Lane,
    delivery: &Delivery,
    record: AttemptRecord,
    after: Duration,
) -> Settled {
    let receipt = &delivery.receipt;
    match lane.settle.park(delivery, record.failed_runs(), after).await {
        Ok(()) => acknowledge(lane, receipt, after).await,
        Err(why) if may_be_stored(&why) => ask_again(lane, receipt, &why).await,
        Err(why) => {
            record::not_parked(lane, receipt, &why);
            wait_in_consumer(lane, receipt, record, after).await
        }
    }
}

/// Where the event is a later copy's by now, settles this delivery without a run. None where it is the event itself.
pub(crate) async fn passed_on(lane: &Lane, delivery: &Delivery, record: &AttemptRecord) -> Option<Settled> {
    let receipt = &delivery.receipt;
    Some(match again::passed_on(receipt, record)? {
        PassedOn::Surely => acknowledge(lane, receipt, Duration::ZERO).await,
        PassedOn::Perhaps { failed_runs, run } => {
            // A clock that was set back since must not make the wait longer than it was.
            let (wait, now) = (run.wait.unwrap_or_default(), lane.host.clock.now_ms());
            let over = Duration::from_millis(now.saturating_sub(run.at_ms));
            let left = wait.saturating_sub(over).max(WAIT_MIN);
            match lane.settle.park(delivery, failed_runs, left).await {
                Ok(()) => acknowledge(lane, receipt, left).await,
                // The broker can't any more; the record has to say so, or this would never end.
                Err(ParkError::NotOffered) => wait_in_consumer(lane, receipt, record.clone(), left).await,
                Err(why) if may_be_stored(&why) => ask_again(lane, receipt, &why).await,
                Err(why) => {
                    record::not_parked(lane, receipt, &why);
                    settle::put_back(lane, receipt, left.max(NOT_PARKED_WAIT)).await
                }
            }
        }
    })
}

fn may_be_stored(why: &ParkError) -> bool {
    matches!(why, ParkError::NotStored(PublishError::Unreachable(_)))
}

/// Nobody knows whether there is a copy. The record goes on saying that there is, so the message is not run: were it run,
/// and the copy there after all, two messages would be the event. It is given again soon, while the broker still
/// recognises the copy, and parked then.
async fn ask_again(lane: &Lane, receipt: &Receipt, why: &ParkError) -> Settled {
    record::not_parked(lane, receipt, why);
    settle::put_back(lane, receipt, NOT_PARKED_WAIT).await
}

/// Puts an event back that could not be parked, and corrects its record. A record that could not be corrected has the
/// event parked when it is given again.
async fn wait_in_consumer(
    lane: &Lane,
    receipt: &Receipt,
    mut record: AttemptRecord,
    left: Duration,
) -> Settled {
    if let Some(run) = record.runs.last_mut() {
        run.parked = false;
    }
    if let Err(why) = lane.settle.record_attempts(receipt, &record).await {
        record::not_recorded(lane, receipt, &why);
    }
    settle::put_back(lane, receipt, left).await
}

async fn acknowledge(lane: &Lane, receipt: &Receipt, after: Duration) -> Settled {
    match settle::finish(lane, receipt, lane.settle.ack_confirmed(receipt).await) {
        Settled::Finished => Settled::Parked(after),
        other => other,
    }
}
