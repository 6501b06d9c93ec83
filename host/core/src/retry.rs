//! How often and how late an event is tried again.
//!
//! An attempt is a *recorded failed run* plus one. Deliveries are not counted: put-backs, host restarts and a
//! neighbour's crash redeliver events that never failed.

use crate::{EventId, FailureClass};
use std::time::Duration;

/// 1 for the first run of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

/// What is known of an event's failed runs; kept where it survives the host, written before the event is put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Oldest first; the oldest are merged into `forgotten` beyond [`AttemptRecord::KEPT_MAX`].
    pub runs: Vec<FailedRun>,
    /// Failed runs that are counted but no longer described.
    pub forgotten: u32,
}

/// One failed run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRun {
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What kind of failure.
    pub class: FailureClass,
    /// The failure's code.
    pub code: String,
    /// What happened; at most 256 bytes.
    pub reason: String,
    /// How long the event was put back for; none when it became a dead letter.
    pub wait: Option<Duration>,
    /// Which host ran it.
    pub host: String,
}

impl AttemptRecord {
    /// Failed runs that are described; more are only counted.
    pub const KEPT_MAX: usize = 16;

    /// How many runs failed.
    pub fn failed_runs(&self) -> u32 {
        self.forgotten.saturating_add(self.runs.len() as u32)
    }

    /// The attempt that comes next.
    pub fn next(&self) -> Attempt {
        Attempt(self.failed_runs().saturating_add(1))
    }

    /// Adds a failed run.
    pub fn push(&mut self, run: FailedRun) {
        if self.runs.len() == Self::KEPT_MAX {
            self.runs.remove(0);
            self.forgotten = self.forgotten.saturating_add(1);
        }
        self.runs.push(run);
    }

    /// The failed run after which the event was to become a dead letter. Found on arrival, it means that the host was
    /// stopped between recording the run and settling the event: the dead letter is written without another run.
    pub fn final_run(&self) -> Option<&FailedRun> {
        self.runs.last().filter(|run| run.wait.is_none())
    }
}

/// How often and how late.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. Default 6, 1 to 100.
    pub attempts: u32,
    /// The wait after the first failed run, after the second, and so on; the last one repeats. Default 1 s, 5 s, 30 s,
    /// 2 min, 10 min.
    pub backoff: Vec<Duration>,
    /// Each wait is lengthened or shortened by up to this share, so that events that failed together do not return
    /// together. Default 0.2, 0 to 1.
    pub jitter: f64,
}

/// The longest wait, by policy or by the guest's wish.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest wait: a broker gives an event that is put back without a delay again at once, in a tight loop.
pub const WAIT_MIN: Duration = Duration::from_millis(10);

impl Default for RetryPolicy {
    fn default() -> Self {
        let seconds = [1, 5, 30, 120, 600];
        Self { attempts: 6, backoff: seconds.map(Duration::from_secs).to_vec(), jitter: 0.2 }
    }
}

impl RetryPolicy {
    /// How long to wait after a failed attempt. The guest's wish replaces the policy's wait, without jitter; both are
    /// held between [`WAIT_MIN`] and [`WAIT_MAX`].
    pub fn wait(&self, attempt: Attempt, wish: Option<Duration>, id: &EventId) -> Duration {
        let wait = match wish {
            Some(wish) => wish,
            None => {
                let index = (attempt.0.max(1) - 1) as usize;
                let base = self.backoff.get(index).or(self.backoff.last()).copied().unwrap_or(WAIT_MIN);
                base.mul_f64(1.0 + self.jitter.clamp(0.0, 1.0) * spread(id, attempt))
            }
        };
        wait.clamp(WAIT_MIN, WAIT_MAX)
    }
}

/// A number in -1..1 that is the same for the same event and attempt, so that a verdict stays a pure function.
fn spread(id: &EventId, attempt: Attempt) -> f64 {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = id.as_str().bytes().chain(attempt.0.to_be_bytes());
    let hash = bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    ((hash >> 11) as f64 / (1u64 << 53) as f64).mul_add(2.0, -1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(wait: Option<Duration>) -> FailedRun {
        FailedRun {
            at_ms: 0,
            class: FailureClass::Trap,
            code: String::new(),
            reason: String::new(),
            wait,
            host: String::new(),
        }
    }

    #[test]
    fn the_waits_follow_the_list_and_the_last_repeats() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let id = EventId::random([0; 32]);
        let waits: Vec<_> = (1..=7).map(|n| policy.wait(Attempt(n), None, &id).as_secs()).collect();
        assert_eq!(waits, [1, 5, 30, 120, 600, 600, 600]);
    }

    #[test]
    fn a_wait_is_never_zero_and_never_longer_than_a_day() {
        let policy = RetryPolicy { backoff: vec![], ..RetryPolicy::default() };
        let id = EventId::random([0; 32]);
        assert_eq!(policy.wait(Attempt(1), None, &id), WAIT_MIN);
        assert_eq!(policy.wait(Attempt(1), Some(Duration::ZERO), &id), WAIT_MIN);
        assert_eq!(policy.wait(Attempt(1), Some(Duration::MAX), &id), WAIT_MAX);
    }

    #[test]
    fn a_record_forgets_the_description_and_never_the_count() {
        let mut record = AttemptRecord::default();
        for _ in 0..20 {
            record.push(run(Some(Duration::from_secs(1))));
        }
        assert_eq!((record.runs.len(), record.failed_runs(), record.next()), (16, 20, Attempt(21)));
        assert_eq!(record.final_run(), None);
        record.push(run(None));
        assert!(record.final_run().is_some());
    }

    proptest! {
        #[test]
        fn jitter_stays_inside_its_share(seed in any::<[u8; 32]>(), attempt in 1u32..10, jitter in 0.0f64..1.0) {
            let policy = RetryPolicy { attempts: 10, backoff: vec![Duration::from_secs(10)], jitter };
            let wait = policy.wait(Attempt(attempt), None, &EventId::random(seed)).as_secs_f64();
            prop_assert!(wait >= 10.0 * (1.0 - jitter) - 0.011 && wait <= 10.0 * (1.0 + jitter) + 0.001, "{wait}");
        }
    }
}
