//! What a host leaves alone because another one may have it, and what it does not take for new.

use busway_core::{AttemptRecord, FailedRun, FailureClass};
use busway_dispatch::Drained;
use busway_path_tests::{ACK_WAIT, TestHost};
use busway_testkit::{
    memory::{MemoryBroker, Operation},
    scripted::Step,
};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_failed_run_counts_after_those_before_it_though_the_broker_calls_the_delivery_its_first() {
    let broker = MemoryBroker::new(ACK_WAIT);
    let run = FailedRun::for_test(FailureClass::Trap);
    broker.set_attempts(1, AttemptRecord { runs: vec![run], forgotten: 1 });
    broker.publish("orders.created", &[], "{}");
    let host = TestHost::start_on(broker, [Step::Fail(FailureClass::Trap)]);
    host.broker.all_settled().await;
    assert_eq!(host.broker.log(), ["record 3 failed", "dead letter trap", "terminate 1 dead-lettered:trap"]);
    assert_eq!(host.handler.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_lease_was_lost_counts_nothing_and_takes_the_event_from_nobody() {
    let host = TestHost::start([Step::Hang, Step::Ok]);
    for _ in 0..8 {
        host.broker.fail_next(Operation::Progress);
    }
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    let log = host.broker.log();
    assert!(!log.iter().any(|line| line.starts_with("record") || line.starts_with("put back")), "{log:?}");
    assert_eq!(host.handler.attempts(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_drains_does_not_give_back_the_copy_of_what_it_still_runs() {
    let broker = MemoryBroker::new(ACK_WAIT);
    broker.copy_at_close(1);
    let host = TestHost::start_on(broker, [Step::TakeAndPublish(Duration::from_secs(3), "a")]);
    host.broker.publish("orders.created", &[], "{}");
    while host.handler.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.drain(Duration::from_secs(25)).await, Drained::Clean);
    assert_eq!(host.broker.log(), ["publish a", "ack 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_host_gives_up_at_its_end_is_counted() {
    let host = TestHost::start([Step::Hang]);
    host.broker.publish("orders.created", &[], "{}");
    while host.handler.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.drain(Duration::from_secs(1)).await, Drained::Abandoned(1));
    let given_back = host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"given-back\"}");
    assert_eq!(given_back, 1.0);
}
