//! The account of attempts against a real nats-server.

use crate::support::*;
use anyhow::{Context as _, Result};
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use busway_core::{
    Attempt, EventId, HistoryEntry, Position, Used,
    history::{Cause, Counts, Disposition, Runner, Waits},
    port::Stored,
    units::ByteSize,
};
use busway_transport::{
    HistorySettings, Nats, OwnStreams,
    nats::{HISTORY_STREAM, HistoryError, Standing},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Records that a look-up has to find one among.
const RECORDS: u64 = 100_000;
/// How long it may take.
const LOOK_UP: Duration = Duration::from_secs(2);

fn runner(plugin: &str) -> Arc<Runner> {
    #[expect(clippy::unwrap_used, reason = "a test that can't parse its own literals should stop there")]
    let plugin = plugin.parse().unwrap();
    Arc::new(Runner {
        plugin,
        consumer: "busway-p".into(),
        version: "0123456789ab".into(),
        host: "h1".into(),
    })
}

fn success(runner: &Arc<Runner>, created: i128, sequence: u64) -> HistoryEntry {
    let position = Position { stream: "EVENTS".into(), stream_created_ns: created, sequence };
    HistoryEntry {
        event_id: EventId::of(&position),
        position: Some(position),
        subject: "in.a".into(),
        trace_id: None,
        runner: Arc::clone(runner),
        attempt: Attempt(1),
        round: 0,
        delivered: 1,
        began_at_ms: 1_790_000_000_000 + sequence,
        took: Duration::from_micros(153),
        used: Some(Used { wall: Duration::from_micros(51), memory_bytes: 1_114_112, ..Used::default() }),
        cause: None,
        disposition: Disposition::Done,
        outputs: vec![Stored { stream: "OUT".into(), sequence, duplicate: false }],
        atomic: false,
        duplicate_of: None,
        sent: 0,
    }
}

fn failure(runner: &Arc<Runner>, sequence: u64) -> HistoryEntry {
    let cause = Cause {
        counts: Counts::Failed,
        class: "retry".into(),
        code: "busy".into(),
        reason: "the warehouse is closed".into(),
    };
    HistoryEntry {
        cause: Some(cause),
        outputs: Vec::new(),
        disposition: Disposition::Retried { wait: Duration::from_secs(1), waits: Waits::InConsumer },
        began_at_ms: 1_780_000_000_000,
        ..success(runner, 0, sequence)
    }
}

/// Stores entries as a host does that stops afterwards, and gives how many were lost.
async fn write(nats: &Nats, entries: impl Iterator<Item = HistoryEntry> + Send + 'static) -> Result<u64> {
    let (queue, told) = mpsc::channel(1024);
    let lost = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&lost);
    let writer = nats.history_writer(told, move |entries| {
        count.fetch_add(entries, Ordering::Relaxed);
    });
    let tell = async move {
        for entry in entries {
            queue.send(entry).await?;
        }
        anyhow::Ok(())
    };
    let ((), told) = within(futures_util::future::join(writer.run(), tell)).await?;
    told?;
    Ok(lost.load(Ordering::Relaxed))
}

#[tokio::test]
async fn the_history_is_kept_within_its_limits_and_loses_the_oldest() -> Result<()> {
    let bed = Bed::new().await?;
    let config = bed.jetstream().get_stream(HISTORY_STREAM).await?.cached_info().config.clone();
    assert_eq!((config.max_age, config.max_bytes), (Duration::from_secs(7 * 86_400), 256 << 20));
    assert_eq!((config.retention, config.discard), (RetentionPolicy::Limits, DiscardPolicy::Old));
    assert_eq!(config.subjects, ["busway.history.>"]);
    bed.jetstream().delete_stream(HISTORY_STREAM).await?;

    let off = HistorySettings { enabled: false, ..HistorySettings::default() };
    bed.nats.ensure_own_streams(OwnStreams { history: off, ..OwnStreams::default() }).await?;
    assert!(bed.jetstream().get_stream(HISTORY_STREAM).await.is_err(), "turned off, it is not made");

    let small =
        HistorySettings { enabled: true, max_age: Duration::from_secs(60), max_bytes: ByteSize::mib(1) };
    bed.nats.ensure_own_streams(OwnStreams { history: small, ..OwnStreams::default() }).await?;
    let p = runner("p");
    assert_eq!(write(&bed.nats, (1..=30_000).map(move |n| success(&p, 0, n))).await?, 0);
    let state = bed.jetstream().get_stream(HISTORY_STREAM).await?.cached_info().state.clone();
    assert!(state.bytes <= 1 << 20 && state.first_sequence > 1, "{state:?}");
    // A host that comes with other limits leaves these as they are.
    bed.nats.ensure_own_streams(OwnStreams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn one_event_is_found_among_many_by_its_place_and_by_its_id() -> Result<()> {
    let bed = Bed::new().await?;
    let p = runner("p");
    let before = failure(&p, RECORDS / 2);
    let others = (1..RECORDS / 20).map({
        let p = Arc::clone(&p);
        move |n| failure(&p, n * 20 + 1)
    });
    let successes = (1..=RECORDS).map({
        let p = Arc::clone(&p);
        move |n| success(&p, 0, n)
    });
    assert_eq!(write(&bed.nats, [before.clone()].into_iter().chain(others).chain(successes)).await?, 0);
    let messages = bed.jetstream().get_stream(HISTORY_STREAM).await?.cached_info().state.messages;
    assert!(messages < RECORDS / 20 + 2 + RECORDS / 128, "{messages} messages");

    let history = bed.nats.history();
    for sequence in [1, RECORDS / 2, RECORDS] {
        let wanted = success(&p, 0, sequence);
        let mut expected = vec![wanted.clone()];
        if sequence == RECORDS / 2 {
            expected.insert(0, before.clone());
        }
        let place = wanted.position.context("a place")?;
        let began = Instant::now();
        let account = history.of_position(&place).await?;
        let by_place = began.elapsed();
        assert_eq!((account.entries, account.unreadable), (expected, vec![]));
        let began = Instant::now();
        assert_eq!(history.place_of(&wanted.event_id).await?.as_ref(), Some(&place));
        let by_id = began.elapsed();
        println!("{RECORDS} records, sequence {sequence}: {by_place:?} by place, {by_id:?} by id");
        assert!(by_place < LOOK_UP && by_id < LOOK_UP, "{by_place:?} {by_id:?}");
    }
    assert_eq!(history.place_of(&EventId::random([9; 32])).await?, None);
    let since = history.since(1_790_000_000_000 + RECORDS - 9).await?;
    assert_eq!(since.entries.len(), 10);
    Ok(())
}

#[tokio::test]
async fn failures_are_stored_at_once_and_successes_within_a_moment() -> Result<()> {
    let bed = Bed::new().await?;
    let (queue, told) = mpsc::channel(16);
    let writer = Arc::new(bed.nats.history_writer(told, |_| {}));
    let running = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move { writer.run().await }
    });
    let p = runner("p");
    let mut stored = bed.client.subscribe("busway.history.>").await?;
    bed.client.flush().await?;
    queue.send(success(&p, 0, 7)).await?;
    queue.send(failure(&p, 7)).await?;
    queue.send(success(&p, 0, 8)).await?;
    let mut subjects = Vec::new();
    for _ in 0..2 {
        let message = within(futures_util::StreamExt::next(&mut stored)).await?.context("a message")?;
        subjects.push(message.subject.to_string());
    }
    let id = failure(&p, 7).event_id;
    assert_eq!(subjects, [format!("busway.history.event.{id}.p"), "busway.history.done.EVENTS.0.0.p".into()]);

    // What a stopped host had in hand is stored as well.
    queue.send(success(&p, 0, 9)).await?;
    while queue.capacity() < queue.max_capacity() {
        tokio::task::yield_now().await;
    }
    running.abort();
    drop(running.await);
    queue.send(success(&p, 0, 10)).await?;
    writer.finish(PATIENCE).await;
    for sequence in [7, 8, 9, 10] {
        let place = success(&p, 0, sequence).position.context("a place")?;
        let found = bed.nats.history().of_position(&place).await?.entries.len();
        assert_eq!(found, if sequence == 7 { 2 } else { 1 }, "{sequence}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_made_anew_does_not_mix_with_the_one_before() -> Result<()> {
    let bed = Bed::new().await?;
    let p = runner("p");
    let both = [success(&p, 1, 7), success(&p, 2, 7)];
    assert_eq!(write(&bed.nats, both.clone().into_iter()).await?, 0);
    let history = bed.nats.history();
    for one in &both {
        let place = one.position.as_ref().context("a place")?;
        assert_eq!(history.place_of(&one.event_id).await?.as_ref(), Some(place));
        let found = history.of_position(place).await?.entries;
        assert_eq!(found.len(), 2, "both are told, each with its own id");
        assert!(found.iter().any(|entry| entry.event_id == one.event_id));
    }
    Ok(())
}

#[tokio::test]
async fn an_event_that_no_stream_holds_is_found_by_its_id() -> Result<()> {
    let bed = Bed::new().await?;
    let p = runner("p");
    let plain = |n: u8, entry: HistoryEntry| HistoryEntry {
        event_id: EventId::random([n; 32]),
        position: None,
        ..entry
    };
    let entries = [plain(1, success(&p, 0, 1)), plain(2, success(&p, 0, 2)), plain(2, failure(&p, 2))];
    assert_eq!(write(&bed.nats, entries.clone().into_iter()).await?, 0);
    let history = bed.nats.history();
    let id = EventId::random([2; 32]);
    assert_eq!(history.place_of(&id).await?, None);
    assert_eq!(history.of_plain(&id).await?.entries, [entries[2].clone(), entries[1].clone()]);
    Ok(())
}

#[tokio::test]
async fn what_is_not_stored_is_counted_and_what_can_not_be_read_is_told() -> Result<()> {
    let bed = Bed::new().await?;
    let p = runner("p");
    let place = success(&p, 0, 7).position.context("a place")?;
    write(&bed.nats, [success(&p, 0, 7)].into_iter()).await?;
    bed.jetstream().publish("busway.history.done.EVENTS.0.0.p", "{\"v\":9}".into()).await?.await?;
    let account = bed.nats.history().of_position(&place).await?;
    assert_eq!(account.entries.len(), 1);
    assert!(account.unreadable[0].contains("version 9"), "{:?}", account.unreadable);

    bed.jetstream().delete_stream(HISTORY_STREAM).await?;
    let entries = (1..=3).map(move |n| success(&p, 0, n));
    assert_eq!(write(&bed.nats, entries).await?, 3);
    let missing = bed.nats.history().of_position(&place).await;
    assert!(matches!(missing, Err(HistoryError::NoStream)), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn the_broker_tells_how_a_consumer_stands_to_an_event() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (1..=4).map(|n| n.to_string())).await?;
    bed.store("in.b", ["other".to_owned()].into_iter()).await?;
    let mut open = bed.open(&binding("p", &["in.a"])).await?;
    let first = next(&mut open.source, 2).await?;
    let second = next(&mut open.source, 1).await?;
    within(open.settle.ack_confirmed(&first.receipt)).await??;
    let standing = async |sequence| {
        let here = bed.nats.whereabouts("EVENTS", sequence).await?;
        anyhow::ensure!(here.consumers.len() == 1 && here.consumers[0].plugin == "p", "{here:?}");
        anyhow::Ok(here.consumers[0].standing)
    };
    assert_eq!(standing(1).await?, Standing::Settled);
    assert_eq!(standing(sequence(&second)).await?, Standing::GivenOut);
    assert_eq!(standing(5).await?, Standing::NotForIt);
    let here = bed.nats.whereabouts("EVENTS", 5).await?;
    assert_eq!(here.stored.context("still there")?.subject, "in.b");
    assert_eq!(EventId::of(&bed.nats.whereabouts("EVENTS", 1).await?.position), first.receipt.event_id);
    for (stream, sequence, expected) in
        [("EVENTS", 6, "its last one is 5"), ("NOWHERE", 1, "no stream NOWHERE")]
    {
        let why = bed.nats.whereabouts(stream, sequence).await.unwrap_err().to_string();
        assert!(why.contains(expected), "{why}");
    }
    open.source.close().await;
    Ok(())
}
