//! Each row of the failure table: what is asked of the broker, in which order.

use busway_core::{FailureClass, Refusal, dead_letter, port::PublishError};
use busway_path_tests::TestHost;
use busway_testkit::{
    memory::{Operation, pairs},
    scripted::Step,
};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn an_event_that_is_handled_is_acknowledged_once() {
    let (host, log) = TestHost::one([Step::Ok]).await;
    assert_eq!(log, ["ack 1"]);
    assert_eq!(host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"ack\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn outputs_are_stored_before_the_event_is_acknowledged() {
    let (host, log) = TestHost::one([Step::Publish(vec!["a", "b"])]).await;
    assert_eq!(log, ["publish a", "publish b", "ack 1"]);
    let outputs = host.broker.outputs();
    let ids: Vec<_> = outputs.iter().map(|output| output.message_id.as_str()).collect();
    let event = &host.handler.calls()[0].event;
    assert_eq!(ids, [event.id.output_id("p", 0), event.id.output_id("p", 1)]);
    let headers = pairs(&outputs[0].headers);
    assert_eq!(headers["Busway-Hops"], "1");
    assert!(headers.contains_key("traceparent"));
}

#[tokio::test(start_paused = true)]
async fn a_retryable_failure_is_recorded_put_back_and_run_again_until_its_attempts_are_spent() {
    for class in FailureClass::ALL.into_iter().filter(|class| class.is_retryable()) {
        let (host, log) = TestHost::one([Step::Fail(class)]).await;
        let letter = format!("dead letter {class}");
        let end = format!("terminate 1 dead-lettered:{class}");
        let expected = [
            "record 1 failed",
            "put back 1 for 1000 ms",
            "record 2 failed",
            "put back 1 for 1000 ms",
            "record 3 failed",
            &letter,
            &end,
        ];
        assert_eq!(log, expected, "{class}");
        assert_eq!(host.handler.attempts(), [1, 2, 3], "{class}");
        assert_eq!(
            host.metric(&format!("busway_attempts_failed_total{{plugin=\"p\",class=\"{class}\"}}")),
            3.0
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_no_retry_can_help_becomes_a_dead_letter_at_once() {
    for class in FailureClass::ALL.into_iter().filter(|class| !class.is_retryable()) {
        let (host, log) = TestHost::one([Step::Fail(class)]).await;
        let expected = [
            "record 1 failed".to_owned(),
            format!("dead letter {class}"),
            format!("terminate 1 dead-lettered:{class}"),
        ];
        assert_eq!(log, expected);
        assert_eq!(host.broker.dead_letters().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_succeeds_leaves_no_dead_letter() {
    let (host, log) = TestHost::one([Step::Fail(FailureClass::Trap), Step::Publish(vec!["a"])]).await;
    assert_eq!(log, ["record 1 failed", "put back 1 for 1000 ms", "publish a", "ack 1"]);
    assert!(host.broker.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_handlers_own_wait_replaces_the_policys() {
    let (_, log) = TestHost::one([Step::RetryAfter(Duration::from_millis(2500)), Step::Ok]).await;
    assert_eq!(log, ["record 1 failed", "put back 1 for 2500 ms", "ack 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_returns_is_ended_by_the_outer_deadline() {
    let (host, mut log) = TestHost::one([Step::Hang, Step::Ok]).await;
    log.retain(|line| !line.starts_with("progress"));
    assert_eq!(log, ["record 1 failed", "put back 1 for 1000 ms", "ack 1"]);
    assert_eq!(host.broker.attempts_of(1).runs[0].class, FailureClass::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_refused_attempt_does_not_count() {
    let refuse = Step::Refuse(Refusal::NoSandbox("the pool is full".into()));
    let (host, log) = TestHost::one([refuse, Step::Ok]).await;
    assert_eq!(log, ["put back 1 for 1000 ms", "ack 1"]);
    assert_eq!(host.handler.attempts(), [1, 1]);
    assert_eq!(host.metric("busway_attempts_refused_total{plugin=\"p\",class=\"no-sandbox\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_fault_in_the_host_puts_the_event_back_and_the_worker_goes_on() {
    let (host, log) = TestHost::one([Step::Panic, Step::Ok]).await;
    assert_eq!(log, ["put back 1 for 1000 ms", "ack 1"]);
    assert_eq!(host.metric("busway_host_trouble_total{plugin=\"p\",reason=\"host-fault\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_output_stream_that_is_full_is_waited_for_and_counts_no_attempt() {
    let host = TestHost::start([Step::Publish(vec!["a"])]);
    host.broker.answer_publishes([
        Err(PublishError::NotNow("full".into())),
        Err(PublishError::Unreachable("gone".into())),
    ]);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    let expected = [
        "publish a (refused)",
        "put back 1 for 1000 ms",
        "publish a (refused)",
        "put back 1 for 2000 ms",
        "publish a",
        "ack 1",
    ];
    assert_eq!(host.broker.log(), expected);
    assert_eq!(host.handler.attempts(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_output_that_no_stream_captures_is_the_attempts_failure() {
    for why in
        [PublishError::NoStream, PublishError::TooLarge("1 MiB".into()), PublishError::Refused("no".into())]
    {
        let host = TestHost::start([Step::Publish(vec!["a"])]);
        host.broker.answer_publishes([Err(why.clone())]);
        host.broker.publish("orders.created", &[], "{}");
        host.broker.all_settled().await;
        let expected =
            ["publish a (refused)", "record 1 failed", "put back 1 for 1000 ms", "publish a", "ack 1"];
        assert_eq!(host.broker.log(), expected, "{why}");
        assert_eq!(host.broker.attempts_of(1).runs[0].class, FailureClass::Unroutable);
    }
}

#[tokio::test(start_paused = true)]
async fn when_one_of_two_outputs_is_refused_the_event_is_not_acknowledged_and_the_other_is_stored_once() {
    let host = TestHost::start([Step::Publish(vec!["a", "b"])]);
    host.broker.answer_publishes([Ok(()), Err(PublishError::NotNow("full".into()))]);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    let expected =
        ["publish a", "publish b (refused)", "put back 1 for 1000 ms", "publish a", "publish b", "ack 1"];
    assert_eq!(host.broker.log(), expected);
    let subjects: Vec<_> = host.broker.outputs().into_iter().map(|output| output.subject).collect();
    assert_eq!(subjects, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_message_becomes_a_dead_letter_as_it_was_stored() {
    let host = TestHost::start([Step::Ok]);
    host.broker.publish_malformed("orders.created", "raw");
    host.broker.all_settled().await;
    assert_eq!(
        host.broker.log(),
        ["record 1 failed", "dead letter undecodable", "terminate 1 dead-lettered:undecodable"]
    );
    assert!(host.handler.calls().is_empty());
    let letter = &host.broker.dead_letters()[0];
    assert_eq!(letter.payload, "raw");
    assert!(letter.headers.get(dead_letter::RAW_HEADERS).is_some());
}

#[tokio::test(start_paused = true)]
async fn events_that_plugins_pass_around_in_a_circle_become_dead_letters() {
    let host = TestHost::start([Step::Ok]);
    host.broker.publish("orders.created", &[("Busway-Hops", "17")], "{}");
    host.broker.all_settled().await;
    assert_eq!(host.broker.log(), ["record 1 failed", "dead letter loop", "terminate 1 dead-lettered:loop"]);
}

#[tokio::test(start_paused = true)]
async fn the_trace_goes_on_in_outputs_and_dead_letters() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    for steps in [Step::Publish(vec!["a"]), Step::Fail(FailureClass::Reject)] {
        let host = TestHost::start([steps]);
        host.broker.publish("orders.created", &[("traceparent", &parent)], "{}");
        host.broker.all_settled().await;
        let outputs = host.broker.outputs().into_iter().map(|output| output.headers);
        let letters = host.broker.dead_letters().into_iter().map(|letter| letter.headers);
        let carried: Vec<_> = outputs.chain(letters).collect();
        assert_eq!(carried.len(), 1);
        assert!(carried[0].get("traceparent").is_some_and(|value| value.contains(TRACE)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_not_stored_keeps_the_event_in_its_stream() {
    let host = TestHost::start([Step::Fail(FailureClass::Reject)]);
    host.broker.answer_dead_letters([Err(PublishError::NotNow("full".into()))]);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    let expected = [
        "record 1 failed",
        "dead letter reject (refused)",
        "put back 1 for 60000 ms",
        "dead letter reject",
        "terminate 1 dead-lettered:reject",
    ];
    assert_eq!(host.broker.log(), expected);
    assert_eq!(host.handler.attempts(), [1], "the plugin is not run again for the sake of the dead letter");
    assert_eq!(host.metric("busway_host_trouble_total{plugin=\"p\",reason=\"dead-letter-refused\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_that_is_not_recorded_does_not_count() {
    let host = TestHost::start([Step::Fail(FailureClass::Trap), Step::Ok]);
    host.broker.fail_next(Operation::Record);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    assert_eq!(host.broker.log(), ["record 1 failed (refused)", "put back 1 for 5000 ms", "ack 1"]);
    assert_eq!(host.handler.attempts(), [1, 1]);
}
