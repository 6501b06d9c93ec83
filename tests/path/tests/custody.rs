//! Redelivery, crashes, leases and shutdown.

use busway_core::{AttemptRecord, FailedRun, FailureClass};
use busway_dispatch::Drained;
use busway_path_tests::{ACK_WAIT, TestHost};
use busway_testkit::{
    memory::{MemoryBroker, Operation},
    scripted::Step,
};
use std::time::Duration;

fn failed(wait: Option<Duration>) -> FailedRun {
    FailedRun { wait, reason: "boom".into(), ..FailedRun::for_test(FailureClass::Trap) }
}

#[tokio::test(start_paused = true)]
async fn a_settled_event_that_is_given_again_is_acknowledged_without_another_run() {
    let (host, _) = TestHost::one([Step::Ok]).await;
    host.broker.redeliver(1);
    host.broker.all_settled().await;
    assert_eq!(host.broker.log(), ["ack 1", "ack 1"]);
    assert_eq!(host.handler.attempts(), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_is_lost_is_made_up_for_by_the_redelivery() {
    let host = TestHost::start([Step::Publish(vec!["a"])]);
    host.broker.fail_next(Operation::Ack);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    assert_eq!(host.broker.log(), ["publish a", "ack 1 (refused)", "publish a", "ack 1"]);
    assert_eq!(host.broker.outputs().len(), 1, "the repeated output is recognised by its id");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_longer_than_the_brokers_patience_keeps_its_lease_by_progress_and_is_run_once() {
    let host = TestHost::start([Step::TakeAndPublish(Duration::from_secs(50), "a")]);
    for _ in 0..6 {
        host.broker.publish("orders.created", &[], "{}");
    }
    host.broker.all_settled().await;
    assert_eq!(host.handler.calls().len(), 6, "queued events are reported too, so none is given twice");
    assert_eq!(host.broker.outputs().len(), 6);
    assert!(host.broker.log().iter().any(|line| line == "progress 1"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_once_the_lease_is_lost() {
    let host = TestHost::start([Step::TakeAndPublish(Duration::from_secs(40), "a"), Step::Ok]);
    for _ in 0..4 {
        host.broker.fail_next(Operation::Progress);
    }
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    assert!(host.broker.outputs().is_empty());
    assert_eq!(host.handler.attempts(), [1, 1], "a lost lease counts no attempt");
    let log = host.broker.log();
    assert!(!log.iter().any(|line| line.starts_with("put back")), "another host may have it: {log:?}");
    assert_eq!(host.metric("busway_attempts_refused_total{plugin=\"p\",class=\"lease-lost\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_lease_is_lost_is_cancelled() {
    let host = TestHost::start([Step::Hang, Step::Ok]);
    for _ in 0..4 {
        host.broker.fail_next(Operation::Progress);
    }
    host.broker.publish("orders.created", &[], "{}");
    let began = tokio::time::Instant::now();
    host.broker.all_settled().await;
    assert!(began.elapsed() < ACK_WAIT + Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(host.handler.attempts(), [1, 1], "it counts no attempt");
}

#[tokio::test(start_paused = true)]
async fn attempts_go_on_counting_after_the_host_was_killed() {
    let broker = MemoryBroker::new(ACK_WAIT);
    broker.publish("orders.created", &[], "{}");
    let record = AttemptRecord { runs: vec![failed(Some(Duration::from_secs(1)))], forgotten: 1 };
    broker.set_attempts(1, record);
    let host = TestHost::start_on(broker, [Step::Fail(FailureClass::Trap)]);
    host.broker.all_settled().await;
    assert_eq!(host.handler.attempts(), [3]);
    assert_eq!(host.broker.log(), ["record 3 failed", "dead letter trap", "terminate 1 dead-lettered:trap"]);
}

#[tokio::test(start_paused = true)]
async fn a_host_killed_before_the_dead_letter_was_stored_leaves_it_to_the_next_which_does_not_run_the_plugin()
{
    let broker = MemoryBroker::new(ACK_WAIT);
    broker.publish("orders.created", &[], "{}");
    broker.set_attempts(1, AttemptRecord { runs: vec![failed(None)], forgotten: 0 });
    let host = TestHost::start_on(broker, [Step::Ok]);
    host.broker.all_settled().await;
    assert_eq!(host.broker.log(), ["dead letter trap", "terminate 1 dead-lettered:trap"]);
    assert!(host.handler.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_termination_that_is_lost_leads_to_one_dead_letter_all_the_same() {
    let host = TestHost::start([Step::Fail(FailureClass::Reject)]);
    host.broker.fail_next(Operation::Terminate);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    let expected = [
        "record 1 failed",
        "dead letter reject",
        "terminate 1 dead-lettered:reject (refused)",
        "dead letter reject",
        "terminate 1 dead-lettered:reject",
    ];
    assert_eq!(host.broker.log(), expected);
    assert_eq!((host.broker.dead_letters().len(), host.handler.attempts().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_drains_finishes_what_runs_and_puts_back_what_waits() {
    let host = TestHost::start([Step::Take(Duration::from_secs(3))]);
    for _ in 0..10 {
        host.broker.publish("orders.created", &[], "{}");
    }
    while host.handler.calls().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.drain(Duration::from_secs(25)).await, Drained::Clean);
    let log = host.broker.log();
    let acked = log.iter().filter(|line| line.starts_with("ack ")).count();
    assert_eq!(acked, 2, "{log:?}");
    assert!(log.iter().any(|line| line == "put back 3 for 1000 ms"), "{log:?}");
    assert_eq!(host.handler.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_still_runs_at_the_deadline_is_given_back_and_told() {
    let host = TestHost::start([Step::Hang]);
    host.broker.publish("orders.created", &[], "{}");
    while host.handler.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.drain(Duration::from_secs(1)).await, Drained::Abandoned(1));
    assert_eq!(host.broker.log(), ["put back 1 for 1000 ms"]);
}
