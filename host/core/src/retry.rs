//! How often and how late an event is tried again.
//!
//! An attempt is a *recorded failed run* plus one. Deliveries are not counted: put-backs, host restarts and a
//! neighbour's crash redeliver events that never failed.

use crate::{Backoff, EventId, Failure, FailureClass};
use std::{collections::BTreeMap, time::Duration};

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
    /// Whether the wait is spent outside of the consumer: the event is parked, and the original acknowledged.
    pub parked: bool,
    /// Which host ran it.
    pub host: String,
    /// Which version of the plugin ran it: the beginning of its digest.
    pub version: String,
    /// How long it ran.
    pub ran: Duration,
    /// The same for every trap at the same place; none for failures that are not traps.
    pub fingerprint: Option<String>,
}

impl FailedRun {
    /// A failed run for tests, put back for a second.
    pub fn for_test(class: FailureClass) -> Self {
        Self {
            at_ms: 0,
            class,
            code: String::new(),
            reason: String::new(),
            wait: Some(Duration::from_secs(1)),
            parked: false,
            host: String::new(),
            version: String::new(),
            ran: Duration::ZERO,
            fingerprint: None,
        }
    }
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

    /// The attempt that is being made: the next one, or the last one where that was the event's final run.
    pub fn current(&self) -> Attempt {
        if self.final_run().is_some() { Attempt(self.failed_runs()) } else { self.next() }
    }

    /// Adds a failed run.
    pub fn push(&mut self, run: FailedRun) {
        if self.runs.len() == Self::KEPT_MAX {
            self.runs.remove(0);
            self.forgotten = self.forgotten.saturating_add(1);
        }
        self.runs.push(run);
    }

    /// How many of the described runs failed in this class.
    pub fn failed_in(&self, class: FailureClass) -> u32 {
        self.runs.iter().filter(|run| run.class == class).count() as u32
    }

    /// How many runs in a row, up to now, trapped at this place.
    pub fn trapped_at(&self, fingerprint: &str) -> u32 {
        let same = |run: &&FailedRun| run.fingerprint.as_deref() == Some(fingerprint);
        self.runs.iter().rev().take_while(same).count() as u32
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
    /// The waits. Default 1 s, 5 s, 30 s, 2 min, 10 min, the last one repeated.
    pub backoff: Backoff,
    /// Each wait is lengthened or shortened by up to this share, so that events that failed together do not return
    /// together. Default 0.2, 0 to 1.
    pub jitter: f64,
    /// The least that a guest's own wish of a wait is raised to. Default [`WAIT_MIN`].
    pub wish_min: Duration,
    /// The most that a guest's own wish of a wait is lowered to. Default 1 h.
    pub wish_max: Duration,
    /// An event older than this is not run any more; its class is `expired`. Default none.
    pub age_max: Option<Duration>,
    /// So many runs in a row that trapped at the same place make a dead letter, whatever attempts are left. Default 3;
    /// 0 turns it off.
    pub same_trap_max: u32,
    /// What is different for failures of a class.
    pub classes: BTreeMap<FailureClass, ClassPolicy>,
}

/// What is different for failures of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassPolicy {
    /// How many runs may fail in this class before the event becomes a dead letter; the policy's own `attempts` bounds
    /// all classes together. None: only that.
    pub attempts: Option<u32>,
    /// The waits after failures of this class; none: the policy's own. They are counted by the failures of this class.
    pub backoff: Option<Backoff>,
}

/// The longest wait, by policy or by the guest's wish.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest wait: a broker gives an event that is put back without a delay again at once, in a tight loop.
pub const WAIT_MIN: Duration = Duration::from_millis(10);

impl Default for RetryPolicy {
    fn default() -> Self {
        let waits = [1, 5, 30, 120, 600].map(Duration::from_secs).to_vec();
        Self {
            attempts: 6,
            backoff: Backoff::List(waits),
            jitter: 0.2,
            wish_min: WAIT_MIN,
            wish_max: Duration::from_secs(60 * 60),
            age_max: None,
            same_trap_max: 3,
            classes: BTreeMap::new(),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after this failed attempt. The guest's wish replaces the policy's wait, without jitter, within
    /// the operator's bounds; both are held between [`WAIT_MIN`] and [`WAIT_MAX`].
    pub fn wait(&self, failure: &Failure, history: &AttemptRecord, id: &EventId) -> Duration {
        let wait = match failure.after {
            Some(wish) => wish.min(self.wish_max).max(self.wish_min),
            None => {
                let own = self.classes.get(&failure.class).and_then(|class| class.backoff.as_ref());
                let base = match own {
                    Some(own) => own.after(history.failed_in(failure.class).saturating_add(1)),
                    None => self.backoff.after(history.next().0),
                };
                base.min(WAIT_MAX).mul_f64(1.0 + self.jitter.clamp(0.0, 1.0) * spread(id, history.next()))
            }
        };
        wait.clamp(WAIT_MIN, WAIT_MAX)
    }

    /// The longest time from an event's first run to its last, runs themselves not counted: every wait of the policy with
    /// its jitter. Classes with waits of their own count by the longer one.
    pub fn span(&self) -> Duration {
        let curves =
            || self.classes.values().filter_map(|class| class.backoff.as_ref()).chain([&self.backoff]);
        let longest = |n| curves().map(|curve| curve.after(n)).max().unwrap_or(WAIT_MIN).min(WAIT_MAX);
        let waits: Duration = (1..self.attempts).map(longest).sum();
        waits.mul_f64(1.0 + self.jitter.clamp(0.0, 1.0))
    }

    /// Whether this failed attempt was the event's last one.
    pub(crate) fn is_spent(&self, failure: &Failure, history: &AttemptRecord) -> bool {
        if !failure.class.is_retryable() || history.next().0 >= self.attempts {
            return true;
        }
        let own = self.classes.get(&failure.class);
        let backoff = own.and_then(|own| own.backoff.as_ref()).unwrap_or(&self.backoff);
        if *backoff == Backoff::None {
            return true;
        }
        let in_class = history.failed_in(failure.class).saturating_add(1);
        if own.and_then(|own| own.attempts).is_some_and(|attempts| in_class >= attempts) {
            return true;
        }
        let trapped = failure.fingerprint().map_or(0, |place| history.trapped_at(&place).saturating_add(1));
        self.same_trap_max > 0 && trapped >= self.same_trap_max
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

    fn run(class: FailureClass, wait: Option<Duration>) -> FailedRun {
        FailedRun { wait, ..FailedRun::for_test(class) }
    }

    fn record(failed: u32, class: FailureClass) -> AttemptRecord {
        let mut record = AttemptRecord::default();
        (0..failed).for_each(|_| record.push(run(class, Some(Duration::from_secs(1)))));
        record
    }

    fn failure(class: FailureClass) -> Failure {
        Failure::new(class, "", "")
    }

    fn id() -> EventId {
        EventId::random([0; 32])
    }

    #[test]
    fn the_waits_follow_the_list_and_the_last_repeats() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let wait =
            |failed| policy.wait(&failure(FailureClass::Retry), &record(failed, FailureClass::Retry), &id());
        let waits: Vec<_> = (0..7).map(|failed| wait(failed).as_secs()).collect();
        assert_eq!(waits, [1, 5, 30, 120, 600, 600, 600]);
    }

    #[test]
    fn a_wait_is_never_zero_and_never_longer_than_a_day() {
        let day = Duration::from_secs(24 * 60 * 60);
        let policy =
            RetryPolicy { backoff: Backoff::List(vec![]), wish_max: WAIT_MAX, ..RetryPolicy::default() };
        let wait = |after| {
            policy.wait(&Failure { after, ..failure(FailureClass::Retry) }, &AttemptRecord::default(), &id())
        };
        assert_eq!(wait(None).as_millis(), WAIT_MIN.as_millis());
        assert_eq!((wait(Some(Duration::ZERO)), wait(Some(Duration::MAX))), (WAIT_MIN, day));
    }

    #[test]
    fn a_guests_wish_stays_within_the_operators_bounds() {
        let policy = RetryPolicy {
            wish_min: Duration::from_secs(2),
            wish_max: Duration::from_secs(9),
            ..RetryPolicy::default()
        };
        let wait = |seconds| {
            let failure =
                Failure { after: Some(Duration::from_secs(seconds)), ..failure(FailureClass::Retry) };
            policy.wait(&failure, &AttemptRecord::default(), &id()).as_secs()
        };
        assert_eq!([0, 2, 5, 9, 3600].map(wait), [2, 2, 5, 9, 9]);
    }

    #[test]
    fn a_class_has_its_own_waits_counted_by_its_own_failures() {
        let own = ClassPolicy { attempts: None, backoff: Some(Backoff::Fixed(Duration::from_secs(90))) };
        let policy = RetryPolicy {
            jitter: 0.0,
            classes: [(FailureClass::Timeout, own)].into(),
            ..RetryPolicy::default()
        };
        let past = record(2, FailureClass::Trap);
        assert_eq!(policy.wait(&failure(FailureClass::Timeout), &past, &id()).as_secs(), 90);
        assert_eq!(policy.wait(&failure(FailureClass::Trap), &past, &id()).as_secs(), 30);
    }

    #[test]
    fn the_span_is_the_sum_of_the_longest_waits() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        assert_eq!(policy.span().as_secs(), 1 + 5 + 30 + 120 + 600);
        let own = ClassPolicy { attempts: None, backoff: Some(Backoff::Fixed(Duration::from_secs(60))) };
        let longer = RetryPolicy { classes: [(FailureClass::Timeout, own)].into(), ..policy.clone() };
        assert_eq!(longer.span().as_secs(), 60 + 60 + 60 + 120 + 600);
        assert_eq!(RetryPolicy { attempts: 1, ..policy }.span(), Duration::ZERO);
    }

    #[test]
    fn a_record_forgets_the_description_and_never_the_count() {
        let mut record = record(20, FailureClass::Trap);
        assert_eq!((record.runs.len(), record.failed_runs(), record.next()), (16, 20, Attempt(21)));
        assert_eq!(record.final_run(), None);
        record.push(run(FailureClass::Trap, None));
        assert!(record.final_run().is_some());
    }

    proptest! {
        #[test]
        fn jitter_stays_inside_its_share(seed in any::<[u8; 32]>(), failed in 0u32..10, jitter in 0.0f64..1.0) {
            let backoff = Backoff::Fixed(Duration::from_secs(10));
            let policy = RetryPolicy { attempts: 20, backoff, jitter, ..RetryPolicy::default() };
            let past = record(failed, FailureClass::Retry);
            let wait = policy.wait(&failure(FailureClass::Retry), &past, &EventId::random(seed)).as_secs_f64();
            prop_assert!(wait >= 10.0 * (1.0 - jitter) - 0.011 && wait <= 10.0 * (1.0 + jitter) + 0.001, "{wait}");
        }
    }
}
