//! The story of an event as a page for a person and as JSON for a program.

use super::{
    super::print::escaped,
    story::{Kept, PluginStory, Story, now_ms},
    telling,
};
use busway_core::{
    HistoryEntry, Position,
    history::{Counts, Disposition, Waits},
    retry::FailedRun,
    units,
};
use busway_transport::nats::{ConsumerView, FailedRunsOf, Standing};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The page: what the event is, then plugin by plugin what became of it.
pub fn text(story: &Story) -> String {
    let mut lines = vec![title(story)];
    lines.push(field("id", story.id.as_str()));
    lines.push(field("published", &published(story)));
    lines.push(field("trace", &story.trace_id()));
    for (name, plugin) in &story.plugins {
        lines.push(String::new());
        lines.push(format!("{}: {}", escaped(name), telling::standing(plugin, story.kept)));
        for entry in &plugin.attempts {
            lines.extend(attempt(entry));
        }
        if plugin.attempts.is_empty() {
            lines.extend(plugin.failed.iter().flat_map(failed_runs));
        }
        lines.extend(letters(plugin));
    }
    if story.plugins.is_empty() {
        lines.push(String::new());
        lines.push("no plugin reads this stream: none of its consumers is Busway's".to_owned());
    }
    if story.kept == Kept::Never {
        lines.push(String::new());
        lines.push(
            "no history is kept at this broker: history.enabled is off, or no host has run on it yet"
                .to_owned(),
        );
    }
    lines.extend(story.notes.iter().map(|note| format!("note: {}", escaped(note))));
    lines.join("\n")
}

fn title(story: &Story) -> String {
    let subject = story.subject().map(|subject| format!(" on {}", escaped(subject))).unwrap_or_default();
    match &story.place {
        Some(Position { stream, sequence, .. }) => format!("event {stream}:{sequence}{subject}"),
        None => format!("event{subject}, which no stream holds"),
    }
}

fn published(story: &Story) -> String {
    match &story.stored {
        Some(stored) => {
            let age = Duration::from_millis(now_ms().saturating_sub(stored.stored_at_ms));
            let (when, age) = (telling::utc(stored.stored_at_ms), telling::duration(age));
            let bytes =
                if stored.bytes == 1 { "1 byte".to_owned() } else { format!("{} bytes", stored.bytes) };
            format!("{when}, {age} ago, {bytes}, still in its stream")
        }
        None if story.place.is_some() => "no longer in its stream".to_owned(),
        None => "not known".to_owned(),
    }
}

fn field(label: &str, text: &str) -> String {
    format!("  {label:<10} {}", escaped(text)).trim_end().to_owned()
}

/// Where to look at the plugin's dead letters, and which of them are gone.
fn letters(plugin: &PluginStory) -> Vec<String> {
    let there =
        plugin.letters.iter().map(|letter| format!("  dead letter {letter}: busway dlq show {letter}"));
    let named = plugin.attempts.iter().filter_map(|entry| match entry.disposition {
        Disposition::DeadLettered { letter } => Some(letter),
        _ => None,
    });
    let gone = named.filter(|letter| !plugin.letters.contains(letter));
    let gone = gone
        .map(|letter| format!("  dead letter {letter} is not there any more: it was redriven or discarded"));
    there.chain(gone).collect()
}

fn attempt(entry: &HistoryEntry) -> Vec<String> {
    let number = match entry.attempt.0 {
        0 => "attempt ?".to_owned(),
        number => format!("attempt {number}"),
    };
    let round = if entry.round == 0 { String::new() } else { format!(" of redrive {}", entry.round) };
    let mut lines = vec![format!(
        "  {number}{round}  {}  {}",
        telling::utc(entry.began_at_ms),
        escaped(&telling::ending(entry))
    )];
    let mut say = |label: &str, text: &str| lines.push(format!("    {label:<8} {}", escaped(text)));
    if let Some(reason) = entry.cause.as_ref().map(|cause| &cause.reason).filter(|reason| !reason.is_empty())
    {
        say("because", reason);
    }
    if let Some(outputs) = telling::outputs(entry) {
        say("outputs", &outputs);
    }
    let runner = &entry.runner;
    say("by", &format!("{} {} on {}, {}", runner.plugin, runner.version, runner.host, runner.consumer));
    match telling::budget(entry) {
        Some(budget) => say("used", &budget),
        None => say("used", "nothing: the plugin was not called"),
    }
    lines
}

fn failed_runs(of: &FailedRunsOf) -> Vec<String> {
    let line = |run: &FailedRun| {
        let wait = match run.wait {
            Some(wait) => format!("tried again after {}", telling::duration(wait)),
            None => "the last".to_owned(),
        };
        let FailedRun { at_ms, class, code, reason, host, version, .. } = run;
        format!(
            "  failed run  {}  {class} {code}, {wait}: {reason} (version {version} on {host})",
            telling::utc(*at_ms)
        )
    };
    of.record.runs.iter().map(|run| escaped(&line(run))).collect()
}

/// The same for a program.
pub fn json(story: &Story) -> Value {
    let plugins = story.plugins.iter().map(|(name, plugin)| plugin_json(name, plugin, story.kept));
    json!({
        "event_id": story.id.as_str(),
        "stream": story.place.as_ref().map(|place| &*place.stream),
        "sequence": story.place.as_ref().map(|place| place.sequence),
        "subject": story.subject(),
        "published_at_ms": story.stored.as_ref().map(|stored| stored.stored_at_ms),
        "bytes": story.stored.as_ref().map(|stored| stored.bytes),
        "in_stream": story.stored.is_some(),
        "trace_id": story.trace_id(),
        "history_kept": story.kept == Kept::Kept,
        "plugins": plugins.collect::<Vec<_>>(),
        "notes": story.notes,
    })
}

fn plugin_json(name: &str, plugin: &PluginStory, kept: Kept) -> Value {
    let consumer = |view: &ConsumerView| {
        let standing = match view.standing {
            Standing::NotForIt => "not-for-it",
            Standing::BeginsAfter { .. } => "begins-after",
            Standing::NotGivenYet => "not-given-yet",
            Standing::GivenOut => "given-out",
            Standing::Settled => "settled",
        };
        json!({ "consumer": view.consumer, "standing": standing })
    };
    let failed = |of: &FailedRunsOf| {
        let runs = of.record.runs.iter().map(|run| {
            json!({
                "at_ms": run.at_ms, "class": run.class.code(), "code": run.code, "reason": run.reason,
                "wait_ms": run.wait.map(|wait| wait.as_millis() as u64), "parked": run.parked,
                "host": run.host, "version": run.version,
            })
        });
        json!({ "round": of.round, "count": of.record.failed_runs(), "runs": runs.collect::<Vec<_>>() })
    };
    json!({
        "plugin": name,
        "told": telling::standing(plugin, kept),
        "attempts": plugin.attempts.iter().map(attempt_json).collect::<Vec<_>>(),
        "consumers": plugin.consumers.iter().map(consumer).collect::<Vec<_>>(),
        "failed_runs": plugin.failed.iter().map(failed).collect::<Vec<_>>(),
        "dead_letters": plugin.letters,
    })
}

/// One attempt for a program.
pub fn attempt_json(entry: &HistoryEntry) -> Value {
    let (disposition, wait, letter) = match entry.disposition {
        Disposition::Done => ("done", None, None),
        Disposition::Retried { wait, waits: Waits::InConsumer } => ("retried", Some(wait), None),
        Disposition::Retried { wait, waits: Waits::Parked } => ("parked", Some(wait), None),
        Disposition::DeadLettered { letter } => ("dead-lettered", None, Some(letter)),
        Disposition::PutBack { wait } => ("put-back", Some(wait), None),
        Disposition::Left => ("left-to-broker", None, None),
    };
    let used = entry.used.map(|used| {
        json!({
            "wall_us": used.wall.as_micros() as u64, "cpu_us": used.cpu.as_micros() as u64,
            "memory_bytes": used.memory_bytes, "publishes": used.publishes, "publish_bytes": used.publish_bytes,
            "log_lines": used.log_lines, "log_lines_dropped": used.log_lines_dropped, "denied": used.denied,
        })
    });
    let cause = entry.cause.as_ref().map(|cause| {
        let counts = cause.counts == Counts::Failed;
        json!({ "class": cause.class, "code": cause.code, "reason": cause.reason, "counts": counts })
    });
    let outputs = entry.outputs.iter().map(|stored| {
        json!({ "stream": stored.stream, "sequence": stored.sequence, "duplicate": stored.duplicate })
    });
    json!({
        "attempt": entry.attempt.0,
        "round": entry.round,
        "delivered": entry.delivered,
        "began_at_ms": entry.began_at_ms,
        "took_us": entry.took.as_micros() as u64,
        "host": entry.runner.host,
        "version": entry.runner.version,
        "consumer": entry.runner.consumer,
        "disposition": disposition,
        "wait_ms": wait.map(|wait| wait.as_millis() as u64),
        "wait": wait.map(units::write_duration),
        "dead_letter": letter,
        "cause": cause,
        "used": used,
        "outputs": outputs.collect::<Vec<_>>(),
        "atomic": entry.atomic,
        "duplicate_of": entry.duplicate_of.as_ref().map(|other| other.as_str()),
        "sent": entry.sent,
    })
}

/// What an attempt's line needs besides where it stands alone.
pub fn origin_json(entry: &HistoryEntry) -> Map<String, Value> {
    let origin = json!({
        "event_id": entry.event_id.as_str(),
        "stream": entry.position.as_ref().map(|place| &*place.stream),
        "stream_created_ns": entry.position.as_ref().map(|place| place.stream_created_ns.to_string()),
        "sequence": entry.position.as_ref().map(|place| place.sequence),
        "subject": entry.subject,
        "plugin": entry.runner.plugin.as_str(),
        "trace_id": entry.trace_id,
    });
    if let Value::Object(fields) = origin { fields } else { Map::new() }
}
