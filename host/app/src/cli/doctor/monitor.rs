//! How often the broker flushes its disk: only its monitoring address tells.
//!
//! JetStream confirms a message before it is on the disk; by default it flushes every two minutes. A crash of the server
//! loses nothing, a power cut loses what was confirmed since.

use super::findings::{Findings, Level};
use crate::config::Config;
use anyhow::{Context as _, bail};
use busway_transport::nats::SYNC_INTERVAL;
use serde::Deserialize;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long the monitoring address may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct JetStream {
    config: Option<Settings>,
}
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    sync_interval: u64,
    #[serde(default)]
    sync_always: bool,
}

/// Tells how long a confirmed message may be on no disk.
pub(super) async fn sync_interval(config: &Config, address: Option<&str>, findings: &mut Findings) {
    let mend = "run the broker with `sync_interval: always`, or keep streams on three servers";
    let (level, what) = match address {
        None if config.nats.urls.is_empty() => (
            Level::Warning,
            format!(
                "the private broker flushes its disk every {SYNC_INTERVAL}: a power cut can lose what was confirmed since; for production name a broker of your own"
            ),
        ),
        None => (
            Level::Warning,
            format!(
                "how often the broker flushes its disk is not known; by default every 2 min, and a power cut loses what was confirmed since: name its monitoring address with --monitor, or {mend}"
            ),
        ),
        Some(address) => match timeout(ANSWER_WAIT, ask(address)).await {
            Ok(Ok(settings)) if settings.sync_always => {
                (Level::Good, "every message is on the disk before it is confirmed".to_owned())
            }
            Ok(Ok(settings)) => {
                let seconds = Duration::from_nanos(settings.sync_interval).as_secs();
                (
                    Level::Warning,
                    format!(
                        "the broker flushes its disk every {seconds} s: a power cut loses what was confirmed since; {mend}"
                    ),
                )
            }
            Ok(Err(why)) => (Level::Failure, format!("{address}: {why:#}")),
            Err(_) => (Level::Failure, format!("{address}: no answer within {} s", ANSWER_WAIT.as_secs())),
        },
    };
    findings.add(level, "durability", what);
}

async fn ask(address: &str) -> anyhow::Result<Settings> {
    let Some(host) = address.strip_prefix("http://") else {
        bail!("a monitoring address is written http://HOST:PORT");
    };
    let host = host.trim_end_matches('/');
    let mut stream = TcpStream::connect(host).await.context("can't be reached")?;
    // The oldest version of the protocol, so that the answer is whole and ends with the connection.
    let request = format!("GET /jsz?config=true HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((_, body)) = answer.split_once("\r\n\r\n") else { bail!("gave no HTTP answer") };
    let jetstream: JetStream = serde_json::from_str(body).context("is not a nats-server's monitoring")?;
    jetstream.config.context("says nothing of JetStream: is it enabled?")
}
