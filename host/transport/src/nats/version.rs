//! What a broker of a version can do. A version that can't be read (a build of somebody's own) is taken for a new one: what
//! it can't do it refuses, and every such refusal has an answer.

use super::connect::Line;

/// A broker's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u64, u64, u64);

/// Atomic batches whose messages have ids.
pub(super) const ATOMIC_BATCHES: Version = Version(2, 12, 1);
/// Messages that are stored now and given later.
pub(super) const SCHEDULES: Version = Version(2, 12, 0);
/// Pausing a consumer until a time.
pub(super) const CONSUMER_PAUSE: Version = Version(2, 11, 0);
/// A stay that a message brings along.
pub(super) const MESSAGE_TTL: Version = Version(2, 11, 0);

impl Version {
    /// The broker that this connection is with.
    pub(super) fn of(line: &Line) -> Self {
        Self::parse(&line.client().server_info().version)
    }

    pub(super) fn parse(text: &str) -> Self {
        let numbers = text.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) => Self(major, minor, numbers.next().flatten().unwrap_or(0)),
            _ => Self(u64::MAX, 0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_by_its_numbers() {
        for text in ["2.12.0", "2.11.9", "v2.9.25", "1.99.0"] {
            assert!(Version::parse(text) < ATOMIC_BATCHES, "{text}");
        }
        for text in ["2.12.1", "2.12.10-RC.1", "2.15.1", "v3.0.0", "dev"] {
            assert!(Version::parse(text) >= ATOMIC_BATCHES, "{text}");
        }
    }
}
