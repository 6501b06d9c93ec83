//! Writes a page. Records are written as they are added, so that nothing is kept of an entry but its bytes.

use super::{End, Page, Record, Usage, VERSION};
use busway_core::{
    HistoryEntry, Position, Used,
    history::{Cause, Counts, Disposition, Runner, Waits},
};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// A page that is being written.
#[derive(Debug)]
pub(in super::super) struct Draft {
    runner: Arc<Runner>,
    position: Option<Position>,
    from_ms: u64,
    names: Names,
    records: usize,
    /// Records with commas between them.
    runs: Vec<u8>,
    failed: Option<serde_json::Error>,
}

impl Draft {
    /// A page of one record.
    pub(in super::super) fn new(first: &HistoryEntry) -> Self {
        let mut page = Self {
            runner: Arc::clone(&first.runner),
            position: first.position.clone(),
            from_ms: first.began_at_ms,
            names: Names::default(),
            records: 0,
            runs: Vec::new(),
            failed: None,
        };
        page.add(first);
        page
    }

    /// Adds a record, which has the same runner and stream as the first.
    pub(in super::super) fn add(&mut self, entry: &HistoryEntry) {
        if self.records > 0 {
            self.runs.push(b',');
        }
        self.records += 1;
        let record = record(entry, self.from_ms, &mut self.names);
        if let Err(why) = serde_json::to_writer(&mut self.runs, &record) {
            self.failed = Some(why);
        }
    }

    /// How many records are on it.
    pub(in super::super) fn records(&self) -> usize {
        self.records
    }

    /// Who ran all attempts.
    pub(in super::super) fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Where the first event is stored.
    pub(in super::super) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The page's bytes.
    pub(in super::super) fn finish(self) -> Result<Vec<u8>, serde_json::Error> {
        if let Some(why) = self.failed {
            return Err(why);
        }
        let Runner { plugin, consumer, version, host } = &*self.runner;
        let page = Page {
            v: VERSION,
            plugin: plugin.to_string(),
            consumer: consumer.clone(),
            version: version.clone(),
            host: host.clone(),
            origin: self.position.map(|position| (position.stream.to_string(), position.stream_created_ns)),
            from_ms: self.from_ms,
            names: self.names.list.iter().map(ToString::to_string).collect(),
            runs: Vec::new(),
        };
        let mut bytes = serde_json::to_vec(&page)?;
        // In place of the closing brace.
        bytes.pop();
        bytes.extend_from_slice(br#","runs":["#);
        bytes.extend_from_slice(&self.runs);
        bytes.extend_from_slice(b"]}");
        Ok(bytes)
    }
}

/// Names in the order in which they first occurred.
#[derive(Debug, Default)]
struct Names {
    list: Vec<Arc<str>>,
    known: HashMap<Arc<str>, usize>,
    /// The place of the one that was asked for last: most records of a page have the same.
    last: usize,
}

impl Names {
    fn place(&mut self, name: &str) -> usize {
        if self.list.get(self.last).is_some_and(|last| &**last == name) {
            return self.last;
        }
        self.last = self.known.get(name).copied().unwrap_or_else(|| self.add(name.into()));
        self.last
    }

    fn add(&mut self, name: Arc<str>) -> usize {
        let place = self.list.len();
        self.list.push(Arc::clone(&name));
        self.known.insert(name, place);
        place
    }
}

fn record<'a>(entry: &'a HistoryEntry, from_ms: u64, names: &mut Names) -> Record<'a> {
    Record {
        sequence: entry.position.as_ref().map_or(0, |position| position.sequence),
        id: entry.position.is_none().then(|| entry.event_id.as_str().into()),
        subject: names.place(&entry.subject),
        attempt: entry.attempt.0,
        round: entry.round,
        delivered: entry.delivered,
        began: entry.began_at_ms.wrapping_sub(from_ms).cast_signed(),
        took_us: micros(entry.took),
        used: entry.used.as_ref().map(usage),
        cause: entry.cause.as_ref().map(|cause| {
            let Cause { counts, class, code, reason } = cause;
            (*counts == Counts::Failed, class.into(), code.into(), reason.into())
        }),
        end: end(entry.disposition),
        outputs: entry
            .outputs
            .iter()
            .map(|stored| (names.place(&stored.stream), stored.sequence, u8::from(stored.duplicate)))
            .collect(),
        atomic: entry.atomic,
        duplicate_of: entry.duplicate_of.as_ref().map(|of| of.as_str().into()),
        sent: entry.sent,
        trace_id: entry.trace_id.as_deref().map(Into::into),
    }
}

fn usage(used: &Used) -> Usage {
    Usage {
        wall_us: micros(used.wall),
        cpu_us: micros(used.cpu),
        memory_bytes: used.memory_bytes,
        publishes: used.publishes,
        publish_bytes: used.publish_bytes,
        log_lines: used.log_lines,
        log_lines_dropped: used.log_lines_dropped,
        denied: used.denied,
    }
}

fn end(disposition: Disposition) -> End {
    match disposition {
        Disposition::Done => End::Done,
        Disposition::Retried { wait, waits: Waits::InConsumer } => End::RetriedMs(millis(wait)),
        Disposition::Retried { wait, waits: Waits::Parked } => End::ParkedMs(millis(wait)),
        Disposition::DeadLettered { letter } => End::Letter(letter),
        Disposition::PutBack { wait } => End::PutBackMs(millis(wait)),
        Disposition::Left => End::Left,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
