//! Hosts and brokers that end in the middle of their work: whatever ends, every event is accounted for.
//!
//! What must hold afterwards is told by the broker alone: the outputs and the dead letters together are exactly what was
//! published, each once, and nothing is pending.

use anyhow::{Context as _, Result, ensure};
use busway_e2e_tests::{Folder, broker, bus::Bus, busy, config, eventually};
use busway_sandbox_tests::{body, echo, reject};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;

/// How long the broker waits for a host that says nothing any more: as short as it may be configured.
const SHORT_ACK_WAIT: &str = "[host]\nack_wait = \"5s\"";
/// So long that within a test only what was put back is given again.
const LONG_ACK_WAIT: &str = "[host]\nack_wait = \"10m\"";

/// The payload of event `n`: one in ten is rejected, one in ten fails once.
fn payload(n: u32) -> Bytes {
    let kind = match n % 10 {
        3 => 'x',
        7 => 'r',
        _ => 'o',
    };
    format!("{kind}{n}").into()
}

/// How many events have come to an end.
async fn ended(bus: &Bus) -> Result<u64> {
    Ok(bus.count("OUT").await? + bus.count("BUSWAY_DLQ").await?)
}

async fn wait_until_ended(bus: &Bus, events: u64) -> Result<()> {
    eventually(&format!("{events} events have ended"), async || {
        Ok((ended(bus).await? >= events).then_some(()))
    })
    .await
}

/// Waits until nothing is pending; then the outputs and the dead letters are what `events` events must have come to.
async fn every_event_is_accounted_for(bus: &Bus, events: u32) -> Result<()> {
    wait_until_ended(bus, u64::from(events)).await?;
    bus.idle("IN", "busway-p").await?;
    for (stream, is_meant) in [("OUT", false), ("BUSWAY_DLQ", true)] {
        let mut found: Vec<_> = bus.read(stream).await?.into_iter().map(|stored| stored.payload).collect();
        let mut expected: Vec<_> =
            (0..events).map(payload).filter(|payload| (payload.starts_with(b"x")) == is_meant).collect();
        found.sort();
        expected.sort();
        let missing: Vec<_> =
            expected.iter().filter(|payload| found.binary_search(payload).is_err()).collect();
        assert_eq!((found.len(), missing.len()), (expected.len(), 0), "{stream} misses {missing:?}");
        assert_eq!(found, expected, "{stream}");
    }
    Ok(())
}

async fn setting(server: &NatsServer, head: &str, plugin: &str, core: &str) -> Result<(Folder, Bus)> {
    let folder = Folder::new(&config(&format!("{}\n{head}", broker(&server.url())), plugin))?;
    folder.guest("p", core)?;
    Ok((folder, Bus::connect(server).await?))
}

#[tokio::test]
async fn a_host_that_is_killed_five_times_amid_2000_events_loses_none_and_doubles_none() -> Result<()> {
    const EVENTS: u32 = 2000;
    let server = NatsServer::start()?;
    let (folder, bus) = setting(&server, SHORT_ACK_WAIT, "", &busy(1_000_000)).await?;
    let first = folder.up_and_ready().await?;
    bus.publish("in.a", (0..EVENTS).map(payload)).await?;
    let mut host = Some(first);
    for kill_at in [100, 400, 700, 1000, 1300] {
        let running = match host.take() {
            Some(host) => host,
            None => folder.up()?,
        };
        wait_until_ended(&bus, kill_at).await?;
        running.kill().await?;
        let (_, in_flight) = bus.pending("IN", "busway-p").await?;
        let ended = ended(&bus).await?;
        ensure!(in_flight > 0 && ended < u64::from(EVENTS), "it was not killed amid its work: {ended}");
    }
    let host = folder.up_and_ready().await?;
    every_event_is_accounted_for(&bus, EVENTS).await?;
    host.stop().await
}

#[tokio::test]
async fn a_broker_that_is_killed_twice_and_comes_back_amid_the_work_loses_nothing() -> Result<()> {
    const EVENTS: u32 = 1000;
    let mut server = NatsServer::start()?;
    let (folder, bus) = setting(&server, SHORT_ACK_WAIT, "", &busy(1_000_000)).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", (0..EVENTS).map(payload)).await?;
    for kill_at in [100, 500] {
        wait_until_ended(&bus, kill_at).await?;
        let ended = ended(&bus).await?;
        ensure!(ended < u64::from(EVENTS), "it is killed after the work: {ended}");
        server.kill()?;
        eventually("the host notices", async || Ok((host.get("/readyz").await?.0 == 503).then_some(())))
            .await?;
        assert_eq!(host.get("/livez").await?.0, 200, "the process is fine");
        server.restart()?;
        host.ready().await?;
        eventually("the broker answers", async || Ok(bus.answers().await.then_some(()))).await?;
    }
    every_event_is_accounted_for(&bus, EVENTS).await?;
    host.stop().await
}

#[tokio::test]
async fn two_hosts_that_share_a_subscription_handle_each_event_once() -> Result<()> {
    const EVENTS: u32 = 1000;
    let server = NatsServer::start()?;
    let (first, bus) = setting(&server, SHORT_ACK_WAIT, "", &busy(1_000_000)).await?;
    let (second, _) = setting(&server, SHORT_ACK_WAIT, "", &busy(1_000_000)).await?;
    let mut hosts = [first.up_and_ready().await?, second.up_and_ready().await?];
    bus.publish("in.a", (0..EVENTS).map(payload)).await?;
    every_event_is_accounted_for(&bus, EVENTS).await?;
    for host in &mut hosts {
        let done = host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"ack\"}").await?;
        assert!(done > 0.0, "one host did nothing");
    }
    for host in hosts {
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_finishes_what_runs_and_leaves_the_rest_to_the_next() -> Result<()> {
    const EVENTS: u32 = 40;
    let server = NatsServer::start()?;
    let limits = "limits = { timeout = \"1m\", cpu = \"30s\", concurrency = 4 }";
    let (folder, bus) = setting(&server, SHORT_ACK_WAIT, limits, &busy(100_000_000)).await?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", (0..EVENTS).map(payload)).await?;
    wait_until_ended(&bus, 2).await?;
    host.stop().await?;
    let ended = ended(&bus).await?;
    ensure!(ended < u64::from(EVENTS), "everything had been done already");
    eventually("what has not ended is pending, and nothing else", async || {
        let (new, given) = bus.pending("IN", "busway-p").await?;
        Ok((new + given as u64 + ended == u64::from(EVENTS)).then_some(()))
    })
    .await?;
    let host = folder.up_and_ready().await?;
    every_event_is_accounted_for(&bus, EVENTS).await?;
    host.stop().await
}

#[tokio::test]
async fn a_second_signal_ends_a_host_at_once_and_its_event_is_given_again() -> Result<()> {
    let server = NatsServer::start()?;
    let limits = "limits = { timeout = \"5m\", cpu = \"60s\" }";
    let spin = body("(loop $again (br $again)) unreachable");
    let (folder, bus) = setting(&server, SHORT_ACK_WAIT, limits, &spin).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", [payload(0)]).await?;
    eventually("the event runs", async || {
        Ok((host.metric("busway_events_received_total").await? > 0.0).then_some(()))
    })
    .await?;
    host.signal("TERM").await?;
    host.logged("draining").await?;
    assert_eq!(host.get("/readyz").await?.0, 503);
    host.signal("TERM").await?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(3), "{}", host.log());
    host.logged("ended at once").await.context("told")?;
    assert_eq!(bus.pending("IN", "busway-p").await?, (0, 1));
    folder.guest("p", &echo("out.done"))?;
    let host = folder.up_and_ready().await?;
    every_event_is_accounted_for(&bus, 1).await?;
    host.stop().await
}

#[tokio::test]
async fn a_host_whose_events_do_not_end_in_time_gives_them_back_and_says_so() -> Result<()> {
    let server = NatsServer::start()?;
    let limits = "limits = { timeout = \"5m\", cpu = \"60s\" }";
    let spin = body("(loop $again (br $again)) unreachable");
    let head = format!("{LONG_ACK_WAIT}\ndrain = \"1s\"");
    let (folder, bus) = setting(&server, &head, limits, &spin).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", [payload(0)]).await?;
    eventually("the event runs", async || {
        Ok((host.metric("busway_events_received_total").await? > 0.0).then_some(()))
    })
    .await?;
    host.signal("TERM").await?;
    assert_eq!(host.ended().await?.code(), Some(3), "{}", host.log());
    folder.guest("p", &echo("out.done"))?;
    let host = folder.up_and_ready().await?;
    every_event_is_accounted_for(&bus, 1).await?;
    host.stop().await
}

#[tokio::test]
async fn an_event_that_is_dead_is_not_run_by_a_host_to_which_the_broker_gives_it_as_if_for_the_first_time()
-> Result<()> {
    let server = NatsServer::start()?;
    let bus = Bus::connect(&server).await?;
    let folder = Folder::new(&config(&broker(&server.url()), ""))?;
    folder.guest("p", &reject("told", "so"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"dead")]).await?;
    bus.wait_for("BUSWAY_DLQ", 1).await?;
    bus.idle("IN", "busway-p").await?;
    host.stop().await?;
    // Everything that a broker can lose of a consumer.
    bus.remove_consumer("IN", "busway-p").await?;
    bus.purge("KV_BUSWAY_CHECKPOINTS").await?;
    // This one would do it.
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"alive")]).await?;
    bus.wait_for("OUT", 1).await?;
    bus.idle("IN", "busway-p").await?;
    let done: Vec<_> = bus.read("OUT").await?.into_iter().map(|stored| stored.payload).collect();
    assert_eq!((done, bus.count("BUSWAY_DLQ").await?), (vec![Bytes::from_static(b"alive")], 1));
    host.stop().await
}
