//! What the history is told: one entry for each attempt, whatever its end, once its event is settled.

use busway_core::{
    AttemptRecord, FailedRun, FailureClass, HistoryEntry, Refusal,
    history::{Counts, Disposition, Waits},
    port::PublishError,
    trace,
};
use busway_path_tests::TestHost;
use busway_testkit::{
    memory::{MemoryBroker, Operation},
    scripted::Step,
};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// An entry in short: attempt, class, whether it counts, disposition.
fn short(entry: &HistoryEntry) -> (u32, String, Option<Counts>, Disposition) {
    let cause = entry.cause.as_ref();
    let class = cause.map(|cause| cause.class.clone()).unwrap_or_default();
    (entry.attempt.0, class, cause.map(|cause| cause.counts), entry.disposition)
}

fn shorts(host: &TestHost) -> Vec<(u32, String, Option<Counts>, Disposition)> {
    host.told().iter().map(short).collect()
}

fn retried(wait: Duration) -> Disposition {
    Disposition::Retried { wait, waits: Waits::InConsumer }
}

#[tokio::test(start_paused = true)]
async fn a_success_is_told_with_where_its_outputs_are_stored() {
    let (host, _) = TestHost::one([Step::Publish(vec!["a", "b"])]).await;
    let told = host.told();
    let [entry] = &told[..] else { panic!("{told:?}") };
    assert_eq!(short(entry), (1, String::new(), None, Disposition::Done));
    let outputs: Vec<_> =
        entry.outputs.iter().map(|stored| (stored.stream.as_str(), stored.sequence)).collect();
    assert_eq!((outputs, entry.atomic), (vec![("OUTPUTS", 1), ("OUTPUTS", 2)], false));
    let called = &host.handler.calls()[0].event;
    assert_eq!((&entry.event_id, &entry.position), (&called.id, &called.position));
    let runner = &entry.runner;
    assert_eq!((runner.plugin.as_str(), &*runner.consumer, &*runner.host), ("p", "busway-p", "h1"));
    assert_eq!((runner.version.len(), entry.subject.as_str(), entry.delivered), (12, "orders.created", 1));
    assert!(entry.used.is_some());
}

#[tokio::test(start_paused = true)]
async fn every_failed_run_is_told_and_the_last_one_names_its_dead_letter() {
    let (host, _) = TestHost::one([Step::Fail(FailureClass::Trap)]).await;
    let told = host.told();
    let failed = |attempt, end| (attempt, "trap".to_owned(), Some(Counts::Failed), end);
    let expected = [
        failed(1, retried(SECOND)),
        failed(2, retried(SECOND)),
        failed(3, Disposition::DeadLettered { letter: 1 }),
    ];
    assert_eq!(told.iter().map(short).collect::<Vec<_>>(), expected);
    let cause = told[0].cause.as_ref().unwrap();
    assert_eq!((cause.code.as_str(), cause.reason.as_str()), ("scripted", "as the script says"));
}

#[tokio::test(start_paused = true)]
async fn every_class_and_every_refusal_has_its_name_in_the_entry() {
    for class in FailureClass::ALL {
        let (host, _) = TestHost::one([Step::Fail(class)]).await;
        let told = host.told();
        assert_eq!(told.len(), if class.is_retryable() { 3 } else { 1 }, "{class}");
        assert!(told.iter().all(|entry| entry.cause.as_ref().unwrap().class == class.code()), "{class}");
    }
    let refusals = [
        Refusal::Paused("by hand".into()),
        Refusal::NoSandbox("full".into()),
        Refusal::BrokerTrouble("no answer".into()),
        Refusal::HostFault("a fault".into()),
    ];
    for refusal in refusals {
        let code = refusal.code();
        let (host, _) = TestHost::one([Step::Refuse(refusal), Step::Ok]).await;
        let refused = (1, code.to_owned(), Some(Counts::Refused), Disposition::PutBack { wait: SECOND });
        assert_eq!(shorts(&host), [refused, (1, String::new(), None, Disposition::Done)], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_left_to_another_host_is_told() {
    let (host, _) = TestHost::one([Step::Refuse(Refusal::LeaseLost), Step::Ok]).await;
    let left = (1, "lease-lost".to_owned(), Some(Counts::Refused), Disposition::Left);
    assert_eq!(shorts(&host)[0], left);
}

#[tokio::test(start_paused = true)]
async fn what_never_reached_the_plugin_is_told_without_a_use_of_budgets() {
    let host = TestHost::start([Step::Ok]);
    host.broker.publish_malformed("orders.created", "raw");
    host.broker.publish("orders.created", &[("Busway-Hops", "17")], "{}");
    host.broker.all_settled().await;
    host.quiet().await;
    let told = host.told();
    let classes: Vec<_> = told.iter().map(|entry| (short(entry).1, entry.used)).collect();
    assert_eq!(classes, [("undecodable".to_owned(), None), ("loop".to_owned(), None)]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_died_before_a_crash_is_told_as_its_last_attempt_and_not_as_another() {
    let broker = MemoryBroker::new(busway_path_tests::ACK_WAIT);
    broker.publish("orders.created", &[], "{}");
    let mut record = AttemptRecord::default();
    record.push(FailedRun::for_test(FailureClass::Trap));
    record.push(FailedRun { wait: None, ..FailedRun::for_test(FailureClass::Trap) });
    broker.set_attempts(1, record);
    let host = TestHost::start_on(broker, [Step::Ok]);
    host.broker.all_settled().await;
    host.quiet().await;
    let told = host.told();
    let dead = Disposition::DeadLettered { letter: 1 };
    assert_eq!(short(&told[0]), (2, "trap".to_owned(), Some(Counts::Failed), dead));
    assert_eq!((told.len(), told[0].used), (1, None));
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_did_not_confirm_is_told_as_that() {
    let host = TestHost::start([Step::Ok]);
    host.broker.fail_next(Operation::Ack);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    host.quiet().await;
    let expected = [Disposition::Left, Disposition::Done].map(|end| (1, String::new(), None, end));
    assert_eq!(shorts(&host), expected);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_could_not_be_kept_is_told_as_put_back() {
    let host = TestHost::start([Step::Fail(FailureClass::Reject)]);
    host.broker.answer_dead_letters([Err(PublishError::NotNow("full".into()))]);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    host.quiet().await;
    let minute = Duration::from_secs(60);
    let ends = [Disposition::PutBack { wait: minute }, Disposition::DeadLettered { letter: 1 }];
    let rejected = |end| (1, "reject".to_owned(), Some(Counts::Failed), end);
    assert_eq!(shorts(&host), ends.map(rejected));

    let host = TestHost::start([Step::Fail(FailureClass::Trap), Step::Ok]);
    host.broker.fail_next(Operation::Record);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    host.quiet().await;
    let wait = Duration::from_secs(5);
    assert_eq!(shorts(&host)[0].3, Disposition::PutBack { wait }, "it does not count as a retry");
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_host_is_told() {
    let (host, _) = TestHost::one([Step::Panic, Step::Ok]).await;
    let told = shorts(&host);
    let fault = (0, "host-fault".to_owned(), Some(Counts::Refused), Disposition::PutBack { wait: SECOND });
    assert_eq!(told, [fault, (1, String::new(), None, Disposition::Done)]);
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_an_event_is_told_only_where_it_brought_one() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    for (headers, expected) in [(vec![(trace::TRACEPARENT, parent.as_str())], Some(TRACE)), (vec![], None)] {
        let host = TestHost::start([Step::Ok]);
        host.broker.publish("orders.created", &headers, "{}");
        host.broker.all_settled().await;
        host.quiet().await;
        assert_eq!(host.told()[0].trace_id.as_deref(), expected);
    }
}
