//! Brokers, connections and hosts that fail as they do in life: what is accepted is done once, and everything goes on by
//! itself.

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream;
use busway_e2e_tests::{Folder, Host, broker, bus::Bus, config, eventually};
use busway_sandbox_tests::{PUBLISH, echo, guest, reject};
use busway_testkit::{
    nats::NatsServer,
    proxy::{Lost, Proxy},
};
use bytes::Bytes;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// As short as it may be.
const SHORT_ACK_WAIT: &str = "[host]\nack_wait = \"5s\"";

/// A handler that takes about a millisecond for each thousand `loops`, and passes its event on.
fn slow(loops: u32) -> String {
    let publish = format!(
        "(local $n i32) (local.set $n (i32.const {loops}))
         (loop $on (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $on (local.get $n)))
         (call $publish (i32.const 16) (i32.const 8) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
         (i32.const 1024)"
    );
    guest(PUBLISH, r#"(data (i32.const 16) "out.done")"#, &publish)
}

async fn setting(url: &str, server: &NatsServer, core: &str) -> Result<(Folder, Bus)> {
    let folder = Folder::new(&config(&format!("{}\n{SHORT_ACK_WAIT}", broker(url)), ""))?;
    folder.guest("p", core)?;
    Ok((folder, Bus::connect(server).await?))
}

fn payloads(numbers: std::ops::Range<u32>) -> impl Iterator<Item = Bytes> {
    numbers.map(|number| number.to_string().into())
}

async fn idle(bus: &Bus, patience: Duration) -> Result<()> {
    let began = Instant::now();
    while !bus.pending("IN", "busway-p").await.is_ok_and(|pending| pending == (0, 0)) {
        ensure!(began.elapsed() < patience, "still pending after {patience:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Every event is done, once.
async fn all_done_once(bus: &Bus, events: usize) -> Result<()> {
    let done: Vec<_> = bus.read("OUT").await?.into_iter().map(|stored| stored.payload).collect();
    let different: HashSet<_> = done.iter().collect();
    assert_eq!((done.len(), different.len()), (events, events));
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 0);
    Ok(())
}

async fn signal(name: &str, pid: u32) -> Result<()> {
    let status =
        tokio::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().await?;
    ensure!(status.success(), "kill -{name} {pid}");
    Ok(())
}

async fn not_ready(host: &mut Host) -> Result<()> {
    eventually("the host notices", async || Ok((host.get("/readyz").await?.0 == 503).then_some(()))).await
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_is_at_work_again_within_ten_seconds() -> Result<()> {
    let mut server = NatsServer::start()?;
    let (folder, bus) = setting(&server.url(), &server, &slow(1_000_000)).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", payloads(0..600)).await?;
    bus.wait_for("OUT", 50).await?;
    server.kill()?;
    server.restart()?;
    // Counted by the host itself: what this test asks the broker is delayed by the same crash.
    let back = Instant::now();
    let stored = host.metric("busway_outputs_released_total").await?;
    ensure!(stored < 500.0, "it was killed after the work");
    eventually("more than what was under way is stored", async || {
        Ok((host.metric("busway_outputs_released_total").await? > stored + 50.0).then_some(()))
    })
    .await?;
    let resumed = back.elapsed();
    assert!(resumed < Duration::from_secs(10), "{resumed:?}");
    idle(&bus, Duration::from_secs(60)).await?;
    all_done_once(&bus, 600).await?;
    host.stop().await
}

#[tokio::test]
async fn a_broker_that_stands_still_is_noticed_and_what_lost_its_lease_is_done_once() -> Result<()> {
    let server = NatsServer::start()?;
    let (folder, bus) = setting(&server.url(), &server, &slow(2_000_000)).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", payloads(0..400)).await?;
    bus.wait_for("OUT", 20).await?;
    let pid = server.pid().context("a server")?;
    signal("STOP", pid).await?;
    let began = Instant::now();
    let noticed = not_ready(&mut host).await;
    let took = began.elapsed();
    signal("CONT", pid).await?;
    noticed?;
    // The connections' own pings notice it: 10 s, and two of them may be unanswered.
    assert!(took < Duration::from_secs(35), "{took:?}");
    host.ready().await?;
    idle(&bus, Duration::from_secs(60)).await?;
    all_done_once(&bus, 400).await?;
    host.stop().await
}

/// Loses one way for some seconds while events are handled.
async fn one_way(lost: Lost) -> Result<()> {
    let server = NatsServer::start()?;
    let proxy = Proxy::before(server.address()).await?;
    let (folder, bus) = setting(&proxy.url(), &server, &slow(2_000_000)).await?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", payloads(0..400)).await?;
    bus.wait_for("OUT", 20).await?;
    let before = proxy.lost_bytes();
    proxy.lose(lost);
    // Longer than the broker waits for a word: it gives what the host holds to somebody else, if there were one.
    tokio::time::sleep(Duration::from_secs(7)).await;
    proxy.lose(Lost::Nothing);
    ensure!(proxy.lost_bytes() > before, "nothing was lost");
    idle(&bus, Duration::from_secs(90)).await?;
    all_done_once(&bus, 400).await?;
    host.stop().await
}

#[tokio::test]
async fn when_acknowledgements_alone_are_lost_every_event_is_done_once() -> Result<()> {
    one_way(Lost::ToBroker).await
}

#[tokio::test]
async fn when_deliveries_alone_are_lost_every_event_is_done_once() -> Result<()> {
    one_way(Lost::ToHost).await
}

#[tokio::test]
async fn without_a_stream_of_dead_letters_nothing_is_terminated() -> Result<()> {
    let server = NatsServer::start()?;
    let (folder, bus) = setting(&server.url(), &server, &reject("told", "so")).await?;
    let host = folder.up_and_ready().await?;
    bus.remove_stream("BUSWAY_DLQ").await?;
    bus.publish("in.a", payloads(0..3)).await?;
    eventually("all three are refused", async || {
        let told = host.log().lines().filter(|line| line.contains("the dead letter was not stored")).count();
        Ok((told >= 3).then_some(()))
    })
    .await?;
    assert_eq!(bus.pending("IN", "busway-p").await?, (0, 3), "{}", host.log());
    assert_eq!(bus.count("IN").await?, 3);
    host.stop().await
}

#[tokio::test]
async fn a_stream_that_holds_no_more_messages_keeps_events_waiting_until_it_does() -> Result<()> {
    let server = NatsServer::start()?;
    let (folder, bus) = setting(&server.url(), &server, &echo("out.echo")).await?;
    let mut host = folder.up_and_ready().await?;
    let roomy = bus.config_of("OUT").await?;
    bus.change_stream(stream::Config { max_messages: 1, ..roomy.clone() }).await?;
    bus.publish("in.a", payloads(0..3)).await?;
    eventually("two are put back", async || {
        let told =
            host.metric("busway_attempts_refused_total{plugin=\"p\",class=\"broker-trouble\"}").await?;
        Ok((told >= 2.0).then_some(()))
    })
    .await?;
    assert_eq!(bus.count("OUT").await?, 1);
    bus.change_stream(roomy).await?;
    idle(&bus, Duration::from_secs(60)).await?;
    all_done_once(&bus, 3).await?;
    host.stop().await
}

#[tokio::test]
async fn a_broker_that_is_asked_to_leave_is_followed_when_it_is_back() -> Result<()> {
    let mut server = NatsServer::start_with("lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"")?;
    let (folder, bus) = setting(&server.url(), &server, &slow(2_000_000)).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", payloads(0..400)).await?;
    bus.wait_for("OUT", 20).await?;
    signal("USR2", server.pid().context("a server")?).await?;
    not_ready(&mut host).await?;
    server.restart()?;
    host.ready().await?;
    idle(&bus, Duration::from_secs(60)).await?;
    all_done_once(&bus, 400).await?;
    host.stop().await
}

#[tokio::test]
async fn a_host_that_crashes_by_itself_leaves_what_it_held_to_the_next() -> Result<()> {
    let server = NatsServer::start()?;
    let (folder, bus) = setting(&server.url(), &server, &slow(2_000_000)).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", payloads(0..200)).await?;
    bus.wait_for("OUT", 20).await?;
    host.signal("ABRT").await?;
    ensure!(!host.ended().await?.success(), "it did not crash");
    ensure!(bus.pending("IN", "busway-p").await?.1 > 0, "it crashed after the work");
    let host = folder.up_and_ready().await?;
    idle(&bus, Duration::from_secs(60)).await?;
    all_done_once(&bus, 200).await?;
    host.stop().await
}

#[tokio::test]
async fn an_account_without_jetstream_is_told_as_what_it_is() -> Result<()> {
    let server = NatsServer::start_with(
        "accounts {\n  A { users: [ { user: a, password: a } ] }\n  B { jetstream: enabled\n users: [ { user: b, password: b } ] }\n}",
    )?;
    let head = format!("{}\nuser = \"a\"\npassword = {{ env = \"PASSWORD_OF_A\" }}", broker(&server.url()));
    let folder = Folder::new(&config(&head, ""))?;
    folder.guest("p", &echo("out.echo"))?;
    let told = folder.busway_with(&["up"], &[("PASSWORD_OF_A", "a")]).await?;
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(1), "{said}");
    assert!(said.contains("JetStream"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_broker_without_jetstream_is_told_as_what_it_is_and_waited_for_until_it_has_it() -> Result<()> {
    let mut server = NatsServer::start_with("jetstream: disabled")?;
    let folder = Folder::new(&config(&broker(&server.url()), ""))?;
    folder.guest("p", &echo("out.echo"))?;
    let waits = "JetStream does not answer; trying again";
    let mut stopped = folder.up()?;
    stopped.logged(waits).await?;
    stopped.stop().await?;
    let mut host = folder.up()?;
    host.logged(waits).await?;
    assert_eq!((host.get("/livez").await?.0, host.get("/readyz").await?.0), (200, 503));
    server.restart_with("")?;
    host.ready().await?;
    let told = host.logged("JetStream answers now").await?;
    assert!(told.contains("own streams"), "{told}");
    // Once, however often it was tried.
    assert_eq!(host.log().matches(waits).count(), 1, "{}", host.log());
    host.stop().await
}

/// However far a host has come in its start: what it asks next gets no answer, and it goes on when the broker does.
#[tokio::test]
async fn a_broker_that_stands_still_while_a_host_starts_is_waited_for() -> Result<()> {
    let server = NatsServer::start()?;
    let proxy = Proxy::before(server.address()).await?;
    let (folder, bus) = setting(&proxy.url(), &server, &echo("out.echo")).await?;
    let mut host = folder.up()?;
    host.logged("\"connected\"").await?;
    let pid = server.pid().context("a server")?;
    signal("STOP", pid).await?;
    let told = host.logged("trying again").await;
    signal("CONT", pid).await?;
    told?;
    host.ready().await?;
    bus.publish("in.a", payloads(0..3)).await?;
    bus.wait_for("OUT", 3).await?;
    host.stop().await
}
