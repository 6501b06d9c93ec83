//! Faults in the host's own code, at the seams: they cost the thing at hand, never the binding.

use busway_path_tests::TestHost;
use busway_testkit::scripted::Step;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_fault_while_looking_for_events_does_not_end_the_binding() {
    let host = TestHost::start_with_faults("source.next.before=panic:once@1", [Step::Ok]);
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    assert_eq!(host.broker.log(), ["ack 1"]);
    assert_eq!(host.metric("busway_host_trouble_total{plugin=\"p\",reason=\"host-fault\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_can_not_even_be_put_back_is_given_again_and_its_worker_goes_on() {
    // Both workers meet it: neither may end.
    let faults = "handler.call.before=panic:once@1,settle.put-back.before=panic:once@1";
    let host = TestHost::start_with_faults(faults, [Step::Ok]);
    for _ in 0..4 {
        host.broker.publish("orders.created", &[], "{}");
    }
    host.broker.all_settled().await;
    assert_eq!(host.handler.calls().len(), 4);
    assert_eq!(host.handler.attempts(), [1; 4], "a fault of the host counts no attempt");
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_after_a_fault_in_telling_it() {
    let host = TestHost::start_with_faults(
        "settle.progress.before=panic:once@1",
        [Step::Take(Duration::from_secs(50))],
    );
    host.broker.publish("orders.created", &[], "{}");
    host.broker.all_settled().await;
    assert_eq!(host.handler.calls().len(), 1, "the lease was lost");
}

#[tokio::test(start_paused = true)]
async fn a_fault_at_any_point_of_the_path_loses_no_event_and_counts_no_attempt() {
    for operation in ["handler.call", "publish.publish-all", "settle.ack"] {
        for side in ["before", "after"] {
            let faults = format!("{operation}.{side}=panic:once@1");
            let host = TestHost::start_with_faults(&faults, [Step::Publish(vec!["a"])]);
            host.broker.publish("orders.created", &[], "{}");
            host.broker.all_settled().await;
            host.quiet().await;
            assert!(host.handler.attempts().iter().all(|attempt| *attempt == 1), "{faults}");
            let told = host.metric("busway_host_trouble_total{plugin=\"p\",reason=\"host-fault\"}");
            assert_eq!(told, 1.0, "{faults}");
        }
    }
}
