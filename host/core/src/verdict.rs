//! The table: what follows from an outcome. The only place that knows about retrying.

use crate::{
    AttemptRecord, FailureClass, Outcome, Receipt, Refusal, RetryPolicy,
    binding::{Behind, Ordering},
};
use std::time::Duration;

/// What is to be done with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Acknowledge: done.
    Ack,
    /// Record the failed run, then put the event back.
    Retry {
        /// How long.
        after: Duration,
    },
    /// Record the failed run, store a dead letter, then terminate the event.
    DeadLetter(FailureClass),
    /// Put the event back; nothing is recorded.
    PutBack {
        /// How long.
        after: Duration,
    },
    /// Do nothing: another host may have the event by now, and putting it back would take it from there.
    Leave,
}

/// How long an event is put back when the broker did not take a dead letter.
pub const DEAD_LETTER_REFUSED_WAIT: Duration = Duration::from_secs(60);

impl RetryPolicy {
    /// The verdict on an outcome, given the failed runs before it. Put-backs grow with the number of deliveries (1, 2,
    /// 4 … 30 s), so that a broker in trouble is not asked in a tight loop.
    pub fn verdict(&self, outcome: &Outcome, history: &AttemptRecord, receipt: &Receipt) -> Verdict {
        match outcome {
            Outcome::Done { .. } | Outcome::Duplicate { .. } => Verdict::Ack,
            Outcome::Refused(Refusal::LeaseLost) => Verdict::Leave,
            Outcome::Refused(_) => Verdict::PutBack { after: put_back_wait(receipt.delivered) },
            Outcome::Failed(failure) if self.is_spent(failure, history) => Verdict::DeadLetter(failure.class),
            Outcome::Failed(failure) => {
                Verdict::Retry { after: self.wait(failure, history, &receipt.event_id) }
            }
        }
    }
}

impl Verdict {
    /// What the binding's order makes of the policy's verdict: where nobody waits behind a failing event, its first failed
    /// run is its last.
    pub fn in_order(self, ordering: &Ordering, outcome: &Outcome) -> Self {
        match (self, ordering.behind(), outcome) {
            (Self::Retry { .. }, Some(Behind::SkipToDlq), Outcome::Failed(failure)) => {
                Self::DeadLetter(failure.class)
            }
            (verdict, ..) => verdict,
        }
    }
}

fn put_back_wait(delivered: u64) -> Duration {
    let doublings = delivered.saturating_sub(1).min(5) as u32;
    Duration::from_secs((1u64 << doublings).min(30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backoff, ClassPolicy, EventId, FailedRun, Failure, port::Released};

    const WAIT: Verdict = Verdict::Retry { after: Duration::from_secs(7) };

    fn policy() -> RetryPolicy {
        let backoff = Backoff::Fixed(Duration::from_secs(7));
        RetryPolicy { attempts: 3, backoff, jitter: 0.0, ..RetryPolicy::default() }
    }

    fn after(runs: &[FailedRun]) -> AttemptRecord {
        AttemptRecord { runs: runs.to_vec(), forgotten: 0 }
    }

    fn verdict(policy: &RetryPolicy, outcome: &Outcome, runs: &[FailedRun]) -> Verdict {
        policy.verdict(outcome, &after(runs), &Receipt::for_test("S", 1))
    }

    fn failed(class: FailureClass) -> Outcome {
        Outcome::Failed(Failure::new(class, "", ""))
    }

    #[test]
    fn a_retryable_failure_waits_until_its_attempts_are_spent() {
        for class in FailureClass::ALL.into_iter().filter(|class| class.is_retryable()) {
            let runs = vec![FailedRun::for_test(FailureClass::Retry); 3];
            let verdicts = [0, 1, 2, 3].map(|n| verdict(&policy(), &failed(class), &runs[..n]));
            let dead = Verdict::DeadLetter(class);
            assert_eq!(verdicts, [WAIT, WAIT, dead, dead], "{class}");
        }
    }

    #[test]
    fn a_failure_that_no_retry_can_help_is_dead_at_once() {
        for class in FailureClass::ALL.into_iter().filter(|class| !class.is_retryable()) {
            assert_eq!(verdict(&policy(), &failed(class), &[]), Verdict::DeadLetter(class));
        }
    }

    #[test]
    fn a_class_with_attempts_of_its_own_ends_sooner_and_only_for_its_own_failures() {
        let own = ClassPolicy { attempts: Some(2), backoff: None };
        let policy = RetryPolicy { attempts: 9, classes: [(FailureClass::Timeout, own)].into(), ..policy() };
        let timeout = failed(FailureClass::Timeout);
        let runs = [FailureClass::Trap, FailureClass::Trap, FailureClass::Timeout].map(FailedRun::for_test);
        assert_eq!(verdict(&policy, &timeout, &runs[..2]), WAIT);
        assert_eq!(verdict(&policy, &timeout, &runs), Verdict::DeadLetter(FailureClass::Timeout));
        assert_eq!(verdict(&policy, &failed(FailureClass::Trap), &runs), WAIT);
    }

    #[test]
    fn a_class_without_waits_is_dead_at_once() {
        let own = ClassPolicy { attempts: None, backoff: Some(Backoff::None) };
        let policy = RetryPolicy { classes: [(FailureClass::Memory, own)].into(), ..policy() };
        let dead = Verdict::DeadLetter(FailureClass::Memory);
        assert_eq!(verdict(&policy, &failed(FailureClass::Memory), &[]), dead);
    }

    #[test]
    fn the_same_trap_three_times_in_a_row_is_dead_and_another_trap_between_begins_anew() {
        let policy = RetryPolicy { attempts: 100, ..policy() };
        let trap = |code: &str| Failure::new(FailureClass::Trap, code, "");
        let run = |code: &str| FailedRun {
            fingerprint: trap(code).fingerprint(),
            ..FailedRun::for_test(FailureClass::Trap)
        };
        let here = Outcome::Failed(trap("here"));
        assert_eq!(verdict(&policy, &here, &[run("here")]), WAIT);
        assert_eq!(verdict(&policy, &here, &[run("here"), run("here"), run("there")]), WAIT);
        let dead = Verdict::DeadLetter(FailureClass::Trap);
        assert_eq!(verdict(&policy, &here, &[run("here"), run("here")]), dead);
        let off = RetryPolicy { same_trap_max: 0, ..policy };
        assert_eq!(verdict(&off, &here, &[run("here"), run("here")]), WAIT);
    }

    #[test]
    fn a_refusal_never_leads_to_a_dead_letter() {
        let runs = vec![FailedRun::for_test(FailureClass::Trap); 100];
        for failed in 0..100 {
            let verdict = verdict(&policy(), &Outcome::Refused(Refusal::Draining), &runs[..failed]);
            assert!(matches!(verdict, Verdict::PutBack { .. }));
        }
    }

    #[test]
    fn a_duplicate_is_acknowledged_like_an_event_that_is_done() {
        let outcomes = [
            Outcome::Done { released: Released::default(), core: 0 },
            Outcome::Duplicate { of: EventId::random([1; 32]) },
        ];
        for outcome in outcomes {
            assert_eq!(verdict(&policy(), &outcome, &[]), Verdict::Ack);
        }
    }

    #[test]
    fn an_event_that_another_host_may_have_is_left_alone() {
        assert_eq!(verdict(&policy(), &Outcome::Refused(Refusal::LeaseLost), &[]), Verdict::Leave);
    }

    #[test]
    fn where_nobody_waits_behind_a_failing_event_its_first_failed_run_is_its_last() {
        let trap = failed(FailureClass::Trap);
        let ordered = |behind| verdict(&policy(), &trap, &[]).in_order(&Ordering::Strict { behind }, &trap);
        assert_eq!(ordered(Behind::SkipToDlq), Verdict::DeadLetter(FailureClass::Trap));
        assert_eq!(ordered(Behind::Block), WAIT);
        let refused = Outcome::Refused(Refusal::Draining);
        let skip = Ordering::Strict { behind: Behind::SkipToDlq };
        let put_back = verdict(&policy(), &refused, &[]);
        assert_eq!(put_back.in_order(&skip, &refused), put_back, "what is the host's fault is waited for");
    }

    #[test]
    fn put_backs_grow_to_half_a_minute() {
        assert_eq!([0, 1, 2, 3, 5, 6, 600].map(|n| put_back_wait(n).as_secs()), [1, 1, 2, 4, 16, 30, 30]);
    }
}
