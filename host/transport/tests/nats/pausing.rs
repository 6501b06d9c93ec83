//! Pauses at a real nats-server.

use crate::support::*;
use anyhow::{Result, ensure};
use busway_core::{Binding, Limits};
use busway_transport::{PauseError, ServerPause};
use std::time::Duration;

async fn pause(bed: &Bed) -> Result<Option<ServerPause>> {
    Ok(bed.nats.consumer_state("EVENTS", "busway-p").await?.and_then(|state| state.pause))
}

#[tokio::test]
async fn a_paused_consumer_gives_nothing_and_a_resumed_one_everything() -> Result<()> {
    let bed = Bed::new().await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    bed.store("in.a", ["first".to_owned()].into_iter()).await?;
    let first = next(&mut open.source, 4).await?;
    bed.nats.pause_consumer("EVENTS", "busway-p").await?;
    bed.store("in.a", (0..5).map(|n| n.to_string())).await?;
    open.settle.put_back(&first.receipt, Duration::from_millis(1)).await?;
    let nothing = tokio::time::timeout(Duration::from_secs(2), open.source.next(4)).await;
    ensure!(nothing.is_err(), "neither new ones nor what was put back: {nothing:?}");
    let state = bed.nats.consumer_state("EVENTS", "busway-p").await?.expect("it is there");
    assert_eq!((state.pause, state.pending, state.in_flight), (Some(ServerPause::ByHand), 5, 1));
    bed.nats.resume_consumer("EVENTS", "busway-p").await?;
    for _ in 0..6 {
        let delivery = next(&mut open.source, 4).await?;
        open.settle.ack(&delivery.receipt).await?;
    }
    assert_eq!(pause(&bed).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_breakers_pause_ends_by_itself_and_never_replaces_one_by_hand() -> Result<()> {
    let bed = Bed::new().await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let awhile = Duration::from_secs(2);
    assert_eq!(bed.nats.pause_consumer_awhile("EVENTS", "busway-p", awhile).await?, Some(awhile));
    let Some(ServerPause::Awhile(remaining)) = pause(&bed).await? else { panic!("it is paused") };
    ensure!(remaining <= awhile && remaining > awhile / 4, "{remaining:?}");
    let shorter = bed.nats.pause_consumer_awhile("EVENTS", "busway-p", awhile / 4).await?;
    ensure!(shorter.is_some_and(|left| left > awhile / 4), "a longer one is left as it is: {shorter:?}");
    bed.store("in.a", ["first".to_owned()].into_iter()).await?;
    assert_eq!(payload(&next(&mut open.source, 4).await?), "first");
    assert_eq!(pause(&bed).await?, None, "it ended by itself");

    bed.nats.pause_consumer_awhile("EVENTS", "busway-p", awhile).await?;
    bed.nats.pause_consumer("EVENTS", "busway-p").await?;
    assert_eq!(bed.nats.pause_consumer_awhile("EVENTS", "busway-p", awhile).await?, None);
    assert_eq!(pause(&bed).await?, Some(ServerPause::ByHand));
    Ok(())
}

#[tokio::test]
async fn a_pause_survives_a_host_that_starts_a_change_of_the_consumer_and_a_broker_that_is_killed()
-> Result<()> {
    let mut bed = Bed::new().await?;
    drop(bed.open(&binding("p", &["in.>"])).await?);
    bed.nats.pause_consumer("EVENTS", "busway-p").await?;
    let wider =
        Binding { limits: Limits { concurrency: 40, ..Limits::default() }, ..binding("p", &["in.>"]) };
    drop(bed.open(&wider).await?);
    assert_eq!(bed.consumer("busway-p").await?.config.max_ack_pending, 256 + 160, "it was changed");
    assert_eq!(pause(&bed).await?, Some(ServerPause::ByHand));
    bed.server.restart()?;
    within(async {
        while pause(&bed).await.ok().flatten() != Some(ServerPause::ByHand) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

#[tokio::test]
async fn what_is_not_there_can_not_be_paused() -> Result<()> {
    let bed = Bed::new().await?;
    let refused = bed.nats.pause_consumer("EVENTS", "busway-p").await;
    ensure!(matches!(refused, Err(PauseError::NoConsumer { .. })), "{refused:?}");
    let refused = bed.nats.pause_consumer_awhile("NOWHERE", "busway-p", Duration::from_secs(1)).await;
    ensure!(matches!(refused, Err(PauseError::NoConsumer { .. })), "{refused:?}");
    assert_eq!(bed.nats.consumer_state("EVENTS", "busway-p").await?, None);
    Ok(())
}

#[tokio::test]
async fn without_room_nothing_is_asked_for_and_what_was_asked_for_before_still_comes() -> Result<()> {
    let bed = Bed::new().await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let asked = tokio::time::timeout(Duration::from_secs(2), open.source.next(8)).await;
    ensure!(asked.is_err(), "there was nothing to come");
    bed.store("in.a", (0..20).map(|n| n.to_string())).await?;
    for n in 0..8 {
        assert_eq!(payload(&next(&mut open.source, 0).await?), n.to_string());
    }
    let more = tokio::time::timeout(Duration::from_secs(1), open.source.next(0)).await;
    ensure!(more.is_err(), "eight were asked for: {more:?}");
    assert_eq!(payload(&next(&mut open.source, 1).await?), "8");
    Ok(())
}
