//! Repeated inputs: run once, whatever happens to the first of them; and a corrected one is never taken for a repetition.

use busway_core::{Backoff, Binding, FailureClass, KeySource, Refusal, binding::InputDedup};
use busway_dispatch::Host;
use busway_path_tests::{ACK_WAIT, TestHost, binding};
use busway_testkit::{
    memory::{MemoryBroker, Operation},
    scripted::Step,
};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(3600);

fn deduping(ttl: Duration) -> Binding {
    Binding { dedup: Some(InputDedup { key: KeySource::MessageId, ttl }), ..binding() }
}

fn host(steps: impl IntoIterator<Item = Step>) -> TestHost {
    TestHost::start_as(deduping(TTL), Host::new("h1", 64), MemoryBroker::new(ACK_WAIT), steps)
}

/// Publishes an event with a message id and waits until everything is settled.
async fn publish(host: &TestHost, id: &str, payload: &str) {
    host.broker.publish("orders.created", &[("Nats-Msg-Id", id)], payload);
    host.broker.all_settled().await;
    host.quiet().await;
}

fn duplicates(host: &TestHost) -> f64 {
    host.metric("busway_duplicates_dropped_total{plugin=\"p\"}")
}

#[tokio::test(start_paused = true)]
async fn a_repeated_input_is_acknowledged_without_a_run() {
    let host = host([Step::Publish(vec!["a"])]);
    publish(&host, "m-1", "{}").await;
    publish(&host, "m-1", "{}").await;
    publish(&host, "m-2", "{}").await;
    let log = host.broker.log();
    let expected =
        ["claim m-1", "publish a", "ack 1", "claim m-1", "ack 2", "claim m-2", "publish a", "ack 3"];
    assert_eq!(log, expected);
    assert_eq!((host.handler.calls().len(), duplicates(&host)), (2, 1.0));
    assert_eq!(host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"ack\"}"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_free_when_its_time_is_over() {
    let host = TestHost::start_as(
        deduping(Duration::from_secs(60)),
        Host::new("h1", 64),
        MemoryBroker::new(ACK_WAIT),
        [Step::Ok],
    );
    publish(&host, "m-1", "{}").await;
    tokio::time::advance(Duration::from_secs(61)).await;
    publish(&host, "m-1", "{}").await;
    assert_eq!((host.handler.calls().len(), duplicates(&host)), (2, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_while_its_event_is_tried_again_and_for_the_run_that_succeeds() {
    let host = host([Step::Fail(FailureClass::Trap), Step::Ok]);
    host.broker.publish("orders.created", &[("Nats-Msg-Id", "m-1")], "{}");
    host.broker.logged("put back 1").await;
    publish(&host, "m-1", "{}").await;
    let log = host.broker.log();
    let expected = [
        "claim m-1",
        "record 1 failed",
        "put back 1 for 1000 ms",
        "claim m-1",
        "ack 2",
        "claim m-1",
        "ack 1",
    ];
    assert_eq!(log, expected);
    assert_eq!(host.handler.attempts(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_given_up_when_its_event_is_dead_so_that_a_corrected_input_is_handled() {
    for class in [FailureClass::Reject, FailureClass::Retry] {
        let attempts = if class.is_retryable() { 3 } else { 1 };
        let host = host((0..attempts).map(|_| Step::Fail(class)).chain([Step::Ok]));
        publish(&host, "m-1", "wrong").await;
        let log = host.broker.log();
        let end = [
            format!("dead letter {class}"),
            "release m-1".to_owned(),
            format!("terminate 1 dead-lettered:{class}"),
        ];
        assert!(log.ends_with(&end), "{log:?}");
        publish(&host, "m-1", "right").await;
        assert_eq!(host.broker.log().last().map(String::as_str), Some("ack 2"), "{class}");
        assert_eq!((host.handler.calls().len(), duplicates(&host)), (attempts + 1, 0.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_event_is_not_terminated_before_its_key_is_given_up() {
    let host = host([Step::Fail(FailureClass::Reject)]);
    host.broker.fail_next(Operation::Release);
    publish(&host, "m-1", "{}").await;
    let expected = [
        "claim m-1",
        "record 1 failed",
        "dead letter reject",
        "release m-1 (refused)",
        "put back 1 for 5000 ms",
        "dead letter reject",
        "release m-1",
        "terminate 1 dead-lettered:reject",
    ];
    assert_eq!(host.broker.log(), expected);
    assert_eq!(host.handler.attempts(), [1]);
    assert_eq!(host.metric("busway_host_trouble_total{plugin=\"p\",reason=\"key-not-released\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_host_died_after_the_claim_runs_on_the_next_one() {
    let broker = MemoryBroker::new(ACK_WAIT);
    let first = TestHost::start_as(
        deduping(TTL),
        Host::new("h1", 64),
        broker.clone(),
        [Step::Refuse(Refusal::NoSandbox("x".into()))],
    );
    broker.publish("orders.created", &[("Nats-Msg-Id", "m-1")], "{}");
    broker.logged("put back 1").await;
    first.drain(Duration::ZERO).await;
    let second = TestHost::start_as(deduping(TTL), Host::new("h1", 64), broker, [Step::Ok]);
    second.broker.all_settled().await;
    assert_eq!(second.handler.attempts(), [1]);
    assert_eq!(duplicates(&second), 0.0);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_put_back_uncounted_when_its_key_can_not_be_claimed() {
    let host = host([Step::Ok]);
    host.broker.fail_next(Operation::Claim);
    publish(&host, "m-1", "{}").await;
    assert_eq!(host.broker.log(), ["claim m-1 (refused)", "put back 1 for 1000 ms", "claim m-1", "ack 1"]);
    assert_eq!(host.handler.attempts(), [1]);
    let refused = "busway_attempts_refused_total{plugin=\"p\",class=\"broker-trouble\"}";
    assert_eq!(host.metric(refused), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_input_without_a_key_is_run_each_time_and_counted() {
    let host = host([Step::Ok]);
    for _ in 0..2 {
        host.broker.publish("orders.created", &[], "{}");
    }
    host.broker.publish("orders.created", &[("Nats-Msg-Id", "")], "{}");
    host.broker.all_settled().await;
    host.quiet().await;
    assert_eq!(host.handler.calls().len(), 3);
    assert_eq!(host.metric("busway_events_without_key_total{plugin=\"p\"}"), 3.0);
    assert!(!host.broker.log().iter().any(|line| line.starts_with("claim")));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_message_is_dead_lettered_without_asking_for_a_key() {
    let host = host([Step::Ok]);
    host.broker.publish_malformed("orders.created", "x");
    host.broker.all_settled().await;
    assert_eq!(
        host.broker.log(),
        ["record 1 failed", "dead letter undecodable", "terminate 1 dead-lettered:undecodable"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_can_stand_in_a_header_or_in_the_payload() {
    for key in [KeySource::header("x-order"), KeySource::pointer("/order/id")] {
        let dedup = InputDedup { key: key.expect("a literal"), ttl: TTL };
        let binding = Binding { dedup: Some(dedup), ..binding() };
        let host = TestHost::start_as(binding, Host::new("h1", 64), MemoryBroker::new(ACK_WAIT), [Step::Ok]);
        for _ in 0..2 {
            host.broker.publish("orders.created", &[("X-Order", "7")], r#"{"order":{"id":7}}"#);
        }
        host.broker.all_settled().await;
        host.quiet().await;
        assert_eq!((host.handler.calls().len(), duplicates(&host)), (1, 1.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_over_a_long_wait_outside_of_the_consumer_and_given_up_when_the_copy_is_dead() {
    let broker = MemoryBroker::new(ACK_WAIT);
    let host = TestHost::start_with(broker, [Step::Fail(FailureClass::Retry)], |binding| {
        binding.dedup = Some(InputDedup { key: KeySource::MessageId, ttl: TTL });
        binding.retry.attempts = 2;
        binding.retry.backoff = Backoff::Fixed(Duration::from_secs(60));
    });
    host.broker.publish("orders.created", &[("Nats-Msg-Id", "m-1")], "{}");
    host.broker.logged("ack 1").await;
    host.broker.publish("orders.created", &[("Nats-Msg-Id", "m-1")], "{}");
    host.broker.logged("ack 2").await;
    assert_eq!(duplicates(&host), 1.0);
    host.broker.all_settled().await;
    host.quiet().await;
    let log = host.broker.log();
    let claims = log.iter().filter(|line| *line == "claim m-1").count();
    assert_eq!((claims, log.iter().filter(|line| *line == "release m-1").count()), (3, 1), "{log:?}");
    assert_eq!(host.handler.attempts(), [1, 2]);
}
