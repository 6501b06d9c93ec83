//! Long waits, and what comes back from the dead letters.

use busway_core::{
    AttemptRecord, Backoff, Digest, FailedRun, FailureClass,
    binding::{Behind, Ordering},
    dead_letter,
    port::{ParkError, PublishError},
};
use busway_path_tests::{ACK_WAIT, TestHost};
use busway_testkit::{
    memory::{MemoryBroker, Operation},
    scripted::Step,
};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// A host whose waits are a minute, on a broker that has a past.
fn patient_on(broker: MemoryBroker, steps: impl IntoIterator<Item = Step>) -> TestHost {
    TestHost::start_with(broker, steps, |binding| binding.retry.backoff = Backoff::Fixed(MINUTE))
}

fn patient(steps: impl IntoIterator<Item = Step>) -> TestHost {
    patient_on(MemoryBroker::new(ACK_WAIT), steps)
}

async fn run(host: &TestHost) -> Vec<String> {
    host.broker.publish("orders.created", &[("x-a", "1"), ("Nats-Msg-Id", "m")], "{}");
    host.broker.all_settled().await;
    host.quiet().await;
    host.broker.log()
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_spent_outside_of_the_consumer_and_the_event_comes_back_as_it_was() {
    let host = patient([Step::Fail(FailureClass::Retry), Step::Publish(vec!["a"])]);
    let log = run(&host).await;
    let expected =
        ["record 1 failed", "park after 1 failed for 60000 ms", "ack 1", "publish a", "ack copy 1"];
    assert_eq!(log, expected);
    let calls = host.handler.calls();
    assert_eq!(host.handler.attempts(), [1, 2]);
    let [first, second] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!((&first.event.id, &first.event.position), (&second.event.id, &second.event.position));
    assert_eq!(first.event.subject.as_str(), second.event.subject.as_str());
    assert_eq!(first.event.headers, second.event.headers);
    assert_eq!(first.event.payload, second.event.payload);
    assert_eq!(host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"parked\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_parked_event_dies_in_its_last_attempt_and_its_letter_names_the_original() {
    let host = patient([Step::Fail(FailureClass::Retry)]);
    let log = run(&host).await;
    let expected = [
        "record 1 failed",
        "park after 1 failed for 60000 ms",
        "ack 1",
        "record 2 failed",
        "park after 2 failed for 60000 ms",
        "ack copy 1",
        "record 3 failed",
        "dead letter retry",
        "terminate copy 2 dead-lettered:retry",
    ];
    assert_eq!(log, expected);
    let letters = host.broker.dead_letters();
    let named = [dead_letter::STREAM, dead_letter::SEQUENCE, dead_letter::SUBJECT, dead_letter::ATTEMPTS];
    assert_eq!(
        named.map(|name| letters[0].headers.get(name).unwrap_or_default()),
        ["EVENTS", "1", "orders.created", "3"]
    );
}

#[tokio::test(start_paused = true)]
async fn short_waits_and_ordered_subscriptions_stay_in_the_consumer() {
    let steps = || [Step::Fail(FailureClass::Retry), Step::Ok];
    let (_, short) = TestHost::one(steps()).await;
    assert_eq!(short, ["record 1 failed", "put back 1 for 1000 ms", "ack 1"]);
    let host = TestHost::start_with(MemoryBroker::new(ACK_WAIT), steps(), |binding| {
        binding.retry.backoff = Backoff::Fixed(MINUTE);
        binding.ordering = Ordering::Strict { behind: Behind::Block };
    });
    let log = run(&host).await;
    assert!(!log.iter().any(|line| line.starts_with("park")), "{log:?}");
    assert_eq!(host.broker.copies(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_can_not_be_parked_waits_in_its_consumer_and_its_record_says_so() {
    for why in [ParkError::NotOffered, ParkError::NotStored(PublishError::NotNow("full".into()))] {
        let host = patient([Step::Fail(FailureClass::Retry), Step::Ok]);
        host.broker.answer_parks([Err(why)]);
        let log = run(&host).await;
        let expected = [
            "record 1 failed",
            "park after 1 failed for 60000 ms (refused)",
            "record 1 failed",
            "put back 1 for 60000 ms",
            "ack 1",
        ];
        assert_eq!(log, expected);
        assert!(!host.broker.attempts_of(1).runs[0].parked);
        assert_eq!(host.handler.attempts(), [1, 2]);
    }
}

/// What a host leaves that recorded one failed run as parked.
fn parked(at_ms: u64) -> AttemptRecord {
    let run =
        FailedRun { at_ms, wait: Some(MINUTE), parked: true, ..FailedRun::for_test(FailureClass::Retry) };
    AttemptRecord { runs: vec![run], forgotten: 0 }
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_between_record_and_copy_the_copy_is_stored_and_the_original_is_not_run() {
    let broker = MemoryBroker::new(ACK_WAIT);
    broker.publish("orders.created", &[], "{}");
    broker.set_attempts(1, parked(0));
    let host = patient_on(broker, [Step::Ok]);
    host.broker.all_settled().await;
    host.quiet().await;
    // The wait was over long ago.
    assert_eq!(host.broker.log(), ["park after 1 failed for 10 ms", "ack 1", "ack copy 1"]);
    assert_eq!(host.handler.attempts(), [2]);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_between_copy_and_acknowledgement_the_copy_is_recognised() {
    let host = patient([Step::Fail(FailureClass::Retry), Step::Ok]);
    host.broker.fail_next(Operation::Ack);
    let log = run(&host).await;
    let known = log.iter().filter(|line| line.ends_with("(known)")).count();
    assert_eq!((known, host.broker.copies()), (1, 1), "{log:?}");
    assert_eq!(host.handler.attempts(), [1, 2], "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn an_original_that_is_given_again_after_its_copy_ran_is_acknowledged_without_a_run() {
    let host = patient([Step::Fail(FailureClass::Retry), Step::RetryAfter(Duration::from_secs(5)), Step::Ok]);
    let broker = host.broker.clone();
    run(&host).await;
    assert_eq!(host.handler.attempts(), [1, 2, 3]);
    // Another host, which remembers nothing.
    drop(host);
    let other = patient_on(broker, [Step::Ok]);
    other.broker.redeliver(1);
    other.broker.all_settled().await;
    other.quiet().await;
    assert_eq!(other.handler.attempts(), [] as [u32; 0]);
    assert_eq!(other.broker.copies(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_copies_of_one_event_only_the_later_one_runs() {
    let host = patient([Step::Fail(FailureClass::Retry), Step::Fail(FailureClass::Retry), Step::Ok]);
    let broker = host.broker.clone();
    run(&host).await;
    drop(host);
    let other = patient_on(broker, [Step::Ok]);
    other.broker.redeliver_copy(1);
    other.broker.all_settled().await;
    other.quiet().await;
    assert_eq!(other.handler.attempts(), [] as [u32; 0], "{:?}", other.broker.log());
    assert_eq!(other.broker.copies(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_redriven_event_counts_its_attempts_anew_and_dies_in_the_next_round() {
    let (host, _) = TestHost::one([Step::Fail(FailureClass::Retry)]).await;
    let first = host.broker.dead_letters()[0].clone();
    for round in 1..=3 {
        let last = host.broker.dead_letters().last().map(|letter| letter.subject.clone()).unwrap();
        assert_eq!(host.broker.redrive(&last, None), Ok(()));
        host.broker.all_settled().await;
        host.quiet().await;
        let letters = host.broker.dead_letters();
        assert_eq!(letters.len(), round + 1);
        let letter = letters.last().unwrap();
        assert_eq!(letter.subject, format!("busway.dlq.p.{}.{round}", first.event_id));
        assert_eq!((&letter.payload, letter.headers.get(dead_letter::SEQUENCE)), (&first.payload, Some("1")));
        assert_eq!(letter.headers.get(dead_letter::ATTEMPTS), Some("3"));
    }
    assert_eq!(host.handler.attempts(), [1, 2, 3].repeat(4));
    let last = host.broker.dead_letters().last().map(|letter| letter.subject.clone()).unwrap();
    assert!(host.broker.redrive(&last, None).is_err(), "a fourth round");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_redriven_for_another_version_is_put_back_uncounted() {
    let (host, _) = TestHost::one([Step::Fail(FailureClass::Reject), Step::Ok]).await;
    let letter = host.broker.dead_letters()[0].subject.clone();
    assert_eq!(host.broker.redrive(&letter, Some("00000000")), Ok(()));
    host.broker.logged("put back copy 1").await;
    assert_eq!(host.handler.attempts(), [1], "not run");
    let own = Digest::of(b"plugin").to_string();
    let own = own.trim_start_matches("sha256:").get(..8).unwrap().to_owned();
    let (host, _) = TestHost::one([Step::Fail(FailureClass::Reject), Step::Ok]).await;
    let letter = host.broker.dead_letters()[0].subject.clone();
    assert_eq!(host.broker.redrive(&letter, Some(&own)), Ok(()));
    host.broker.all_settled().await;
    assert_eq!(host.handler.attempts(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_which_nobody_knows_whether_it_is_stored_is_asked_for_again_and_the_event_is_not_run_meanwhile()
 {
    let host = patient([Step::Fail(FailureClass::Retry), Step::Ok]);
    let unknown = ParkError::NotStored(PublishError::Unreachable("no answer".into()));
    host.broker.answer_parks([Err(unknown)]);
    let log = run(&host).await;
    let expected =
        ["record 1 failed", "park after 1 failed for 60000 ms (refused)", "put back 1 for 5000 ms"];
    assert_eq!(log[..3], expected);
    assert!(log[3].starts_with("park after 1 failed for "), "{log:?}");
    assert_eq!(log[4..], ["ack 1", "ack copy 1"]);
    assert_eq!(host.handler.attempts(), [1, 2]);
}
