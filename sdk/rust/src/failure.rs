//! Why an event was not handled, in the two ways that a handler can say it.
//!
//! A trap, a timeout or a spent budget is told by the host; a handler only chooses between "later may help" and "no
//! retry can help". Errors of the bus are given one of the two here, so that `publish(…)?` does the right thing.

use std::fmt::Display;
use std::time::Duration;

use crate::BusError;

/// Why an event was not handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Later may help. The host waits and calls again; when the attempts are spent the event becomes a dead letter.
    Retry(RetryLater),
    /// No retry can help: the event becomes a dead letter at once.
    Reject(Rejection),
}

/// The answer "later may help".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryLater {
    /// For people; at most 1 KiB is kept.
    pub reason: String,
    /// How long to wait, within the operator's bounds. `None`: as long as the operator's policy says.
    pub after_ms: Option<u64>,
}

/// The answer "no retry can help".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Short and stable, for grouping: `unknown-customer`. At most 64 bytes are kept.
    pub code: String,
    /// For people; at most 1 KiB is kept.
    pub reason: String,
}

impl Failure {
    /// Asks for another attempt, after the delay of the operator's policy.
    pub fn retry(reason: impl Display) -> Self {
        Self::Retry(RetryLater { reason: reason.to_string(), after_ms: None })
    }

    /// Asks for another attempt after `delay`, which the host brings within the operator's bounds.
    pub fn retry_after(reason: impl Display, delay: Duration) -> Self {
        let after_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self::Retry(RetryLater { reason: reason.to_string(), after_ms: Some(after_ms) })
    }

    /// Gives the event up as a dead letter. `code` is for grouping: short, stable, without values of the event.
    pub fn reject(code: impl Into<String>, reason: impl Display) -> Self {
        Self::Reject(Rejection { code: code.into(), reason: reason.to_string() })
    }
}

/// Retried: what another moment or another host may answer differently (`timeout`, `no-responders`, `unavailable`,
/// `other`). Rejected: what the same event meets again (`denied`, `invalid-subject`, `invalid-header`, `too-large`,
/// `quota`, `no-reply`, `already-replied`, `not-in-batch`), with the error's name as the code. `denied` is among them
/// because a grant doesn't come by waiting; when the operator has given it, the dead letter can be sent again.
impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Timeout | BusError::NoResponders | BusError::Unavailable | BusError::Other(_) => {
                Self::retry(error)
            }
            BusError::Denied
            | BusError::InvalidSubject
            | BusError::InvalidHeader
            | BusError::TooLarge
            | BusError::Quota
            | BusError::NoReply
            | BusError::AlreadyReplied
            | BusError::NotInBatch => Self::reject(error.code(), error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_told_in_milliseconds() {
        let Failure::Retry(later) = Failure::retry_after("busy", Duration::from_secs(3)) else {
            panic!("not a retry");
        };
        assert_eq!(later.after_ms, Some(3_000));
    }

    #[test]
    fn an_error_of_the_bus_that_may_pass_is_a_retry() {
        assert_eq!(Failure::from(BusError::Timeout), Failure::retry("no answer in time"));
        assert_eq!(
            Failure::from(BusError::Other("the stream is full".to_owned())),
            Failure::retry("the stream is full")
        );
    }

    #[test]
    fn an_error_of_the_bus_that_comes_again_is_a_reject_under_its_own_name() {
        assert_eq!(
            Failure::from(BusError::Denied),
            Failure::reject(
                "denied",
                "not granted: the operator's `grants` decide which subjects a plugin may use"
            )
        );
    }
}
