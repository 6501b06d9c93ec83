//! Settling against a real nats-server.

use crate::support::*;
use anyhow::Result;
use busway_core::{
    AttemptRecord, EventId, FailedRun, FailureClass, Position,
    port::{Receipt, SettleError},
};
use busway_transport::{Nats, NatsConfig, OpenBinding, OpenError, SourceStatus};
use futures_util::StreamExt as _;
use std::time::{Duration, Instant};

#[tokio::test]
async fn an_event_that_is_put_back_comes_again_after_its_wait() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", std::iter::once("1".into())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let first = next(&mut open.source, 4).await?;
    let began = Instant::now();
    open.settle.put_back(&first.receipt, Duration::from_millis(700)).await?;
    let again = next(&mut open.source, 4).await?;
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!((again.receipt.delivered, sequence(&again)), (2, 1));
    assert_eq!(again.receipt.event_id, first.receipt.event_id);
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_terminated_never_comes_again_and_the_broker_tells_why() -> Result<()> {
    let bed = Bed::new().await?;
    let mut advisories = bed.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>").await?;
    bed.client.flush().await?;
    bed.store("in.a", std::iter::once("1".into())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let delivery = next(&mut open.source, 4).await?;
    open.settle.terminate(&delivery.receipt, "dead-lettered:\r\ntrap").await?;
    let advisory = within(advisories.next()).await?.unwrap();
    let text = String::from_utf8_lossy(&advisory.payload).into_owned();
    assert!(text.contains("dead-lettered:  trap"), "{text}");
    let info = bed.consumer("busway-p").await?;
    assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 1));
    Ok(())
}

#[tokio::test]
async fn progress_keeps_an_event_longer_than_the_broker_waits() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", std::iter::once("1".into())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let delivery = next(&mut open.source, 4).await?;
    let until = Instant::now() + Duration::from_secs(7);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while Instant::now() < until {
        tokio::select! {
            _ = ticks.tick() => open.settle.progress(&delivery.receipt).await?,
            again = next(&mut open.source, 4) => panic!("it came again: {again:?}"),
        }
    }
    open.settle.ack(&delivery.receipt).await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_taken_for_done_when_the_consumer_is_gone() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", std::iter::once("1".into())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let delivery = next(&mut open.source, 4).await?;
    bed.jetstream().get_stream("EVENTS").await?.delete_consumer("busway-p").await?;
    let receipt = &delivery.receipt;
    assert_eq!(open.settle.ack(receipt).await, Err(SettleError::Gone));
    assert_eq!(open.settle.terminate(receipt, "x").await, Err(SettleError::Gone));
    assert_eq!(open.settle.put_back(receipt, Duration::from_secs(1)).await, Err(SettleError::Gone));
    assert_eq!(open.settle.progress(receipt).await, Err(SettleError::Gone));
    assert!(matches!(open.settle.ack(&receipt_without_consumer()).await, Err(SettleError::Refused(_))));
    Ok(())
}

#[tokio::test]
async fn failed_runs_are_recorded_and_read_by_the_next_host() -> Result<()> {
    let bed = Bed::new().await?;
    let open = bed.open(&binding("p", &["in.>"])).await?;
    assert_eq!(open.settle.attempts(&event(1)).await?, AttemptRecord::default());
    let mut record = AttemptRecord::default();
    for wait in [Some(Duration::from_secs(1)), None] {
        record.push(FailedRun { wait, code: "c".into(), ..FailedRun::for_test(FailureClass::Timeout) });
        open.settle.record_attempts(&event(1), &record).await?;
    }
    let other_host =
        busway_transport::Nats::connect(&busway_transport::NatsConfig::new(bed.server.url())).await?;
    let other = other_host.open(&binding("p", &["in.>"]), Default::default()).await?;
    assert_eq!(other.settle.attempts(&event(1)).await?, record);
    assert_eq!(other.settle.attempts(&event(2)).await?, AttemptRecord::default());
    let other_plugin = bed.open(&binding("q", &["in.>"])).await?;
    assert_eq!(other_plugin.settle.attempts(&event(1)).await?, AttemptRecord::default());
    Ok(())
}

#[tokio::test]
async fn a_record_of_a_newer_host_is_refused_and_not_overwritten_by_a_guess() -> Result<()> {
    let bed = Bed::new().await?;
    let open = bed.open(&binding("p", &["in.>"])).await?;
    let bucket = bed.jetstream().get_key_value("BUSWAY_ATTEMPTS").await?;
    bucket.put(format!("p.{}", event(1).event_id), r#"{"v":9}"#.into()).await?;
    let refused = open.settle.attempts(&event(1)).await;
    assert!(matches!(&refused, Err(SettleError::Refused(why)) if why.contains("version 9")), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_changed_binding_changes_the_consumer_in_place() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (0..3).map(|n| n.to_string())).await?;
    let mut open = bed.open(&binding("p", &["in.a"])).await?;
    let delivery = next(&mut open.source, 1).await?;
    open.settle.ack(&delivery.receipt).await?;
    drop(open);
    let created = bed.consumer("busway-p").await?.created;
    let _open = bed.nats.open(&binding("p", &["in.a", "in.b"]), Default::default()).await?;
    let info = bed.consumer("busway-p").await?;
    assert_eq!(info.created, created);
    assert_eq!(info.config.filter_subjects, ["in.a", "in.b"]);
    assert_eq!(info.config.ack_wait, Duration::from_secs(30));
    assert_eq!(info.config.max_deliver, -1);
    assert!(info.ack_floor.stream_sequence >= 1);
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_can_not_be_changed_in_place_is_refused_with_the_difference() -> Result<()> {
    let bed = Bed::new().await?;
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("busway-p".into()),
        ack_policy: async_nats::jetstream::consumer::AckPolicy::All,
        ..Default::default()
    };
    bed.jetstream().get_stream("EVENTS").await?.create_consumer(config).await?;
    let refused = bed.open(&binding("p", &["in.>"])).await.err().unwrap();
    let text = refused.to_string();
    assert!(text.contains("ack_policy is All, wanted Explicit"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_missing_and_a_filter_that_captures_nothing_are_refused() -> Result<()> {
    let bed = Bed::new().await?;
    let refused = bed.nats.open(&binding("p", &["out.>"]), Default::default()).await.err().unwrap();
    assert!(matches!(&refused, OpenError::NotCaptured { filter, .. } if filter == "out.>"), "{refused}");
    bed.jetstream().delete_stream("EVENTS").await?;
    let refused = bed.nats.open(&binding("p", &["in.>"]), Default::default()).await.err().unwrap();
    assert!(matches!(&refused, OpenError::NoStream { stream } if stream == "EVENTS"), "{refused}");
    Ok(())
}

/// What another host would say of the nth stored event.
async fn receipt_of(bed: &Bed, n: u64) -> Result<Receipt> {
    let created = bed.jetstream().get_stream("EVENTS").await?.cached_info().created;
    let stream_created_ns = created.unix_timestamp_nanos();
    let position = Position { stream: "EVENTS".into(), stream_created_ns, sequence: n };
    Ok(Receipt { event_id: EventId::of(&position), ..Receipt::for_test("EVENTS", n) })
}

/// A run that was the last one.
fn final_run() -> AttemptRecord {
    let mut record = AttemptRecord::default();
    record.push(FailedRun { wait: None, code: "c".into(), ..FailedRun::for_test(FailureClass::Trap) });
    record
}

async fn next_says(open: &mut OpenBinding) -> Result<(u64, u64)> {
    let delivery = next(&mut open.source, 8).await?;
    open.settle.ack(&delivery.receipt).await?;
    Ok((sequence(&delivery), delivery.receipt.delivered))
}

#[tokio::test]
async fn what_has_a_record_was_given_before_whatever_the_broker_counts() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (1..=3).map(|n| n.to_string())).await?;
    let other_host = Nats::connect(&NatsConfig::new(bed.server.url())).await?;
    // Nothing is pulled there, so nothing was ever given to anybody.
    let other_open = other_host.open(&binding("p", &["in.>"]), Default::default()).await?;
    other_open.settle.record_attempts(&receipt_of(&bed, 2).await?, &final_run()).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(next_says(&mut open).await?);
    }
    said.sort_unstable();
    assert_eq!(said, [(1, 1), (2, 2), (3, 1)]);
    // A record counts for its plugin alone.
    let mut other = bed.open(&binding("q", &["in.a"])).await?;
    for _ in 0..3 {
        assert_eq!(next_says(&mut other).await?.1, 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_is_made_again_forgets_how_often_it_gave_an_event_and_the_record_does_not()
-> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", std::iter::once("1".into())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let first = next(&mut open.source, 8).await?;
    assert_eq!(first.receipt.delivered, 1);
    open.settle.record_attempts(&first.receipt, &final_run()).await?;
    bed.jetstream().get_stream("EVENTS").await?.delete_consumer("busway-p").await?;
    let again = next(&mut open.source, 8).await?;
    assert_eq!((sequence(&again), again.receipt.delivered), (1, 2));
    // So it was made again, and counts from one.
    assert!(again.receipt.token.contains(".busway-p.1.1."), "{}", again.receipt.token);
    assert_eq!(open.settle.attempts(&again.receipt).await?, final_run());
    Ok(())
}

#[tokio::test]
async fn what_a_dying_host_records_after_the_opening_is_known_before_long() -> Result<()> {
    let bed = Bed::new().await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let mut watched = open.status.clone();
    let waiting = tokio::spawn(async move { next_says(&mut open).await });
    status(&mut watched, |status| *status == SourceStatus::Confirmed).await?;
    let dying = bed.open(&binding("p", &["in.>"])).await?;
    dying.settle.record_attempts(&receipt_of(&bed, 1).await?, &final_run()).await?;
    // Longer than it takes to look twice.
    tokio::time::sleep(Duration::from_secs(11)).await;
    bed.store("in.a", std::iter::once("1".into())).await?;
    assert_eq!(within(waiting).await???, (1, 2));
    Ok(())
}
