//! The time of day. `SystemTime::now()` and `Instant::now()` of the standard library panic in a plugin, because the
//! WebAssembly target has no system under it; this asks the host.

use std::time::SystemTime;

use crate::host;

/// The host's wall clock.
pub fn now() -> SystemTime {
    host::now()
}
