//! What nobody confirms: messages that are sent at most once, answers, and what a requester is told of a failure.

#![expect(clippy::indexing_slicing, reason = "what was not called or sent ends the test")]

use busway_core::{FailureClass, Headers, dead_letter, port::PublishError, reply, trace};
use busway_path_tests::TestHost;
use busway_testkit::scripted::Step;
use std::time::Duration;

const INBOX: &str = "_INBOX.requester";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn asked(steps: impl IntoIterator<Item = Step>) -> (TestHost, Vec<String>) {
    let host = TestHost::start(steps);
    host.broker.ask("orders.get", &[("Busway-Hops", "3"), (trace::TRACEPARENT, PARENT)], INBOX);
    host.broker.all_settled().await;
    host.quiet().await;
    let log = host.broker.log();
    (host, log)
}

fn assert_tells_where_it_comes_from(host: &TestHost, headers: &Headers) {
    let event = &host.handler.calls()[0].event;
    assert_eq!(headers.get(dead_letter::EVENT_ID), Some(event.id.as_str()));
    assert_eq!(headers.get(dead_letter::HOPS), Some("4"));
    let trace = headers.get(trace::TRACEPARENT).and_then(trace::trace_id);
    assert_eq!(trace, trace::trace_id(PARENT));
}

fn error(host: &TestHost, at: usize) -> (String, String) {
    let sent = host.broker.sent();
    let header = |name| sent[at].headers.get(name).unwrap_or_default().to_owned();
    (header(reply::SERVICE_ERROR_CODE), header(reply::SERVICE_ERROR))
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_goes_first_then_what_is_sent_then_the_answer_then_the_acknowledgement() {
    let (host, log) = asked([Step::Speak("core.a", "out.a", "here")]).await;
    assert_eq!(log, ["publish out.a", "send core.a", "send _INBOX.requester", "ack 1"]);
    let sent = host.broker.sent();
    assert_eq!((&sent[0].payload[..], &sent[1].payload[..]), (&b"out"[..], &b"here"[..]));
    for message in &sent {
        assert_tells_where_it_comes_from(&host, &message.headers);
        assert_eq!(message.headers.len(), 3);
    }
    assert_eq!(host.broker.outputs()[0].message_id, host.handler.calls()[0].event.id.output_id("p", 1));
    assert!(host.handler.calls()[0].event.can_reply);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_when_an_output_was_not_stored() {
    let host = TestHost::start([Step::Speak("core.a", "out.a", "here")]);
    host.broker.answer_publishes([Err(PublishError::NoStream)]);
    host.broker.ask("orders.get", &[], INBOX);
    host.broker.logged("put back").await;
    assert_eq!(host.broker.log(), ["publish out.a (refused)", "record 1 failed", "put back 1 for 1000 ms"]);
    host.broker.all_settled().await;
    let log = host.broker.log();
    assert_eq!(log[3..], ["publish out.a", "send core.a", "send _INBOX.requester", "ack 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_sent_is_counted_and_not_tried_again() {
    let host = TestHost::start([Step::Speak("core.a", "out.a", "here")]);
    let lost = || Err(PublishError::Unreachable("x".into()));
    host.broker.answer_sends([lost(), lost()]);
    host.broker.ask("orders.get", &[], INBOX);
    host.broker.all_settled().await;
    let expected = ["publish out.a", "send core.a (refused)", "send _INBOX.requester (refused)", "ack 1"];
    assert_eq!(host.broker.log(), expected);
    for reason in ["output-not-sent", "answer-not-sent"] {
        let metric = format!("busway_host_trouble_total{{plugin=\"p\",reason=\"{reason}\"}}");
        assert_eq!(host.metric(&metric), 1.0, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_requester_is_told_of_an_answer_that_can_not_be_sent() {
    let host = TestHost::start([Step::Speak("core.a", "out.a", "here")]);
    host.broker.answer_sends([Ok(()), Err(PublishError::TooLarge("x".into()))]);
    host.broker.ask("orders.get", &[], INBOX);
    host.broker.all_settled().await;
    assert_eq!(error(&host, 1), ("500".into(), "the answer could not be sent".into()));
}

#[tokio::test(start_paused = true)]
async fn a_requester_waits_while_its_request_is_tried_again_and_a_later_attempt_answers_it() {
    let (host, log) = asked([Step::Fail(FailureClass::Trap), Step::Speak("core.a", "out.a", "here")]).await;
    let expected = [
        "record 1 failed",
        "put back 1 for 1000 ms",
        "publish out.a",
        "send core.a",
        "send _INBOX.requester",
        "ack 1",
    ];
    assert_eq!(log, expected);
    assert_eq!(&host.broker.sent()[1].payload[..], b"here");
}

#[tokio::test(start_paused = true)]
async fn a_requester_is_told_when_its_request_is_a_dead_letter_and_not_before_that_is_stored() {
    let (host, log) = asked([Step::Fail(FailureClass::Reject)]).await;
    let expected = [
        "record 1 failed",
        "dead letter reject",
        "send _INBOX.requester",
        "terminate 1 dead-lettered:reject",
    ];
    assert_eq!(log, expected);
    assert_eq!(error(&host, 0), ("400".into(), "scripted: as the script says".into()));
    assert_tells_where_it_comes_from(&host, &host.broker.sent()[0].headers);

    let (host, log) = asked([Step::Fail(FailureClass::Trap)]).await;
    assert_eq!(log.iter().filter(|line| line.starts_with("send")).count(), 1, "{log:?}");
    assert_eq!(error(&host, 0), ("500".into(), "the request was not handled: trap".into()));
}

#[tokio::test(start_paused = true)]
async fn a_requester_is_not_told_while_the_dead_letter_is_refused() {
    let host = TestHost::start([Step::Fail(FailureClass::Reject)]);
    host.broker.answer_dead_letters([Err(PublishError::NotNow("full".into()))]);
    host.broker.ask("orders.get", &[], INBOX);
    host.broker.logged("put back").await;
    assert!(host.broker.sent().is_empty());
    host.broker.all_settled().await;
    assert_eq!(host.broker.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_went_through_too_many_plugins_is_answered_so() {
    let host = TestHost::start([Step::Ok]);
    host.broker.ask("orders.get", &[("Busway-Hops", "17")], INBOX);
    host.broker.all_settled().await;
    assert_eq!(host.handler.calls().len(), 0);
    assert_eq!(error(&host, 0).0, "508");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_who_does_not_wait() {
    let (host, log) = TestHost::one([Step::Fail(FailureClass::Reject)]).await;
    assert!(log.iter().all(|line| !line.starts_with("send")), "{log:?}");
    assert!(!host.handler.calls()[0].event.can_reply);
    let (_, log) = TestHost::one([Step::Speak("core.a", "out.a", "to nobody")]).await;
    assert_eq!(log, ["publish out.a", "send core.a", "ack 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_lost_the_event_says_nothing() {
    let host = TestHost::start([Step::TakeAndPublish(Duration::from_secs(40), "out.a")]);
    for _ in 0..20 {
        host.broker.fail_next(busway_testkit::memory::Operation::Progress);
    }
    host.broker.ask("orders.get", &[], INBOX);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(host.broker.sent().is_empty() && host.broker.outputs().is_empty(), "{:?}", host.broker.log());
}
