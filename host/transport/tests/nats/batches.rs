//! Atomic batches against a real nats-server: all outputs of an event or none, whatever was stored before.

use crate::support::*;
use anyhow::{Context as _, Result};
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use busway_core::{
    Publish as _,
    port::{NotReleased, Outgoing, PublishError, Released},
};
use busway_transport::{
    StreamSpec,
    nats::{Batches, Storage},
};
use futures_util::{StreamExt as _, future::join_all};

fn outputs(subject: &str, numbers: std::ops::Range<usize>) -> Vec<Outgoing> {
    let output = |n: usize| Outgoing {
        subject: format!("{subject}.{n}"),
        headers: [("x-a", "ü")].into_iter().collect(),
        payload: n.to_string().into(),
        message_id: format!("id-{n}"),
    };
    numbers.map(output).collect()
}

fn sequences(released: &Released) -> Vec<(u64, bool)> {
    released.stored.iter().map(|stored| (stored.sequence, stored.duplicate)).collect()
}

/// A server with the stream OUT on `out.>`, which takes batches.
async fn bed() -> Result<Bed> {
    let bed = Bed::new().await?;
    let out = StreamSpec { batches: Batches::Always, ..StreamSpec::new("OUT", filters(&["out.>"])) };
    bed.nats.ensure_stream(&out).await?;
    Ok(bed)
}

async fn stored(bed: &Bed, stream: &str) -> Result<u64> {
    Ok(bed.jetstream().get_stream(stream).await?.get_info().await?.state.messages)
}

async fn alter(bed: &Bed, stream: &str, change: impl FnOnce(&mut Config)) -> Result<()> {
    let mut config = bed.jetstream().get_stream(stream).await?.get_info().await?.config;
    change(&mut config);
    bed.jetstream().update_stream(config).await?;
    Ok(())
}

/// What a message carries when it was published in a batch.
async fn batch_of(bed: &Bed, stream: &str, sequence: u64) -> Result<Option<String>> {
    let message = bed.jetstream().get_stream(stream).await?.get_raw_message(sequence).await?;
    Ok(message.headers.get("Nats-Batch-Id").map(|id| id.as_str().to_owned()))
}

#[tokio::test]
async fn the_outputs_of_an_event_go_out_as_one_batch() -> Result<()> {
    let bed = bed().await?;
    let released = bed.nats.publisher().publish_all(&outputs("out", 0..16)).await?;
    assert!(released.atomic);
    let expected: Vec<_> = (1..=16).map(|sequence| (sequence, false)).collect();
    assert_eq!(sequences(&released), expected);
    let stream = bed.jetstream().get_stream("OUT").await?;
    let batch = batch_of(&bed, "OUT", 1).await?.context("the first one is in a batch")?;
    for n in 0..16 {
        let message = stream.get_raw_message(n + 1).await?;
        assert_eq!(message.subject.as_str(), format!("out.{n}"));
        assert_eq!(message.payload, n.to_string());
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(header("Nats-Msg-Id"), Some(format!("id-{n}")));
        assert_eq!(header("x-a").as_deref(), Some("ü"));
        assert_eq!(header("Nats-Batch-Id"), Some(batch.clone()));
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_made_takes_batches_where_they_are_cheap_or_asked_for() -> Result<()> {
    let bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    let table = [
        (Storage::File, Batches::WhereCheap, false),
        (Storage::File, Batches::Always, true),
        (Storage::Memory, Batches::WhereCheap, true),
        (Storage::Memory, Batches::Never, false),
    ];
    for (n, (storage, batches, expected)) in table.into_iter().enumerate() {
        let subject = format!("made{n}");
        let spec = StreamSpec::new(format!("MADE{n}"), filters(&[&format!("{subject}.>")]));
        let spec = StreamSpec { storage, batches, ..spec };
        bed.nats.ensure_stream(&spec).await?;
        let released = publisher.publish_all(&outputs(&subject, 0..2)).await?;
        assert_eq!(released.atomic, expected, "{storage:?} {batches:?}");
        // Whoever made it otherwise is not told to make it anew.
        bed.nats.ensure_stream(&StreamSpec { batches: Batches::Never, ..spec }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_output_alone_is_no_batch() -> Result<()> {
    let bed = bed().await?;
    let released = bed.nats.publisher().publish_all(&outputs("out", 0..1)).await?;
    assert!(!released.atomic);
    assert_eq!(batch_of(&bed, "OUT", 1).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_release_repeated_after_a_crash_stores_nothing_twice() -> Result<()> {
    let bed = bed().await?;
    let first = bed.nats.publisher().publish_all(&outputs("out", 0..3)).await?;
    // The host died before the acknowledgement; another one releases the same outputs.
    let again = bed.nats.publisher().publish_all(&outputs("out", 0..3)).await?;
    assert!(first.atomic && !again.atomic);
    assert_eq!(sequences(&again), [(1, true), (2, true), (3, true)]);
    assert_eq!(stored(&bed, "OUT").await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_release_that_was_left_half_done_is_completed() -> Result<()> {
    let bed = bed().await?;
    let publisher = bed.nats.publisher();
    let all = outputs("out", 0..4);
    // An earlier host published singly and died after the second.
    for output in [&all[0], &all[2]] {
        publisher.publish(output).await?;
    }
    let released = publisher.publish_all(&all).await?;
    assert!(!released.atomic);
    assert_eq!(sequences(&released), [(1, true), (3, false), (2, true), (4, false)]);
    assert_eq!(stored(&bed, "OUT").await?, 4);
    // The next event's outputs are a batch again.
    assert!(publisher.publish_all(&outputs("out", 10..12)).await?.atomic);
    Ok(())
}

#[tokio::test]
async fn outputs_to_two_streams_or_to_one_without_batches_go_out_singly() -> Result<()> {
    let bed = bed().await?;
    let publisher = bed.nats.publisher();
    bed.nats.ensure_stream(&StreamSpec::new("ELSE", filters(&["else.>"]))).await?;
    let mut two = outputs("out", 0..1);
    two.extend(outputs("else", 1..2));
    let released = publisher.publish_all(&two).await?;
    assert!(!released.atomic);
    assert_eq!(released.stored.iter().map(|stored| &*stored.stream).collect::<Vec<_>>(), ["OUT", "ELSE"]);
    let plain = Config { name: "PLAIN".into(), subjects: vec!["plain.>".into()], ..Config::default() };
    bed.jetstream().create_stream(plain).await?;
    let released = publisher.publish_all(&outputs("plain", 0..3)).await?;
    assert!(!released.atomic);
    assert_eq!(sequences(&released), [(1, false), (2, false), (3, false)]);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_stops_taking_batches_gets_singles_and_one_that_begins_gets_batches() -> Result<()> {
    let bed = bed().await?;
    let publisher = bed.nats.publisher();
    assert!(publisher.publish_all(&outputs("out", 0..2)).await?.atomic);
    alter(&bed, "OUT", |config| config.allow_atomic_publish = false).await?;
    let released = publisher.publish_all(&outputs("out", 2..4)).await?;
    assert!(!released.atomic);
    assert_eq!(sequences(&released), [(3, false), (4, false)]);
    // A new publisher of a new connection knows nothing of the old days.
    alter(&bed, "OUT", |config| config.allow_atomic_publish = true).await?;
    let other = busway_transport::Nats::connect(&busway_transport::NatsConfig::new(bed.server.url())).await?;
    assert!(other.publisher().publish_all(&outputs("out", 4..6)).await?.atomic);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_full_takes_all_of_a_batch_or_nothing() -> Result<()> {
    let bed = Bed::new().await?;
    let full = Config {
        name: "FULL".into(),
        subjects: vec!["full.>".into()],
        max_messages: 3,
        discard: DiscardPolicy::New,
        allow_atomic_publish: true,
        ..Config::default()
    };
    bed.jetstream().create_stream(full).await?;
    let publisher = bed.nats.publisher();
    assert!(publisher.publish_all(&outputs("full", 0..2)).await?.atomic);
    let refused = publisher.publish_all(&outputs("full", 2..4)).await;
    assert!(matches!(&refused, Err(NotReleased { why: PublishError::NotNow(_), .. })), "{refused:?}");
    assert_eq!(stored(&bed, "FULL").await?, 2);
    // Room again: the same outputs go through.
    alter(&bed, "FULL", |config| config.max_messages = 4).await?;
    assert!(publisher.publish_all(&outputs("full", 2..4)).await?.atomic);
    Ok(())
}

#[tokio::test]
async fn an_output_too_large_keeps_the_others_back() -> Result<()> {
    let bed = bed().await?;
    let publisher = bed.nats.publisher();
    let mut too_large = outputs("out", 0..3);
    too_large[1].payload = vec![0; bed.nats.max_payload()].into();
    let refused = publisher.publish_all(&too_large).await;
    assert!(matches!(&refused, Err(NotReleased { why: PublishError::TooLarge(_), .. })), "{refused:?}");
    alter(&bed, "OUT", |config| config.max_message_size = 1000).await?;
    too_large[1].payload = vec![0; 2000].into();
    // Whoever has just connected knows of the limit.
    let other = busway_transport::Nats::connect(&busway_transport::NatsConfig::new(bed.server.url())).await?;
    let publisher = other.publisher();
    let refused = publisher.publish_all(&too_large).await;
    assert!(matches!(&refused, Err(NotReleased { why: PublishError::TooLarge(_), .. })), "{refused:?}");
    assert_eq!(stored(&bed, "OUT").await?, 0);
    // Fits alone, and not beside the headers of a batch.
    let mut tight = outputs("out", 10..12);
    tight[0].payload = vec![0; 930].into();
    assert!(!publisher.publish_all(&tight).await?.atomic);
    let mut injected = outputs("out", 0..3);
    injected[2].headers = [("a", "b\r\nc: d")].into_iter().collect();
    let refused = publisher.publish_all(&injected).await;
    assert!(matches!(&refused, Err(NotReleased { why: PublishError::Refused(_), .. })), "{refused:?}");
    assert_eq!(stored(&bed, "OUT").await?, 2);
    Ok(())
}

#[tokio::test]
async fn an_output_that_no_stream_captures_is_told_as_such() -> Result<()> {
    let bed = bed().await?;
    let mut lost = outputs("out", 0..2);
    lost.push(outputs("nowhere", 2..3).remove(0));
    let refused = bed.nats.publisher().publish_all(&lost).await.unwrap_err();
    assert_eq!((refused.subject.as_str(), &refused.why), ("nowhere.2", &PublishError::NoStream));
    Ok(())
}

#[tokio::test]
async fn more_outputs_than_a_batch_takes_go_out_singly_and_more_than_may_be_in_flight_as_a_batch()
-> Result<()> {
    let bed = bed().await?;
    let publisher = bed.nats.publisher();
    let released = within(publisher.publish_all(&outputs("out", 0..600))).await??;
    assert!(released.atomic);
    let released = within(publisher.publish_all(&outputs("out", 600..1601))).await??;
    assert!(!released.atomic);
    assert_eq!(stored(&bed, "OUT").await?, 1601);
    Ok(())
}

#[tokio::test]
async fn more_batches_than_a_stream_holds_open_all_get_through() -> Result<()> {
    let bed = bed().await?;
    // Each with connections and bounds of its own, so that nothing here keeps them apart.
    let config = busway_transport::NatsConfig::new(bed.server.url());
    let hosts = join_all((0..4).map(|_| busway_transport::Nats::connect(&config))).await;
    let hosts = hosts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let publishers: Vec<_> = hosts.iter().flat_map(|host| (0..20).map(|_| host.publisher())).collect();
    let releases = publishers.iter().enumerate().map(|(n, publisher)| async move {
        publisher.publish_all(&outputs("out", n * 50..n * 50 + 50)).await
    });
    for released in within(join_all(releases)).await? {
        assert_eq!(released?.stored.len(), 50);
    }
    assert_eq!(stored(&bed, "OUT").await?, 4000);
    Ok(())
}

#[tokio::test]
async fn a_batch_sent_while_the_broker_restarts_is_stored_once() -> Result<()> {
    let mut bed = bed().await?;
    let publisher = bed.nats.publisher();
    assert!(publisher.publish_all(&outputs("out", 0..2)).await?.atomic);
    bed.server.kill()?;
    let more = outputs("out", 2..10);
    let (released, restarted) = tokio::join!(publisher.publish_all(&more), async {
        tokio::task::yield_now().await;
        bed.server.restart()
    });
    restarted?;
    assert_eq!(released?.stored.len(), 8);
    let client = async_nats::connect(bed.server.url()).await?;
    let info = async_nats::jetstream::new(client).get_stream("OUT").await?.get_info().await?;
    assert_eq!(info.state.messages, 10);
    Ok(())
}

#[tokio::test]
async fn nobody_sees_a_part_of_a_batch() -> Result<()> {
    let bed = bed().await?;
    // Somebody opens a batch like a host that dies in the middle of it.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Batch-Id", "left-open");
    headers.insert("Nats-Batch-Sequence", "1");
    let answer = bed.client.request_with_headers("out.0", headers, "x".into()).await?;
    assert!(answer.payload.is_empty());
    assert_eq!(stored(&bed, "OUT").await?, 0);
    let consumer = bed.jetstream().get_stream("OUT").await?;
    let consumer = consumer.create_consumer(async_nats::jetstream::consumer::pull::Config::default()).await?;
    assert!(bed.nats.publisher().publish_all(&outputs("out", 0..5)).await?.atomic);
    let seen = consumer.messages().await?.take(5).collect::<Vec<_>>().await;
    assert_eq!(seen.len(), 5);
    assert_eq!(stored(&bed, "OUT").await?, 5);
    Ok(())
}
