//! Events through a host: each way an attempt can end, as it stands at the broker afterwards.

use anyhow::{Context as _, Result, ensure};
use async_nats::{HeaderMap, jetstream::stream};
use busway_e2e_tests::{Folder, broker, bus::Bus, config, eventually, raw};
use busway_sandbox_tests::{ATTEMPT, OK, body, echo, guest, reject, retry};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;

/// `plugin` stands at the end of the plugin's section.
async fn setting(plugin: &str) -> Result<(NatsServer, Folder, Bus)> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), plugin))?;
    let bus = Bus::connect(&server).await?;
    Ok((server, folder, bus))
}

fn one(payload: &'static [u8]) -> [Bytes; 1] {
    [Bytes::from_static(payload)]
}

#[tokio::test]
async fn an_event_goes_through_the_plugin_and_its_output_is_stored_with_an_id_and_a_trace() -> Result<()> {
    let (_server, folder, bus) = setting("").await?;
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    bus.publish_with("in.a", headers, Bytes::from_static(b"hello")).await?;
    let outputs = bus.wait_for("OUT", 1).await?;
    let output = outputs.first().context("an output")?;
    assert_eq!((output.subject.as_str(), &output.payload[..]), ("out.echo", &b"hello"[..]));
    assert!(output.header("traceparent").contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{output:?}");
    assert_eq!((output.header("Nats-Msg-Id").len(), output.header("Busway-Hops")), (52, "1"));
    bus.idle("IN", "busway-p").await?;
    host.stop().await
}

#[tokio::test]
async fn a_retry_that_succeeds_leaves_one_output_and_no_dead_letter() -> Result<()> {
    let (_server, folder, bus) = setting("").await?;
    let publish_at_three = format!(
        "(if (i32.lt_u (call $attempt) (i32.const 3)) (then unreachable))
         (call $publish (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048)) {OK}"
    );
    let imports = format!("{ATTEMPT} {}", busway_sandbox_tests::PUBLISH);
    folder.guest("p", &guest(&imports, r#"(data (i32.const 16) "out.x")"#, &publish_at_three))?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", one(b"x")).await?;
    bus.wait_for("OUT", 1).await?;
    bus.idle("IN", "busway-p").await?;
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 0);
    assert_eq!(host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"retry\"}").await?, 2.0);
    host.stop().await
}

#[tokio::test]
async fn an_event_whose_attempts_are_spent_becomes_a_dead_letter_with_its_bytes_and_its_history() -> Result<()>
{
    let (_server, folder, bus) = setting("").await?;
    folder.guest("p", &retry("the warehouse is closed", 60))?;
    let host = folder.up_and_ready().await?;
    let mut headers = HeaderMap::new();
    headers.insert("X-Order", "7");
    headers.insert("Nats-Msg-Id", "mine");
    bus.publish_with("in.a", headers, Bytes::from_static(b"\x00\xffbytes")).await?;
    let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
    let letter = letters.first().context("a letter")?;
    assert_eq!(&letter.payload[..], b"\x00\xffbytes");
    let told = [
        "Busway-Class",
        "Busway-Attempts",
        "Busway-Reason",
        "Busway-Subject",
        "Busway-Stream",
        "X-Order",
        "Busway-Plugin",
    ];
    let told = told.map(|name| letter.header(name));
    assert_eq!(told, ["retry", "3", "the warehouse is closed", "in.a", "IN", "7", "p"]);
    assert_eq!(letter.headers.get_all("Busway-Attempt").count(), 3);
    assert_eq!(letter.header("Busway-Event-Id").len(), 52);
    assert_ne!(letter.header("Nats-Msg-Id"), "mine", "what the broker acts upon is not carried over");
    assert!(letter.subject.starts_with("busway.dlq.p."), "{}", letter.subject);
    bus.idle("IN", "busway-p").await?;
    host.stop().await
}

#[tokio::test]
async fn a_rejected_event_becomes_a_dead_letter_at_once_and_can_be_looked_at() -> Result<()> {
    let (_server, folder, bus) = setting("").await?;
    folder.guest("p", &reject("bad-order", "no id"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", one(b"{\"total\": 1}")).await?;
    bus.wait_for("BUSWAY_DLQ", 1).await?;
    bus.idle("IN", "busway-p").await?;
    let listed = folder.told(&["dlq", "ls"]).await?;
    assert!(listed.contains("bad-order") && listed.contains("no id") && listed.contains("in.a"), "{listed}");
    let shown = folder.told(&["dlq", "show", "1"]).await?;
    assert!(shown.contains("reject  bad-order") && shown.contains("\"total\": 1"), "{shown}");
    let shown: serde_json::Value =
        serde_json::from_str(&folder.told(&["dlq", "show", "1", "--output", "json"]).await?)?;
    assert_eq!(shown.pointer("/payload_json/total"), Some(&1.into()));
    assert_eq!(folder.busway(&["dlq", "show", "9"]).await?.status.code(), Some(1));
    host.stop().await
}

#[tokio::test]
async fn a_panic_of_a_rust_plugin_stands_in_its_dead_letter_with_file_and_line() -> Result<()> {
    let (_server, folder, bus) = setting("").await?;
    folder.built_guest("panics")?;
    std::fs::rename(folder.path("panics.wasm"), folder.path("p.wasm"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", one(b"panic")).await?;
    bus.wait_for("BUSWAY_DLQ", 1).await?;
    let shown = folder.told(&["dlq", "show", "1"]).await?;
    assert!(shown.contains("trap  unreachable") && shown.contains("told to panic on in.a"), "{shown}");
    assert!(shown.contains("src/lib.rs:11"), "{shown}");
    host.stop().await
}

#[tokio::test]
async fn a_loop_without_end_and_a_memory_bomb_end_as_what_they_are() -> Result<()> {
    let bomb = body(
        "(loop $again (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br $again)) unreachable",
    );
    let spin = body("(loop $again (br $again)) unreachable");
    for (core, class) in [(spin, "cpu"), (bomb, "memory")] {
        let limits = "limits = { cpu = \"50ms\", memory = \"4MiB\" }";
        let (_server, folder, bus) = setting(limits).await?;
        folder.guest("p", &core)?;
        let host = folder.up_and_ready().await?;
        bus.publish("in.a", one(b"x")).await?;
        let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
        assert_eq!(letters.first().context("a letter")?.header("Busway-Class"), class);
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn while_an_output_stream_is_full_events_wait_and_no_attempt_is_counted() -> Result<()> {
    let (_server, folder, bus) = setting("").await?;
    folder.guest("p", &echo("out.echo"))?;
    let mut host = folder.up_and_ready().await?;
    let open = bus.config_of("OUT").await?;
    bus.change_stream(stream::Config { max_messages: 5, ..open.clone() }).await?;
    bus.publish("in.a", (0..20u8).map(|n| Bytes::copy_from_slice(&[n]))).await?;
    eventually("events are put back", async || {
        let put_back = host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"put-back\"}").await?;
        Ok((put_back >= 15.0).then_some(()))
    })
    .await?;
    bus.change_stream(open).await?;
    let mut outputs: Vec<_> =
        bus.wait_for("OUT", 20).await?.into_iter().map(|output| output.payload).collect();
    bus.idle("IN", "busway-p").await?;
    outputs.sort();
    assert_eq!(outputs, (0..20u8).map(|n| Bytes::copy_from_slice(&[n])).collect::<Vec<_>>());
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_DLQ").await?), (20, 0));
    assert_eq!(host.metric("busway_attempts_failed_total").await?, 0.0);
    host.stop().await
}

#[tokio::test]
async fn an_output_that_no_stream_captures_is_an_unroutable_failure() -> Result<()> {
    let (_server, folder, bus) = setting("").await?;
    let config =
        std::fs::read_to_string(folder.path("busway.toml"))?.replace("[\"out.>\"] }", "[\"nowhere.>\"] }");
    folder.write("busway.toml", config)?;
    folder.guest("p", &echo("nowhere.x"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", one(b"x")).await?;
    let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
    let letter = letters.first().context("a letter")?;
    assert_eq!((letter.header("Busway-Class"), letter.header("Busway-Code")), ("unroutable", "no-stream"));
    host.stop().await
}

#[tokio::test]
async fn payloads_of_no_bytes_and_of_the_brokers_maximum_are_delivered_and_kept_whole_when_they_die()
-> Result<()> {
    let (_server, folder, bus) = setting("limits = { memory = \"16MiB\" }").await?;
    folder.guest("p", &reject("seen", "whole"))?;
    let host = folder.up_and_ready().await?;
    let largest = Bytes::from(vec![b'z'; bus.max_payload()]);
    bus.publish("in.a", [Bytes::new(), largest.clone()]).await?;
    bus.wait_for("BUSWAY_DLQ", 2).await?;
    bus.idle("IN", "busway-p").await?;
    let mut payloads = Vec::new();
    for number in ["1", "2"] {
        let shown = folder.told(&["dlq", "show", number, "--output", "json"]).await?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        payloads.push(shown["payload_base64"].as_str().context("a payload")?.to_owned());
    }
    payloads.sort();
    // In base64, three bytes `z` are `enp6`, and one is `eg==`.
    assert_eq!(largest.len() % 3, 1);
    assert_eq!(payloads, [String::new(), "enp6".repeat(largest.len() / 3) + "eg=="]);
    let letters = bus.read("BUSWAY_DLQ").await?;
    let kept_beside = letters.iter().filter(|letter| !letter.header("Busway-Payload-Object").is_empty());
    assert_eq!(kept_beside.count(), 1, "the largest does not fit beside its evidence");
    host.stop().await
}

#[tokio::test]
async fn messages_with_malformed_headers_become_dead_letters_as_they_are_and_stop_nobody_behind_them()
-> Result<()> {
    // What was under way on the connection that breaks comes again when the broker's patience ends.
    let server = NatsServer::start()?;
    let head = format!("{}\n[host]\nack_wait = \"5s\"", broker(&server.url()));
    let (folder, bus) = (Folder::new(&config(&head, ""))?, Bus::connect(&server).await?);
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", one(b"first")).await?;
    for block in [
        &b"NATS/1.0\r\nX-A: \xff\xfe\r\n\r\n"[..],
        b"NATS/1.0\r\nno colon here\r\n\r\n",
        b"NATS/1.0\r\na b: c\r\n\r\n",
    ] {
        raw::publish(&server, "in.bad", block, b"raw")?;
    }
    bus.publish("in.a", one(b"last")).await?;
    let outputs = bus.wait_for("OUT", 2).await?;
    let letters = bus.wait_for("BUSWAY_DLQ", 3).await?;
    assert!(outputs.iter().any(|output| &output.payload[..] == b"last"));
    for letter in &letters {
        assert_eq!(
            (letter.header("Busway-Class"), &letter.payload[..]),
            ("undecodable", &b"raw"[..]),
            "{letter:?}"
        );
        ensure!(!letter.header("Busway-Raw-Headers").is_empty(), "{letter:?}");
    }
    bus.idle("IN", "busway-p").await?;
    host.stop().await
}
