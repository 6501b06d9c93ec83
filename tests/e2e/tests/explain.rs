//! What a person is told who asks why an event ended so.

use anyhow::{Context as _, Result, ensure};
use async_nats::{HeaderMap, jetstream::stream};
use busway_e2e_tests::{Folder, broker, bus::Bus, config, eventually};
use busway_sandbox_tests::{ATTEMPT, OK, PUBLISH, body, echo, guest, reject};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use serde_json::Value;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn setting(head: &str, plugin: &str) -> Result<(NatsServer, Folder, Bus)> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&format!("{}\n{head}", broker(&server.url())), plugin))?;
    let bus = Bus::connect(&server).await?;
    Ok((server, folder, bus))
}

/// Asks until the answer has this in it: a record is stored a moment after its event is settled.
async fn told(folder: &Folder, asked: &str, expected: &str) -> Result<String> {
    eventually(&format!("{asked} tells {expected:?}"), async || {
        let told = folder.told(&["explain", asked]).await?;
        Ok(told.contains(expected).then_some(told))
    })
    .await
}

/// The page without what differs from run to run: each time, id, version and measurement stands as `_`.
fn outline(page: &str) -> Vec<String> {
    let is_measured =
        |word: &str| word.starts_with("20") && word.contains('-') || word.contains(':') && word.contains('.');
    let lines = page.lines().filter(|line| !line.trim_start().starts_with("used"));
    lines
        .map(|line| {
            let words = line.split_whitespace();
            words.map(|word| if is_measured(word) { "_" } else { word }).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[tokio::test]
async fn two_retries_and_a_success_with_two_outputs_are_told_attempt_by_attempt() -> Result<()> {
    let (_server, folder, bus) = setting("[host]\nname = \"h1\"", "").await?;
    let publish = "(call $publish (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))";
    let asks_for_a_retry = format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 0))
         (i32.store (i32.const 1040) (i32.const 32)) (i32.store (i32.const 1044) (i32.const 8)) (return {OK})"
    );
    let handler = format!(
        "(if (i32.lt_u (call $attempt) (i32.const 3)) (then {asks_for_a_retry})) {publish} {publish} {OK}"
    );
    let data = r#"(data (i32.const 16) "out.x") (data (i32.const 32) "too busy")"#;
    folder.guest("p", &guest(&format!("{ATTEMPT} {PUBLISH}"), data, &handler))?;
    let host = folder.up_and_ready().await?;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    bus.publish_with("in.a", headers, Bytes::from_static(b"hello")).await?;
    bus.idle("IN", "busway-p").await?;
    let page = told(&folder, "IN:1", "p: done at attempt 3").await?;
    println!("{page}");
    let json: Value = serde_json::from_str(&folder.told(&["explain", "IN:1", "--output", "json"]).await?)?;
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (id, version) = (text("/event_id"), text("/plugins/0/attempts/0/version"));
    let by = format!("by p {version} on h1, busway-p");
    let failed = |attempt| format!("attempt {attempt} _ _ UTC failed: retry, tried again after");
    let lines = outline(&page);
    let expected = [
        "event IN:1 on in.a".to_owned(),
        format!("id {id}"),
        "published _ _ UTC,".to_owned(),
        format!("trace {TRACE}"),
        String::new(),
        "p: done at attempt 3".to_owned(),
        failed(1),
        "because too busy".to_owned(),
        by.clone(),
        failed(2),
        "because too busy".to_owned(),
        by.clone(),
        "attempt 3 _ _ UTC done".to_owned(),
        "outputs OUT:1 OUT:2".to_owned(),
        by,
    ];
    ensure!(lines.len() == expected.len(), "{page}");
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.starts_with(expected.as_str()), "{line:?} does not begin with {expected:?}\n{page}");
    }
    assert!(page.contains("5 bytes, still in its stream"), "{page}");
    assert_eq!(page.matches("of wall clock").count(), 3, "{page}");
    assert_eq!(json.pointer("/plugins/0/attempts/2/outputs/1/sequence"), Some(&2.into()));
    assert_eq!(json.pointer("/plugins/0/attempts/1/cause/counts"), Some(&true.into()));

    let told_by_id = folder.told(&["explain", &id]).await?;
    assert_eq!(outline(&told_by_id).get(4..), lines.get(4..), "by its id the same is told");
    let every = folder.told(&["explain", "--all", "--since", "1h"]).await?;
    let every: Vec<Value> = every.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let attempts: Vec<_> = every.iter().filter_map(|line| line.get("attempt")?.as_u64()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    host.stop().await
}

#[tokio::test]
async fn a_dead_letter_is_told_with_how_to_look_at_it() -> Result<()> {
    let (_server, folder, bus) = setting("", "").await?;
    folder.guest("p", &reject("bad-order", "no id"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"{}")]).await?;
    bus.wait_for("BUSWAY_DLQ", 1).await?;
    let page = told(&folder, "IN:1", "p: failed once, dead letter 1").await?;
    println!("{page}");
    for expected in ["failed: reject bad-order, dead letter 1", "because  no id", "busway dlq show 1"] {
        assert!(page.contains(expected), "{expected:?} is not in\n{page}");
    }
    // The event may be gone and is explained all the same.
    let limits = stream::Config { max_messages: 1, ..bus.config_of("IN").await? };
    bus.change_stream(limits).await?;
    bus.publish("in.b", [Bytes::from_static(b"{}")]).await?;
    let page = told(&folder, "IN:1", "no longer in its stream").await?;
    assert!(page.contains("event IN:1 on in.a") && page.contains("dead letter 1"), "{page}");
    host.stop().await
}

#[tokio::test]
async fn without_records_the_brokers_word_is_told_and_why_there_are_none() -> Result<()> {
    let off = "[history]\nenabled = false";
    let (_server, folder, bus) = setting(off, "").await?;
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"1")]).await?;
    bus.idle("IN", "busway-p").await?;
    assert!(!bus.streams().await?.iter().any(|stream| stream == "BUSWAY_HISTORY"));
    let page = told(&folder, "IN:1", "settled").await?;
    println!("{page}");
    assert!(page.contains("p: settled, and there is no record of it\n\nno history is kept"), "{page}");
    host.stop().await?;

    bus.publish("in.a", [Bytes::from_static(b"2")]).await?;
    let page = told(&folder, "IN:2", "p: waits at the broker: no host was given it yet").await?;
    assert!(page.contains("event IN:2 on in.a"), "{page}");

    let with_history = std::fs::read_to_string(folder.path("busway.toml"))?.replace(off, "");
    folder.write("busway.toml", with_history)?;
    let host = folder.up_and_ready().await?;
    told(&folder, "IN:2", "p: done\n").await?;
    let page = told(&folder, "IN:1", "p: settled").await?;
    assert!(page.contains("it ended while no history was kept"), "{page}");
    host.stop().await
}

#[tokio::test]
async fn a_stopped_host_leaves_no_success_unstored() -> Result<()> {
    let (_server, folder, bus) = setting("", "").await?;
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", (0..300).map(|n| Bytes::from(n.to_string()))).await?;
    bus.idle("IN", "busway-p").await?;
    host.stop().await?;
    let every = folder.told(&["explain", "--all"]).await?;
    assert_eq!(every.lines().count(), 300);
    let page = folder.told(&["explain", "IN:300"]).await?;
    assert!(page.contains("p: done\n") && page.contains("outputs  OUT:"), "{page}");
    Ok(())
}

#[tokio::test]
async fn an_event_that_waits_for_its_next_attempt_is_told_as_waiting() -> Result<()> {
    let (_server, folder, bus) = setting("", "").await?;
    folder.guest("p", &busway_sandbox_tests::retry("the warehouse is closed", 600_000))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"1")]).await?;
    let page = told(&folder, "IN:1", "p: failed once, the next attempt is due 20").await?;
    println!("{page}");
    assert!(page.contains("because  the warehouse is closed"), "{page}");
    host.stop().await
}

#[tokio::test]
async fn what_can_not_be_explained_says_why() -> Result<()> {
    let (_server, folder, bus) = setting("", "").await?;
    folder.guest("p", &body(OK))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"1")]).await?;
    let unknown = "a".repeat(52);
    let table = [
        ("NOWHERE:1", 1, "there is no stream NOWHERE"),
        ("IN:2", 1, "no sequence 2 yet: its last one is 1"),
        (&unknown, 1, "nothing is known of event aaaa"),
        ("IN:0", 2, "is not a sequence"),
        ("not-an-id", 2, "52 characters"),
    ];
    for (asked, code, expected) in table {
        let output = folder.busway(&["explain", asked]).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{asked}: {told}");
        assert!(told.contains(expected), "{asked}: {told}");
    }
    let id = folder.told(&["explain", "IN:1", "--output", "json"]).await?;
    let id: Value = serde_json::from_str(&id)?;
    let id = id.get("event_id").and_then(Value::as_str).context("an id")?;
    told(&folder, id, "p: done\n").await?;
    bus.idle("IN", "busway-p").await?;
    host.stop().await
}

#[tokio::test]
async fn an_event_that_was_parked_and_then_succeeded_is_told_with_both_attempts() -> Result<()> {
    let server = NatsServer::start()?;
    let patient = config(&broker(&server.url()), "")
        .replace("backoff = [\"50ms\"]", "backoff = [\"1200ms\"], jitter = 0.0, park_after = \"1s\"");
    let (folder, bus) = (Folder::new(&patient)?, Bus::connect(&server).await?);
    let handler = format!("(if (i32.lt_u (call $attempt) (i32.const 2)) (then unreachable)) {OK}");
    folder.guest("p", &guest(ATTEMPT, "", &handler))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"1")]).await?;
    let page = told(&folder, "IN:1", "p: done at attempt 2").await?;
    println!("{page}");
    let lines = outline(&page);
    let attempts: Vec<_> = lines.iter().filter(|line| line.starts_with("attempt ")).collect();
    ensure!(attempts.len() == 2, "{page}");
    assert_eq!(attempts[0], "attempt 1 _ _ UTC failed: trap unreachable, parked for 1.2 s");
    assert_eq!(attempts[1], "attempt 2 _ _ UTC done");
    host.stop().await
}

#[tokio::test]
async fn an_event_that_was_redriven_and_then_succeeded_is_told_with_both_rounds() -> Result<()> {
    let (_server, folder, bus) = setting("", "").await?;
    folder.guest("p", &reject("bad-order", "no id"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"1")]).await?;
    bus.wait_for("BUSWAY_DLQ", 1).await?;
    bus.idle("IN", "busway-p").await?;
    host.stop().await?;
    folder.guest("p", &echo("out.mended"))?;
    let host = folder.up_and_ready().await?;
    folder.told(&["dlq", "retry", "1"]).await?;
    let page = told(&folder, "IN:1", "p: done\n").await?;
    println!("{page}");
    let lines = outline(&page);
    let attempts: Vec<_> = lines.iter().filter(|line| line.starts_with("attempt ")).collect();
    ensure!(attempts.len() == 2, "{page}");
    assert_eq!(attempts[0], "attempt 1 _ _ UTC failed: reject bad-order, dead letter 1");
    assert_eq!(attempts[1], "attempt 1 of redrive 1 _ _ UTC done");
    for expected in ["outputs  OUT:1", "dead letter 1 is not there any more: it was redriven"] {
        assert!(page.contains(expected), "{expected:?} is not in\n{page}");
    }
    host.stop().await
}

#[tokio::test]
async fn the_last_success_before_a_host_was_killed_is_told_or_why_its_record_may_be_lost() -> Result<()> {
    let (_server, folder, bus) = setting("", "").await?;
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    bus.publish("in.a", (0..300).map(|n| Bytes::from(n.to_string()))).await?;
    bus.idle("IN", "busway-p").await?;
    host.kill().await?;
    for asked in ["IN:1", "IN:300"] {
        let page = folder.told(&["explain", asked]).await?;
        println!("{page}");
        let lost = "in the last moments (100 ms) before a host was killed";
        ensure!(page.contains("p: done\n") || page.contains(lost), "{page}");
    }
    Ok(())
}
