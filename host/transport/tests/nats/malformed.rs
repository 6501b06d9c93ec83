//! Stored messages that the client library can't receive.

use crate::support::*;
use anyhow::{Context as _, Result};
use busway_core::port::Content;
use busway_transport::nats::Role;
use std::{collections::BTreeSet, time::Duration};

const BAD: [(&str, &[u8]); 4] = [
    ("not UTF-8", b"NATS/1.0\r\nx-a: \xff\xfe\r\n\r\n"),
    ("without `:`", b"NATS/1.0\r\nno colon\r\n\r\n"),
    ("name \"a b\"", b"NATS/1.0\r\na b: c\r\n\r\n"),
    // The client library panics over this one.
    ("line break", b"NATS/1.0\r\na: b\rc\r\n\r\n"),
];

#[tokio::test]
async fn each_malformed_message_comes_raw_and_good_ones_behind_it_arrive() -> Result<()> {
    for (why, block) in BAD {
        let bed = Bed::new().await?;
        bed.store("in.a", ["before".into()].into_iter()).await?;
        RawPublisher::connect(bed.server.address())?.publish(b"in.bad", block, b"raw")?;
        bed.store("in.a", (0..20).map(|n| n.to_string())).await?;
        let mut open = bed.open(&binding("p", &["in.>"])).await?;
        let mut came = BTreeSet::new();
        let mut raw = 0;
        while came.len() < 21 || raw == 0 {
            let delivery = next(&mut open.source, 8).await.context(why)?;
            let Content::Malformed(malformed) = &delivery.content else {
                came.insert(payload(&delivery));
                open.settle.ack(&delivery.receipt).await?;
                continue;
            };
            raw += 1;
            assert_eq!((malformed.subject.as_str(), sequence(&delivery)), ("in.bad", 2));
            assert_eq!((&malformed.header_block[..], &malformed.payload[..]), (block, &b"raw"[..]));
            assert!(malformed.why.contains(why), "{} does not contain {why}", malformed.why);
            open.settle.terminate(&delivery.receipt, "dead-lettered: undecodable").await?;
        }
        assert_eq!(raw, 1, "{why}");
        let lost = bed.nats.health(Role::Pulls).borrow().disconnects;
        assert!(lost <= 2, "{why}: {lost} reconnects");
        assert_eq!(bed.nats.health(Role::Control).borrow().disconnects, 0);
        within(async {
            while bed.consumer("busway-p").await.map_or(1, |info| info.num_ack_pending) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await?;
        assert_eq!(bed.consumer("busway-p").await?.ack_floor.stream_sequence, 22, "{why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_malformed_subject_comes_raw_too() -> Result<()> {
    let bed = Bed::new().await?;
    let block = b"NATS/1.0\r\nx-a: 1\r\n\r\n";
    let mut publisher = RawPublisher::connect(bed.server.address())?;
    publisher.publish(b"in.\xff\xfe", block, b"1")?;
    publisher.publish("in.a\u{2003}b".as_bytes(), block, b"2")?;
    bed.store("in.a", ["good".into()].into_iter()).await?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let mut raw = BTreeSet::new();
    loop {
        let delivery = next(&mut open.source, 8).await?;
        if is_malformed(&delivery) {
            raw.insert(payload(&delivery));
            open.settle.terminate(&delivery.receipt, "x").await?;
        } else {
            assert_eq!(payload(&delivery), "good");
            break;
        }
    }
    assert_eq!(raw, BTreeSet::from(["1".into(), "2".into()]));
    Ok(())
}

#[tokio::test]
async fn a_malformed_message_that_is_put_back_comes_raw_again() -> Result<()> {
    let bed = Bed::new().await?;
    RawPublisher::connect(bed.server.address())?.publish(b"in.bad", BAD[0].1, b"raw")?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    for _ in 0..2 {
        let delivery = next(&mut open.source, 8).await?;
        assert!(is_malformed(&delivery));
        open.settle.put_back(&delivery.receipt, Duration::from_millis(100)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_stored_message_that_looks_like_a_status_is_an_event() -> Result<()> {
    let bed = Bed::new().await?;
    let block = b"NATS/1.0 409 Consumer Deleted\r\nx-a: 1\r\n\r\n";
    RawPublisher::connect(bed.server.address())?.publish(b"in.a", block, b"1")?;
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let delivery = next(&mut open.source, 8).await?;
    assert_eq!((payload(&delivery), is_malformed(&delivery)), ("1".into(), false));
    Ok(())
}
