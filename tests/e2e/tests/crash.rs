//! Hosts and brokers that are killed, and hosts that are stopped: nothing is lost, and nothing is done twice.

use anyhow::{Context as _, Result, ensure};
use busway_e2e_tests::{Folder, Host, bus::Bus, eventually};
use busway_sandbox_tests::{PUBLISH, echo, guest};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Streams IN and OUT, and one plugin `p` with 2 attempts.
fn config(server: &NatsServer, more: &str) -> String {
    format!(
        r#"[nats]
url = "{}"
[admin]
listen = "127.0.0.1:0"
[host]
ack_wait = "5s"
{more}
[[stream]]
name = "IN"
subjects = ["in.>"]
[[stream]]
name = "OUT"
subjects = ["out.>"]
[[plugin]]
name = "p"
source = "p.wasm"
subscribe = [{{ stream = "IN", subjects = ["in.>"] }}]
retry = {{ attempts = 2, backoff = ["50ms"] }}
grants = {{ publish = ["out.>"] }}
limits = {{ cpu = "5s", timeout = "10s" }}
"#,
        server.url()
    )
}

/// Publishes every payload, but traps on those that begin with `x`, and takes a few milliseconds for each.
fn sometimes_failing() -> String {
    let body = "(local $i i32)
        (loop $busy (br_if $busy (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000))))
        (if (i32.eq (i32.load8_u (local.get 6)) (i32.const 120)) (then unreachable))
        (call $publish (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
        (i32.const 1024)";
    guest(PUBLISH, r#"(data (i32.const 16) "out.x")"#, body)
}

/// 2,000 payloads, every tenth of which fails.
fn payloads(events: usize) -> Vec<Bytes> {
    (0..events).map(|n| Bytes::from(format!("{}{n}", if n % 10 == 0 { "x" } else { "e" }))).collect()
}

/// Every published id must be in exactly one place, once.
async fn account(bus: &Bus, published: &[Bytes]) -> Result<()> {
    let mut outputs = BTreeMap::new();
    for output in bus.read("OUT").await? {
        *outputs.entry(output.payload).or_insert(0) += 1;
    }
    let letters: BTreeSet<_> =
        bus.read("BUSWAY_DLQ").await?.into_iter().map(|letter| letter.payload).collect();
    let lost: Vec<_> =
        published.iter().filter(|id| !outputs.contains_key(*id) && !letters.contains(*id)).collect();
    let twice: Vec<_> = outputs.iter().filter(|(_, count)| **count > 1).collect();
    let both: Vec<_> = outputs.keys().filter(|id| letters.contains(*id)).collect();
    ensure!(
        lost.is_empty() && twice.is_empty() && both.is_empty(),
        "lost {lost:?}, twice {twice:?}, in both {both:?}"
    );
    let failing = published.iter().filter(|id| id.starts_with(b"x")).count();
    ensure!(letters.len() == failing, "{} letters for {failing} failing events", letters.len());
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_killed_again_and_again_loses_and_repeats_none_of_two_thousand_events() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&server, ""))?;
    folder.guest("p", &sometimes_failing())?;
    let bus = Bus::connect(&server).await?;
    let host = folder.up_and_ready().await?;
    let published = payloads(2_000);
    bus.publish("in.a", published.clone()).await?;
    let mut host = host;
    for share in [200, 700, 1_200] {
        eventually(
            &format!("{share} outputs"),
            async || Ok((bus.count("OUT").await? >= share).then_some(())),
        )
        .await?;
        host.kill().await?;
        host = folder.up()?;
    }
    host.ready().await?;
    bus.idle("IN", "busway-p").await?;
    account(&bus, &published).await?;
    host.stop().await
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing() -> Result<()> {
    let mut server = NatsServer::start_with("jetstream { sync_interval: always, store_dir: DIR/store }")
        .or_else(|_| NatsServer::start())?;
    let folder = Folder::new(&config(&server, ""))?;
    folder.guest("p", &sometimes_failing())?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    let published = payloads(1_000);
    bus.publish("in.a", published.clone()).await?;
    eventually("some outputs", async || Ok((bus.count("OUT").await? >= 100).then_some(()))).await?;
    server.kill()?;
    eventually("the host notices", async || Ok((host.get("/readyz").await?.0 == 503).then_some(()))).await?;
    assert_eq!(host.get("/livez").await?.0, 200, "the process is fine");
    server.restart()?;
    eventually("the test's connection is back", async || Ok(bus.answers().await.then_some(()))).await?;
    host.ready().await?;
    bus.idle("IN", "busway-p").await?;
    account(&bus, &published).await?;
    host.stop().await
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_finishes_what_runs_and_another_does_the_rest() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&server, ""))?;
    folder.guest("p", &sometimes_failing())?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    let published = payloads(1_000);
    bus.publish("in.a", published.clone()).await?;
    eventually("some outputs", async || Ok((bus.count("OUT").await? >= 50).then_some(()))).await?;
    host.signal("TERM").await?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(0), "{}", host.log());
    let (waiting, unsettled) = bus.pending("IN", "busway-p").await?;
    ensure!(waiting + unsettled as u64 > 0, "all was done before the signal; the test shows nothing");
    let host = folder.up_and_ready().await?;
    bus.idle("IN", "busway-p").await?;
    account(&bus, &published).await?;
    host.stop().await
}

#[tokio::test]
async fn two_hosts_share_one_consumer_and_handle_each_event_once() -> Result<()> {
    let server = NatsServer::start()?;
    let folders = [Folder::new(&config(&server, ""))?, Folder::new(&config(&server, ""))?];
    let bus = Bus::connect(&server).await?;
    let mut hosts: Vec<Host> = Vec::new();
    for folder in &folders {
        folder.guest("p", &sometimes_failing())?;
        hosts.push(folder.up_and_ready().await?);
    }
    let published = payloads(1_000);
    bus.publish("in.a", published.clone()).await?;
    bus.wait_for("OUT", 900).await?;
    bus.idle("IN", "busway-p").await?;
    account(&bus, &published).await?;
    for host in &mut hosts {
        assert!(
            host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"ack\"}").await? > 0.0,
            "both took part"
        );
    }
    for host in hosts {
        host.stop().await?;
    }
    Ok(())
}

/// Spins until its processor budget is spent: 5 s.
fn spinning() -> String {
    busway_sandbox_tests::body("(loop $again (br $again)) unreachable")
}

#[tokio::test]
async fn what_still_runs_at_the_deadline_is_given_back_and_the_exit_code_says_so() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&server, "drain = \"1s\""))?;
    folder.guest("p", &spinning())?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"x")]).await?;
    eventually("it runs", async || Ok((host.metric("busway_events_held").await? > 0.0).then_some(())))
        .await?;
    host.signal("TERM").await?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(3), "{}", host.log());
    folder.guest("p", &echo("out.x"))?;
    let host = folder.up_and_ready().await?;
    bus.wait_for("OUT", 1).await?;
    host.stop().await
}

#[tokio::test]
async fn a_second_signal_ends_the_host_at_once_and_loses_nothing() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&server, ""))?;
    folder.guest("p", &spinning())?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"x")]).await?;
    eventually("it runs", async || Ok((host.metric("busway_events_held").await? > 0.0).then_some(())))
        .await?;
    host.signal("TERM").await?;
    host.logged("draining").await?;
    host.signal("TERM").await?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(3), "{}", host.log());
    let (waiting, unsettled) = bus.pending("IN", "busway-p").await?;
    assert_eq!(waiting + unsettled as u64, 1, "the event is still there");
    let _payload = bus.read("IN").await?.pop().context("the event")?;
    Ok(())
}
