//! `busway doctor` against a real broker: what it finds, and what it changes only when asked.

use anyhow::{Result, ensure};
use async_nats::jetstream::stream;
use busway_e2e_tests::{Folder, broker, bus::Bus, config};
use busway_sandbox_tests::echo;
use busway_testkit::nats::NatsServer;

/// What the doctor says, and its exit code.
async fn doctor(folder: &Folder, arguments: &[&str]) -> Result<(String, Option<i32>)> {
    let output = folder.busway(&[&["doctor"], arguments].concat()).await?;
    Ok((String::from_utf8(output.stdout)?, output.status.code()))
}

#[tokio::test]
async fn a_healthy_broker_has_no_failure_before_and_after_the_host_ran() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), ""))?;
    folder.guest("p", &echo("out.a"))?;
    let (before, code) = doctor(&folder, &[]).await?;
    ensure!(code == Some(0) && before.contains("consumer busway-p: does not exist yet"), "{before}");
    folder.up_and_ready().await?.stop().await?;
    let (after, code) = doctor(&folder, &[]).await?;
    ensure!(code == Some(0) && after.contains("consumer busway-p: as configured"), "{after}");
    ensure!(after.contains("stream BUSWAY_DLQ: 0 messages"), "{after}");
    Ok(())
}

#[tokio::test]
async fn drift_is_shown_as_a_difference_and_only_consumers_are_changed_and_only_when_asked() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), ""))?;
    folder.guest("p", &echo("out.a"))?;
    folder.up_and_ready().await?.stop().await?;
    let other = config(&broker(&server.url()), "limits = { concurrency = 3 }")
        .replace("subjects = [\"out.>\"]\n", "subjects = [\"out.>\"]\nmax_age = \"7d\"\n");
    folder.write("busway.toml", other)?;
    for _ in 0..2 {
        let (found, code) = doctor(&folder, &[]).await?;
        ensure!(code == Some(1), "{found}");
        ensure!(found.contains("failure  stream OUT: max_age is 0ns, wanted 604800s"), "{found}");
        ensure!(found.contains("warning  consumer busway-p: max_ack_pending is 320, wanted 268"), "{found}");
    }
    let (applied, _) = doctor(&folder, &["--apply"]).await?;
    ensure!(applied.contains("consumer busway-p: changed as configured"), "{applied}");
    let (after, code) = doctor(&folder, &["--output", "json"]).await?;
    let after: serde_json::Value = serde_json::from_str(&after)?;
    let findings = after.get("findings").and_then(|list| list.as_array()).expect("a list of findings");
    let about =
        |subject: &str| findings.iter().filter(|found| found["subject"] == subject).collect::<Vec<_>>();
    ensure!(about("consumer busway-p").iter().all(|found| found["level"] == "ok"), "{after}");
    ensure!(
        code == Some(1) && about("stream OUT").iter().any(|found| found["level"] == "failure"),
        "{after}"
    );
    Ok(())
}

#[tokio::test]
async fn an_output_stream_on_disk_with_slow_batches_is_warned_of_and_an_input_stream_is_not() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = Folder::new(&config(&broker(&server.url()), ""))?;
    folder.guest("p", &echo("out.a"))?;
    folder.up_and_ready().await?.stop().await?;
    let (before, _) = doctor(&folder, &[]).await?;
    ensure!(!before.contains("allow_atomic"), "{before}");
    let bus = Bus::connect(&server).await?;
    for name in ["IN", "OUT"] {
        let open = bus.config_of(name).await?;
        bus.change_stream(stream::Config { allow_atomic_publish: true, ..open }).await?;
    }
    let (found, code) = doctor(&folder, &[]).await?;
    ensure!(code == Some(0) && found.contains("warning  stream OUT: has `allow_atomic`"), "{found}");
    ensure!(!found.contains("stream IN: has"), "{found}");
    Ok(())
}
