//! Messages that are large, odd or gone: each is delivered as it is, or ends as what it is, and none stops another.

use anyhow::{Context as _, Result, ensure};
use async_nats::{HeaderMap, jetstream::stream};
use busway_e2e_tests::{Folder, Host, broker, bus::Bus, busy, config, eventually, raw};
use busway_sandbox_tests::{PUBLISH, echo, guest, reject};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use std::time::Duration;

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

/// A host whose plugin passes every event on to `out.on.0`, headers and all.
async fn passes_on() -> Result<(NatsServer, Folder, Bus, Host)> {
    let server = NatsServer::start()?;
    let head = format!("{}\n[host]\nack_wait = \"5s\"", broker(&server.url()));
    let folder = Folder::new(&config(&head, "config = { to = \"out.on\" }"))?;
    folder.built_guest("chaos")?;
    std::fs::rename(folder.path("chaos.wasm"), folder.path("p.wasm"))?;
    let bus = Bus::connect(&server).await?;
    let host = folder.up_and_ready().await?;
    Ok((server, folder, bus, host))
}

#[tokio::test]
async fn an_event_that_fills_the_brokers_maximum_with_its_headers_is_delivered_and_kept_whole() -> Result<()>
{
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), "limits = { memory = \"16MiB\" }"))?;
    folder.guest("p", &reject("seen", "whole"))?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    let block = b"NATS/1.0\r\nX-Order: 7\r\n\r\n";
    let payload = vec![b'z'; bus.max_payload() - block.len()];
    let larger = raw::publish(&server, "in.a", block, &[&payload[..], b"z"].concat());
    ensure!(larger.is_err(), "one byte more is taken: this is not the maximum");
    raw::publish(&server, "in.a", block, &payload)?;
    let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
    let letter = letters.first().context("a letter")?;
    assert_eq!((letter.header("Busway-Code"), letter.header("X-Order")), ("seen", "7"));
    let shown = folder.told(&["dlq", "show", "1", "--output", "json"]).await?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let kept = shown["payload_base64"].as_str().context("a payload")?.len();
    assert_eq!(kept, payload.len().div_ceil(3) * 4, "in base64 three bytes are four");
    bus.idle("IN", "busway-p").await?;
    assert_eq!(host.metric("busway_events_received_total").await?, 1.0);
    host.stop().await
}

#[tokio::test]
async fn an_event_with_an_empty_header_name_ends_as_a_dead_letter_and_stops_nobody() -> Result<()> {
    let server = NatsServer::start()?;
    let head = format!("{}\n[host]\nack_wait = \"5s\"", broker(&server.url()));
    let (folder, bus) = (Folder::new(&config(&head, ""))?, Bus::connect(&server).await?);
    folder.guest("p", &reject("seen", "whole"))?;
    let mut host = folder.up_and_ready().await?;
    raw::publish(&server, "in.a", b"NATS/1.0\r\nX-Own: kept\r\n: nameless\r\n\r\n", b"odd")?;
    bus.publish("in.b", [Bytes::from_static(b"next")]).await?;
    let letters = bus.wait_for("BUSWAY_DLQ", 2).await?;
    let odd = letters.iter().find(|letter| &letter.payload[..] == b"odd").context("a letter")?;
    assert_eq!(odd.header("Busway-Class"), "undecodable", "{odd:?}");
    ensure!(!odd.header("Busway-Raw-Headers").is_empty(), "{odd:?}");
    bus.idle("IN", "busway-p").await?;
    let refused = "busway_host_trouble_total{plugin=\"p\",reason=\"dead-letter-refused\"}";
    assert_eq!(host.metric(refused).await?, 0.0);
    host.stop().await
}

#[tokio::test]
async fn what_makes_the_broker_purge_schedule_or_trace_is_never_copied_to_an_output() -> Result<()> {
    let (server, _folder, bus, host) = passes_on().await?;
    for name in ["IN", "OUT"] {
        let open = bus.config_of(name).await?;
        bus.change_stream(stream::Config { allow_rollup: true, ..open }).await?;
    }
    let acted_on = ["Nats-Rollup: sub", "Nats-Schedule-Target: out.elsewhere", "Nats-Trace-Dest: out.trace"];
    bus.publish("in.a", [Bytes::from_static(b"one first")]).await?;
    bus.wait_for("OUT", 1).await?;
    for (number, line) in acted_on.iter().enumerate() {
        let block = format!("NATS/1.0\r\n{line}\r\nX-Own: {number}\r\n\r\n");
        raw::publish(&server, &format!("in.{number}"), block.as_bytes(), b"one")?;
    }
    let stored = bus.wait_for("IN", 4).await?;
    let own: Vec<_> = stored.iter().map(|event| event.header("X-Own")).collect();
    bus.idle("IN", "busway-p").await?;
    let outputs: Vec<_> = bus.read("OUT").await?.into_iter().filter(|it| it.subject == "out.on.0").collect();
    assert_eq!(outputs.len(), stored.len(), "an output was purged, or is missing");
    for output in &outputs {
        for line in acted_on {
            let name = line.split_once(':').context("a header")?.0;
            assert_eq!(output.header(name), "", "{output:?}");
        }
    }
    ensure!(outputs.iter().filter(|output| !output.header("X-Own").is_empty()).count() >= 2, "{own:?}");
    host.stop().await
}

#[tokio::test]
async fn a_trace_and_baggage_of_ten_kilobytes_end_as_a_new_trace() -> Result<()> {
    let (_server, folder, bus) = setting(&echo("out.echo")).await?;
    let host = folder.up_and_ready().await?;
    let mut headers = HeaderMap::new();
    for name in ["traceparent", "tracestate", "baggage"] {
        headers.insert(name, "00-4bf92f3577b34da6a3ce929d0e0e4736-".repeat(280));
    }
    bus.publish_with("in.a", headers, Bytes::from_static(b"1")).await?;
    let outputs = bus.wait_for("OUT", 1).await?;
    let output = outputs.first().context("an output")?;
    let trace = output.header("traceparent");
    assert_eq!(trace.len(), 55, "{output:?}");
    assert!(!trace.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{output:?}");
    assert_eq!((output.header("tracestate"), output.header("baggage")), ("", ""));
    bus.idle("IN", "busway-p").await?;
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 0);
    host.stop().await
}

#[tokio::test]
async fn a_header_block_with_line_breaks_in_it_injects_nothing_and_ends_nobody() -> Result<()> {
    let (server, _folder, bus, host) = passes_on().await?;
    let blocks: [&[u8]; 4] = [
        b"NATS/1.0\r\nce-id: 1\rBusway-Hops: 17\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\nNats-Msg-Id: forged\nBusway-Event-Id: forged\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\r\n Nats-Rollup: all\r\n\r\n",
        b"NATS/1.0\r\nce-id: 1\r\n\r\nBusway-Class: forged\r\n\r\n",
    ];
    for block in blocks {
        raw::publish(&server, "in.bad", block, b"one bad")?;
    }
    bus.publish("in.good", [Bytes::from_static(b"one good")]).await?;
    eventually("each is an output or a dead letter", async || {
        Ok((bus.count("OUT").await? + bus.count("BUSWAY_DLQ").await? == 5).then_some(()))
    })
    .await?;
    bus.idle("IN", "busway-p").await?;
    let (outputs, letters) = (bus.read("OUT").await?, bus.read("BUSWAY_DLQ").await?);
    println!("{outputs:#?}\n{letters:#?}");
    ensure!(outputs.iter().any(|output| &output.payload[..] == b"one good"));
    for output in &outputs {
        assert_eq!((output.header("Nats-Rollup"), output.header("Busway-Class")), ("", ""), "{output:?}");
        assert_eq!(output.header("Busway-Event-Id").len(), 52, "{output:?}");
        assert_ne!(output.header("Nats-Msg-Id"), "forged", "{output:?}");
    }
    for letter in &letters {
        assert_eq!(letter.header("Busway-Class"), "undecodable", "{letter:?}");
        assert_eq!(&letter.payload[..], b"one bad");
    }
    host.stop().await
}

#[tokio::test]
async fn an_event_that_expires_while_it_runs_has_its_effects_once_and_does_not_come_again() -> Result<()> {
    let server = NatsServer::start()?;
    let limits = "limits = { timeout = \"1m\", cpu = \"30s\" }";
    let head = format!("{}\n[host]\nack_wait = \"5s\"", broker(&server.url()));
    let (folder, bus) = (Folder::new(&config(&head, limits))?, Bus::connect(&server).await?);
    folder.guest("p", &busy(4_000_000_000))?;
    let mut host = folder.up_and_ready().await?;
    let age = Duration::from_millis(300);
    let short = stream::Config { max_age: age, duplicate_window: age, ..bus.config_of("IN").await? };
    bus.change_stream(short).await?;
    bus.publish("in.a", [Bytes::from_static(b"old")]).await?;
    eventually("the event runs", async || {
        Ok((host.metric("busway_events_received_total").await? > 0.0).then_some(()))
    })
    .await?;
    eventually("it has expired", async || Ok((bus.count("IN").await? == 0).then_some(()))).await?;
    ensure!(bus.count("OUT").await? == 0, "it expired after the work");
    bus.wait_for("OUT", 1).await?;
    bus.idle("IN", "busway-p").await?;
    eventually("it is settled", async || {
        let done = host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"ack\"}").await?;
        Ok((done >= 1.0).then_some(()))
    })
    .await?;
    // The next one waits for nothing.
    bus.publish("in.b", [Bytes::from_static(b"next")]).await?;
    bus.wait_for("OUT", 2).await?;
    assert_eq!(host.metric("busway_events_received_total").await?, 2.0);
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 0);
    host.stop().await
}
