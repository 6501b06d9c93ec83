//! A host without a broker of its own: the private nats-server that comes with it and goes with it.

use anyhow::{Context as _, Result};
use busway_e2e_tests::{Folder, config, eventually};
use busway_sandbox_tests::reject;
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};
use tokio::net::TcpStream;

/// Where a host's commands find how to reach its private broker.
const ACCESS: &str = ".busway/broker.json";

fn folder() -> Result<Folder> {
    let folder = Folder::new(&config("", ""))?;
    folder.guest("p", &reject("no-good", "told so"))?;
    Ok(folder)
}

/// The private server's socket.
fn address(folder: &Folder) -> Result<String> {
    let access: Value = serde_json::from_slice(&fs::read(folder.path(ACCESS))?)?;
    let url = access.get("url").and_then(Value::as_str).context("no url")?;
    Ok(url.trim_start_matches("nats://").to_owned())
}

/// The command lines of all processes that name the folder: hosts are started inside of it and don't.
fn processes_of(folder: &Folder) -> Result<Vec<String>> {
    let listed = Command::new("ps").args(["-eo", "args"]).output().context("ps")?;
    let name = folder.path("").display().to_string();
    let name = name.trim_end_matches('/');
    let lines = String::from_utf8_lossy(&listed.stdout);
    Ok(lines.lines().filter(|line| line.contains(name)).map(str::to_owned).collect())
}

async fn nothing_is_left(folder: &Folder, address: &str) -> Result<()> {
    eventually("the private server has ended", async || {
        let is_gone = TcpStream::connect(address).await.is_err() && processes_of(folder)?.is_empty();
        Ok(is_gone.then_some(()))
    })
    .await
}

/// What `busway dlq ls` lists.
async fn letters(folder: &Folder) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&folder.told(&["dlq", "ls", "--output", "json"]).await?)?)
}

#[tokio::test]
async fn without_a_broker_a_private_one_comes_and_goes_with_the_host() -> Result<()> {
    let folder = folder()?;
    let host = folder.up_and_ready().await?;
    let address = address(&folder)?;
    assert_eq!(fs::metadata(folder.path(ACCESS))?.permissions().mode() & 0o777, 0o600);
    assert!(!processes_of(&folder)?.is_empty());
    let stored = folder.told(&["publish", "in.a", "{\"id\": 7}", "--header", "X-Order=7"]).await?;
    assert_eq!(stored.trim(), "stored in IN, sequence 1");
    let first = eventually("a dead letter", async || Ok(letters(&folder).await?.into_iter().next())).await?;
    assert_eq!((first["code"].as_str(), first["subject"].as_str()), (Some("no-good"), Some("in.a")));
    let id = first["event_id"].as_str().context("an id")?;
    let shown = folder.told(&["dlq", "show", id]).await?;
    assert!(shown.contains("told so") && shown.contains("\"id\": 7") && shown.contains("X-Order"), "{shown}");
    for (subject, why) in [("nowhere.x", "no stream captures"), ("in.*", "wildcard")] {
        let output = folder.busway(&["publish", subject, "1"]).await?;
        let told = String::from_utf8(output.stderr)?;
        assert!(!output.status.success() && told.contains(why), "{subject}: {told}");
    }
    host.stop().await?;
    assert!(!folder.path(ACCESS).exists());
    nothing_is_left(&folder, &address).await?;
    let output = folder.busway(&["dlq", "ls"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert!(output.status.code() == Some(1) && told.contains("start one with `busway up`"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_killed_host_leaves_no_broker_behind_and_the_next_one_finds_its_data() -> Result<()> {
    let folder = folder()?;
    let host = folder.up_and_ready().await?;
    let address = address(&folder)?;
    folder.told(&["publish", "in.a", "x"]).await?;
    eventually("a dead letter", async || Ok((letters(&folder).await?.len() == 1).then_some(()))).await?;
    host.kill().await?;
    nothing_is_left(&folder, &address).await?;
    let host = folder.up_and_ready().await?;
    assert_eq!(letters(&folder).await?.len(), 1);
    host.stop().await
}

#[tokio::test]
async fn a_second_host_in_the_same_folder_is_refused_and_the_first_goes_on() -> Result<()> {
    let folder = folder()?;
    let mut host = folder.up_and_ready().await?;
    let address = address(&folder)?;
    let output = folder.busway(&["up"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("another host runs with this state folder"), "{told}");
    assert_eq!(host.get("/readyz").await?.0, 200);
    assert_eq!(crate::address(&folder)?, address);
    folder.told(&["publish", "in.a", "x"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_missing_nats_server_is_told_with_how_to_get_one() -> Result<()> {
    let folder = folder()?;
    let output = folder.busway_with(&["up"], &[("NATS_SERVER", "none/nats-server")]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("none/nats-server") && told.contains("mend: let NATS_SERVER name"), "{told}");
    let nowhere = [("NATS_SERVER", ""), ("PATH", ""), ("BUSWAY_TOOLCHAIN_DIR", "none")];
    let output = folder.busway_with(&["up"], &nowhere).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("busway toolchain nats-server --install"), "{told}");
    Ok(())
}
