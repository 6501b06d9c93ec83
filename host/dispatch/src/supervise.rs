//! The only place that spawns. What is spawned has a name, an owner and an end.
//!
//! Two runtimes: workers run guests on one, everything that must answer in time (the broker's connections, progress,
//! health) runs on the other, so that a guest that uses a whole core delays no acknowledgement.
//!
//! Shutting down has two acts. First intake stops and what runs may finish; at the deadline what still runs is dropped
//! and given back to the broker, and the caller is told how many that were.

use crate::{lane::Lane, record, settle};
use busway_core::Receipt;
use futures_util::future::join_all;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

/// How long given-back events may take to reach the broker at the end of a shutdown.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Owner of everything that runs.
#[derive(Debug, Clone)]
pub struct Supervisor {
    control: Handle,
    guest: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// How a shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything that ran has finished.
    Clean,
    /// So many events were still running at the deadline; they were given back to the broker.
    Abandoned(usize),
}

impl Supervisor {
    /// Spawns on these runtimes; they may be the same one.
    pub fn new(control: Handle, guest: Handle) -> Self {
        Self { control, guest, tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Runs something that must answer in time.
    pub fn control(&self, name: String, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(self.until_stopped(name, work), &self.control);
    }

    /// Runs something that calls guests.
    pub(crate) fn guest(&self, name: String, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(self.until_stopped(name, work), &self.guest);
    }

    fn until_stopped(
        &self,
        name: String,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let stop = self.stop.clone();
        async move {
            match stop.run_until_cancelled(work).await {
                Some(()) => debug!(name, "ended"),
                None => debug!(name, "stopped"),
            }
        }
    }

    /// Ends the lanes: stops their intake, waits for what runs, at most `patience`, then gives back what is left. Not
    /// cancel safe; call it once. All lanes share one host.
    pub async fn drain(&self, lanes: &[Arc<Lane>], patience: Duration) -> Drained {
        for lane in lanes {
            lane.host.draining.cancel();
        }
        let all_settled = async {
            for lane in lanes {
                lane.intake_ended.cancelled().await;
                lane.leases.emptied().await;
            }
        };
        let finished = timeout(patience, all_settled).await;
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        if finished.is_ok() {
            return Drained::Clean;
        }
        let abandoned = lanes.iter().map(|lane| lane.unsettled()).sum();
        for lane in lanes {
            warn!(plugin = %lane.binding.plugin, events = lane.unsettled(), "still running at the deadline; given back to the broker");
            let held = lane.leases.all();
            join_all(held.iter().map(|receipt| give_back(lane, receipt))).await;
        }
        Drained::Abandoned(abandoned)
    }
}

/// Gives an event back that was cut off. The broker gives one again by itself that it does not hear of in time.
async fn give_back(lane: &Lane, receipt: &Receipt) {
    let put_back = settle::put_back(lane, receipt, settle::SHUTDOWN_WAIT);
    if timeout(GIVE_BACK_TIMEOUT, put_back).await.is_err() {
        warn!(plugin = %lane.binding.plugin, id = %receipt.event_id, "the broker did not take it back in time; it will give the event again by itself");
    }
    record::given_back(lane);
}
