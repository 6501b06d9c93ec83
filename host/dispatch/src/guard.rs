//! What a fault in the host's own code may cost: the thing at hand, never the task that does it.
//!
//! A task that ends takes a whole binding with it: no more events arrive, or no more progress is told, and nothing says
//! so. So each of the loops that live as long as the host does its work through here. Nothing that the path leaves behind
//! is shared half-changed: the leases are the only shared state, and every change of them is a whole one.

use crate::lane::Lane;
use futures_util::FutureExt as _;
use std::panic::AssertUnwindSafe;
use tracing::error;

/// Does something; none where it panicked, which is logged and counted. Cancel safe where the work is.
pub(crate) async fn survive<T>(lane: &Lane, what: &'static str, work: impl Future<Output = T>) -> Option<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await.ok();
    if done.is_none() {
        error!(plugin = %lane.binding.plugin, what, "a fault in the host");
        lane.record.host_fault();
    }
    done
}
