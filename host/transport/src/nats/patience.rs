//! What may pass with time while a host starts, and is waited for: no answer, nobody who listens, no leader. A refusal or
//! a difference stays what it is, and somebody waits for the reason, so that ends the start.

use super::{
    api::{ApiError, code},
    backoff,
    connect::Line,
    consumer::OpenError,
    refusal,
    topology::TopologyError,
};
use std::{
    error::Error,
    time::{Duration, Instant},
};
use tracing::{debug, info, warn};

/// Between the first and the second try.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// What the broker says of a request that this host may not send. It gives no answer to one.
const DENIED: &str = "permissions violation";

impl ApiError {
    /// Whether the same request may be answered later although nobody mends anything here.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer(_) | Self::NoJetStream => true,
            Self::Refused { code, .. } => [code::NO_CLUSTER, code::NOT_LEADER].contains(code),
            Self::Unreadable(_) => false,
        }
    }
}

impl TopologyError {
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Api { source, .. } if source.may_pass())
    }
}

impl OpenError {
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Api { source, .. } if source.may_pass())
    }
}

/// Tries until there is an answer, however long that takes, and tells it once in the log. Cancel safe where `attempt` is.
///
/// # Errors
/// What does not pass with time.
pub(super) async fn until_answered<T, E: Error + 'static, F: Future<Output = Result<T, E>>>(
    line: &Line,
    what: &str,
    may_pass: fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    let began = Instant::now();
    let mut errors = line.errors();
    let mut tries = 0;
    loop {
        errors.mark_unchanged();
        let why = match attempt().await {
            Err(why) if may_pass(&why) => why,
            ended => {
                if tries > 0 && ended.is_ok() {
                    let waited_ms = began.elapsed().as_millis() as u64;
                    info!(what, waited_ms, "JetStream answers now");
                }
                return ended;
            }
        };
        let is_new = errors.has_changed().unwrap_or_default();
        if is_new && errors.borrow().to_ascii_lowercase().contains(DENIED) {
            return Err(why);
        }
        tries += 1;
        tell(what, tries, &refusal::chain(&why));
        tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
    }
}

/// The first failure is told aloud, the others are for who looks closer.
fn tell(what: &str, tries: usize, why: &str) {
    if tries == 1 {
        warn!(
            what,
            why,
            "JetStream does not answer; trying again. The broker is away or busy, has no leader, or its JetStream is off"
        );
    } else {
        debug!(what, tries, why, "JetStream does not answer yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_time_can_mend_is_waited_for() {
        let refused = |code| ApiError::Refused { code, description: String::new() };
        for why in [ApiError::NoAnswer("late".into()), ApiError::NoJetStream, refused(10008), refused(10009)]
        {
            assert!(TopologyError::Api { stream: "S".into(), source: why }.may_pass());
        }
        for why in
            [refused(10039), refused(code::STORAGE_RESOURCES_EXCEEDED), ApiError::Unreadable("x".into())]
        {
            assert!(!OpenError::Api { stream: "S".into(), consumer: "c".into(), source: why }.may_pass());
        }
        assert!(!TopologyError::Missing { stream: "S".into() }.may_pass());
        assert!(!OpenError::NoStream { stream: "S".into() }.may_pass());
    }
}
