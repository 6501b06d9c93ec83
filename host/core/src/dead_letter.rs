//! The dead letter: what is kept of an event that will not be tried again, and under which subject.
//!
//! The payload is the original's, byte for byte. The headers are the publisher's own, followed by the host's account of
//! what happened. The subject holds the event's id, so that a letter written twice (a crash between storing it and
//! terminating the original) is recognised as the same one: see [`DeadLetter::is_same`].

use crate::{
    AttemptRecord, Digest, Evidence, FailedRun, Failure, FailureClass, Headers, PluginName, Used, again,
    binding::Behind,
    event::{EventId, base32},
    outcome::clean,
    port::{Content, Delivery},
};
use bytes::Bytes;
use data_encoding::BASE64;

/// The subjects of all dead letters.
pub const SUBJECTS: &str = "busway.dlq.>";
/// Before an event id, plugin and round in a dead letter's subject.
pub const SUBJECT_PREFIX: &str = "busway.dlq";

/// The event's id.
pub const EVENT_ID: &str = "Busway-Event-Id";
/// The plugin that failed.
pub const PLUGIN: &str = "Busway-Plugin";
/// The digest of the plugin's bytes.
pub const PLUGIN_DIGEST: &str = "Busway-Plugin-Digest";
/// The [`FailureClass`] of the last attempt.
pub const CLASS: &str = "Busway-Class";
/// The failure's code.
pub const CODE: &str = "Busway-Code";
/// What happened, for people.
pub const REASON: &str = "Busway-Reason";
/// How many runs failed.
pub const ATTEMPTS: &str = "Busway-Attempts";
/// One line per failed run that is still described: time, class, code, wait, host, version, duration, reason.
pub const ATTEMPT: &str = "Busway-Attempt";
/// The stream that held the event.
pub const STREAM: &str = "Busway-Stream";
/// The event's sequence in that stream.
pub const SEQUENCE: &str = "Busway-Sequence";
/// When that stream was created, in nanoseconds since the Unix epoch.
pub const STREAM_CREATED: &str = "Busway-Stream-Created-Ns";
/// The subject that the event was published on.
pub const SUBJECT: &str = "Busway-Subject";
/// When the broker stored the event, in milliseconds since the Unix epoch.
pub const PUBLISHED_AT: &str = "Busway-Published-At-Ms";
/// When the event became a dead letter, in milliseconds since the Unix epoch.
pub const DEAD_AT: &str = "Busway-Dead-At-Ms";
/// The host that wrote the letter.
pub const HOST: &str = "Busway-Host";
/// The panic message that the guest's run-time handed over.
pub const PANIC: &str = "Busway-Panic";
/// One line per frame of the guest's stack, innermost first.
pub const FRAME: &str = "Busway-Frame";
/// One line per log line of the failing attempt, oldest first; the last [`LOGS_MAX`].
pub const LOG: &str = "Busway-Log";
/// What the failing attempt used of its budgets.
pub const USED: &str = "Busway-Used";
/// The sha256 of the payload.
pub const PAYLOAD_DIGEST: &str = "Busway-Payload-Digest";
/// How often the event has been redriven.
pub const ROUND: &str = "Busway-Round";
/// What the events behind this one did while it failed, where the plugin wants its events in order: `block`, or
/// `skip-to-dlq` when they have overtaken it.
pub const BEHIND: &str = "Busway-Behind";
/// The header block of a message that could not be decoded, in base64.
pub const RAW_HEADERS: &str = "Busway-Raw-Headers";
/// The object in the dead letters' object store that holds the payload, where letter and payload exceed the broker's
/// limit together; the letter's own payload is empty then.
pub const PAYLOAD_OBJECT: &str = "Busway-Payload-Object";
/// How many plugins an event's ancestors went through.
pub const HOPS: &str = "Busway-Hops";

/// Log lines that a letter keeps.
pub const LOGS_MAX: usize = 20;
/// Stack frames that a letter keeps.
const FRAMES_MAX: usize = 16;

/// A letter, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// `busway.dlq.<plugin>.<event id>.<round>`.
    pub subject: String,
    /// The event's id.
    pub event_id: EventId,
    /// The publisher's headers, then the host's account.
    pub headers: Headers,
    /// The original bytes.
    pub payload: Bytes,
    /// The sha256 of the payload.
    pub payload_digest: Digest,
}

/// Who writes a letter, about which plugin, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The plugin that failed.
    pub plugin: &'a PluginName,
    /// The digest of its bytes.
    pub digest: &'a Digest,
    /// The host's name.
    pub host: &'a str,
    /// What those behind the event did; none where nobody waits for anybody.
    pub behind: Option<Behind>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl DeadLetter {
    /// The letter for a delivery whose last attempt failed so. `traceparent` is what the event causes, see
    /// [`crate::trace`].
    pub fn compose(
        writer: &Writer<'_>,
        delivery: &Delivery,
        failure: &Failure,
        record: &AttemptRecord,
        traceparent: &str,
    ) -> Self {
        let id = delivery.receipt.event_id.clone();
        let payload = delivery.content.payload().clone();
        let payload_digest = Digest::of(&payload);
        let mut lines = originals(&delivery.content);
        lines.push(crate::trace::TRACEPARENT, traceparent);
        lines.push(EVENT_ID, id.as_str());
        lines.push(PLUGIN, writer.plugin.as_str());
        lines.push(PLUGIN_DIGEST, &writer.digest.to_string());
        push_failure(&mut lines, failure, record);
        push_origin(&mut lines, delivery);
        lines.push(HOST, &clean(writer.host, 256));
        if let Some(behind) = writer.behind {
            lines.push(BEHIND, behind.code());
        }
        lines.push(DEAD_AT, &writer.now_ms.to_string());
        lines.push(PAYLOAD_DIGEST, &payload_digest.to_string());
        let round = delivery.receipt.round();
        lines.push(ROUND, &round.to_string());
        let subject = format!("{SUBJECT_PREFIX}.{}.{id}.{round}", writer.plugin);
        Self { subject, event_id: id, headers: lines, payload, payload_digest }
    }

    /// Whether a letter that is already stored under this subject tells of the same event and payload. Only then is a
    /// refused write a success.
    pub fn is_same(&self, stored: &Headers) -> bool {
        stored.get(EVENT_ID) == Some(self.event_id.as_str())
            && stored.get(PAYLOAD_DIGEST) == Some(&*self.payload_digest.to_string())
    }

    /// The name under which the payload is kept where it does not fit beside the headers: the letter's own, for another
    /// plugin's letter of the same event ends at another time.
    pub fn object_name(&self) -> String {
        let letter = self.subject.trim_start_matches(SUBJECT_PREFIX).trim_start_matches('.');
        format!("{letter}-{}", base32(self.payload_digest.as_bytes()))
    }
}

fn originals(content: &Content) -> Headers {
    match content {
        Content::Message(message) => again::wrap(&message.headers),
        Content::Malformed(malformed) => {
            let mut lines = Headers::new();
            lines.push(RAW_HEADERS, &BASE64.encode(&malformed.header_block));
            lines
        }
    }
}

fn push_failure(lines: &mut Headers, failure: &Failure, record: &AttemptRecord) {
    lines.push(CLASS, failure.class.code());
    lines.push(CODE, &clean(&failure.code, 64));
    lines.push(REASON, &clean(&failure.reason, 1024));
    lines.push(ATTEMPTS, &record.failed_runs().to_string());
    for run in &record.runs {
        lines.push(ATTEMPT, &attempt_line(run));
    }
    let Evidence { panic, backtrace, logs, used } = &*failure.evidence;
    if let Some(panic) = panic {
        lines.push(PANIC, &clean(panic, 1024));
    }
    for frame in backtrace.iter().take(FRAMES_MAX) {
        lines.push(FRAME, &clean(frame, 256));
    }
    for log in logs.iter().skip(logs.len().saturating_sub(LOGS_MAX)) {
        lines.push(LOG, &clean(&format!("{} {}: {}", log.level.as_str(), log.context, log.message), 512));
    }
    lines.push(USED, &used_line(used));
}

fn used_line(used: &Used) -> String {
    let Used { wall, cpu, memory_bytes, publishes, publish_bytes, log_lines, log_lines_dropped, denied } =
        used;
    format!(
        "wall={}us cpu={}us memory={memory_bytes} publishes={publishes} publish-bytes={publish_bytes} \
         log-lines={log_lines} log-lines-dropped={log_lines_dropped} denied={denied}",
        wall.as_micros(),
        cpu.as_micros()
    )
}

fn attempt_line(run: &FailedRun) -> String {
    let wait = run.wait.map_or("none".to_owned(), |wait| format!("{}ms", wait.as_millis()));
    let FailedRun { at_ms, class, code, reason, host, version, ran, .. } = run;
    let ran_us = ran.as_micros();
    let line = format!(
        "at={at_ms} class={class} code={code} wait={wait} host={host} version={version} ran={ran_us}us reason={reason}"
    );
    clean(&line, 512)
}

fn push_origin(lines: &mut Headers, delivery: &Delivery) {
    let receipt = &delivery.receipt;
    lines.push(SUBJECT, &clean(delivery.content.subject(), 4096));
    if let Some(position) = &receipt.position {
        lines.push(STREAM, &position.stream);
        lines.push(STREAM_CREATED, &position.stream_created_ns.to_string());
        lines.push(SEQUENCE, &position.sequence.to_string());
    }
    if let Some(published) = receipt.published_at_ms {
        lines.push(PUBLISHED_AT, &published.to_string());
    }
}

/// The failure that a recorded final run tells of: for a letter that is written on arrival, without another run.
pub fn failure_of(run: &FailedRun) -> Failure {
    Failure::new(run.class, run.code.clone(), &run.reason)
}

/// The class that a stored letter names.
pub fn class_of(letter: &Headers) -> Option<FailureClass> {
    letter.get(CLASS).and_then(FailureClass::from_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LogLevel, LogLine,
        port::{Message, Receipt},
    };
    use std::time::Duration;

    fn letter(headers: &[(&str, &str)], payload: &'static [u8]) -> DeadLetter {
        let delivery = Delivery {
            content: Content::Message(Message {
                subject: "orders.created".into(),
                headers: headers.iter().copied().collect(),
                payload: Bytes::from_static(payload),
            }),
            receipt: Receipt::for_test("ORDERS", 7),
        };
        let plugin: PluginName = "enrich".parse().unwrap();
        let digest = Digest::of(b"plugin");
        let writer = Writer { plugin: &plugin, digest: &digest, host: "h1", behind: None, now_ms: 5 };
        let mut failure = Failure::new(FailureClass::Trap, "unreachable", "a\r\nb");
        failure.evidence.panic = Some("boom, src/lib.rs:3".into());
        let mut record = AttemptRecord::default();
        record.push(FailedRun {
            at_ms: 4,
            code: "unreachable".into(),
            reason: "boom".into(),
            host: "h1".into(),
            ..FailedRun::for_test(FailureClass::Trap)
        });
        DeadLetter::compose(&writer, &delivery, &failure, &record, "00-1-2-00")
    }

    #[test]
    fn a_letter_keeps_the_publishers_headers_and_the_bytes() {
        let letter = letter(
            &[("x-a", "1"), ("Nats-Rollup", "all"), ("busway-class", "forged"), ("x-a", "2")],
            b"\xff",
        );
        let own: Vec<_> = letter.headers.iter().filter(|(name, _)| name.starts_with("x-")).collect();
        assert_eq!(own, [("x-a", "1"), ("x-a", "2")]);
        assert_eq!(letter.payload, Bytes::from_static(b"\xff"));
        assert_eq!(letter.headers.get("Nats-Rollup"), None);
        assert_eq!(letter.headers.get(CLASS), Some("trap"));
        assert_eq!(letter.headers.get(REASON), Some("a  b"));
        assert_eq!(letter.headers.get(ATTEMPTS), Some("1"));
        assert!(letter.headers.iter().all(|(_, value)| !value.contains(char::is_control)));
    }

    #[test]
    fn a_letter_tells_what_the_failing_attempt_logged_and_used_and_who_ran_each() {
        let mut failure = Failure::new(FailureClass::Cpu, "processor", "spent");
        let line = |n: usize| LogLine {
            level: LogLevel::Warn,
            context: "db".into(),
            message: format!("line {n}\nforged: x"),
        };
        failure.evidence.logs = (0..LOGS_MAX + 5).map(line).collect();
        failure.evidence.used.cpu = Duration::from_micros(1500);
        let mut record = AttemptRecord::default();
        let ran = Duration::from_millis(2);
        record.push(FailedRun {
            version: "0123456789ab".into(),
            ran,
            ..FailedRun::for_test(FailureClass::Cpu)
        });
        let mut lines = Headers::new();
        push_failure(&mut lines, &failure, &record);
        let logs: Vec<_> = lines.iter().filter(|(name, _)| *name == LOG).map(|(_, value)| value).collect();
        assert_eq!((logs.len(), logs[0]), (LOGS_MAX, "warn db: line 5 forged: x"));
        assert!(lines.get(USED).is_some_and(|used| used.contains("cpu=1500us")));
        assert!(lines.get(ATTEMPT).is_some_and(|line| line.contains("version=0123456789ab ran=2000us")));
    }

    #[test]
    fn the_same_event_makes_the_same_letter_and_another_payload_does_not() {
        let (first, again, other) = (letter(&[], b"a"), letter(&[], b"a"), letter(&[], b"b"));
        assert!(first.is_same(&again.headers) && first.subject == again.subject);
        assert!(!first.is_same(&other.headers));
        assert!(!first.is_same(&Headers::new()));
    }
}
