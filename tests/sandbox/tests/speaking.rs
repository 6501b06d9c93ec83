//! Replies, requests, and messages that are sent at most once.

#![expect(clippy::unwrap_used, reason = "a guest of the tests that does not load ends the test")]

use busway_core::{
    Attempt, Event, FailureClass, Guarantee, Handler as _, Headers, Limits, Message, Ran, Report,
    dead_letter::{EVENT_ID, HOPS},
    port::RequestError,
    trace,
};
use busway_sandbox_tests::*;
use busway_testkit::requests::{Answer, ScriptedServices};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

const REFUSED: &str = r#"(data (i32.const 512) "refused0")"#;

/// Replies with the payload so many times; a refusal is the code of a rejection, as in [`echo`].
fn replies(times: u32) -> String {
    let call = format!(
        "(call $reply (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048)) {}",
        reject_if_refused(2048)
    );
    guest(REPLY, REFUSED, &format!("{} {OK}", call.repeat(times as usize)))
}

/// Asks on a subject with the payload and waits so long, then publishes the answer; a refusal is a rejection's code.
fn asks(subject: &str, timeout_ms: u32) -> String {
    let data = format!(r#"{REFUSED} (data (i32.const 16) "{subject}") (data (i32.const 256) "out.answer")"#);
    let body = format!(
        "(call $request (i32.const 16) (i32.const {}) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7)
           (i32.const {timeout_ms}) (i32.const 2048))
         {}
         (call $publish (i32.const 256) (i32.const 10) (i32.load (i32.const 2060)) (i32.load (i32.const 2064))
           (i32.load (i32.const 2068)) (i32.load (i32.const 2072)) (i32.const 3072))
         {} {OK}",
        subject.len(),
        reject_if_refused(2048),
        reject_if_refused(3072)
    );
    guest(&format!("{REQUEST} {PUBLISH}"), &data, &body)
}

fn request(payload: &[u8]) -> Event {
    Event { can_reply: true, ..event(payload) }
}

async fn call(core: &str, event: &Event, limits: Limits) -> Report {
    plugin(&component(core), limits).unwrap().call(event, Attempt(2)).await
}

async fn call_with(core: &str, services: &Arc<ScriptedServices>, limits: Limits) -> Report {
    let plugin = plugin(&component(core), limits).unwrap();
    plugin.set_requests(Arc::clone(services) as _);
    plugin.call(&event(b"tea"), Attempt(2)).await
}

fn services(answers: impl IntoIterator<Item = Answer>) -> Arc<ScriptedServices> {
    Arc::new(ScriptedServices::new(answers))
}

#[tokio::test]
async fn a_reply_waits_for_the_ok_and_counts_against_the_budget() {
    let report = call(&replies(1), &request(b"answer"), short()).await;
    let Ran::Ok(outputs) = &report.ran else { panic!("{report:?}") };
    let reply = outputs.reply.as_ref().unwrap();
    assert_eq!((&reply.payload[..], reply.headers.len(), outputs.messages.len()), (&b"answer"[..], 0, 0));
    assert_eq!((report.used.publishes, report.used.publish_bytes), (1, 6));
    let narrow = Limits { publishes: 0, ..short() };
    assert_eq!(failure(&call(&replies(1), &request(b"x"), narrow).await).code, "refusede", "quota");
}

#[tokio::test]
async fn a_reply_is_given_once_and_only_to_a_request() {
    let twice = call(&replies(2), &request(b"x"), short()).await;
    assert_eq!(failure(&twice).code, "refusedi", "already-replied");
    let stored = call(&replies(1), &event(b"x"), short()).await;
    assert_eq!(failure(&stored).code, "refusedh", "no-reply");
}

#[tokio::test]
async fn a_plugin_can_ask_whether_it_can_reply() {
    let core = guest(
        &format!("{CAN_REPLY} {REPLY}"),
        REFUSED,
        &format!(
            "{} (call $reply (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048)) {} {OK}",
            ensure("(call $can_reply)"),
            ensure("(i32.eqz (call $can_reply))"),
        ),
    );
    assert!(is_ok(&call(&core, &request(b"x"), short()).await));
    assert_eq!(class(&call(&core, &event(b"x"), short()).await), FailureClass::Trap, "a stored event");
}

#[tokio::test]
async fn the_grant_says_what_a_message_is_worth() {
    for (subject, worth) in [("out.a", Guarantee::Stored), ("core.a", Guarantee::Core)] {
        let report = call(&echo(subject), &event(b"x"), short()).await;
        let Ran::Ok(outputs) = &report.ran else { panic!("{report:?}") };
        assert_eq!(outputs.messages[0].guarantee, worth, "{subject}");
    }
}

#[tokio::test]
async fn a_request_carries_where_it_comes_from_and_its_answer_comes_back() {
    let headers =
        [("x-kind", "price"), ("Nats-Stream", "hidden"), ("Busway-Hops", "9")].into_iter().collect();
    let answer = Message { subject: "_INBOX.secret".into(), headers, payload: Bytes::from_static(b"2.50") };
    let services = services([Answer::Message(answer)]);
    let report = call_with(&asks("ask.price", 1_000), &services, short()).await;
    let Ran::Ok(outputs) = &report.ran else { panic!("{report:?}") };
    assert_eq!(&outputs.messages[0].payload[..], b"2.50");
    let shown: Vec<_> = outputs.messages[0].headers.iter().collect();
    assert_eq!(shown, [("x-kind", "price")], "the broker's and the host's headers are not shown");
    let (asked, wait) = services.asked().remove(0);
    assert_eq!((&*asked.subject, &asked.payload[..]), ("ask.price", &b"tea"[..]));
    assert_eq!(wait, Duration::from_secs(1));
    let event = event(b"");
    assert_eq!(asked.headers.get(EVENT_ID), Some(event.id.as_str()));
    assert_eq!(asked.headers.get(HOPS), Some("1"));
    let expected = trace::traceparent(&event.headers, &event.id, "guest", 2);
    assert_eq!(asked.headers.get(trace::TRACEPARENT), Some(&*expected));
}

#[tokio::test]
async fn a_request_without_an_answer_says_why() {
    // A34; the letters count the errors' places in the contract.
    let fail = |why| Answer::Fail(why);
    let table = [
        (fail(RequestError::Timeout), "refusedf"),
        (fail(RequestError::NoResponders), "refusedg"),
        (fail(RequestError::Captured { stream: "S".into() }), "refuseda"),
        (fail(RequestError::TooLarge("x".into())), "refusedd"),
        (fail(RequestError::Unreachable("x".into())), "refusedj"),
        (fail(RequestError::Service { code: "404".into(), words: "no".into() }), "refusedl"),
    ];
    for (answer, expected) in table {
        let report = call_with(&asks("ask.price", 100), &services([answer.clone()]), short()).await;
        assert_eq!(failure(&report).code, expected, "{answer:?}");
    }
    let table = [
        ("out.a", "refuseda"),
        ("core.a", "refuseda"),
        ("$SRV.PING", "refuseda"),
        ("ask.*", "refusedb"),
        ("ask..x", "refusedb"),
    ];
    for (subject, expected) in table {
        let services = services([Answer::Bytes(b"x")]);
        let report = call_with(&asks(subject, 100), &services, short()).await;
        assert_eq!(failure(&report).code, expected, "{subject}");
        assert_eq!(services.asked().len(), 0, "{subject} was asked");
    }
    let unreached = call(&asks("ask.price", 100), &event(b"x"), short()).await;
    assert_eq!(failure(&unreached).code, "refusedj", "unavailable without a broker");
}

#[tokio::test]
async fn a_request_waits_no_longer_than_the_attempt_may_and_uses_no_processor() {
    let limits = Limits { timeout: Duration::from_millis(300), cpu: Duration::from_millis(100), ..short() };
    let services = services([Answer::Silence]);
    let report = call_with(&asks("ask.price", u32::MAX), &services, limits).await;
    let (_, wait) = services.asked().remove(0);
    assert!(wait <= limits.timeout, "{wait:?}");
    let failed = failure(&report);
    // Whichever of the two timers is first: both are due at the same moment.
    assert!(failed.class == FailureClass::Timeout || failed.code == "refusedf", "{report:?}");
    let limits = Limits { timeout: Duration::from_secs(10), ..limits };
    let silent = call_with(&asks("ask.price", 400), &services, limits).await;
    assert_eq!(failure(&silent).code, "refusedf", "timeout");
    assert!(
        silent.used.wall >= Duration::from_millis(400) && silent.used.cpu < limits.cpu,
        "{:?}",
        silent.used
    );
}

#[tokio::test]
async fn an_event_may_ask_sixteen_times_and_a_guest_that_goes_on_is_ended() {
    let call =
        "(call $request (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                  (i32.const 100) (i32.const 2048))";
    let data = format!(r#"{REFUSED} (data (i32.const 16) "ask.x")"#);
    let seventeen = format!("{} {OK}", format!("{call} {}", reject_if_refused(2048)).repeat(17));
    let services = services([Answer::Bytes(b"")]);
    let report = call_with(&guest(REQUEST, &data, &seventeen), &services, short()).await;
    assert_eq!((&*failure(&report).code, services.asked().len()), ("refusede", 16), "quota");
    let endless = format!("(loop $again {call} (br $again)) unreachable");
    let report = call_with(&guest(REQUEST, &data, &endless), &services, short()).await;
    assert_eq!((class(&report), &*failure(&report).code), (FailureClass::Quota, "requests"));
    assert_eq!(services.asked().len(), 32);
}

#[tokio::test]
async fn what_a_failed_run_asked_was_asked_and_what_it_replied_is_gone() {
    let data = format!(r#"{REFUSED} (data (i32.const 16) "ask.x")"#);
    let body =
        "(call $request (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                  (i32.const 100) (i32.const 2048))
                (call $reply (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
                unreachable";
    let services = services([Answer::Bytes(b"")]);
    let plugin = plugin(&component(&guest(&format!("{REQUEST} {REPLY}"), &data, body)), short()).unwrap();
    plugin.set_requests(Arc::clone(&services) as _);
    let report = plugin.call(&request(b"x"), Attempt(1)).await;
    assert_eq!(class(&report), FailureClass::Trap, "and so nothing that it published or replied leaves");
    assert_eq!(services.asked().len(), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_into_the_guest_ends_it_and_not_the_host() {
    let large =
        Message { subject: "x".into(), headers: Headers::new(), payload: Bytes::from(vec![0; 8 << 20]) };
    let too_large = call_with(&asks("ask.x", 100), &services([Answer::Message(large)]), short()).await;
    assert_eq!(failure(&too_large).code, "refusedd", "larger than the broker takes");
    let most =
        Message { subject: "x".into(), headers: Headers::new(), payload: Bytes::from(vec![0; 1 << 20]) };
    let limits = Limits { memory: busway_core::units::ByteSize::mib(1), ..short() };
    let report = call_with(&asks("ask.x", 100), &services([Answer::Message(most)]), limits).await;
    assert_eq!(class(&report), FailureClass::Memory, "{report:?}");
}
