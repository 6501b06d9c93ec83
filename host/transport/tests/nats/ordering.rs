//! Ordered consumers against a real nats-server: which host is active, and what a host is told of what is missing.

use crate::support::*;
use anyhow::{Context as _, Result};
use busway_core::{
    Binding,
    binding::{Behind, Ordering, STRICT_WINDOW},
    port::SettleError,
};
use busway_transport::{ConsumerSettings, Nats, NatsConfig, OpenBinding, SourceStatus};
use futures_util::StreamExt as _;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const ACK_WAIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

fn ordered() -> Binding {
    Binding { ordering: Ordering::Strict { behind: Behind::Block }, ..binding("p", &["in.>"]) }
}

/// Another host on the bed's server.
async fn host(bed: &Bed) -> Result<(Nats, OpenBinding)> {
    let nats = Nats::connect(&NatsConfig::new(bed.server.url())).await?;
    let open = nats.open(&ordered(), ConsumerSettings { ack_wait: ACK_WAIT }).await?;
    Ok((nats, open))
}

/// Polls the source until its status is as wanted; nothing may come meanwhile.
async fn standing_by(open: &mut OpenBinding) -> Result<String> {
    let mut status = open.status.clone();
    let waited = async {
        let stands_by = |status: &SourceStatus| matches!(status, SourceStatus::StandBy(_));
        match status.wait_for(stands_by).await.map(|status| status.clone())? {
            SourceStatus::StandBy(host) => Ok(host),
            other => anyhow::bail!("{other:?}"),
        }
    };
    tokio::select! {
        host = waited => host,
        delivery = open.source.next(8) => anyhow::bail!("it pulls: {delivery:?}"),
        () = sleep(PATIENCE) => anyhow::bail!("it never stands by"),
    }
}

/// Keeps a host the active one for as long as the future takes.
async fn keeping<T>(open: &OpenBinding, work: impl Future<Output = T>) -> T {
    let settle = &open.settle;
    let keep = async {
        loop {
            settle.stay_active().await;
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = keep => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn the_window_of_an_ordered_consumer_bounds_what_is_unsettled() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (0..200).map(|n| n.to_string())).await?;
    let (_nats, mut open) = host(&bed).await?;
    let mut held = Vec::new();
    for _ in 0..STRICT_WINDOW {
        held.push(next(&mut open.source, 256).await?);
    }
    let more = tokio::time::timeout(Duration::from_millis(500), open.source.next(256)).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(open.settle.unsettled().await, Ok(STRICT_WINDOW as usize));
    assert_eq!(open.source.opening().unsettled, 0, "nothing was given before");
    Ok(())
}

#[tokio::test]
async fn after_a_crash_later_events_come_first_and_the_host_is_told_how_many_are_missing() -> Result<()> {
    let bed = Bed::new().await?;
    bed.store("in.a", (1..=8).map(|n| n.to_string())).await?;
    let (dead, mut open) = host(&bed).await?;
    for expected in 1..=4 {
        assert_eq!(sequence(&next(&mut open.source, 4 - expected as usize + 1).await?), expected);
    }
    // As a crash would: neither put back nor given back.
    std::mem::forget(open);
    std::mem::forget(dead);
    let began = Instant::now();
    let (_nats, mut open) = host(&bed).await?;
    let first = next(&mut open.source, 8).await?;
    assert!(began.elapsed() >= ACK_WAIT, "the lease has to lapse first: {:?}", began.elapsed());
    assert_eq!((open.source.opening().number, open.source.opening().unsettled), (1, 4));
    let mut came = vec![sequence(&first)];
    while came.len() < 8 {
        came.push(sequence(&keeping_next(&mut open).await?));
    }
    assert_eq!(open.settle.unsettled().await, Ok(8), "now there are as many as the broker counts");
    let mut sorted = came.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=8).collect::<Vec<_>>());
    Ok(())
}

async fn keeping_next(open: &mut OpenBinding) -> Result<busway_core::Delivery> {
    let settle = std::sync::Arc::clone(&open.settle);
    let keep = async {
        loop {
            settle.stay_active().await;
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        delivery = next(&mut open.source, 8) => delivery,
        () = keep => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn a_second_host_stands_by_and_takes_over_at_once_when_the_first_ends_well() -> Result<()> {
    let bed = Bed::new().await?;
    let (first_nats, mut first) = host(&bed).await?;
    bed.store("in.a", (1..=2).map(|n| n.to_string())).await?;
    let delivery = next(&mut first.source, 1).await?;
    let (_second_nats, mut second) = host(&bed).await?;
    keeping(&first, standing_by(&mut second)).await?;
    assert!(!second.settle.is_active() && first.settle.is_active());
    first.settle.ack(&delivery.receipt).await?;
    drop(first.source);
    first_nats.close().await;
    let began = Instant::now();
    let delivery = next(&mut second.source, 1).await?;
    assert_eq!(sequence(&delivery), 2);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(second.settle.is_active() && !first.settle.is_active());
    Ok(())
}

#[tokio::test]
async fn a_second_host_takes_over_when_nothing_is_heard_of_the_first() -> Result<()> {
    let bed = Bed::new().await?;
    let (_first_nats, mut first) = host(&bed).await?;
    bed.store("in.a", (1..=2).map(|n| n.to_string())).await?;
    next(&mut first.source, 1).await?;
    let (_second_nats, mut second) = host(&bed).await?;
    let began = Instant::now();
    let delivery = next(&mut second.source, 1).await?;
    let took = began.elapsed();
    assert!(took >= ACK_WAIT && took < ACK_WAIT * 2, "{took:?}");
    assert_eq!(second.source.opening().unsettled, 1);
    assert_eq!(sequence(&delivery), 1, "the first one's: the broker's patience has ended as well");
    Ok(())
}

#[tokio::test]
async fn a_host_that_did_not_renew_in_time_may_do_nothing_and_does_not_get_it_back() -> Result<()> {
    let bed = Bed::new().await?;
    let (_stale_nats, mut stale) = host(&bed).await?;
    bed.store("in.a", (1..=3).map(|n| n.to_string())).await?;
    let delivery = next(&mut stale.source, 1).await?;
    let began = Instant::now();
    while stale.settle.is_active() {
        sleep(LOOK).await;
    }
    assert!(began.elapsed() < ACK_WAIT.mul_f64(0.8), "it stops before anybody may take over");
    let refused = stale.settle.progress(&delivery.receipt).await;
    assert!(matches!(refused, Err(SettleError::Refused(_))), "{refused:?}");
    let (_second_nats, mut second) = host(&bed).await?;
    let came = next(&mut second.source, 1).await?;
    assert_eq!((sequence(&came), came.receipt.delivered), (1, 2));
    stale.settle.stay_active().await;
    assert!(!stale.settle.is_active());
    keeping(&second, standing_by(&mut stale)).await?;
    Ok(())
}

#[tokio::test]
async fn a_host_whose_broker_was_away_for_a_moment_goes_on_with_its_lease() -> Result<()> {
    let mut bed = Bed::new().await?;
    let (_nats, mut open) = host(&bed).await?;
    bed.store("in.a", (1..=2).map(|n| n.to_string())).await?;
    next(&mut open.source, 1).await?;
    bed.server.kill()?;
    bed.server.restart()?;
    let delivery = keeping_next(&mut open).await?;
    assert!(sequence(&delivery) <= 2);
    assert!(open.settle.is_active());
    Ok(())
}

#[tokio::test]
async fn an_event_that_somebody_else_was_given_is_noticed() -> Result<()> {
    let bed = Bed::new().await?;
    let (_nats, mut open) = host(&bed).await?;
    bed.store("in.a", std::iter::once("1".to_owned())).await?;
    let delivery = next(&mut open.source, 1).await?;
    open.settle.ack(&delivery.receipt).await?;
    let stream = bed.jetstream().get_stream("EVENTS").await?;
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        stream.get_consumer("busway-p").await.map_err(|why| anyhow::anyhow!("{why}"))?;
    bed.store("in.a", std::iter::once("2".to_owned())).await?;
    let mut thief = consumer.fetch().max_messages(1).messages().await?;
    within(thief.next()).await?.context("the thief gets one")?.map_err(|why| anyhow::anyhow!("{why}"))?;
    bed.store("in.a", std::iter::once("3".to_owned())).await?;
    let delivery = keeping_next(&mut open).await?;
    assert_eq!(sequence(&delivery), 3);
    assert_eq!((open.source.opening().number, open.source.opening().unsettled), (2, 2));
    Ok(())
}
