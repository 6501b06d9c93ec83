//! The retry policy, as the path carries it out.

use busway_core::{Backoff, Binding, ClassPolicy, FailureClass, dead_letter};
use busway_path_tests::{ACK_WAIT, TestHost};
use busway_testkit::{memory::MemoryBroker, scripted::Step};
use std::time::Duration;

/// Runs one event to its end and gives what was asked of the broker.
async fn one(steps: impl IntoIterator<Item = Step>, change: impl FnOnce(&mut Binding)) -> TestHost {
    let host = TestHost::start_with(MemoryBroker::new(ACK_WAIT), steps, change);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    host.quiet().await;
    host
}

#[tokio::test(start_paused = true)]
async fn the_same_trap_three_times_in_a_row_is_dead_although_attempts_are_left() {
    let host = one([Step::Fail(FailureClass::Trap)], |binding| {
        binding.retry.attempts = 10;
        binding.retry.same_trap_max = 3;
    })
    .await;
    assert_eq!(host.handler.attempts(), [1, 2, 3]);
    assert_eq!(host.broker.log().last().map(String::as_str), Some("terminate 1 dead-lettered:trap"));
}

#[tokio::test(start_paused = true)]
async fn a_class_with_attempts_of_its_own_ends_by_them() {
    let own = ClassPolicy { attempts: Some(2), backoff: Some(Backoff::Fixed(Duration::from_secs(9))) };
    let host = one([Step::Fail(FailureClass::Timeout)], |binding| {
        binding.retry.attempts = 10;
        binding.retry.classes.insert(FailureClass::Timeout, own);
    })
    .await;
    assert_eq!(host.handler.attempts(), [1, 2]);
    assert!(host.broker.log().contains(&"put back 1 for 9000 ms".to_owned()), "{:?}", host.broker.log());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_old_is_not_run_and_its_letter_says_so() {
    // The broker of these tests stores every event at the beginning of time.
    let host = one([Step::Ok], |binding| binding.retry.age_max = Some(Duration::from_secs(60))).await;
    assert_eq!(host.handler.attempts(), [] as [u32; 0]);
    assert_eq!(
        host.broker.log(),
        ["record 1 failed", "dead letter expired", "terminate 1 dead-lettered:expired"]
    );
    let letters = host.broker.dead_letters();
    let reason = letters.first().and_then(|letter| letter.headers.get(dead_letter::REASON));
    assert!(
        reason.is_some_and(|reason| reason.ends_with("more than the 60 s that it may become")),
        "{reason:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_guests_wish_is_held_within_the_operators_bounds() {
    let wish = Step::RetryAfter(Duration::from_secs(60 * 60));
    let host = one([wish, Step::Ok], |binding| binding.retry.wish_max = Duration::from_secs(5)).await;
    assert!(host.broker.log().contains(&"put back 1 for 5000 ms".to_owned()), "{:?}", host.broker.log());
}
