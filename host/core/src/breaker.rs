//! The breaker: when a plugin that fails all the time is left alone, and when it is tried again.
//!
//! Closed → open when, within the sliding window, enough runs ended and a large enough share of them failed → half-open
//! after a while, when one event is let through as a probe → closed when the probe went well, open again for twice as long
//! when it failed. A dead letter that the broker does not take is another reason to open: three refused in a row, however
//! well the runs go, because an event that can't be dead-lettered can't be settled.
//!
//! No clock here: every call is told the time, as the duration since any fixed moment. Runs are counted in a few buckets
//! rather than one by one, so that a plugin with many events a second costs no more than one with few.

use crate::{FailureClass, Outcome, binding::BreakerPolicy};
use std::time::Duration;

/// Parts that the window slides by.
const BUCKETS: u32 = 12;
/// Refused dead letters in a row that open the breaker.
pub const LETTERS_REFUSED_MAX: u32 = 3;

/// What a run says of its plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It answered, and be it with a rejection.
    Well,
    /// It, or what it depends on, failed.
    Failed,
    /// Nothing: it was not the plugin that ended the run.
    Neither,
}

impl Sign {
    /// What an outcome says. A rejection is an answer; what was found before the plugin ran, and what the host could not
    /// do, say nothing.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done { .. } => Self::Well,
            Outcome::Duplicate { .. } | Outcome::Refused(_) => Self::Neither,
            Outcome::Failed(failure) => match failure.class {
                FailureClass::Reject => Self::Well,
                FailureClass::Undecodable | FailureClass::Loop | FailureClass::Expired => Self::Neither,
                FailureClass::Retry
                | FailureClass::Timeout
                | FailureClass::Cpu
                | FailureClass::Trap
                | FailureClass::Memory
                | FailureClass::Quota
                | FailureClass::Unroutable
                | FailureClass::Denied
                | FailureClass::HostCrash => Self::Failed,
            },
        }
    }
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Too many runs failed.
    Failures {
        /// Runs that ended within the window.
        calls: u32,
        /// How many of them failed.
        failed: u32,
    },
    /// The probe failed.
    Probe,
    /// The broker refused dead letters.
    LettersRefused,
    /// Another host's breaker paused the consumer.
    OtherHost,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failures { calls, failed } => write!(f, "{failed} of the last {calls} runs failed"),
            Self::Probe => f.write_str("the probe failed as well"),
            Self::LettersRefused => f.write_str("the broker refuses its dead letters"),
            Self::OtherHost => f.write_str("the breaker of another host opened"),
        }
    }
}

/// How a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Events run.
    Closed,
    /// None does.
    Open {
        /// Until then, on the caller's clock.
        until: Duration,
        /// Why.
        cause: Cause,
    },
    /// One may, to see how it goes.
    HalfOpen {
        /// Whether one is under way.
        probing: bool,
    },
}

/// What an event may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Run.
    Run,
    /// Run, as the probe: its end must be told.
    Probe,
    /// Not run.
    Refused,
}

/// The breaker of one plugin on one host.
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
    buckets: [Bucket; BUCKETS as usize],
    open_for: Duration,
    letters_refused: u32,
}

/// The runs that ended within one part of the window.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    part: u64,
    calls: u32,
    failed: u32,
}

impl Breaker {
    /// A closed one.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            state: State::Closed,
            buckets: Default::default(),
            open_for: policy.open,
            letters_refused: 0,
        }
    }

    /// How it is at this time.
    pub fn state(&mut self, now: Duration) -> State {
        if let State::Open { until, .. } = self.state
            && until <= now
        {
            self.state = State::HalfOpen { probing: false };
        }
        self.state
    }

    /// Whether an event may run; the first that asks in a half-open breaker becomes its probe.
    pub fn pass(&mut self, now: Duration) -> Pass {
        match self.state(now) {
            State::Closed => Pass::Run,
            State::HalfOpen { probing: false } => {
                self.state = State::HalfOpen { probing: true };
                Pass::Probe
            }
            State::HalfOpen { probing: true } | State::Open { .. } => Pass::Refused,
        }
    }

    /// A run ended that had been passed so.
    pub fn ended(&mut self, now: Duration, pass: Pass, sign: Sign) {
        match (pass, self.state(now), sign) {
            (Pass::Run, State::Closed, sign) => self.count(now, sign),
            (Pass::Probe, State::HalfOpen { .. }, Sign::Well) => self.close(),
            (Pass::Probe, State::HalfOpen { .. }, Sign::Failed) => self.open_again(now, Cause::Probe),
            (Pass::Probe, State::HalfOpen { .. }, Sign::Neither) => {
                self.state = State::HalfOpen { probing: false };
            }
            // What began before the breaker opened is no probe.
            _ => {}
        }
    }

    /// The broker refused a dead letter. The first time too often in a row, and every time after it until one is stored,
    /// it opens the breaker.
    pub fn letter_refused(&mut self, now: Duration) {
        self.letters_refused = self.letters_refused.saturating_add(1);
        if self.letters_refused < LETTERS_REFUSED_MAX || matches!(self.state(now), State::Open { .. }) {
            return;
        }
        if self.letters_refused == LETTERS_REFUSED_MAX {
            self.open(now, Cause::LettersRefused);
        } else {
            self.open_again(now, Cause::LettersRefused);
        }
    }

    /// The broker stored a dead letter.
    pub fn letter_stored(&mut self) {
        if self.are_letters_refused() && self.state == State::Closed {
            self.open_for = self.policy.open;
        }
        self.letters_refused = 0;
    }

    /// Whether the broker refuses dead letters.
    pub fn are_letters_refused(&self) -> bool {
        self.letters_refused >= LETTERS_REFUSED_MAX
    }

    /// Another host's breaker keeps the consumer paused until then. Without effect on a breaker that is not closed.
    pub fn adopt(&mut self, now: Duration, until: Duration) {
        if self.state(now) == State::Closed && until > now && self.policy.calls > 0 {
            self.state = State::Open { until, cause: Cause::OtherHost };
            self.buckets = Default::default();
        }
    }

    fn count(&mut self, now: Duration, sign: Sign) {
        if sign == Sign::Neither || self.policy.calls == 0 {
            return;
        }
        let part = self.part(now);
        let Some(bucket) = self.buckets.get_mut((part % u64::from(BUCKETS)) as usize) else { return };
        if bucket.part != part {
            *bucket = Bucket { part, calls: 0, failed: 0 };
        }
        bucket.calls = bucket.calls.saturating_add(1);
        if sign != Sign::Failed {
            return;
        }
        bucket.failed = bucket.failed.saturating_add(1);
        let (mut calls, mut failed) = (0u32, 0u32);
        for bucket in self.buckets.iter().filter(|bucket| part - bucket.part < u64::from(BUCKETS)) {
            calls = calls.saturating_add(bucket.calls);
            failed = failed.saturating_add(bucket.failed);
        }
        if calls >= self.policy.calls && f64::from(failed) >= self.policy.failures * f64::from(calls) {
            self.open(now, Cause::Failures { calls, failed });
        }
    }

    /// Which part of the window this time lies in, from 1.
    fn part(&self, now: Duration) -> u64 {
        let length = (self.policy.window / BUCKETS).as_nanos().max(1);
        u64::try_from(now.as_nanos() / length).unwrap_or(u64::MAX - 1) + 1
    }

    fn open(&mut self, now: Duration, cause: Cause) {
        self.state = State::Open { until: now + self.open_for, cause };
        self.buckets = Default::default();
    }

    fn open_again(&mut self, now: Duration, cause: Cause) {
        self.open_for = self.open_for.saturating_mul(2).min(self.policy.open_max.max(self.policy.open));
        self.open(now, cause);
    }

    fn close(&mut self) {
        self.state = State::Closed;
        // Runs that go well say nothing of dead letters: as long as these are refused, the time goes on doubling.
        if !self.are_letters_refused() {
            self.open_for = self.policy.open;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, Refusal};

    const POLICY: BreakerPolicy = BreakerPolicy {
        calls: 4,
        failures: 0.5,
        window: Duration::from_secs(60),
        open: Duration::from_secs(30),
        open_max: Duration::from_secs(100),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn after(signs: &[(u64, Sign)]) -> Breaker {
        let mut breaker = Breaker::new(POLICY);
        for (second, sign) in signs {
            breaker.ended(at(*second), Pass::Run, *sign);
        }
        breaker
    }

    fn is_open(breaker: &mut Breaker, second: u64) -> bool {
        matches!(breaker.state(at(second)), State::Open { .. })
    }

    #[test]
    fn it_opens_at_so_many_calls_and_such_a_share_of_failures_within_the_window() {
        use Sign::{Failed, Neither, Well};
        type Case<'a> = (&'a str, &'a [(u64, Sign)], bool);
        let table: &[Case<'_>] = &[
            ("three calls are too few", &[(0, Failed), (0, Failed), (0, Failed)], false),
            ("all of four", &[(0, Failed), (0, Failed), (0, Failed), (0, Failed)], true),
            ("half of four", &[(0, Well), (0, Failed), (0, Well), (0, Failed)], true),
            ("a quarter of four", &[(0, Well), (0, Well), (0, Well), (0, Failed)], false),
            ("two of five", &[(0, Well), (0, Well), (0, Well), (0, Failed), (0, Failed)], false),
            (
                "what says nothing is no call",
                &[(0, Failed), (0, Neither), (0, Neither), (0, Neither), (0, Failed)],
                false,
            ),
            ("across the window", &[(0, Failed), (20, Failed), (40, Failed), (54, Failed)], true),
            ("older than the window", &[(0, Failed), (20, Failed), (40, Failed), (60, Failed)], false),
        ];
        for (name, signs, expected) in table {
            let last = signs.last().map_or(0, |(second, _)| *second);
            assert_eq!(is_open(&mut after(signs), last), *expected, "{name}");
        }
    }

    #[test]
    fn a_breaker_without_calls_never_opens_for_failures() {
        let mut breaker = Breaker::new(BreakerPolicy { calls: 0, ..POLICY });
        for _ in 0..1000 {
            breaker.ended(at(1), Pass::Run, Sign::Failed);
        }
        breaker.adopt(at(1), at(50));
        assert_eq!(breaker.state(at(1)), State::Closed);
    }

    #[test]
    fn one_probe_closes_it_or_opens_it_for_twice_as_long_up_to_the_longest() {
        let mut breaker = after(&[(0, Sign::Failed); 4]);
        let mut now = 0;
        for open_for in [30, 60, 100, 100] {
            assert!(is_open(&mut breaker, now + open_for - 1), "{open_for}");
            assert_eq!(breaker.pass(at(now + open_for - 1)), Pass::Refused);
            now += open_for;
            assert_eq!([breaker.pass(at(now)), breaker.pass(at(now))], [Pass::Probe, Pass::Refused]);
            breaker.ended(at(now), Pass::Probe, Sign::Failed);
        }
        now += 100;
        assert_eq!(breaker.pass(at(now)), Pass::Probe);
        breaker.ended(at(now), Pass::Probe, Sign::Well);
        assert_eq!(breaker.state(at(now)), State::Closed);
        for _ in 0..4 {
            breaker.ended(at(now), Pass::Run, Sign::Failed);
        }
        assert!(is_open(&mut breaker, now + 29) && !is_open(&mut breaker, now + 30), "the first time again");
    }

    #[test]
    fn a_probe_that_says_nothing_makes_room_for_another_and_what_began_before_is_no_probe() {
        let mut breaker = after(&[(0, Sign::Failed); 4]);
        breaker.ended(at(1), Pass::Run, Sign::Well);
        assert!(is_open(&mut breaker, 1));
        assert_eq!(breaker.pass(at(30)), Pass::Probe);
        breaker.ended(at(31), Pass::Run, Sign::Well);
        assert_eq!(breaker.pass(at(31)), Pass::Refused);
        breaker.ended(at(31), Pass::Probe, Sign::Neither);
        assert_eq!(breaker.pass(at(31)), Pass::Probe);
    }

    #[test]
    fn three_refused_letters_in_a_row_open_it_and_later_ones_for_longer_until_one_is_stored() {
        let mut breaker = Breaker::new(POLICY);
        breaker.letter_refused(at(0));
        breaker.letter_refused(at(0));
        breaker.letter_stored();
        breaker.letter_refused(at(0));
        breaker.letter_refused(at(0));
        assert_eq!(breaker.state(at(0)), State::Closed);
        breaker.letter_refused(at(0));
        assert_eq!(breaker.state(at(0)), State::Open { until: at(30), cause: Cause::LettersRefused });
        breaker.letter_refused(at(1));
        assert_eq!(breaker.pass(at(30)), Pass::Probe, "one that was under way changes nothing");
        breaker.ended(at(30), Pass::Probe, Sign::Well);
        breaker.letter_refused(at(30));
        assert_eq!(breaker.state(at(30)), State::Open { until: at(90), cause: Cause::LettersRefused });
        breaker.pass(at(90));
        breaker.ended(at(90), Pass::Probe, Sign::Well);
        breaker.letter_stored();
        assert!(!breaker.are_letters_refused());
        for _ in 0..3 {
            breaker.letter_refused(at(100));
        }
        assert_eq!(breaker.state(at(100)), State::Open { until: at(130), cause: Cause::LettersRefused });
    }

    #[test]
    fn the_pause_of_another_hosts_breaker_opens_a_closed_one_and_ends_in_a_probe() {
        let mut breaker = Breaker::new(POLICY);
        breaker.adopt(at(5), at(20));
        assert_eq!(breaker.state(at(19)), State::Open { until: at(20), cause: Cause::OtherHost });
        breaker.adopt(at(6), at(99));
        assert_eq!(breaker.pass(at(20)), Pass::Probe);
    }

    #[test]
    fn a_rejection_is_an_answer_and_what_the_host_could_not_do_says_nothing() {
        let sign = |class| Sign::of(&Outcome::Failed(Failure::new(class, "", "")));
        let neither = [FailureClass::Undecodable, FailureClass::Loop, FailureClass::Expired];
        for class in FailureClass::ALL {
            let expected = match class {
                FailureClass::Reject => Sign::Well,
                class if neither.contains(&class) => Sign::Neither,
                _ => Sign::Failed,
            };
            assert_eq!(sign(class), expected, "{class}");
        }
        assert_eq!(Sign::of(&Outcome::Refused(Refusal::NoSandbox(String::new()))), Sign::Neither);
        assert_eq!(Sign::of(&Outcome::Done { released: Default::default(), core: 0 }), Sign::Well);
    }
}
