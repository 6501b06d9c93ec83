//! A wall clock that is set by a day changes no lease and no wait: both are measured by the runtime's own clock.

use busway_core::{AttemptRecord, Backoff, FailedRun, FailureClass};
use busway_dispatch::{Clock, Host};
use busway_path_tests::{ACK_WAIT, TestHost, binding};
use busway_testkit::{memory::MemoryBroker, scripted::Step};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

const NOW_MS: u64 = 1_795_000_000_000;
const DAY_MS: u64 = 86_400_000;
const MINUTE: Duration = Duration::from_secs(60);

/// What the clock shows after a jump: not at all, a day on, a day back.
const JUMPS: [u64; 3] = [NOW_MS, NOW_MS + DAY_MS, NOW_MS - DAY_MS];

/// A host whose waits are this long, and its clock.
fn host(
    broker: MemoryBroker,
    wait: Duration,
    steps: impl IntoIterator<Item = Step>,
) -> (TestHost, Arc<AtomicU64>) {
    let shown = Arc::new(AtomicU64::new(NOW_MS));
    let mut binding = binding();
    binding.retry.backoff = Backoff::Fixed(wait);
    let host = Host { clock: Clock::Set(Arc::clone(&shown)), ..Host::new("h1", 64) };
    (TestHost::start_as(binding, host, broker, steps), shown)
}

/// What was asked of the broker and how long all of it took, with a clock that jumps `after` the beginning.
async fn story(wait: Duration, after: Duration, shows: u64, steps: Vec<Step>) -> (Vec<String>, Duration) {
    let began = Instant::now();
    let (host, shown) = host(MemoryBroker::new(ACK_WAIT), wait, steps);
    host.broker.publish("orders.created", &[], "{}");
    tokio::time::sleep(after).await;
    assert!(host.broker.given_and_unsettled() > 0 || host.broker.copies() > 0, "it is over before the jump");
    shown.store(shows, Ordering::Relaxed);
    host.broker.all_settled().await;
    host.quiet().await;
    (host.broker.log(), began.elapsed())
}

/// The same story for every jump.
async fn is_the_same(
    wait: Duration,
    after: Duration,
    steps: impl Fn() -> Vec<Step>,
) -> (Vec<String>, Duration) {
    let still = story(wait, after, NOW_MS, steps()).await;
    for shows in JUMPS {
        let (log, took) = story(wait, after, shows, steps()).await;
        assert_eq!(log, still.0, "the clock shows {shows}");
        assert!(took.abs_diff(still.1) < Duration::from_secs(1), "{took:?} and {:?}", still.1);
    }
    still
}

#[tokio::test(start_paused = true)]
async fn a_jump_during_a_wait_in_the_consumer_changes_neither_the_wait_nor_the_attempts() {
    let steps = || vec![Step::Fail(FailureClass::Retry), Step::Publish(vec!["a"])];
    let (log, took) = is_the_same(Duration::from_secs(20), Duration::from_secs(5), steps).await;
    assert_eq!(log, ["record 1 failed", "put back 1 for 20000 ms", "publish a", "ack 1"]);
    assert!(took >= Duration::from_secs(20) && took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_jump_while_an_event_is_parked_changes_neither_the_wait_nor_the_attempts() {
    let steps = || vec![Step::Fail(FailureClass::Retry), Step::Publish(vec!["a"])];
    let (log, took) = is_the_same(MINUTE, Duration::from_secs(5), steps).await;
    assert_eq!(log[1], "park after 1 failed for 60000 ms");
    assert!(took >= MINUTE && took < MINUTE + Duration::from_secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_jump_while_an_event_runs_loses_no_lease() {
    // Longer than the broker's patience: without progress it would be given again, and its output not be published.
    let steps = || vec![Step::TakeAndPublish(Duration::from_secs(50), "a")];
    let (log, _) = is_the_same(MINUTE, Duration::from_secs(10), steps).await;
    let without_progress: Vec<_> = log.iter().filter(|line| *line != "progress 1").collect();
    assert_eq!(without_progress, ["publish a", "ack 1"], "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_makes_no_recorded_wait_longer() {
    for (shows, wait_ms) in [(NOW_MS + 20_000, 40_000), (NOW_MS - DAY_MS, 60_000), (NOW_MS + DAY_MS, 10)] {
        let broker = MemoryBroker::new(ACK_WAIT);
        broker.publish("orders.created", &[], "{}");
        let failed = FailedRun::for_test(FailureClass::Retry);
        let run = FailedRun { at_ms: NOW_MS, wait: Some(MINUTE), parked: true, ..failed };
        broker.set_attempts(1, AttemptRecord { runs: vec![run], forgotten: 0 });
        // Nothing runs before the first wait of this test.
        let (host, shown) = host(broker, MINUTE, [Step::Ok]);
        shown.store(shows, Ordering::Relaxed);
        host.broker.all_settled().await;
        host.quiet().await;
        let parked = format!("park after 1 failed for {wait_ms} ms");
        assert_eq!(host.broker.log(), [parked.as_str(), "ack 1", "ack copy 1"]);
    }
}
