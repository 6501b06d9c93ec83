//! Plugins that fail all the time, that are paused, that kill the host: what waits stays in its stream, and comes to its end
//! when it can.

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream;
use busway_e2e_tests::{Folder, Host, broker, bus::Bus, config, eventually};
use busway_sandbox_tests::{OK, PUBLISH, body, echo, guest, reject};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use serde_json::Value;
use std::fs;

/// How long the broker waits for a host that says nothing any more: as short as it may be configured.
const SHORT_ACK_WAIT: &str = "[host]\nack_wait = \"5s\"";

/// A handler that never ends for what begins with `x`, and takes about `loops` nanoseconds for everything else, which goes
/// to `out.done`.
fn spins_on_x(loops: u32) -> String {
    let handle = format!(
        "(local $n i32) (local.set $n (i32.const {loops}))
         (if (i32.eq (i32.load8_u (local.get 6)) (i32.const 120)) (then (loop $again (br $again))))
         (loop $on (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $on (local.get $n)))
         (call $publish (i32.const 16) (i32.const 8) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
         {OK}"
    );
    guest(PUBLISH, r#"(data (i32.const 16) "out.done")"#, &handle)
}

fn payloads(range: std::ops::Range<u32>) -> impl Iterator<Item = Bytes> {
    range.map(|n| format!("o{n}").into())
}

fn folder(server: &NatsServer, head: &str, plugin: &str) -> Result<Folder> {
    Folder::new(&config(&format!("{}\n{head}", broker(&server.url())), plugin))
}

/// What `busway plugin ls` says of the plugin.
async fn listed(folder: &Folder) -> Result<Value> {
    let rows: Value = serde_json::from_str(&folder.told(&["plugin", "ls", "--output", "json"]).await?)?;
    rows.get(0).cloned().context("one plugin")
}

async fn ready_and_says(host: &mut Host, text: &str) -> Result<()> {
    eventually(text, async || {
        let (status, ready) = host.get("/readyz").await?;
        Ok((status == 200 && ready.contains(text)).then_some(()))
    })
    .await
}

async fn is_paused(host: &mut Host) -> Result<()> {
    eventually("the host sees the pause and holds nothing", async || {
        let paused = host.metric("busway_plugin_paused{plugin=\"p\"}").await?;
        let held = host.metric("busway_events_held{plugin=\"p\"}").await?;
        Ok((paused == 1.0 && held == 0.0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_plugin_that_is_paused_under_traffic_keeps_its_backlog_on_all_hosts_until_it_is_resumed()
-> Result<()> {
    const EVENTS: u32 = 1000;
    let server = NatsServer::start()?;
    let folders = [folder(&server, "", "")?, folder(&server, "", "")?];
    let bus = Bus::connect(&server).await?;
    let mut hosts = Vec::new();
    for folder in &folders {
        folder.guest("p", &spins_on_x(5_000_000))?;
        hosts.push(folder.up_and_ready().await?);
    }
    bus.publish("in.a", payloads(0..EVENTS)).await?;
    bus.wait_for("OUT", 50).await?;
    let told = folders[0].told(&["plugin", "pause", "p"]).await?;
    assert!(told.contains("busway plugin resume p"), "{told}");
    for host in &mut hosts {
        is_paused(host).await?;
        ready_and_says(host, "busway-p: paused by hand").await?;
    }
    let done = bus.count("OUT").await?;
    ensure!(done < u64::from(EVENTS), "it was paused after the work");
    let row = listed(&folders[0]).await?;
    assert_eq!(row["state"], "paused-by-hand", "{row}");
    let waiting =
        row["pending"].as_u64().context("a number")? + row["in_flight"].as_u64().context("a number")?;
    assert_eq!(waiting + done, u64::from(EVENTS), "{row}");

    // It holds for a host that starts, too.
    hosts.pop().context("two hosts")?.kill().await?;
    let mut again = folders[1].up_and_ready().await?;
    is_paused(&mut again).await?;
    hosts.push(again);
    bus.publish("in.a", payloads(EVENTS..EVENTS + 10)).await?;
    let row = listed(&folders[1]).await?;
    assert_eq!((row["state"].as_str(), bus.count("OUT").await?), (Some("paused-by-hand"), done));

    folders[1].told(&["plugin", "resume", "p"]).await?;
    bus.wait_for("OUT", u64::from(EVENTS + 10)).await?;
    bus.idle("IN", "busway-p").await?;
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_DLQ").await?), (u64::from(EVENTS + 10), 0));
    assert_eq!(listed(&folders[0]).await?["state"], "running");
    for host in hosts {
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_plugin_is_named_as_it_stands_in_the_configuration() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = folder(&server, "", "")?;
    folder.guest("p", &echo("out.done"))?;
    let output = folder.busway(&["plugin", "pause", "q"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("no plugin q") && told.contains("the plugins are: p"), "{told}");
    let output = folder.busway(&["plugin", "pause", "p"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("no consumer busway-p on stream IN yet"), "{told}");
    assert_eq!(listed(&folder).await?["state"], "no-consumer");
    Ok(())
}

#[tokio::test]
async fn a_plugin_that_always_fails_is_left_alone_and_its_events_come_through_when_it_is_mended() -> Result<()>
{
    const EVENTS: u32 = 50;
    let server = NatsServer::start()?;
    let breaker =
        "breaker = { calls = 4, failures = 0.5, window = \"60s\", open = \"3s\", open_max = \"6s\" }";
    let patient = config(&broker(&server.url()), breaker).replace("attempts = 3", "attempts = 50");
    let folder = Folder::new(&patient)?;
    folder.guest("p", &body("unreachable"))?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", payloads(0..EVENTS)).await?;
    host.logged("the breaker opens").await?;
    assert_eq!(host.metric("busway_breaker_state{plugin=\"p\"}").await?, 2.0);
    ready_and_says(&mut host, "its breaker is open").await?;
    eventually("other hosts are held too", async || {
        Ok((listed(&folder).await?["state"] == "paused-by-breaker").then_some(()))
    })
    .await?;
    host.logged("the probe failed as well").await?;
    let failed = host.metric("busway_attempts_failed_total{plugin=\"p\"").await?;
    // What ran beside the fourth failure was under way already.
    ensure!(failed <= 4.0 + 16.0 + 2.0, "{failed} runs failed while it was open");
    host.stop().await?;

    folder.guest("p", &echo("out.done"))?;
    let host = folder.up_and_ready().await?;
    bus.wait_for("OUT", u64::from(EVENTS)).await?;
    bus.idle("IN", "busway-p").await?;
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_DLQ").await?), (u64::from(EVENTS), 0));
    host.stop().await
}

/// Waits until an event runs that is noted so in the journal.
async fn noted(folder: &Folder, state: u8) -> Result<()> {
    eventually("the journal says so", async || {
        let bytes = fs::read(folder.path(".busway/inflight")).unwrap_or_default();
        Ok(bytes.chunks(256).skip(1).any(|slot| slot.first() == Some(&state)).then_some(()))
    })
    .await
}

#[tokio::test]
async fn an_event_that_kills_the_host_twice_becomes_a_dead_letter_and_its_plugin_is_quarantined() -> Result<()>
{
    let server = NatsServer::start()?;
    let limits = "limits = { timeout = \"5m\", cpu = \"60s\" }";
    let folder = folder(&server, SHORT_ACK_WAIT, limits)?;
    folder.guest("p", &spins_on_x(1000))?;
    let bus = Bus::connect(&server).await?;

    // Killed by whatever it is while the event runs.
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"x")]).await?;
    noted(&folder, 1).await?;
    host.kill().await?;

    // The next host runs it alone, and dies again.
    bus.publish("in.a", payloads(0..20)).await?;
    let mut host = folder.up_and_ready().await?;
    let told = host.logged("the host died while events ran").await?;
    assert!(told.contains("\"suspects\":1"), "{told}");
    noted(&folder, 3).await?;
    host.kill().await?;

    // The third does not run it.
    let done = bus.count("OUT").await?;
    bus.publish("in.a", payloads(20..40)).await?;
    let mut host = folder.up_and_ready().await?;
    host.logged("the host died again while this event ran alone").await?;
    let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
    let letter = letters.first().context("a letter")?;
    assert_eq!((letter.header("Busway-Class"), &letter.payload[..]), ("host-crash", &b"x"[..]));
    assert_eq!(letter.header("Busway-Attempts"), "1", "the first death counted none");
    let quarantine = fs::read_to_string(folder.path(".busway/quarantine"))?;
    assert!(quarantine.contains("plugin p, event") && quarantine.contains("(IN:1)"), "{quarantine}");
    ready_and_says(&mut host, "quarantined").await?;
    assert_eq!(listed(&folder).await?["state"], "quarantined");
    assert_eq!(bus.count("OUT").await?, done, "a version in quarantine runs nothing");
    host.stop().await?;

    // Another version is not in quarantine, and nothing was lost meanwhile.
    folder.guest("p", &echo("out.done"))?;
    let host = folder.up_and_ready().await?;
    bus.wait_for("OUT", 40).await?;
    bus.idle("IN", "busway-p").await?;
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_DLQ").await?), (40, 1));
    assert_eq!(listed(&folder).await?["state"], "running");
    host.stop().await
}

#[tokio::test]
async fn a_second_host_with_the_same_state_folder_does_not_start_and_says_why() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = folder(&server, "", "")?;
    folder.guest("p", &echo("out.done"))?;
    let host = folder.up_and_ready().await?;
    let output = folder.busway(&["up"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("another host runs with this state folder") && told.contains("host.state"),
        "{told}"
    );
    host.stop().await?;
    folder.up_and_ready().await?.stop().await
}

#[tokio::test]
async fn a_full_stream_of_dead_letters_terminates_nothing_opens_the_breaker_and_raises_an_alarm() -> Result<()>
{
    const REFUSED: &str = "busway_host_trouble_total{plugin=\"p\",reason=\"dead-letter-refused\"}";
    const ALARM: &str = "busway_alarm{alarm=\"dead-letters-unavailable\"}";
    let server = NatsServer::start()?;
    let breaker = "limits = { concurrency = 1 }\nbreaker = { open = \"2s\", open_max = \"4s\" }";
    let folder = folder(&server, "", breaker)?;
    folder.guest("p", &reject("no", "never"))?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    let whole = bus.config_of("BUSWAY_DLQ").await?;
    bus.change_stream(stream::Config { max_messages: 1, ..whole.clone() }).await?;
    bus.publish("in.a", payloads(0..1)).await?;
    bus.wait_for("BUSWAY_DLQ", 1).await?;

    bus.publish("in.a", payloads(1..20)).await?;
    let told = host.logged("\"alarm\":\"dead-letters-unavailable\"").await?;
    assert!(told.contains("\"level\":\"ERROR\"") && told.contains("BUSWAY_DLQ"), "{told}");
    host.logged("the broker refuses its dead letters").await?;
    assert_eq!(host.metric(ALARM).await?, 1.0);
    ready_and_says(&mut host, "the broker refuses its dead letters").await?;
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 1);
    let (new, given) = bus.pending("IN", "busway-p").await?;
    assert_eq!(new + given as u64, 19, "nothing is terminated");
    let refused = host.metric(REFUSED).await?;
    ensure!(refused < 8.0, "{refused} runs for nothing while the breaker was open");

    bus.change_stream(whole).await?;
    eventually("the alarm ends", async || Ok((host.metric(ALARM).await? == 0.0).then_some(()))).await?;
    // Those that were refused come again after a minute; every other one is a dead letter by then.
    eventually("every other event is a dead letter", async || {
        let refused = host.metric(REFUSED).await? as u64;
        Ok((bus.count("BUSWAY_DLQ").await? + refused >= 20).then_some(()))
    })
    .await?;
    assert_eq!(bus.count("OUT").await?, 0);
    host.stop().await
}
