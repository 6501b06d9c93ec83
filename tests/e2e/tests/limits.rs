//! Brokers that store nothing more, for whatever reason: events wait, nothing is lost or terminated, and everything comes to
//! its end when there is room again.

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream;
use busway_e2e_tests::{Folder, Host, broker, bus::Bus, config, eventually};
use busway_sandbox_tests::{echo, reject};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use std::{fs, process::Command};

const REFUSED: &str = "busway_host_trouble_total{plugin=\"p\",reason=\"dead-letter-refused\"}";
const ALARM: &str = "busway_alarm{alarm=\"dead-letters-unavailable\"}";
const BREAKER: &str = "limits = { concurrency = 1 }\nbreaker = { open = \"2s\", open_max = \"4s\" }";
const EVENTS: u64 = 20;

fn payloads() -> impl Iterator<Item = Bytes> {
    (0..EVENTS).map(|n| format!("o{n}").into())
}

#[tokio::test]
async fn while_the_account_has_no_room_for_outputs_events_wait_and_no_attempt_is_counted() -> Result<()> {
    let account =
        "accounts { A: { jetstream: { max_mem: 100000, max_file: -1 }, users: [{ user: a, password: a }] } }
        no_auth_user: a";
    let server = NatsServer::start_with(account)?;
    let in_memory = config(&broker(&server.url()), "")
        .replace("subjects = [\"out.>\"]\n", "subjects = [\"out.>\"]\nstorage = \"memory\"\n");
    let folder = Folder::new(&in_memory)?;
    folder.guest("p", &echo("out.echo"))?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    let filler = stream::Config {
        name: "FILL".into(),
        subjects: vec!["fill".into()],
        storage: stream::StorageType::Memory,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    };
    bus.stream(filler).await?;
    for size in [10_000, 500, 1] {
        while bus.publish("fill", [Bytes::from(vec![0; size])]).await.is_ok() {}
    }
    bus.publish("in.a", payloads()).await?;
    eventually("events are put back", async || {
        let put_back = host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"put-back\"}").await?;
        Ok((put_back >= EVENTS as f64).then_some(()))
    })
    .await?;
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_DLQ").await?), (0, 0));
    bus.remove_stream("FILL").await?;
    let mut outputs: Vec<_> =
        bus.wait_for("OUT", EVENTS).await?.into_iter().map(|output| output.payload).collect();
    bus.idle("IN", "busway-p").await?;
    outputs.sort();
    let mut expected: Vec<_> = payloads().collect();
    expected.sort();
    assert_eq!(outputs, expected);
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_DLQ").await?), (EVENTS, 0));
    assert_eq!(host.metric("busway_attempts_failed_total").await?, 0.0);
    host.stop().await
}

/// The alarm is on, the breaker open, and of the events none is terminated.
async fn is_alarmed(host: &mut Host, bus: &Bus) -> Result<()> {
    host.logged("\"alarm\":\"dead-letters-unavailable\"").await?;
    host.logged("the broker refuses its dead letters").await?;
    assert_eq!((host.metric(ALARM).await?, bus.count("BUSWAY_DLQ").await?), (1.0, 0));
    assert_eq!(host.metric("busway_breaker_state{plugin=\"p\"}").await?, 2.0);
    let (new, given) = bus.pending("IN", "busway-p").await?;
    assert_eq!(new + given as u64, EVENTS, "nothing is terminated");
    Ok(())
}

/// The alarm is off and the letters are stored. What was refused comes again after a minute; every other one is there.
async fn is_drained(host: &mut Host, bus: &Bus) -> Result<()> {
    eventually("the alarm ends", async || Ok((host.metric(ALARM).await? == 0.0).then_some(()))).await?;
    eventually("every other event is a dead letter", async || {
        let refused = host.metric(REFUSED).await? as u64;
        Ok((bus.count("BUSWAY_DLQ").await? + refused >= EVENTS).then_some(()))
    })
    .await?;
    let (new, given) = bus.pending("IN", "busway-p").await?;
    let (waiting, letters) = (new + given as u64, bus.count("BUSWAY_DLQ").await?);
    ensure!(waiting + letters >= EVENTS, "{waiting} wait, {letters} letters");
    Ok(())
}

#[tokio::test]
async fn a_sealed_stream_of_dead_letters_terminates_nothing_and_a_new_one_takes_all_of_them() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), BREAKER))?;
    folder.guest("p", &reject("no", "never"))?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    let open = bus.config_of("BUSWAY_DLQ").await?;
    let sealed = stream::Config { sealed: true, ..open.clone() };
    bus.change_stream(sealed).await?;
    bus.publish("in.a", payloads()).await?;
    is_alarmed(&mut host, &bus).await?;
    // What is sealed stays so; only another stream in its place can be written to.
    bus.remove_stream("BUSWAY_DLQ").await?;
    bus.stream(open).await?;
    is_drained(&mut host, &bus).await?;
    host.stop().await
}

#[tokio::test]
async fn a_host_that_may_not_publish_dead_letters_terminates_nothing_until_it_may() -> Result<()> {
    let deny = "publish: { deny: [\"busway.dlq.>\"] }";
    let users = format!(
        "authorization {{ users: [{{ user: a, password: a }}, {{ user: h, password: h, permissions: {{ {deny} }} }}] }}
         no_auth_user: a"
    );
    let server = NatsServer::start_with(&users)?;
    let head = format!("{}\nuser = \"h\"\npassword = {{ file = \"password\" }}", broker(&server.url()));
    let folder = Folder::new(&config(&head, BREAKER))?;
    folder.write("password", "h")?;
    folder.guest("p", &reject("no", "never"))?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", payloads()).await?;
    is_alarmed(&mut host, &bus).await?;
    let file = server.dir().join("server.conf");
    fs::write(&file, fs::read_to_string(&file)?.replace(deny, ""))?;
    let pid = server.pid().context("it runs")?.to_string();
    ensure!(Command::new("kill").args(["-HUP", &pid]).status()?.success());
    is_drained(&mut host, &bus).await?;
    host.stop().await
}
