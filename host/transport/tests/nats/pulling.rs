//! Pulling against a real nats-server.

use crate::support::*;
use anyhow::Result;
use busway_core::{AckPolicy, Binding, port::Content};
use busway_transport::SourceStatus;
use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

#[tokio::test]
async fn two_thousand_events_come_once_each_and_in_order() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (0..2000).map(|n| n.to_string())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    for n in 0..2000 {
        let delivery = next(&mut open.source, 64).await?;
        assert_eq!((payload(&delivery), sequence(&delivery)), (n.to_string(), n + 1));
        assert_eq!(delivery.content.subject(), "in.a");
        assert_eq!(delivery.receipt.delivered, 1);
        assert!(delivery.receipt.published_at_ms.is_some_and(|ms| ms > 1_700_000_000_000));
        open.settle.ack(&delivery.receipt).await?;
    }
    let info = bed.consumer("busway-p").await?;
    assert_eq!((info.num_pending, info.num_ack_pending, info.ack_floor.stream_sequence), (0, 0, 2000));
    assert_eq!(*open.status.borrow(), SourceStatus::Confirmed);
    assert_eq!(open.counters.reopened.load(Ordering::Relaxed), 0);
    Ok(())
}

#[tokio::test]
async fn no_more_events_are_taken_than_there_is_room_for() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (0..50).map(|n| n.to_string())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let _first = next(&mut open.source, 3).await?;
    let _second = next(&mut open.source, 2).await?;
    let _third = next(&mut open.source, 1).await?;
    // The broker counts what it gave: three, and not one more on the way.
    assert_eq!(bed.consumer("busway-p").await?.num_ack_pending, 3);
    Ok(())
}

#[tokio::test]
async fn headers_payload_and_subject_come_as_they_were_published() -> Result<()> {
    let bed = Bed::new().await?;
    let mut headers = async_nats::HeaderMap::new();
    headers.append("x-a", "1");
    headers.append("x-a", "2");
    let jetstream = bed.jetstream();
    jetstream.publish_with_headers("in.a.b", headers, bytes::Bytes::from_static(b"\xff\0")).await?.await?;
    jetstream.publish("in.empty", bytes::Bytes::new()).await?.await?;
    let most = vec![7; bed.nats.max_payload()];
    jetstream.publish("in.most", most.clone().into()).await?.await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let first = next(&mut open.source, 8).await?;
    let Content::Message(message) = &first.content else { panic!("{first:?}") };
    assert_eq!(message.subject, "in.a.b");
    assert_eq!(message.headers.iter().collect::<Vec<_>>(), [("x-a", "1"), ("x-a", "2")]);
    assert_eq!(&message.payload[..], b"\xff\0");
    assert!(next(&mut open.source, 8).await?.content.payload().is_empty());
    assert_eq!(next(&mut open.source, 8).await?.content.payload()[..], most);
    Ok(())
}

#[tokio::test]
async fn several_filters_bring_the_events_of_each_and_no_others() -> Result<()> {
    let bed = Bed::new().await?;
    for subject in ["in.a", "in.b", "in.c", "in.a"] {
        bed.store(subject, std::iter::once(subject.to_owned())).await?;
    }
    let mut open = bed.open(&binding("p", &["in.a", "in.c"])).await?;
    let mut came = Vec::new();
    for _ in 0..3 {
        came.push(payload(&next(&mut open.source, 8).await?));
    }
    assert_eq!(came, ["in.a", "in.c", "in.a"]);
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_is_deleted_is_made_again_and_nothing_is_lost() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (0..100).map(|n| n.to_string())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let mut came = BTreeSet::new();
    for n in 0..200 {
        if n == 40 {
            bed.jetstream().get_stream("EVENTS").await?.delete_consumer("busway-p").await?;
        }
        let delivery = next(&mut open.source, 16).await?;
        came.insert(payload(&delivery));
        // Without its consumer an event can't be acknowledged; it comes again.
        drop(open.settle.ack(&delivery.receipt).await);
        if came.len() == 100 {
            break;
        }
    }
    assert_eq!(came.len(), 100);
    assert!(open.counters.reopened.load(Ordering::Relaxed) >= 1);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_was_made_anew_stops_the_source_with_the_reason() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", std::iter::once("1".into())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    next(&mut open.source, 1).await?;
    let jetstream = bed.jetstream();
    jetstream.delete_stream("EVENTS").await?;
    let config = async_nats::jetstream::stream::Config {
        name: "EVENTS".into(),
        subjects: vec!["in.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(config).await?;
    bed.store("in.a", std::iter::once("other".into())).await?;
    let pulling = tokio::spawn(async move { next(&mut open.source, 8).await });
    let stopped = status(&mut open.status, |status| matches!(status, SourceStatus::Stopped(_))).await?;
    assert!(format!("{stopped:?}").contains("made anew"), "{stopped:?}");
    pulling.abort();
    Ok(())
}

#[tokio::test]
async fn a_broker_that_crashes_and_returns_goes_on_where_it_was() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.store("in.a", (0..300).map(|n| n.to_string())).await?;
    let mut open = bed.open(&Binding { ack: AckPolicy::Fast, ..binding("p", &["in.>"]) }).await?;
    let (came, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let pulling = tokio::spawn(async move {
        loop {
            let delivery = next(&mut open.source, 4).await?;
            open.settle.ack(&delivery.receipt).await?;
            came.send(payload(&delivery))?;
        }
        #[expect(unreachable_code, reason = "names the type of the task's errors")]
        anyhow::Ok(())
    });
    let mut seen = BTreeSet::new();
    while seen.len() < 20 {
        seen.extend(within(coming.recv()).await?);
    }
    bed.server.kill()?;
    status(&mut open.status, |status| *status != SourceStatus::Confirmed).await?;
    bed.server.restart()?;
    while seen.len() < 300 {
        seen.extend(within(coming.recv()).await?);
    }
    status(&mut open.status, |status| *status == SourceStatus::Confirmed).await?;
    within(async {
        while bed.consumer("busway-p").await.map_or(1, |info| info.num_ack_pending) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    pulling.abort();
    Ok(())
}

#[tokio::test]
async fn messages_that_somebody_sends_to_the_inbox_are_no_events() -> Result<()> {
    let bed = Bed::new().await?;
    let mut spy = bed.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await?;
    bed.client.flush().await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let client = bed.client.clone();
    let forge = async {
        use futures_util::StreamExt as _;
        let request = within(spy.next()).await?.unwrap();
        let inbox = request.reply.unwrap();
        client.publish_with_reply(inbox.clone(), "in.a", "forged".into()).await?;
        client.publish(inbox, "forged".into()).await?;
        client.flush().await?;
        bed.store("in.a", std::iter::once("real".into())).await
    };
    let (delivery, forged) = tokio::join!(next(&mut open.source, 1), forge);
    forged?;
    assert_eq!(payload(&delivery?), "real");
    assert_eq!(open.counters.strangers.load(Ordering::Relaxed), 2);
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_somebody_changed_is_changed_back() -> Result<()> {
    let bed = Bed::new().await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let pulling = tokio::spawn(async move { next(&mut open.source, 8).await });
    status(&mut open.status, |status| *status == SourceStatus::Confirmed).await?;
    let stream = bed.jetstream().get_stream("EVENTS").await?;
    let mut config = bed.consumer("busway-p").await?.config;
    config.max_deliver = 1;
    config.max_waiting = 16;
    let changed = async_nats::jetstream::consumer::pull::Config {
        durable_name: config.durable_name.clone(),
        filter_subject: config.filter_subject.clone(),
        ack_policy: config.ack_policy,
        max_deliver: 1,
        max_waiting: 16,
        ..Default::default()
    };
    stream.update_consumer(changed).await?;
    assert_eq!(bed.consumer("busway-p").await?.config.max_deliver, 1);
    within(async {
        while bed.consumer("busway-p").await.map_or(1, |info| info.config.max_deliver) != -1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await?;
    pulling.abort();
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_is_deleted_while_no_host_runs_begins_where_it_was() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (0..20).map(|n| n.to_string())).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    for _ in 0..15 {
        let delivery = next(&mut open.source, 1).await?;
        open.settle.ack(&delivery.receipt).await?;
    }
    let pulling = tokio::spawn(async move { drop(next(&mut open.source, 0).await) });
    let kept = bed.jetstream().get_key_value("BUSWAY_CHECKPOINTS").await?;
    within(async {
        while !matches!(kept.entry("EVENTS.busway-p").await, Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await?;
    pulling.abort();
    drop(pulling.await);
    bed.jetstream().get_stream("EVENTS").await?.delete_consumer("busway-p").await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let first = sequence(&next(&mut open.source, 8).await?);
    assert!((2..=16).contains(&first), "it began at {first}");
    Ok(())
}
