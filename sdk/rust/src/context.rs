//! The event in hand, as the host knows it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::host;

/// Where a durable event is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The stream's name.
    pub stream: String,
    /// The event's number in the stream.
    pub sequence: u64,
}

/// 1 on the first attempt. Only failed runs count: restarts of the host and redeliveries do not.
pub fn attempt() -> u32 {
    host::attempt()
}

/// Wall-clock time left before the host ends this attempt.
pub fn remaining() -> Duration {
    Duration::from_millis(host::remaining_ms())
}

/// When the broker stored the event; none for core NATS.
pub fn published_at() -> Option<SystemTime> {
    host::published_at_ms().map(|since_epoch| UNIX_EPOCH + Duration::from_millis(since_epoch))
}

/// Where the event is stored; none for core NATS.
pub fn stored_at() -> Option<Position> {
    host::stored_at()
}

/// Whether [`reply`](crate::reply) can be called for this event: somebody waits for an answer, and none was given yet.
pub fn can_reply() -> bool {
    host::can_reply()
}
