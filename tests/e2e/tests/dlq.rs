//! What operators do with dead letters, and long waits, as people run them.

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use busway_e2e_tests::{Folder, broker, bus::Bus, config, eventually};
use busway_sandbox_tests::{echo, reject, retry};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use std::process::Output;

const OTHER: &str = r#"
[[plugin]]
name = "q"
source = "q.wasm"
subscribe = [{ stream = "IN", subjects = ["in.>"] }]
grants = { publish = ["out.>"] }
"#;
const PAYLOAD: &[u8] = b"\x00\xff\xfe{\"not\": json";

async fn setting(plugin: &str) -> Result<(NatsServer, Folder, Bus)> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), plugin))?;
    let bus = Bus::connect(&server).await?;
    Ok((server, folder, bus))
}

/// A folder whose plugin `p` has rejected so many events, with no host running.
async fn dead(events: u64) -> Result<(NatsServer, Folder, Bus)> {
    let (server, folder, bus) = setting("").await?;
    folder.guest("p", &reject("bad-order", "no id"))?;
    let host = folder.up_and_ready().await?;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    headers.insert("X-Order", "7");
    for _ in 0..events {
        bus.publish_with("in.a", headers.clone(), Bytes::from_static(PAYLOAD)).await?;
    }
    bus.wait_for("BUSWAY_DLQ", events).await?;
    bus.idle("IN", "busway-p").await?;
    host.stop().await?;
    Ok((server, folder, bus))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ensure_usage(output: &Output) -> Result<()> {
    ensure!(output.status.code() == Some(2), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn a_redriven_event_reaches_the_mended_plugin_alone_with_its_id_and_its_trace() -> Result<()> {
    let (server, folder, bus) = setting(OTHER).await?;
    folder.guest("p", &reject("bad-order", "no id"))?;
    folder.guest("q", &echo("out.q"))?;
    let host = folder.up_and_ready().await?;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    bus.publish_with("in.a", headers, Bytes::from_static(PAYLOAD)).await?;
    let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
    let event = letters.first().context("a letter")?.header("Busway-Event-Id").to_owned();
    bus.wait_for("OUT", 1).await?;
    host.stop().await?;
    folder.guest("p", &echo("out.p"))?;
    let host = folder.up_and_ready().await?;
    let told = folder.told(&["dlq", "retry", &event[..12]]).await?;
    ensure!(told.contains("redriven, round 1") && told.contains("1 redriven"), "{told}");
    let outputs = bus.wait_for("OUT", 2).await?;
    let output = outputs.last().context("an output")?;
    assert_eq!((output.subject.as_str(), &output.payload[..]), ("out.p", PAYLOAD));
    assert!(output.header("traceparent").contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{output:?}");
    assert_eq!(output.header("Busway-Event-Id"), event);
    bus.idle("BUSWAY_AGAIN", "busway-p").await?;
    assert_eq!((bus.count("BUSWAY_DLQ").await?, bus.count("BUSWAY_AGAIN").await?), (0, 0));
    assert_eq!(bus.count("OUT").await?, 2, "the other plugin had it once");
    host.stop().await?;
    drop(server);
    Ok(())
}

#[tokio::test]
async fn a_fourth_round_is_refused_and_the_letter_stays() -> Result<()> {
    let (_server, folder, bus) = dead(1).await?;
    let host = folder.up_and_ready().await?;
    for round in 1..=3 {
        folder.told(&["dlq", "retry", "--plugin", "p"]).await?;
        let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
        assert_eq!(
            letters.first().map(|letter| letter.header("Busway-Round").to_owned()),
            Some(round.to_string())
        );
        bus.idle("BUSWAY_AGAIN", "busway-p").await?;
    }
    let refused = folder.busway(&["dlq", "retry", "--all"]).await?;
    assert_eq!(refused.status.code(), Some(1));
    let told = text(&refused.stdout);
    assert!(told.contains("redriven 3 times") && told.contains("0 redriven, 1 refused"), "{told}");
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 1);
    let letters = bus.read("BUSWAY_DLQ").await?;
    let letter = letters.first().context("a letter")?;
    assert_eq!(
        (letter.header("Busway-Stream"), letter.header("Busway-Sequence"), &letter.payload[..]),
        ("IN", "1", PAYLOAD)
    );
    host.stop().await
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_a_command_must_say_which_letters() -> Result<()> {
    let (_server, folder, bus) = dead(3).await?;
    let told = folder.told(&["dlq", "retry", "--all", "--dry-run"]).await?;
    assert!(told.contains("3 would be redriven"), "{told}");
    let json = folder.told(&["dlq", "retry", "--class", "reject", "--dry-run", "--output", "json"]).await?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(json.pointer("/2/would_redrive"), Some(&true.into()));
    assert_eq!((bus.count("BUSWAY_DLQ").await?, bus.count("BUSWAY_AGAIN").await?), (3, 0));
    for arguments in [&["dlq", "retry"][..], &["dlq", "retry", "1", "--all"], &["dlq", "discard", "--yes"]] {
        ensure_usage(&folder.busway(arguments).await?)?;
    }
    let none = folder.told(&["dlq", "retry", "--plugin", "other", "--rate", "5/s"]).await?;
    assert!(none.contains("no dead letters"), "{none}");
    Ok(())
}

#[tokio::test]
async fn a_retry_that_was_interrupted_goes_on_where_it_was() -> Result<()> {
    let (_server, folder, bus) = dead(6).await?;
    // Killed when the other branch is done.
    tokio::select! {
        ended = folder.busway(&["dlq", "retry", "--all", "--rate", "2/s"]) => anyhow::bail!("not held back: {ended:?}"),
        stored = eventually("two are redriven", async || {
            Ok((bus.count("BUSWAY_AGAIN").await? >= 2).then_some(()))
        }) => stored?,
    }
    ensure!(bus.count("BUSWAY_DLQ").await? >= 3, "the rate is kept");
    folder.told(&["dlq", "retry", "--all"]).await?;
    assert_eq!((bus.count("BUSWAY_DLQ").await?, bus.count("BUSWAY_AGAIN").await?), (0, 6));
    folder.guest("p", &echo("out.p"))?;
    let host = folder.up_and_ready().await?;
    bus.wait_for("OUT", 6).await?;
    bus.idle("BUSWAY_AGAIN", "busway-p").await?;
    host.stop().await?;
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_AGAIN").await?), (6, 0));
    Ok(())
}

#[tokio::test]
async fn letters_are_found_by_what_they_say() -> Result<()> {
    let (_server, folder, _bus) = dead(2).await?;
    let count = async |filter: &[&str]| -> Result<usize> {
        let arguments = [&["dlq", "ls", "--output", "json"], filter].concat();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&folder.told(&arguments).await?)?;
        Ok(listed.len())
    };
    for (filter, expected) in [
        (
            &["--plugin", "p", "--class", "reject", "--subject", "in.*", "--newer", "1h", "--text", "NO ID"]
                [..],
            2,
        ),
        (&["--text", "not\": json"], 2),
        (&["--limit", "1"], 1),
        (&["--older", "1h"], 0),
        (&["--class", "trap"], 0),
        (&["--subject", "out.>"], 0),
    ] {
        assert_eq!(count(filter).await?, expected, "{filter:?}");
    }
    ensure_usage(&folder.busway(&["dlq", "ls", "--class", "bad-luck"]).await?)?;
    let shown = folder.told(&["dlq", "show", "1"]).await?;
    for expected in ["ENDED", "reject  bad-order", "X-Order: 7", "round", "used", "wall="] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    Ok(())
}

#[tokio::test]
async fn discarding_asks_and_without_a_terminal_wants_a_yes() -> Result<()> {
    let (_server, folder, bus) = dead(2).await?;
    let refused = folder.busway(&["dlq", "discard", "--all"]).await?;
    ensure_usage(&refused)?;
    assert!(text(&refused.stderr).contains("--yes"), "{refused:?}");
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 2);
    folder.told(&["dlq", "discard", "1", "--yes"]).await?;
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 1);
    assert_eq!(folder.busway(&["dlq", "show", "1"]).await?.status.code(), Some(1));
    folder.told(&["dlq", "show", "2"]).await?;
    Ok(())
}

#[tokio::test]
async fn exported_letters_come_back_byte_for_byte_and_damaged_lines_are_named() -> Result<()> {
    let (_server, folder, bus) = dead(2).await?;
    let before = bus.read("BUSWAY_DLQ").await?;
    folder.told(&["dlq", "export", "--out", "letters.jsonl"]).await?;
    let again = folder.told(&["dlq", "import", "letters.jsonl"]).await?;
    assert!(again.contains("0 imported, 2 were there already, 0 damaged"), "{again}");
    folder.told(&["dlq", "discard", "--all", "--yes"]).await?;
    let lines = std::fs::read_to_string(folder.path("letters.jsonl"))?;
    folder.write("damaged.jsonl", lines.replacen("AP/+", "AP/A", 1))?;
    let damaged = folder.busway(&["dlq", "import", "damaged.jsonl"]).await?;
    assert_eq!(damaged.status.code(), Some(1));
    let why = text(&damaged.stderr);
    assert!(why.contains("line 1: its payload is not the one"), "{why}");
    let back = folder.told(&["dlq", "import", "letters.jsonl"]).await?;
    assert!(back.contains("1 imported, 1 were there already"), "{back}");
    let mut after = bus.read("BUSWAY_DLQ").await?;
    after.sort_by_key(|letter| before.iter().position(|known| known.subject == letter.subject));
    assert_eq!(after.len(), before.len());
    for (is, was) in after.iter().zip(&before) {
        assert_eq!((&is.subject, &is.payload), (&was.subject, &was.payload));
        assert_eq!(is.headers, was.headers);
    }
    Ok(())
}

#[tokio::test]
async fn an_edited_event_is_handled_with_its_new_payload() -> Result<()> {
    let (_server, folder, bus) = dead(1).await?;
    folder.guest("p", &echo("out.p"))?;
    let host = folder.up_and_ready().await?;
    folder.write("same", PAYLOAD)?;
    let same = folder.told(&["dlq", "edit", "1", "--payload", "same"]).await?;
    assert!(same.contains("unchanged"), "{same}");
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 1);
    // An editor is any program that changes the file.
    folder.write("editor.sh", "printf mended > \"$1\"\n")?;
    let editor = format!("sh {}", folder.path("editor.sh").display());
    let edited = folder.busway_with(&["dlq", "edit", "1"], &[("EDITOR", &editor), ("VISUAL", "")]).await?;
    ensure!(edited.status.success(), "{edited:?}");
    let outputs = bus.wait_for("OUT", 1).await?;
    assert_eq!(outputs.first().map(|output| output.payload.clone()), Some(Bytes::from_static(b"mended")));
    assert_eq!(bus.count("BUSWAY_DLQ").await?, 0);
    host.stop().await
}

#[tokio::test]
async fn an_event_that_is_redriven_for_another_version_waits_for_it() -> Result<()> {
    let (_server, folder, bus) = dead(1).await?;
    let mended = busway_sandbox_tests::component(&echo("out.p"));
    folder.write("mended.wasm", &mended)?;
    let inspected = folder.told(&["inspect", "mended.wasm", "--output", "json"]).await?;
    let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
    let digest = inspected.get("digest").and_then(|digest| digest.as_str()).context("a digest")?;
    folder.told(&["dlq", "retry", "1", "--to-version", digest]).await?;
    let mut host = folder.up_and_ready().await?;
    host.logged("other-version").await?;
    host.stop().await?;
    assert_eq!((bus.count("OUT").await?, bus.count("BUSWAY_AGAIN").await?), (0, 1));
    folder.guest("p", &echo("out.p"))?;
    let host = folder.up_and_ready().await?;
    bus.wait_for("OUT", 1).await?;
    host.stop().await
}

#[tokio::test]
async fn a_long_wait_frees_the_consumer_and_the_event_comes_back() -> Result<()> {
    let server = NatsServer::start()?;
    let short =
        config(&broker(&server.url()), "").replace("attempts = 3,", "attempts = 3, park_after = \"1s\",");
    let (folder, bus) = (Folder::new(&short)?, Bus::connect(&server).await?);
    folder.guest("p", &retry("the warehouse is closed", 1_500))?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(PAYLOAD)]).await?;
    let letters = bus.wait_for("BUSWAY_DLQ", 1).await?;
    let letter = letters.first().context("a letter")?;
    let told = ["Busway-Attempts", "Busway-Stream", "Busway-Sequence", "Busway-Round", "Busway-Subject"];
    assert_eq!(told.map(|name| letter.header(name)), ["3", "IN", "1", "0", "in.a"]);
    assert_eq!(&letter.payload[..], PAYLOAD);
    assert_eq!(host.metric("busway_events_settled_total{plugin=\"p\",verdict=\"parked\"}").await?, 2.0);
    bus.idle("IN", "busway-p").await?;
    bus.idle("BUSWAY_AGAIN", "busway-p").await?;
    assert_eq!(bus.count("BUSWAY_AGAIN").await?, 0);
    host.stop().await
}
