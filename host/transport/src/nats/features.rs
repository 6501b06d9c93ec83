//! What a broker of some version can do beyond what every accepted one can. A version that can't be read counts as new:
//! it is most likely a build of the server's own developers, and a feature that is missing after all is refused by name.

use super::version::{ATOMIC_BATCHES, CONSUMER_PAUSE, MESSAGE_TTL, SCHEDULES, Version};
use serde::Serialize;

/// What a broker offers, by the version that it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Features {
    /// Messages that are stored now and given later (ADR-51). From 2.12.0.
    pub schedules: bool,
    /// Several messages stored all or none (ADR-50). From 2.12.1: the first release lost batches.
    pub atomic_batches: bool,
    /// Pausing a consumer until a time. From 2.11.0.
    pub consumer_pause: bool,
    /// A time to live for each message, and so for each key. From 2.11.0.
    pub message_ttl: bool,
}

impl Features {
    /// What this version offers.
    pub fn of(version: &str) -> Self {
        let version = Version::parse(version);
        Self {
            schedules: version >= SCHEDULES,
            atomic_batches: version >= ATOMIC_BATCHES,
            consumer_pause: version >= CONSUMER_PAUSE,
            message_ttl: version >= MESSAGE_TTL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_begins_with_its_release() {
        let table = [
            ("2.10.29", [false, false, false, false]),
            ("2.11.0", [false, false, true, true]),
            ("v2.12.0-RC.2", [true, false, true, true]),
            ("2.12.1", [true, true, true, true]),
            ("2.15.1", [true, true, true, true]),
            ("3.0", [true, true, true, true]),
            ("dev", [true, true, true, true]),
        ];
        for (version, expected) in table {
            let Features { schedules, atomic_batches, consumer_pause, message_ttl } = Features::of(version);
            assert_eq!([schedules, atomic_batches, consumer_pause, message_ttl], expected, "{version}");
        }
    }
}
