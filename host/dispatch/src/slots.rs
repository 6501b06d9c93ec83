//! Permits. A binding's own permits are its workers; on top of them the host has so many in all, so that many plugins
//! together do not run more sandboxes than the machine can bear. The narrow permit is taken before the wide one: a plugin
//! that is at its own limit never holds a permit that another one could use.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The host's permits.
#[derive(Debug, Clone)]
pub struct HostSlots(Arc<Semaphore>);

/// The right to run one attempt now. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _host: Option<OwnedSemaphorePermit>,
}

impl HostSlots {
    /// So many permits; at least one.
    pub fn new(permits: u32) -> Self {
        Self(Arc::new(Semaphore::new(permits.max(1) as usize)))
    }

    /// Waits for a permit, in the order of asking. Cancel safe.
    pub(crate) async fn acquire(&self) -> Slot {
        // The semaphore is never closed, so there is always a permit to come; without one the attempt still runs within
        // its binding's own limit.
        Slot { _host: Arc::clone(&self.0).acquire_owned().await.ok() }
    }
}
