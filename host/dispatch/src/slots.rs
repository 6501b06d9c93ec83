//! Permits. A binding's own permits are its workers; on top of them the host has so many in all, so that many plugins
//! together do not run more sandboxes than the machine can bear. The narrow permit is taken before the wide one: a plugin
//! that is at its own limit never holds a permit that another one could use.
//!
//! An event that is suspected of having ended the host takes all of the host's permits, so that nothing runs beside it.

use crate::journal::Standing;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The host's permits.
#[derive(Debug, Clone)]
pub struct HostSlots {
    permits: Arc<Semaphore>,
    all: u32,
}

/// The right to run one attempt now, with nothing beside it where it holds every permit. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _host: Option<OwnedSemaphorePermit>,
}

impl HostSlots {
    /// So many permits; at least one.
    pub fn new(permits: u32) -> Self {
        let all = permits.max(1);
        Self { permits: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for a permit, or for all of them where the event is a suspect, in the order of asking. Cancel safe.
    pub(crate) async fn acquire(&self, standing: Standing) -> Slot {
        let permits = match standing {
            Standing::Suspect => self.all,
            Standing::Innocent | Standing::Convicted => 1,
        };
        // The semaphore is never closed, so there is always a permit to come; without one the attempt still runs within
        // its binding's own limit.
        Slot { _host: Arc::clone(&self.permits).acquire_many_owned(permits).await.ok() }
    }
}
