//! The table: what follows from an outcome. The only place that knows about retrying.

use crate::{Attempt, EventId, FailureClass, Outcome, Refusal, RetryPolicy};
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
    /// The verdict on an outcome. `delivered` is how often the broker has given this event, for put-backs only: they
    /// grow with it (1, 2, 4 … 30 s) so that a broker in trouble is not asked in a tight loop.
    pub fn verdict(&self, outcome: &Outcome, attempt: Attempt, id: &EventId, delivered: u64) -> Verdict {
        match outcome {
            Outcome::Done { .. } => Verdict::Ack,
            Outcome::Refused(Refusal::LeaseLost) => Verdict::Leave,
            Outcome::Refused(_) => Verdict::PutBack { after: put_back_wait(delivered) },
            Outcome::Failed(failure) if !failure.class.is_retryable() => Verdict::DeadLetter(failure.class),
            Outcome::Failed(failure) if attempt.0 >= self.attempts => Verdict::DeadLetter(failure.class),
            Outcome::Failed(failure) => Verdict::Retry { after: self.wait(attempt, failure.after, id) },
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
    use crate::Failure;

    fn verdict(outcome: &Outcome, attempt: u32) -> Verdict {
        let policy = RetryPolicy { attempts: 3, backoff: vec![Duration::from_secs(7)], jitter: 0.0 };
        policy.verdict(outcome, Attempt(attempt), &EventId::random([7; 32]), 1)
    }

    fn failed(class: FailureClass) -> Outcome {
        Outcome::Failed(Failure::new(class, "", ""))
    }

    #[test]
    fn a_retryable_failure_waits_until_its_attempts_are_spent() {
        for class in FailureClass::ALL.into_iter().filter(|class| class.is_retryable()) {
            let wait = Verdict::Retry { after: Duration::from_secs(7) };
            assert_eq!([1, 2].map(|n| verdict(&failed(class), n)), [wait, wait], "{class}");
            assert_eq!(
                [3, 4].map(|n| verdict(&failed(class), n)),
                [Verdict::DeadLetter(class); 2],
                "{class}"
            );
        }
    }

    #[test]
    fn a_failure_that_no_retry_can_help_is_dead_at_once() {
        for class in FailureClass::ALL.into_iter().filter(|class| !class.is_retryable()) {
            assert_eq!(verdict(&failed(class), 1), Verdict::DeadLetter(class));
        }
    }

    #[test]
    fn a_refusal_never_leads_to_a_dead_letter() {
        for attempt in 1..100 {
            let verdict = verdict(&Outcome::Refused(Refusal::Draining), attempt);
            assert!(matches!(verdict, Verdict::PutBack { .. }));
        }
    }

    #[test]
    fn an_event_that_another_host_may_have_is_left_alone() {
        assert_eq!(verdict(&Outcome::Refused(Refusal::LeaseLost), 1), Verdict::Leave);
    }

    #[test]
    fn put_backs_grow_to_half_a_minute() {
        assert_eq!([0, 1, 2, 3, 5, 6, 600].map(|n| put_back_wait(n).as_secs()), [1, 1, 2, 4, 16, 30, 30]);
    }

    #[test]
    fn the_guests_wish_replaces_the_policys_wait() {
        let mut failure = Failure::new(FailureClass::Retry, "", "");
        failure.after = Some(Duration::from_millis(1500));
        let outcome = Outcome::Failed(failure);
        assert_eq!(verdict(&outcome, 1), Verdict::Retry { after: Duration::from_millis(1500) });
    }
}
