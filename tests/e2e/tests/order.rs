//! Ordered subscriptions with hosts that are killed in the middle of their work: nobody is overtaken.

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use busway_e2e_tests::{Folder, Host, broker, bus::Bus, busy, config, eventually};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Range};

const EVENTS: u32 = 300;
const KEYS: u32 = 10;
/// Where the lease of these tests' consumer stands.
const LEASE: &str = "$KV.BUSWAY_LEASES.IN.busway-p";
const SHORT_ACK_WAIT: &str = "[host]\nack_wait = \"5s\"";

/// Event `n` of `EVENTS`: one in ten is rejected, one in ten fails once. Not in step with the keys.
fn payload(n: u32) -> Bytes {
    let kind = match (n / KEYS + n) % 10 {
        3 => 'x',
        7 => 'r',
        _ => 'o',
    };
    format!("{kind}{n}").into()
}

fn number(payload: &[u8]) -> Result<u32> {
    Ok(std::str::from_utf8(payload.get(1..).context("a payload of these tests")?)?.parse()?)
}

fn folder(server: &NatsServer, ordering: &str) -> Result<Folder> {
    let head = format!("{}\n{SHORT_ACK_WAIT}", broker(&server.url()));
    let subscribe = "subjects = [\"in.>\"] }]\nretry";
    let ordered = format!("subjects = [\"in.>\"], ordering = {ordering} }}]\nretry");
    let folder = Folder::new(&config(&head, "").replace(subscribe, &ordered))?;
    folder.guest("p", &busy(1_000_000))?;
    Ok(folder)
}

async fn publish(bus: &Bus, events: Range<u32>) -> Result<()> {
    for n in events {
        let mut headers = HeaderMap::new();
        headers.insert("x-customer", (n % KEYS).to_string());
        bus.publish_with("in.a", headers, payload(n)).await?;
    }
    Ok(())
}

async fn ended(bus: &Bus) -> Result<u32> {
    Ok(u32::try_from(bus.count("OUT").await? + bus.count("BUSWAY_DLQ").await?)?)
}

/// Two hosts, of which the active one is killed again and again; then what each key came to.
async fn killed_amid_the_work(ordering: &str) -> Result<BTreeMap<u32, Vec<u32>>> {
    let server = NatsServer::start()?;
    let (one, other) = (folder(&server, ordering)?, folder(&server, ordering)?);
    let bus = Bus::connect(&server).await?;
    let mut hosts: Vec<Host> = vec![one.up_and_ready().await?, other.up_and_ready().await?];
    publish(&bus, 0..EVENTS / 2).await?;
    for (kill_at, its_folder) in [(50, &one), (170, &other), (220, &one)] {
        eventually("so many have ended", async || Ok((ended(&bus).await? >= kill_at).then_some(()))).await?;
        hosts.remove(0).kill().await?;
        let ended = ended(&bus).await?;
        ensure!(ended < EVENTS, "it was not killed amid its work: {ended}");
        if kill_at == 50 {
            ensure!(ended < EVENTS / 2, "it was not killed amid its work: {ended}");
            // The next host takes over long before the broker gives again what the dead one had, and there is news for it.
            publish(&bus, EVENTS / 2..EVENTS).await?;
            bus.publish(LEASE, [Bytes::from_static(br#"{"v":1,"holder":null,"host":"dead"}"#)]).await?;
        }
        hosts.push(its_folder.up()?);
    }
    eventually("all have ended", async || Ok((ended(&bus).await? >= EVENTS).then_some(()))).await?;
    bus.idle("IN", "busway-p").await?;
    let (outputs, letters) = (bus.read("OUT").await?, bus.read("BUSWAY_DLQ").await?);
    assert_eq!(letters.len(), (0..EVENTS).filter(|n| payload(*n).starts_with(b"x")).count());
    assert_eq!(outputs.len() + letters.len(), EVENTS as usize, "each once");
    let mut by_key = BTreeMap::<u32, Vec<u32>>::new();
    for output in outputs {
        let n = number(&output.payload)?;
        by_key.entry(n % KEYS).or_default().push(n);
    }
    for host in hosts {
        host.stop().await?;
    }
    Ok(by_key)
}

#[tokio::test]
async fn hosts_that_are_killed_amid_300_events_of_10_keys_let_none_be_overtaken() -> Result<()> {
    let by_key = killed_amid_the_work("{ key = { header = \"x-customer\" }, behind = \"block\" }").await?;
    assert_eq!(by_key.len(), KEYS as usize);
    for (key, order) in by_key {
        assert!(order.is_sorted(), "key {key}: {order:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_stops_leaves_strict_order_to_the_one_that_stands_by() -> Result<()> {
    let server = NatsServer::start()?;
    let (first, second) = (folder(&server, "\"strict\"")?, folder(&server, "\"strict\"")?);
    let bus = Bus::connect(&server).await?;
    let active = first.up_and_ready().await?;
    let mut waiting = second.up_and_ready().await?;
    waiting.logged("standing by").await?;
    publish(&bus, 0..EVENTS).await?;
    eventually("some have ended", async || Ok((ended(&bus).await? >= 40).then_some(()))).await?;
    active.stop().await?;
    ensure!(ended(&bus).await? < EVENTS, "the first has done everything");
    eventually("all have ended", async || Ok((ended(&bus).await? >= EVENTS).then_some(()))).await?;
    bus.idle("IN", "busway-p").await?;
    let outputs = bus.read("OUT").await?;
    let order = outputs.iter().map(|output| number(&output.payload)).collect::<Result<Vec<_>>>()?;
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len() + bus.read("BUSWAY_DLQ").await?.len(), EVENTS as usize);
    waiting.stop().await
}
