//! `busway verify` on a broker that is there, and on what it recorded.

use anyhow::{Context as _, Result};
use busway_e2e_tests::{Folder, broker, bus::Bus, config};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use serde_json::Value;

const RUNNING: [&str; 8] = ["verify", "--stream", "IN", "--plugin", "p", "--outputs", "OUT", "--output=json"];

async fn account(folder: &Folder, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = folder.busway(arguments).await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).context(errors)?))
}

fn numbers(account: &Value) -> [Option<u64>; 6] {
    ["accepted", "done", "dead", "pending", "lost", "duplicate_outputs"].map(|name| account[name].as_u64())
}

#[tokio::test]
async fn events_are_accounted_for_at_the_broker_and_a_lost_output_is_told_with_its_event() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), "config = { to = \"out\" }"))?;
    folder.built_guest("chaos")?;
    std::fs::rename(folder.path("chaos.wasm"), folder.path("p.wasm"))?;
    let bus = Bus::connect(&server).await?;
    let host = folder.up_and_ready().await?;
    let words = ["one 1", "two 2", "later 3", "never 4", "reject 5", "trap 6"];
    bus.publish("in.a", words.map(|word| Bytes::from_static(word.as_bytes()))).await?;
    bus.idle("IN", "busway-p").await?;
    host.stop().await?;
    let pending = bus.publish("in.a", [Bytes::from_static(b"one 7")]);
    pending.await?;

    let balanced = [7, 3, 3, 1, 0, 0].map(Some);
    let (code, told) = account(&folder, &RUNNING).await?;
    assert_eq!((code, numbers(&told)), (Some(0), balanced), "{told}");
    let mut record = RUNNING.to_vec();
    let file = folder.path("history.jsonl");
    let file = file.to_str().context("a path")?;
    record.extend(["--record", file]);
    account(&folder, &record).await?;
    let (code, told) = account(&folder, &["verify", file, "--output", "json"]).await?;
    assert_eq!((code, numbers(&told)), (Some(0), balanced), "{told}");

    bus.delete("OUT", 1).await?;
    let (code, told) = account(&folder, &RUNNING).await?;
    assert_eq!((code, numbers(&told)[4]), (Some(1), Some(1)), "{told}");
    assert_eq!(told["violations"][0]["event"].as_str().map(str::len), Some(52), "{told}");
    let text = folder.busway(&RUNNING[..7]).await?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("NOT every event is accounted for"), "{text}");
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_accounted_for_is_refused_with_how_to_ask() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), ""))?;
    for (arguments, code, told) in [
        (&["verify"][..], 2, "name a recorded history, or --stream and --plugin"),
        (&["verify", "nowhere.jsonl"], 1, "nowhere.jsonl can't be read"),
        (&["verify", "--stream", "IN", "--plugin", "p"], 1, "there is no stream IN"),
    ] {
        let output = folder.busway(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(told), "{said}");
    }
    Ok(())
}
