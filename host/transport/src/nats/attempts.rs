//! Attempt records as they are stored: JSON with a version, one key per plugin and event.
//!
//! They outlive hosts and versions of hosts, so an unknown version is refused and never overwritten: the event waits for
//! a host that can read it.

use super::own_streams::ATTEMPTS_BUCKET;
use busway_core::{AttemptRecord, EventId, FailedRun, FailureClass, PluginName};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The version that is written.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    #[serde(default)]
    forgotten: u32,
    #[serde(default)]
    runs: Vec<Run>,
}

#[derive(Serialize, Deserialize)]
struct Run {
    at_ms: u64,
    class: String,
    code: String,
    reason: String,
    /// None when it became a dead letter.
    wait_ms: Option<u64>,
    host: String,
    #[serde(default)]
    parked: bool,
    #[serde(default)]
    version: String,
    #[serde(default)]
    ran_us: u64,
    #[serde(default)]
    fingerprint: Option<String>,
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

/// A record that can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(
        "the attempt record is of version {0}, which this host does not know: is a newer host running beside it?"
    )]
    Version(u32),
    #[error("the attempt record is damaged")]
    Damaged(#[from] serde_json::Error),
    #[error("the attempt record names the unknown failure class {0:?}")]
    Class(String),
}

/// The subject under which the bucket keeps a record: one per plugin, event and round of redriving.
pub(super) fn subject(plugin: &PluginName, event: &EventId, round: u32) -> String {
    match round {
        0 => format!("$KV.{ATTEMPTS_BUCKET}.{plugin}.{event}"),
        round => format!("$KV.{ATTEMPTS_BUCKET}.{plugin}.{event}.{round}"),
    }
}

/// The subjects of an event's records in all plugins and rounds.
pub(super) fn filters(event: &EventId) -> [String; 2] {
    [format!("$KV.{ATTEMPTS_BUCKET}.*.{event}"), format!("$KV.{ATTEMPTS_BUCKET}.*.{event}.*")]
}

/// The subjects of all of a plugin's records.
pub(super) fn filter_of(plugin: &PluginName) -> String {
    format!("$KV.{ATTEMPTS_BUCKET}.{plugin}.>")
}

/// The event of a record's subject.
pub(super) fn event_of(subject: &str) -> Option<&str> {
    subject.split('.').nth(3)
}

/// The plugin and the round of a record's subject.
pub(super) fn whose(subject: &str) -> Option<(&str, u32)> {
    let mut tokens = subject.split('.').skip(2);
    let (plugin, _event) = (tokens.next()?, tokens.next()?);
    let round = tokens.next().map_or(Ok(0), str::parse).ok()?;
    Some((plugin, round))
}

/// The stream behind the bucket.
pub(super) fn stream() -> String {
    format!("KV_{ATTEMPTS_BUCKET}")
}

pub(super) fn write(record: &AttemptRecord) -> Result<Vec<u8>, serde_json::Error> {
    let run = |run: &FailedRun| Run {
        at_ms: run.at_ms,
        class: run.class.code().to_owned(),
        code: run.code.clone(),
        reason: run.reason.clone(),
        wait_ms: run.wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        host: run.host.clone(),
        parked: run.parked,
        version: run.version.clone(),
        ran_us: u64::try_from(run.ran.as_micros()).unwrap_or(u64::MAX),
        fingerprint: run.fingerprint.clone(),
    };
    let runs = record.runs.iter().map(run).collect();
    serde_json::to_vec(&Record { v: VERSION, forgotten: record.forgotten, runs })
}

pub(super) fn read(bytes: &[u8]) -> Result<AttemptRecord, Unreadable> {
    let Versioned { v } = serde_json::from_slice(bytes)?;
    if v != VERSION {
        return Err(Unreadable::Version(v));
    }
    let record: Record = serde_json::from_slice(bytes)?;
    let run = |run: Run| {
        Ok(FailedRun {
            at_ms: run.at_ms,
            class: FailureClass::from_code(&run.class).ok_or(Unreadable::Class(run.class))?,
            code: run.code,
            reason: run.reason,
            wait: run.wait_ms.map(Duration::from_millis),
            host: run.host,
            parked: run.parked,
            version: run.version,
            ran: Duration::from_micros(run.ran_us),
            fingerprint: run.fingerprint,
        })
    };
    Ok(AttemptRecord {
        runs: record.runs.into_iter().map(run).collect::<Result<_, Unreadable>>()?,
        forgotten: record.forgotten,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_what_was_written() {
        let mut record = AttemptRecord { forgotten: 3, ..AttemptRecord::default() };
        for wait in [Some(Duration::from_millis(1500)), None] {
            record.push(FailedRun {
                at_ms: 7,
                class: FailureClass::Trap,
                code: "unreachable".into(),
                reason: "ü \"quoted\"".into(),
                wait,
                parked: true,
                host: "h".into(),
                version: "0123456789ab".into(),
                ran: Duration::from_micros(1234),
                fingerprint: Some("place".into()),
            });
        }
        assert_eq!(read(&write(&record).unwrap()).unwrap(), record);
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        assert!(matches!(read(br#"{"v":2,"runs":"anything"}"#), Err(Unreadable::Version(2))));
        assert!(matches!(read(b"{}"), Err(Unreadable::Damaged(_))));
        let strange =
            br#"{"v":1,"runs":[{"at_ms":1,"class":"x","code":"","reason":"","wait_ms":1,"host":""}]}"#;
        assert!(matches!(read(strange), Err(Unreadable::Class(_))));
    }
}
