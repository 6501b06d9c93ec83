//! The private nats-server.

use crate::support::*;
use anyhow::{Context as _, Result};
use busway_testkit::nats::program;
use busway_transport::{
    Durability, Embedded, EmbeddedError, Nats, NatsConfig, OneMessage, OwnStreams, StreamSpec,
};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Set in a process of this test program that plays the host.
const HOST_DIR: &str = "BUSWAY_TEST_EMBEDDED_DIR";

fn message(payload: &str) -> OneMessage {
    OneMessage { subject: "in.a".into(), headers: Default::default(), payload: payload.to_owned().into() }
}

/// Whether something listens at `nats://127.0.0.1:port`.
fn listens(address: &str) -> bool {
    std::net::TcpStream::connect(address.trim_start_matches("nats://")).is_ok()
}

#[tokio::test]
async fn it_answers_keeps_its_data_and_stops() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = dir.path().join("store");
    let embedded = within(Embedded::start(&program()?, &store)).await??;
    let nats = Nats::connect(&embedded.config("test")).await?;
    nats.ensure_own_streams(OwnStreams::default()).await?;
    nats.ensure_stream(&StreamSpec::new("EVENTS", filters(&["in.>"]))).await?;
    nats.publish_one(&message("1"), Durability::Durable).await?;
    nats.close().await;
    let address = embedded.address().to_owned();
    within(embedded.stop()).await?;
    assert!(!listens(&address));
    let embedded = within(Embedded::start(&program()?, &store)).await??;
    let nats = Nats::connect(&embedded.config("test")).await?;
    let mut open = nats.open(&binding("p", &["in.>"]), Default::default()).await?;
    assert_eq!(payload(&next(&mut open.source, 1).await?), "1");
    Ok(())
}

#[tokio::test]
async fn nobody_else_on_the_machine_can_use_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let embedded = within(Embedded::start(&program()?, dir.path())).await??;
    let refused = within(Nats::connect(&NatsConfig::new(embedded.address()))).await?;
    assert!(matches!(refused, Err(busway_transport::ConnectError::Unauthorized { .. })), "{refused:?}");
    let mode = |path: &Path| Ok::<_, std::io::Error>(std::fs::metadata(path)?.permissions().mode() & 0o777);
    assert_eq!(mode(&dir.path().join("nats-server.conf"))?, 0o600);
    assert_eq!(mode(dir.path())?, 0o700);
    Ok(())
}

#[tokio::test]
async fn dropping_it_stops_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let embedded = within(Embedded::start(&program()?, dir.path())).await??;
    let address = embedded.address().to_owned();
    drop(embedded);
    until_gone(&address).await
}

#[tokio::test]
async fn a_folder_is_for_one_host_at_a_time() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let _first = within(Embedded::start(&program()?, dir.path())).await??;
    let second = within(Embedded::start(&program()?, dir.path())).await?;
    assert!(matches!(second, Err(EmbeddedError::InUse { .. })), "{second:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_come_up_is_told_with_its_own_words() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let missing = Embedded::start(Path::new("/no/such/nats-server"), dir.path()).await;
    assert!(matches!(missing, Err(EmbeddedError::Start { .. })), "{missing:?}");
    let script = dir.path().join("broken");
    std::fs::write(&script, "#!/bin/sh\necho 'no space left on device' >&2\nexit 3\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let broken = within(Embedded::start(&script, &dir.path().join("store"))).await?.unwrap_err();
    assert!(broken.to_string().contains("no space left on device"), "{broken}");
    Ok(())
}

#[tokio::test]
async fn its_end_is_noticed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut embedded = within(Embedded::start(&program()?, dir.path())).await??;
    let ended = tokio::time::timeout(Duration::from_millis(300), embedded.ended()).await;
    assert!(ended.is_err(), "asking whether it ended must not end it");
    assert!(listens(embedded.address()));
    let pid = std::fs::read_dir(dir.path())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| name.strip_suffix(".ports")?.rsplit('_').next().map(str::to_owned))
        .context("no ports file")?;
    assert!(Command::new("kill").args(["-KILL", &pid]).status()?.success());
    assert!(!within(embedded.ended()).await??.success());
    Ok(())
}

/// Also the host's part of the next test, run there in a process that can be killed.
#[tokio::test]
async fn it_is_up_when_starting_returns() -> Result<()> {
    let killed = std::env::var_os(HOST_DIR);
    let temporary = tempfile::tempdir()?;
    let dir = killed.as_ref().map_or(temporary.path(), Path::new);
    let embedded = within(Embedded::start(&program()?, dir)).await??;
    assert!(listens(embedded.address()));
    if killed.is_some() {
        println!("\naddress={}", embedded.address());
        std::io::stdout().flush()?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_killed_leaves_no_server_behind() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut host = Command::new(std::env::current_exe()?)
        .args(["--exact", "embedded::it_is_up_when_starting_returns", "--nocapture"])
        .env(HOST_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(host.stdout.take().context("no output")?).lines();
    let address =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("address=").map(str::to_owned));
    let address = address.context("the host did not start its server")?;
    assert!(listens(&address));
    host.kill()?;
    host.wait()?;
    // The folder is free when the server has ended; starting waits for that.
    let again = within(Embedded::start(&program()?, dir.path())).await??;
    assert!(!listens(&address) || again.address() == address);
    Ok(())
}

async fn until_gone(address: &str) -> Result<()> {
    within(async {
        while listens(address) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
