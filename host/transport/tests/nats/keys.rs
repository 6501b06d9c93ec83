//! Claims of inputs' keys against a real nats-server.

use crate::support::*;
use anyhow::Result;
use busway_core::{
    Binding, EventId, KeySource, Settle,
    binding::InputDedup,
    port::{KeyClaim, SettleError},
};
use busway_transport::{OpenError, nats::SEEN_BUCKET};
use futures_util::future::join_all;
use std::{sync::Arc, time::Duration};

const HOUR: Duration = Duration::from_secs(3600);

fn deduping(plugin: &str) -> Binding {
    let dedup = InputDedup { key: KeySource::MessageId, ttl: HOUR };
    Binding { dedup: Some(dedup), ..binding(plugin, &["in.>"]) }
}

async fn settle(bed: &Bed, plugin: &str) -> Result<Arc<dyn Settle>> {
    Ok(bed.open(&deduping(plugin)).await?.settle)
}

fn id(n: u8) -> EventId {
    EventId::random([n; 32])
}

async fn entries(bed: &Bed) -> Result<u64> {
    let stream = bed.jetstream().get_stream(format!("KV_{SEEN_BUCKET}")).await?;
    Ok(stream.get_info().await?.state.messages)
}

#[tokio::test]
async fn a_key_belongs_to_the_event_that_claimed_it_first_and_to_one_plugin() -> Result<()> {
    let bed = Bed::new().await?;
    let (p, q) = (settle(&bed, "p").await?, settle(&bed, "q").await?);
    let key = "order 7 > * . \u{1f980}\r\n";
    assert_eq!(p.claim_key(key, HOUR, &id(1)).await, Ok(KeyClaim::Own));
    assert_eq!(p.claim_key(key, HOUR, &id(2)).await, Ok(KeyClaim::Taken(id(1))));
    // After a crash, or for another attempt.
    assert_eq!(p.claim_key(key, HOUR, &id(1)).await, Ok(KeyClaim::Own));
    assert_eq!(p.claim_key("another", HOUR, &id(2)).await, Ok(KeyClaim::Own));
    assert_eq!(q.claim_key(key, HOUR, &id(2)).await, Ok(KeyClaim::Own));
    assert_eq!(entries(&bed).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_key_that_was_given_up_is_free_and_only_its_event_gives_it_up() -> Result<()> {
    let bed = Bed::new().await?;
    let settle = settle(&bed, "p").await?;
    settle.claim_key("k", HOUR, &id(1)).await?;
    settle.release_key("k", &id(2)).await?;
    assert_eq!(settle.claim_key("k", HOUR, &id(2)).await, Ok(KeyClaim::Taken(id(1))));
    settle.release_key("k", &id(1)).await?;
    settle.release_key("k", &id(1)).await?;
    assert_eq!(settle.claim_key("k", HOUR, &id(2)).await, Ok(KeyClaim::Own));
    // A late release of the first event's must not free the second's.
    settle.release_key("k", &id(1)).await?;
    assert_eq!(settle.claim_key("k", HOUR, &id(3)).await, Ok(KeyClaim::Taken(id(2))));
    Ok(())
}

#[tokio::test]
async fn a_claim_lapses_after_its_time_and_another_attempt_prolongs_it() -> Result<()> {
    let bed = Bed::new().await?;
    let settle = settle(&bed, "p").await?;
    let (short, began) = (Duration::from_secs(2), std::time::Instant::now());
    settle.claim_key("short", short, &id(1)).await?;
    settle.claim_key("prolonged", short, &id(1)).await?;
    assert_eq!(settle.claim_key("prolonged", HOUR, &id(1)).await, Ok(KeyClaim::Own));
    within(async {
        while settle.claim_key("short", HOUR, &id(2)).await? != KeyClaim::Own {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, SettleError>(())
    })
    .await??;
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    assert_eq!(settle.claim_key("prolonged", HOUR, &id(2)).await, Ok(KeyClaim::Taken(id(1))));
    Ok(())
}

#[tokio::test]
async fn of_many_who_claim_a_key_at_once_one_gets_it() -> Result<()> {
    let bed = Bed::new().await?;
    let settle = settle(&bed, "p").await?;
    for round in 0..20 {
        let key = format!("k{round}");
        let ids: Vec<_> = (1..=8).map(id).collect();
        let claims = join_all(ids.iter().map(|id| settle.claim_key(&key, HOUR, id))).await;
        let own = claims.iter().filter(|claim| **claim == Ok(KeyClaim::Own)).count();
        let taken = claims.iter().filter(|claim| matches!(claim, Ok(KeyClaim::Taken(_)))).count();
        assert_eq!((own, taken), (1, 7), "{claims:?}");
    }
    Ok(())
}

#[tokio::test]
async fn claims_outlive_the_broker_and_are_unknown_while_it_is_away() -> Result<()> {
    let mut bed = Bed::new().await?;
    let settle = settle(&bed, "p").await?;
    settle.claim_key("k", HOUR, &id(1)).await?;
    bed.server.kill()?;
    let other = id(2);
    let (claim, restarted) = tokio::join!(settle.claim_key("k", HOUR, &other), async {
        tokio::task::yield_now().await;
        bed.server.restart()
    });
    restarted?;
    assert_eq!(claim, Ok(KeyClaim::Taken(id(1))));
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_missing_or_unfit_is_told_with_the_way_out() -> Result<()> {
    let bed = Bed::new().await?;
    let settle = settle(&bed, "p").await?;
    let jetstream = bed.jetstream();
    jetstream.delete_stream(format!("KV_{SEEN_BUCKET}")).await?;
    let claim = settle.claim_key("k", HOUR, &id(1)).await;
    assert!(matches!(&claim, Err(SettleError::Refused(why)) if why.contains(SEEN_BUCKET)), "{claim:?}");
    assert_eq!(settle.release_key("k", &id(1)).await, Ok(()));
    for unfit in [None, Some(1)] {
        if unfit.is_some() {
            jetstream
                .create_stream(async_nats::jetstream::stream::Config {
                    name: format!("KV_{SEEN_BUCKET}"),
                    subjects: vec![format!("$KV.{SEEN_BUCKET}.>")],
                    max_messages_per_subject: 1,
                    ..Default::default()
                })
                .await?;
        }
        let Err(refused) = bed.open(&deduping("p")).await else { panic!("opened without a bucket") };
        let refused = refused.downcast::<OpenError>()?;
        assert!(matches!(refused, OpenError::KeysNotKept { .. }), "{refused}");
        assert!(refused.to_string().contains("nats stream rm"), "{refused}");
    }
    // Who does not ask for it does not need it.
    bed.open(&binding("p", &["in.>"])).await?;
    Ok(())
}
