//! Records as they are stored: a page of JSON with a version, one or many records of one runner about events of one stream.
//!
//! What all records of a page share stands once, what is zero or empty is left out, and names are a letter or two: most
//! pages hold hundreds of successes that nobody will ever ask for. An event's id is not stored where the event has a place:
//! it follows from that, and is not worked out here to see that it does. A page of an unknown version is passed over by a
//! reader, who says so.

use busway_core::{
    Attempt, EventId, HistoryEntry, Position, Used,
    history::{Cause, Counts, Disposition, Runner, Waits},
    port::Stored,
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, sync::Arc, time::Duration};

mod draft;

pub(super) use draft::Draft;

/// The version that is written.
const VERSION: u32 = 1;

/// Borrowed where it is written.
type Text<'a> = Cow<'a, str>;

#[derive(Serialize, Deserialize)]
struct Page<'a> {
    v: u32,
    plugin: String,
    consumer: String,
    version: String,
    host: String,
    /// The stream of the events and its creation time; none for events that no stream holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<(String, i128)>,
    /// What the records' times count from: when the first began.
    from_ms: u64,
    /// Subjects and streams that the records name by their place in this list.
    names: Vec<String>,
    /// Written by [`Draft`], one by one.
    #[serde(borrow, skip_serializing)]
    runs: Vec<Record<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    /// The event's sequence.
    #[serde(default, skip_serializing_if = "is_default", rename = "q")]
    sequence: u64,
    /// The event's id, where it does not follow from its place.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "i")]
    id: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "is_default", rename = "s")]
    subject: usize,
    #[serde(default = "first", skip_serializing_if = "is_first", rename = "n")]
    attempt: u32,
    #[serde(default, skip_serializing_if = "is_default", rename = "r")]
    round: u32,
    #[serde(default, skip_serializing_if = "is_default", rename = "d")]
    delivered: u64,
    /// Milliseconds after the page's.
    #[serde(default, skip_serializing_if = "is_default", rename = "b")]
    began: i64,
    #[serde(default, skip_serializing_if = "is_default", rename = "t")]
    took_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "u")]
    used: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "c")]
    cause: Option<(bool, Text<'a>, Text<'a>, Text<'a>)>,
    #[serde(default, skip_serializing_if = "is_default", rename = "e")]
    end: End,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "o")]
    outputs: Vec<(usize, u64, u8)>,
    #[serde(default, skip_serializing_if = "is_default", rename = "a")]
    atomic: bool,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "f")]
    duplicate_of: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "is_default", rename = "x")]
    sent: u32,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "g")]
    trace_id: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Usage {
    #[serde(default, skip_serializing_if = "is_default", rename = "w")]
    wall_us: u64,
    #[serde(default, skip_serializing_if = "is_default", rename = "c")]
    cpu_us: u64,
    #[serde(default, skip_serializing_if = "is_default", rename = "m")]
    memory_bytes: u64,
    #[serde(default, skip_serializing_if = "is_default", rename = "p")]
    publishes: u32,
    #[serde(default, skip_serializing_if = "is_default", rename = "b")]
    publish_bytes: u64,
    #[serde(default, skip_serializing_if = "is_default", rename = "l")]
    log_lines: u32,
    #[serde(default, skip_serializing_if = "is_default", rename = "k")]
    log_lines_dropped: u32,
    #[serde(default, skip_serializing_if = "is_default", rename = "n")]
    denied: u32,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    #[default]
    Done,
    RetriedMs(u64),
    ParkedMs(u64),
    Letter(u64),
    PutBackMs(u64),
    Left,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_first(attempt: &u32) -> bool {
    *attempt == 1
}

fn first() -> u32 {
    1
}

/// A page that can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("of version {0}, which this program does not know")]
    Version(u32),
    #[error("damaged")]
    Damaged(#[from] serde_json::Error),
    #[error("damaged: {0}")]
    Nonsense(&'static str),
}

/// The records of a page.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<HistoryEntry>, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let Versioned { v } = serde_json::from_slice(bytes)?;
    if v != VERSION {
        return Err(Unreadable::Version(v));
    }
    let page: Page = serde_json::from_slice(bytes)?;
    let runner = Arc::new(Runner {
        plugin: page.plugin.parse().map_err(|_| Unreadable::Nonsense("not a plugin's name"))?,
        consumer: page.consumer,
        version: page.version,
        host: page.host,
    });
    let shared = Shared {
        runner,
        origin: page.origin.map(|(stream, created)| (stream.into(), created)),
        from_ms: page.from_ms,
        names: page.names,
    };
    page.runs.into_iter().map(|run| shared.entry(run)).collect()
}

/// What the records of a page share.
struct Shared {
    runner: Arc<Runner>,
    origin: Option<(Arc<str>, i128)>,
    from_ms: u64,
    names: Vec<String>,
}

impl Shared {
    fn name(&self, place: usize) -> Result<String, Unreadable> {
        self.names.get(place).cloned().ok_or(Unreadable::Nonsense("a name that is not there"))
    }

    fn entry(&self, run: Record<'_>) -> Result<HistoryEntry, Unreadable> {
        let position = self.origin.as_ref().map(|(stream, created)| Position {
            stream: Arc::clone(stream),
            stream_created_ns: *created,
            sequence: run.sequence,
        });
        let event_id = match (&run.id, &position) {
            (Some(text), _) => id(text)?,
            (None, Some(position)) => EventId::of(position),
            (None, None) => return Err(Unreadable::Nonsense("a record of no event")),
        };
        let output = |(stream, sequence, duplicate): (usize, u64, u8)| {
            Ok(Stored { stream: self.name(stream)?, sequence, duplicate: duplicate != 0 })
        };
        Ok(HistoryEntry {
            event_id,
            position,
            subject: self.name(run.subject)?,
            trace_id: run.trace_id.map(Cow::into_owned),
            runner: Arc::clone(&self.runner),
            attempt: Attempt(run.attempt),
            round: run.round,
            delivered: run.delivered,
            began_at_ms: self.from_ms.saturating_add_signed(run.began),
            took: Duration::from_micros(run.took_us),
            used: run.used.map(used),
            cause: run.cause.map(|(failed, class, code, reason)| Cause {
                counts: if failed { Counts::Failed } else { Counts::Refused },
                class: class.into_owned(),
                code: code.into_owned(),
                reason: reason.into_owned(),
            }),
            disposition: disposition(run.end),
            outputs: run.outputs.into_iter().map(output).collect::<Result<_, Unreadable>>()?,
            atomic: run.atomic,
            duplicate_of: run.duplicate_of.as_deref().map(id).transpose()?,
            sent: run.sent,
        })
    }
}

fn id(text: &str) -> Result<EventId, Unreadable> {
    text.parse().map_err(|_| Unreadable::Nonsense("not an event's id"))
}

fn used(usage: Usage) -> Used {
    Used {
        wall: Duration::from_micros(usage.wall_us),
        cpu: Duration::from_micros(usage.cpu_us),
        memory_bytes: usage.memory_bytes,
        publishes: usage.publishes,
        publish_bytes: usage.publish_bytes,
        log_lines: usage.log_lines,
        log_lines_dropped: usage.log_lines_dropped,
        denied: usage.denied,
    }
}

fn disposition(end: End) -> Disposition {
    let retried = |ms, waits| Disposition::Retried { wait: Duration::from_millis(ms), waits };
    match end {
        End::Done => Disposition::Done,
        End::RetriedMs(ms) => retried(ms, Waits::InConsumer),
        End::ParkedMs(ms) => retried(ms, Waits::Parked),
        End::Letter(letter) => Disposition::DeadLettered { letter },
        End::PutBackMs(ms) => Disposition::PutBack { wait: Duration::from_millis(ms) },
        End::Left => Disposition::Left,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A page of these records.
    fn write(entries: &[HistoryEntry]) -> serde_json::Result<Vec<u8>> {
        let (first, others) = entries.split_first().unwrap();
        let mut page = Draft::new(first);
        others.iter().for_each(|entry| page.add(entry));
        page.finish()
    }

    /// A success with the event of a sequence.
    pub(in super::super) fn success(sequence: u64) -> HistoryEntry {
        let position = Position { stream: "IN".into(), stream_created_ns: 17, sequence };
        HistoryEntry {
            event_id: EventId::of(&position),
            position: Some(position),
            subject: "in.a".into(),
            trace_id: None,
            runner: Arc::new(Runner {
                plugin: "p".parse().unwrap(),
                consumer: "busway-p".into(),
                version: "0123456789ab".into(),
                host: "h1".into(),
            }),
            attempt: Attempt(1),
            round: 0,
            delivered: 1,
            began_at_ms: 1_790_000_000_000 + sequence,
            took: Duration::from_micros(153),
            used: Some(Used {
                wall: Duration::from_micros(51),
                cpu: Duration::from_micros(21),
                memory_bytes: 1_114_112,
                ..Used::default()
            }),
            cause: None,
            disposition: Disposition::Done,
            outputs: Vec::new(),
            atomic: false,
            duplicate_of: None,
            sent: 0,
        }
    }

    #[test]
    fn records_read_back_as_they_were_written_whatever_they_tell() {
        let cause = |counts| Cause {
            counts,
            class: "trap".into(),
            code: "unreachable".into(),
            reason: "ü \"quoted\"\n".into(),
        };
        let stored =
            |stream: &str, sequence| Stored { stream: stream.into(), sequence, duplicate: sequence == 2 };
        let wait = Duration::from_millis(1500);
        let ends = [
            Disposition::Retried { wait, waits: Waits::InConsumer },
            Disposition::Retried { wait, waits: Waits::Parked },
            Disposition::DeadLettered { letter: 4 },
            Disposition::PutBack { wait },
            Disposition::Left,
        ];
        let failures = ends.into_iter().enumerate().map(|(at, disposition)| HistoryEntry {
            disposition,
            attempt: Attempt(at as u32),
            round: 1,
            delivered: 7,
            used: None,
            cause: Some(cause(if at % 2 == 0 { Counts::Failed } else { Counts::Refused })),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            ..success(9 - at as u64)
        });
        let published = HistoryEntry {
            outputs: vec![stored("OUT", 1), stored("OTHER", 2), stored("OUT", 3)],
            atomic: true,
            sent: 2,
            duplicate_of: Some(EventId::random([8; 32])),
            used: Some(Used {
                publishes: 3,
                publish_bytes: 4,
                log_lines: 5,
                log_lines_dropped: 6,
                denied: 7,
                ..Used::default()
            }),
            ..success(20)
        };
        let entries: Vec<_> = failures.chain([published, success(1)]).collect();
        assert_eq!(read(&write(&entries).unwrap()).unwrap(), entries);
        let event_id = EventId::random([7; 32]);
        let without = |entry: &HistoryEntry| HistoryEntry {
            position: None,
            event_id: event_id.clone(),
            ..entry.clone()
        };
        let plain: Vec<_> = entries.iter().map(without).collect();
        assert_eq!(read(&write(&plain).unwrap()).unwrap(), plain);
    }

    #[test]
    fn a_success_that_published_nothing_takes_less_than_a_hundred_bytes_among_others() {
        let entries: Vec<_> = (1_000_000..1_000_256).map(success).collect();
        let bytes = write(&entries).unwrap().len();
        assert!(bytes < 256 * 100, "{bytes}");
    }

    #[test]
    fn an_id_is_stored_only_where_no_place_tells_it_and_read_where_it_is_stored() {
        let page = String::from_utf8(write(&[success(1)]).unwrap()).unwrap();
        assert!(!page.contains(r#""i":"#), "{page}");
        let other = EventId::random([7; 32]);
        let page = page.replace(r#"[{"q":1"#, &format!(r#"[{{"i":"{other}","q":1"#));
        let told = read(page.as_bytes()).unwrap();
        assert_eq!(told, [HistoryEntry { event_id: other, ..success(1) }]);
    }

    #[test]
    fn a_page_of_another_version_is_told_from_a_damaged_one() {
        assert!(matches!(read(br#"{"v":2,"anything":1}"#), Err(Unreadable::Version(2))));
        for damaged in [&b"{}"[..], b"", br#"{"v":1}"#] {
            assert!(matches!(read(damaged), Err(Unreadable::Damaged(_))));
        }
        let page = String::from_utf8(write(&[success(1)]).unwrap()).unwrap();
        let nameless = page.replace(r#""names":["in.a"]"#, r#""names":[]"#);
        assert!(matches!(read(nameless.as_bytes()), Err(Unreadable::Nonsense(_))), "{nameless}");
        let newer = page.replace(r#""names""#, r#""more":1,"names""#);
        assert_eq!(read(newer.as_bytes()).unwrap(), [success(1)], "what is not known is passed over");
    }
}
