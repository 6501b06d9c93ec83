//! What one attempt may use. No guest code runs without these.
//!
//! The numbers are budgets for one event in one fresh sandbox; the ranges are what an operator may set.

use crate::units::ByteSize;
use std::time::Duration;

/// The budgets of one attempt and the number of attempts that may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time of one attempt, instantiation included. Default 5 s, 10 ms to 5 min.
    pub timeout: Duration,
    /// Processor time of one attempt, instantiation included. Default 500 ms, 1 ms to 60 s. Enforced to within two
    /// ticks of 10 ms.
    pub cpu: Duration,
    /// Linear memory, all memories of all inner instances added up. Default 64 MiB, 1 to 512 MiB.
    pub memory: ByteSize,
    /// Attempts of this plugin that run at once on this host. Default 16, 1 to 64.
    pub concurrency: u32,
    /// Messages that one attempt may publish. Default 64, 0 to 1,000.
    pub publishes: u32,
    /// Payload and header bytes that one attempt may publish. Default 4 MiB, up to 64 MiB.
    pub publish_bytes: ByteSize,
    /// Log lines that one attempt may write; further ones are counted and dropped. Default 100.
    pub log_lines: u32,
}

/// Requests that one attempt may make.
pub const REQUESTS_MAX: u32 = 16;
/// Bytes of the longest log line that is kept; the rest is cut and marked.
pub const LOG_LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of log text that one attempt may write.
pub const LOG_BYTES_MAX: usize = 64 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            cpu: Duration::from_millis(500),
            memory: ByteSize::mib(64),
            concurrency: 16,
            publishes: 64,
            publish_bytes: ByteSize::mib(4),
            log_lines: 100,
        }
    }
}

/// A limit outside the range that an operator may set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` must be between {least} and {most}")]
pub struct OutOfRange {
    /// The key as it is written in the file.
    pub key: &'static str,
    /// The least value, with its unit.
    pub least: String,
    /// The greatest value, with its unit.
    pub most: String,
}

impl Limits {
    /// Every limit that is outside its range.
    pub fn out_of_range(&self) -> Vec<OutOfRange> {
        let ms = Duration::from_millis;
        let mut wrong = Vec::new();
        let mut check = |key, inside: bool, least: &str, most: &str| {
            if !inside {
                wrong.push(OutOfRange { key, least: least.to_owned(), most: most.to_owned() });
            }
        };
        check("timeout", (ms(10)..=ms(300_000)).contains(&self.timeout), "10ms", "5m");
        check("cpu", (ms(1)..=ms(60_000)).contains(&self.cpu), "1ms", "60s");
        check("memory", (ByteSize::mib(1)..=ByteSize::mib(512)).contains(&self.memory), "1MiB", "512MiB");
        check("concurrency", (1..=64).contains(&self.concurrency), "1", "64");
        check("publishes", self.publishes <= 1_000, "0", "1000");
        check("publish_bytes", self.publish_bytes <= ByteSize::mib(64), "0B", "64MiB");
        check("log_lines", self.log_lines <= 10_000, "0", "10000");
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_each_limit_is_checked() {
        assert_eq!(Limits::default().out_of_range(), []);
        let wrong = Limits {
            timeout: Duration::from_millis(9),
            cpu: Duration::from_secs(61),
            memory: ByteSize(1),
            concurrency: 0,
            publishes: 1_001,
            publish_bytes: ByteSize::mib(65),
            log_lines: 10_001,
        };
        let keys: Vec<_> = wrong.out_of_range().into_iter().map(|wrong| wrong.key).collect();
        assert_eq!(
            keys,
            ["timeout", "cpu", "memory", "concurrency", "publishes", "publish_bytes", "log_lines"]
        );
    }
}
