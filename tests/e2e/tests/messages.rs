//! Messages that are large, odd or gone: each is delivered as it is, or ends as what it is, and none stops another.

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use busway_e2e_tests::{Folder, broker, bus::Bus, config, eventually};
use busway_sandbox_tests::{PUBLISH, echo, guest, reject};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;

async fn setting(core: &str) -> Result<(NatsServer, Folder, Bus)> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&format!("{}\n[host]\nack_wait = \"5s\"", broker(&server.url())), ""))?;
    folder.guest("p", core)?;
    let bus = Bus::connect(&server).await?;
    Ok((server, folder, bus))
}

#[tokio::test]
async fn bytes_that_are_no_text_are_delivered_and_passed_on_as_they_are() -> Result<()> {
    let (_server, folder, bus) = setting(&echo("out.echo")).await?;
    let host = folder.up_and_ready().await?;
    let bytes = Bytes::from((0..=255).collect::<Vec<u8>>());
    bus.publish("in.a", [bytes.clone()]).await?;
    let outputs = bus.wait_for("OUT", 1).await?;
    assert_eq!(outputs.first().context("an output")?.payload, bytes);
    host.stop().await
}

#[tokio::test]
async fn an_event_with_a_thousand_headers_and_one_with_a_huge_one_end_with_every_line() -> Result<()> {
    let (_server, folder, bus) = setting(&reject("seen", "whole")).await?;
    let host = folder.up_and_ready().await?;
    let mut many = HeaderMap::new();
    for number in 0..1_000 {
        many.append("X-Many", format!("value {number}").as_str());
    }
    let mut huge = HeaderMap::new();
    huge.insert("X-Huge", "h".repeat(60 << 10).as_str());
    bus.publish_with("in.a", many, Bytes::from_static(b"many")).await?;
    bus.publish_with("in.a", huge, Bytes::from_static(b"huge")).await?;
    bus.wait_for("BUSWAY_DLQ", 2).await?;
    bus.idle("IN", "busway-p").await?;
    let mut kept = Vec::new();
    for number in ["1", "2"] {
        let shown = folder.told(&["dlq", "show", number, "--output", "json"]).await?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let headers = shown["headers"].as_array().context("headers")?.clone();
        let of = |name: &str| headers.iter().filter(|header| header["name"] == name).count();
        kept.push((of("X-Many"), of("X-Huge")));
    }
    kept.sort_unstable();
    assert_eq!(kept, [(0, 1), (1_000, 0)]);
    host.stop().await
}

#[tokio::test]
async fn what_the_broker_acts_on_in_an_events_headers_is_never_copied_to_its_outputs() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), "config = { to = \"out.on\" }"))?;
    folder.built_guest("chaos")?;
    std::fs::rename(folder.path("chaos.wasm"), folder.path("p.wasm"))?;
    let bus = Bus::connect(&server).await?;
    let host = folder.up_and_ready().await?;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("Nats-Msg-Id", "the publisher's"),
        ("Nats-Expected-Stream", "IN"),
        ("Busway-Hops", "2"),
        ("X-Own", "kept"),
    ] {
        headers.insert(name, value);
    }
    bus.publish_with("in.a", headers, Bytes::from_static(b"one")).await?;
    let outputs = bus.wait_for("OUT", 1).await?;
    let output = outputs.first().context("an output")?;
    assert_eq!((output.header("X-Own"), output.header("Busway-Hops")), ("kept", "3"));
    assert_eq!(output.header("Nats-Expected-Stream"), "", "the output would have been refused");
    assert_eq!(output.header("Nats-Msg-Id").len(), 52, "{output:?}");
    host.stop().await
}

#[tokio::test]
async fn long_and_foreign_subjects_are_delivered_and_never_become_labels() -> Result<()> {
    let (_server, folder, bus) = setting(&echo("out.echo")).await?;
    let mut host = folder.up_and_ready().await?;
    let tokens = format!("in{}", ".token".repeat(200));
    let long = format!("in.{}", "l".repeat(3_900));
    for subject in [tokens.as_str(), long.as_str(), "in.überraschung.七"] {
        bus.publish(subject, [Bytes::from(subject.len().to_string())]).await?;
    }
    bus.wait_for("OUT", 3).await?;
    bus.idle("IN", "busway-p").await?;
    let (_, metrics) = host.get("/metrics").await?;
    for part in ["token", "llll", "überraschung"] {
        ensure!(!metrics.contains(part), "a metric has a subject in it: {part}");
    }
    host.stop().await
}

#[tokio::test]
async fn an_event_whose_stream_is_purged_while_it_runs_ends_and_does_not_come_again() -> Result<()> {
    let slow = "(local $n i32) (local.set $n (i32.const 800000000))
         (loop $on (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $on (local.get $n)))
         (call $publish (i32.const 16) (i32.const 8) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
         (i32.const 1024)";
    let core = guest(PUBLISH, r#"(data (i32.const 16) "out.done")"#, slow);
    let server = NatsServer::start()?;
    let limits = "limits = { timeout = \"1m\", cpu = \"30s\" }";
    let head = format!("{}\n[host]\nack_wait = \"5s\"", broker(&server.url()));
    let (folder, bus) = (Folder::new(&config(&head, limits))?, Bus::connect(&server).await?);
    folder.guest("p", &core)?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"gone")]).await?;
    eventually("the event runs", async || {
        Ok((host.metric("busway_events_received_total").await? > 0.0).then_some(()))
    })
    .await?;
    bus.purge("IN").await?;
    ensure!(bus.count("OUT").await? == 0, "it was purged after the work");
    bus.wait_for("OUT", 1).await?;
    // The next event is not held up, and it is the only other one that ever runs.
    bus.publish("in.a", [Bytes::from_static(b"next")]).await?;
    bus.wait_for("OUT", 2).await?;
    bus.idle("IN", "busway-p").await?;
    eventually("both are settled", async || {
        let done = host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"ack\"}").await?;
        Ok((done >= 2.0).then_some(()))
    })
    .await?;
    assert_eq!(host.metric("busway_events_received_total").await?, 2.0);
    host.stop().await
}
