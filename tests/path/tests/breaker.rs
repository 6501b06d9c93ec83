//! Breakers and pauses: what does not run stays where it is, and no attempt is burnt.

use busway_core::{
    Binding, FailureClass,
    binding::{Behind, BreakerPolicy, Ordering},
    port::PublishError,
};
use busway_dispatch::{Host, Pause};
use busway_path_tests::{ACK_WAIT, TestHost, binding};
use busway_testkit::{memory::MemoryBroker, scripted::Step};
use std::time::Duration;
use tokio::time::Instant;

const OPEN: &str = "busway_breaker_state{plugin=\"p\"}";
const ALARM: &str = "busway_alarm{alarm=\"dead-letters-unavailable\"}";
const PAUSED: &str = "busway_attempts_refused_total{plugin=\"p\",class=\"paused\"}";

/// Opens at 4 runs of which half failed; open for 30 s, at most 100 s.
fn host(concurrency: u32, steps: impl IntoIterator<Item = Step>) -> TestHost {
    let mut binding = binding();
    binding.limits.concurrency = concurrency;
    binding.retry.attempts = 100;
    binding.breaker = BreakerPolicy {
        calls: 4,
        failures: 0.5,
        window: Duration::from_secs(60),
        open: Duration::from_secs(30),
        open_max: Duration::from_secs(100),
    };
    start(binding, steps)
}

fn start(binding: Binding, steps: impl IntoIterator<Item = Step>) -> TestHost {
    TestHost::start_as(binding, Host::new("h1", 64), MemoryBroker::new(ACK_WAIT), steps)
}

fn failures(count: usize) -> Vec<Step> {
    vec![Step::Fail(FailureClass::Retry); count]
}

/// Waits until the handler was called so often, and says how long that took.
async fn called(host: &TestHost, times: usize) -> Duration {
    let began = Instant::now();
    while host.handler.calls().len() < times {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

fn within(time: Duration, seconds: u64) -> bool {
    // The test itself takes a second between two probes.
    let (wanted, second) = (Duration::from_secs(seconds), Duration::from_secs(1));
    (wanted - second..wanted + 2 * second).contains(&time)
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_fails_all_the_time_is_left_alone_and_no_attempt_is_burnt() {
    let host = host(1, failures(4).into_iter().chain([Step::Ok]));
    for _ in 0..50 {
        host.broker.publish("orders.created", &[], "{}");
    }
    called(&host, 4).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(host.handler.calls().len(), 4, "nothing runs while it is open");
    assert_eq!(host.metric(OPEN), 2.0);
    assert_eq!(host.lane.unsettled(), 0, "what was held and not begun is put back");
    let failed: u32 = (1..=50).map(|sequence| host.broker.attempts_of(sequence).failed_runs()).sum();
    assert_eq!(failed, 4, "only what ran is counted");
    host.broker.all_settled().await;
    assert_eq!(host.metric(OPEN), 0.0, "the probe closed it");
    assert!(host.handler.attempts().iter().all(|attempt| *attempt <= 5));
}

#[tokio::test(start_paused = true)]
async fn one_event_probes_and_each_failed_probe_doubles_the_time_up_to_the_longest() {
    let host = host(8, failures(8).into_iter().chain([Step::Ok]));
    for _ in 0..4 {
        host.broker.publish("orders.created", &[], "{}");
    }
    called(&host, 4).await;
    for (probe, seconds) in [(5, 30), (6, 60), (7, 100), (8, 100)] {
        let took = called(&host, probe).await;
        assert!(within(took, seconds), "probe {probe} after {took:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(host.handler.calls().len(), probe, "one probe, and no more");
        tokio::time::sleep(Duration::ZERO).await;
        assert_eq!(host.metric(OPEN), 2.0);
    }
    assert!(within(called(&host, 9).await, 100));
    host.broker.all_settled().await;
    assert_eq!(host.metric(OPEN), 0.0);
    assert!(host.broker.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_has_taken_and_not_begun_when_it_opens_does_not_run_either() {
    let mut binding = binding();
    binding.limits.concurrency = 8;
    binding.breaker.calls = 4;
    let one_slot = Host::new("h1", 1);
    let host = TestHost::start_as(binding, one_slot, MemoryBroker::new(ACK_WAIT), failures(1));
    for _ in 0..8 {
        host.broker.publish("orders.created", &[], "{}");
    }
    called(&host, 4).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((host.handler.calls().len(), host.lane.unsettled()), (4, 0));
    assert_eq!(host.metric(PAUSED), 4.0, "the other four waited for the host's slot");
}

#[tokio::test(start_paused = true)]
async fn rejections_are_answers_and_open_nothing() {
    let host = host(1, [Step::Fail(FailureClass::Reject)]);
    for _ in 0..20 {
        host.broker.publish("orders.created", &[], "{}");
    }
    host.broker.all_settled().await;
    assert_eq!((host.metric(OPEN), host.metric(PAUSED)), (0.0, 0.0));
    assert_eq!(host.broker.dead_letters().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn three_refused_dead_letters_in_a_row_open_it_and_raise_an_alarm_until_one_is_stored() {
    let host = host(1, [Step::Fail(FailureClass::Reject)]);
    let full = || Err(PublishError::NotNow("maximum bytes exceeded".into()));
    host.broker.answer_dead_letters([full(), full(), full()]);
    for _ in 0..10 {
        host.broker.publish("orders.created", &[], "{}");
    }
    called(&host, 3).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(host.handler.calls().len(), 3, "nothing runs while the dead letters are refused");
    assert_eq!((host.metric(OPEN), host.metric(ALARM)), (2.0, 1.0));
    assert!(!host.broker.log().iter().any(|line| line.starts_with("terminate")), "nothing is terminated");
    host.broker.all_settled().await;
    assert_eq!((host.metric(OPEN), host.metric(ALARM)), (0.0, 0.0));
    assert_eq!(host.broker.dead_letters().len(), 10, "none is lost");
    assert_eq!(host.handler.calls().len(), 10, "a final run is not run again");
}

#[tokio::test(start_paused = true)]
async fn a_pause_by_hand_puts_back_what_has_not_begun_lets_what_runs_finish_and_ends_when_resumed() {
    let host = host(1, [Step::Take(Duration::from_secs(5)), Step::Ok]);
    for _ in 0..6 {
        host.broker.publish("orders.created", &[], "{}");
    }
    called(&host, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(host.lane.unsettled(), 2, "one runs, one waits for the worker");
    host.lane.pause(Pause::ByHand);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(host.lane.unsettled(), 1, "the one that waits is put back while the other still runs");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(host.handler.calls().len(), 1);
    assert_eq!(host.lane.unsettled(), 0);
    assert_eq!(host.metric("busway_plugin_paused{plugin=\"p\"}"), 1.0);
    assert!(host.broker.log().contains(&"ack 1".to_owned()), "what ran has finished");
    assert!(host.metric(PAUSED) >= 1.0);
    host.lane.resume();
    host.broker.all_settled().await;
    assert_eq!(host.metric("busway_plugin_paused{plugin=\"p\"}"), 0.0);
    assert!(host.handler.attempts().iter().all(|attempt| *attempt == 1), "no attempt is burnt");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_of_another_host_holds_this_one_too_and_then_it_probes() {
    let host = host(4, [Step::Fail(FailureClass::Retry), Step::Ok]);
    host.lane.adopt_breaker(Duration::from_secs(20));
    for _ in 0..4 {
        host.broker.publish("orders.created", &[], "{}");
    }
    assert!(within(called(&host, 1).await, 20));
    let took = called(&host, 2).await;
    assert!(within(took, 60), "the probe failed, so for twice as long as a breaker's first time: {took:?}");
    host.broker.all_settled().await;
}

#[tokio::test(start_paused = true)]
async fn the_bindings_of_one_plugin_share_its_breaker() {
    let shared = Host::new("h1", 64);
    let mut one = binding();
    one.breaker.calls = 4;
    let two = Binding { name: Some("two".into()), ..one.clone() };
    let first = TestHost::start_as(one, shared.clone(), MemoryBroker::new(ACK_WAIT), failures(1));
    let second = TestHost::start_as(two, shared, MemoryBroker::new(ACK_WAIT), [Step::Ok]);
    for _ in 0..4 {
        first.broker.publish("orders.created", &[], "{}");
    }
    called(&first, 4).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(first.lane.open_breaker().is_some());
    second.broker.publish("orders.created", &[], "{}");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(second.handler.calls().is_empty());
    second.broker.all_settled().await;
}

#[tokio::test(start_paused = true)]
async fn where_order_is_kept_an_open_breaker_burns_no_attempt_and_nothing_is_overtaken() {
    let mut binding = binding();
    binding.ordering = Ordering::Strict { behind: Behind::Block };
    binding.retry.attempts = 6;
    binding.breaker = BreakerPolicy { calls: 4, open: Duration::from_secs(300), ..BreakerPolicy::default() };
    let host = start(binding, failures(5).into_iter().chain([Step::Ok]));
    for _ in 0..10 {
        host.broker.publish("orders.created", &[], "{}");
    }
    called(&host, 4).await;
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(host.handler.calls().len(), 4);
    host.broker.all_settled().await;
    let mut expected: Vec<u64> = vec![1; 5];
    expected.extend(1..=10);
    let ran = host.handler.calls().into_iter().filter_map(|call| Some(call.event.position?.sequence));
    assert_eq!(ran.collect::<Vec<_>>(), expected);
    assert_eq!(host.handler.attempts().iter().max(), Some(&6));
    assert!(host.broker.dead_letters().is_empty(), "five runs failed of the six that it has");
}
