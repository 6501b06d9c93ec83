//! Parking, redriving and coming back, against a real nats-server.

use crate::support::*;
use anyhow::{Context as _, Result};
use busway_core::{
    AttemptRecord, Binding, DeadLetter, Delivery, Digest, Failure, FailureClass, Publish as _,
    binding::Subscription,
    dead_letter::Writer,
    port::{Content, ParkError, Returned},
};
use busway_transport::{
    Nats, OpenBinding,
    nats::{Imported, RedriveError, StoredLetter},
};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

async fn open_returned(bed: &Bed, plugin: &str) -> Result<OpenBinding> {
    bed.open(&Binding { subscription: Subscription::Returned, ..binding(plugin, &[]) }).await
}

/// Stores an event with headers and takes it.
async fn taken(bed: &Bed, payload: &[u8]) -> Result<(Delivery, OpenBinding)> {
    let mut headers = async_nats::HeaderMap::new();
    headers.append("x-a", "1");
    headers.append("x-a", "2");
    headers.append("Nats-Msg-Id", "m1");
    headers.append("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    bed.jetstream().publish_with_headers("in.a", headers, payload.to_vec().into()).await?.await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let delivery = next(&mut open.source, 4).await?;
    Ok((delivery, open))
}

async fn stored_copies(bed: &Bed) -> Result<u64> {
    Ok(bed.jetstream().get_stream("BUSWAY_AGAIN").await?.info().await?.state.messages)
}

async fn last_sequence(bed: &Bed) -> Result<u64> {
    Ok(bed.jetstream().get_stream("BUSWAY_AGAIN").await?.info().await?.state.last_sequence)
}

fn assert_same(back: &Delivery, original: &Delivery) {
    let (Content::Message(was), Content::Message(is)) = (&original.content, &back.content) else {
        unreachable!("both can be read: {back:?}")
    };
    assert_eq!((&is.subject, &is.payload), (&was.subject, &was.payload));
    let lines = |message: &busway_core::Message| {
        let mut lines: Vec<_> =
            message.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(is), lines(was));
    let (was, is) = (&original.receipt, &back.receipt);
    assert_eq!((&is.event_id, &is.position), (&was.event_id, &was.position));
    assert_eq!(is.published_at_ms, was.published_at_ms);
}

#[tokio::test]
async fn a_parked_event_comes_back_once_after_its_wait_as_it_was() -> Result<()> {
    let bed = Bed::new().await?;
    let (delivery, open) = taken(&bed, b"\xff\x00").await?;
    open.settle.park(&delivery, 2, 2 * SECOND).await?;
    open.settle.ack_confirmed(&delivery.receipt).await?;
    assert_eq!(bed.nats.due().look().await?.unwrap_or_default(), [].into(), "it waits");
    let mut returned = open_returned(&bed, "p").await?;
    let began = std::time::Instant::now();
    let back = next(&mut returned.source, 4).await?;
    assert!(began.elapsed() >= SECOND, "{:?}", began.elapsed());
    assert_same(&back, &delivery);
    assert_eq!(back.receipt.returned, Some(Returned { round: 0, failed_runs: 2 }));
    assert_eq!(bed.nats.due().look().await?.context("due")?, ["p".parse()?].into());
    returned.settle.ack(&back.receipt).await?;
    assert_eq!(stored_copies(&bed).await?, 0, "what is done is gone");
    Ok(())
}

#[tokio::test]
async fn a_copy_that_is_parked_again_is_stored_once_before_and_after_its_time() -> Result<()> {
    let bed = Bed::new().await?;
    let (mut delivery, open) = taken(&bed, b"1").await?;
    for _ in 0..3 {
        open.settle.park(&delivery, 1, SECOND).await?;
    }
    assert_eq!(stored_copies(&bed).await?, 1);
    let mut returned = open_returned(&bed, "p").await?;
    let back = next(&mut returned.source, 4).await?;
    let last = last_sequence(&bed).await?;
    // As after a crash: the broker gives the original again.
    delivery.receipt.delivered = 2;
    open.settle.park(&delivery, 1, SECOND).await?;
    returned.settle.ack(&back.receipt).await?;
    open.settle.park(&delivery, 1, SECOND).await?;
    assert_eq!((stored_copies(&bed).await?, last_sequence(&bed).await?), (0, last));
    Ok(())
}

#[tokio::test]
async fn two_plugins_park_the_same_event_and_each_gets_its_own() -> Result<()> {
    let bed = Bed::new().await?;
    let (delivery, open) = taken(&bed, b"1").await?;
    let other = bed.open(&binding("q", &["in.>"])).await?;
    open.settle.park(&delivery, 1, SECOND).await?;
    other.settle.park(&delivery, 1, SECOND).await?;
    for plugin in ["p", "q"] {
        let mut returned = open_returned(&bed, plugin).await?;
        let back = next(&mut returned.source, 4).await?;
        assert_same(&back, &delivery);
        returned.settle.ack(&back.receipt).await?;
    }
    assert_eq!(stored_copies(&bed).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_broker_without_schedules_parks_nothing_and_says_so() -> Result<()> {
    let bed = Bed::new().await?;
    let (delivery, open) = taken(&bed, b"1").await?;
    let jetstream = bed.jetstream();
    let mut config = jetstream.get_stream("BUSWAY_AGAIN").await?.cached_info().config.clone();
    assert!(config.allow_message_schedules);
    jetstream.delete_stream("BUSWAY_AGAIN").await?;
    config.allow_message_schedules = false;
    jetstream.create_stream(config).await?;
    assert_eq!(open.settle.park(&delivery, 1, SECOND).await, Err(ParkError::NotOffered));
    // A host that starts on a newer broker turns them on.
    bed.nats.ensure_own_streams(Default::default()).await?;
    assert_eq!(open.settle.park(&delivery, 1, SECOND).await, Ok(()));
    jetstream.delete_stream("BUSWAY_AGAIN").await?;
    assert!(matches!(open.settle.park(&delivery, 1, SECOND).await, Err(ParkError::NotStored(_))));
    Ok(())
}

#[tokio::test]
async fn the_largest_event_that_a_broker_takes_can_be_parked() -> Result<()> {
    let bed = Bed::new().await?;
    let payload = vec![7; bed.nats.max_payload() - 200];
    let (delivery, open) = taken(&bed, &payload).await?;
    open.settle.park(&delivery, 1, Duration::from_millis(10)).await?;
    let mut returned = open_returned(&bed, "p").await?;
    let back = next(&mut returned.source, 4).await?;
    assert_same(&back, &delivery);
    let objects = bed.jetstream().get_object_store("BUSWAY_DLQ_PAYLOADS").await?;
    let name = format!("{}.p.0.1-parked", delivery.receipt.event_id);
    assert!(!objects.info(&name).await?.deleted);
    returned.settle.ack(&back.receipt).await?;
    assert!(objects.info(&name).await?.deleted, "what is done leaves nothing behind");
    Ok(())
}

#[tokio::test]
async fn a_message_that_somebody_else_sends_there_is_no_event() -> Result<()> {
    let bed = Bed::new().await?;
    bed.jetstream().publish("busway.again.p.x", "made up".into()).await?.await?;
    let mut returned = open_returned(&bed, "p").await?;
    let strange = next(&mut returned.source, 4).await?;
    assert!(is_malformed(&strange) && strange.receipt.returned.is_none(), "{strange:?}");
    Ok(())
}

fn letter(delivery: &Delivery, plugin: &str) -> Result<DeadLetter> {
    let (name, digest) = (plugin.parse()?, Digest::of(b"plugin"));
    let writer = Writer { plugin: &name, digest: &digest, host: "h", now_ms: 1, behind: None };
    let failure = Failure::new(FailureClass::Trap, "unreachable", "boom");
    Ok(DeadLetter::compose(&writer, delivery, &failure, &AttemptRecord::default(), "00-a-b-00"))
}

async fn dead(bed: &Bed, delivery: &Delivery, plugin: &str) -> Result<StoredLetter> {
    let stored = bed.nats.publisher().dead_letter(&letter(delivery, plugin)?).await?;
    Ok(bed.nats.dead_letters().get(stored.sequence).await?)
}

async fn letters(nats: &Nats) -> Result<u64> {
    let all = busway_transport::LetterFilter { plugin: None, before: None, limit: 100 };
    Ok(nats.dead_letters().list(&all).await?.stored)
}

#[tokio::test]
async fn a_redriven_event_goes_to_the_plugin_that_failed_as_it_was_and_its_letter_is_gone() -> Result<()> {
    let bed = Bed::new().await?;
    let (delivery, _open) = taken(&bed, b"\xff").await?;
    let letter = dead(&bed, &delivery, "p").await?;
    let stored = bed.nats.dead_letters().redrive(&letter, None).await?;
    assert!(!stored.duplicate);
    assert_eq!(letters(&bed.nats).await?, 0);
    assert_eq!(bed.nats.due().look().await?.context("due")?, ["p".parse()?].into());
    let mut returned = open_returned(&bed, "p").await?;
    let back = next(&mut returned.source, 4).await?;
    assert_same(&back, &delivery);
    assert_eq!(back.receipt.returned, Some(Returned { round: 1, failed_runs: 0 }));
    Ok(())
}

#[tokio::test]
async fn a_redrive_that_is_repeated_after_a_crash_is_stored_once() -> Result<()> {
    let bed = Bed::new().await?;
    let (delivery, _open) = taken(&bed, b"1").await?;
    let first = dead(&bed, &delivery, "p").await?;
    bed.nats.dead_letters().redrive(&first, None).await?;
    // As if the letter had not been deleted yet.
    let again = dead(&bed, &delivery, "p").await?;
    assert!(bed.nats.dead_letters().redrive(&again, None).await?.duplicate);
    assert_eq!((stored_copies(&bed).await?, letters(&bed.nats).await?), (1, 0));
    assert!(bed.nats.dead_letters().discard(&again).await.is_ok(), "a letter that is gone is as wanted");
    Ok(())
}

#[tokio::test]
async fn a_letter_whose_redrive_is_not_stored_stays() -> Result<()> {
    let bed = Bed::new().await?;
    let (delivery, _open) = taken(&bed, b"1").await?;
    let letter = dead(&bed, &delivery, "p").await?;
    bed.jetstream().delete_stream("BUSWAY_AGAIN").await?;
    let refused = bed.nats.dead_letters().redrive(&letter, None).await;
    assert!(matches!(refused, Err(RedriveError::NotStored(_))), "{refused:?}");
    assert_eq!(letters(&bed.nats).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_letter_with_its_payload_elsewhere_is_exported_imported_and_redriven_whole() -> Result<()> {
    let bed = Bed::new().await?;
    let payload = vec![9; bed.nats.max_payload() - 200];
    let (delivery, _open) = taken(&bed, &payload).await?;
    let (mine, others) = (dead(&bed, &delivery, "p").await?, dead(&bed, &delivery, "q").await?);
    let objects = bed.jetstream().get_object_store("BUSWAY_DLQ_PAYLOADS").await?;
    let object = mine.headers.get("Busway-Payload-Object").context("an object")?.to_owned();
    let dead_letters = bed.nats.dead_letters();
    dead_letters.discard(&mine).await?;
    assert!(objects.info(&object).await?.deleted, "discarded with its payload");
    assert_eq!(
        dead_letters.get(others.sequence).await?.payload.len(),
        payload.len(),
        "another plugin's stays"
    );
    let Imported::Stored(sequence) = dead_letters.import(&mine).await? else { panic!("it was there") };
    assert_eq!(dead_letters.import(&mine).await?, Imported::AlreadyThere(sequence));
    let back = dead_letters.get(sequence).await?;
    assert_eq!((&back.subject, &back.payload), (&mine.subject, &mine.payload));
    let sorted = |letter: &StoredLetter| {
        let own = letter.headers.iter().filter(|(name, _)| !name.starts_with("Nats-"));
        let mut lines: Vec<_> = own.map(|(name, value)| format!("{name}: {value}")).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&back), sorted(&mine));
    dead_letters.redrive(&back, Some("0123")).await?;
    assert!(objects.info(&object).await?.deleted, "the letter's own payload is gone with it");
    let mut returned = open_returned(&bed, "p").await?;
    let delivered = next(&mut returned.source, 4).await?;
    assert_eq!(delivered.content.payload().len(), payload.len());
    returned.settle.terminate(&delivered.receipt, "done").await?;
    assert!(objects.info(&format!("{}.p.1.0-redriven", delivery.receipt.event_id)).await?.deleted);
    Ok(())
}

#[tokio::test]
async fn what_the_broker_tells_of_terminated_events_is_kept() -> Result<()> {
    let bed = Bed::new().await?;
    let (delivery, open) = taken(&bed, b"1").await?;
    open.settle.terminate(&delivery.receipt, "dead-lettered:trap").await?;
    let stream = bed.jetstream().get_stream("BUSWAY_ADVISORIES").await?;
    let kept = within(async {
        loop {
            let found =
                stream.get_last_raw_message_by_subject("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>").await;
            match found {
                Ok(kept) => return kept,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await?;
    assert!(String::from_utf8_lossy(&kept.payload).contains("dead-lettered:trap"));
    Ok(())
}

#[tokio::test]
async fn an_operators_own_stream_of_advisories_is_no_reason_not_to_start_and_a_limit_on_events_is()
-> Result<()> {
    let server = busway_testkit::nats::NatsServer::start()?;
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    let theirs = async_nats::jetstream::stream::Config {
        name: "THEIRS".into(),
        subjects: vec!["$JS.EVENT.ADVISORY.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(theirs).await?;
    let nats = Nats::connect(&busway_transport::NatsConfig::new(server.url())).await?;
    nats.ensure_own_streams(Default::default()).await?;
    assert!(jetstream.get_stream("BUSWAY_ADVISORIES").await.is_err());
    let mut again = jetstream.get_stream("BUSWAY_AGAIN").await?.cached_info().config.clone();
    again.max_bytes = 1 << 20;
    jetstream.update_stream(again).await?;
    let refused = nats.ensure_own_streams(Default::default()).await.err().context("a refusal")?;
    assert!(refused.to_string().contains("max_bytes is 1048576, wanted -1"), "{refused}");
    Ok(())
}
