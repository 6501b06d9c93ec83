//! What time it is for people and for records: milliseconds since the Unix epoch. Waits are measured by the runtime's own
//! clock; where the two must not drift apart, as under a paused one, this is taken from that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Where the time is taken from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// The runtime's clock, which showed this many milliseconds since the Unix epoch at this moment.
    Runtime {
        /// The moment.
        at: Instant,
        /// What it showed.
        showed_ms: u64,
    },
    /// One that shows these milliseconds since the Unix epoch until somebody sets it: it may stand still and jump.
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
            }
            Self::Runtime { at, showed_ms } => showed_ms.saturating_add(at.elapsed().as_millis() as u64),
            Self::Set(shown) => shown.load(Ordering::Relaxed),
        }
    }
}
