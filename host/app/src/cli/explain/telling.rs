//! How it is put for a person: how an event stands with a plugin, in one sentence; times, durations and sizes.

use super::story::{Kept, PluginStory, now_ms};
pub use busway_core::date::utc;
use busway_core::{
    HistoryEntry,
    history::{Cause, Counts, Disposition, Waits},
};
use busway_transport::nats::Standing;
use std::time::Duration;

/// How the event stands with a plugin.
pub fn standing(plugin: &PluginStory, kept: Kept) -> String {
    match plugin.attempts.last() {
        Some(last) => with_records(plugin, last),
        None => without_records(plugin, kept),
    }
}

fn with_records(plugin: &PluginStory, last: &HistoryEntry) -> String {
    let attempt = last.attempt.0;
    let times = if attempt == 1 { "once".to_owned() } else { format!("{attempt} times") };
    match last.disposition {
        Disposition::Done if last.duplicate_of.is_some() => {
            "not run: it repeats an event that was handled".to_owned()
        }
        Disposition::Done if attempt <= 1 => "done".to_owned(),
        Disposition::Done => format!("done at attempt {attempt}"),
        Disposition::DeadLettered { letter } => format!("failed {times}, dead letter {letter}"),
        Disposition::Retried { waits: Waits::InConsumer, .. }
        | Disposition::PutBack { .. }
        | Disposition::Left
            if is_settled(plugin) =>
        {
            "settled since, and there is no record of how: it was lost in a crash, or is not stored yet"
                .to_owned()
        }
        Disposition::Retried { wait, waits } => {
            let place = if waits == Waits::Parked { ", parked in BUSWAY_AGAIN" } else { "" };
            format!("failed {times}, the next attempt is {}{place}", due(last, wait))
        }
        Disposition::PutBack { wait } => format!("put back, the next attempt is {}", due(last, wait)),
        Disposition::Left => "not settled: the broker gives it again".to_owned(),
    }
}

fn due(last: &HistoryEntry, wait: Duration) -> String {
    let ended = last.began_at_ms.saturating_add(millis(last.took));
    let due = ended.saturating_add(millis(wait));
    let word = if due < now_ms() { "was due" } else { "due" };
    format!("{word} {}", utc(due))
}

fn is_settled(plugin: &PluginStory) -> bool {
    let mut standings =
        plugin.consumers.iter().map(|view| view.standing).filter(|it| *it != Standing::NotForIt);
    standings.any(|standing| standing == Standing::Settled)
}

fn without_records(plugin: &PluginStory, kept: Kept) -> String {
    if let Some(letter) = plugin.letters.last() {
        return format!("dead letter {letter}; there is no record of its attempts");
    }
    let worth = |standing: &Standing| match standing {
        Standing::NotForIt => 0,
        Standing::BeginsAfter { .. } => 1,
        Standing::NotGivenYet => 2,
        Standing::GivenOut => 3,
        Standing::Settled => 4,
    };
    let standing = plugin.consumers.iter().map(|view| view.standing).max_by_key(worth);
    let settled = "settled, and there is no record of it";
    match standing {
        None => "no consumer of its own is there any more".to_owned(),
        Some(Standing::NotForIt) => "not for this plugin: its filters leave the subject out".to_owned(),
        Some(Standing::BeginsAfter { sequence }) => {
            format!("before this plugin's time: its consumer begins with sequence {sequence}")
        }
        Some(Standing::NotGivenYet) => "waits at the broker: no host was given it yet".to_owned(),
        Some(Standing::GivenOut) => {
            "given to a host: it runs, waits for its next attempt, or is done while an earlier event is not"
                .to_owned()
        }
        Some(Standing::Settled) if kept == Kept::Never => settled.to_owned(),
        Some(Standing::Settled) => format!(
            "{settled}: it ended while no history was kept, or so long ago that its record has gone, or in the last \
             moments (100 ms) before a host was killed"
        ),
    }
}

/// How an attempt ended.
pub fn ending(entry: &HistoryEntry) -> String {
    let what = match &entry.cause {
        None => String::new(),
        Some(cause) => format!("{}, ", because(cause)),
    };
    match entry.disposition {
        Disposition::Done => match &entry.duplicate_of {
            Some(other) => format!("not run: it has the same key as event {other}"),
            None => "done".to_owned(),
        },
        Disposition::DeadLettered { letter } => format!("{what}dead letter {letter}"),
        Disposition::Retried { wait, waits: Waits::InConsumer } => {
            format!("{what}tried again after {}", duration(wait))
        }
        Disposition::Retried { wait, waits: Waits::Parked } => format!("{what}parked for {}", duration(wait)),
        Disposition::PutBack { wait } => {
            let failed = entry.cause.as_ref().is_some_and(|cause| cause.counts == Counts::Failed);
            let why = if failed { " because that could not be stored" } else { "" };
            format!("{what}put back for {}{why}", duration(wait))
        }
        Disposition::Left if entry.cause.is_none() => {
            "done, but the broker did not confirm: it gives the event again".to_owned()
        }
        Disposition::Left => format!("{what}left to the broker, which gives the event again"),
    }
}

fn because(cause: &Cause) -> String {
    let Cause { counts, class, code, .. } = cause;
    let word = match counts {
        Counts::Failed => "failed",
        Counts::Refused => "not run",
    };
    if code.is_empty() || code == class {
        format!("{word}: {class}")
    } else {
        format!("{word}: {class} {code}")
    }
}

/// What an attempt used of its budgets.
pub fn budget(entry: &HistoryEntry) -> Option<String> {
    let used = entry.used?;
    let mut parts = vec![
        format!("{} of wall clock", duration(used.wall)),
        format!("{} of processor", duration(used.cpu)),
        format!("{} of memory", size(used.memory_bytes)),
    ];
    let counted = |count: u32, what: &str| (count > 0).then(|| format!("{count} {what}"));
    parts.extend(counted(used.publishes, "published"));
    parts.extend(counted(used.log_lines, "log lines"));
    parts.extend(counted(used.log_lines_dropped, "log lines over the budget"));
    parts.extend(counted(used.denied, "calls denied"));
    Some(parts.join(", "))
}

/// Where an attempt's messages are stored.
pub fn outputs(entry: &HistoryEntry) -> Option<String> {
    if entry.outputs.is_empty() && entry.sent == 0 {
        return None;
    }
    let again = |duplicate| if duplicate { " (stored by an earlier attempt)" } else { "" };
    let mut places: Vec<_> = entry
        .outputs
        .iter()
        .map(|stored| format!("{}:{}{}", stored.stream, stored.sequence, again(stored.duplicate)))
        .collect();
    places.extend((entry.sent > 0).then(|| format!("{} sent and stored nowhere", entry.sent)));
    let how = if entry.atomic { ", as one batch" } else { "" };
    Some(format!("{}{how}", places.join("  ")))
}

/// A duration with the unit that a person would choose.
pub fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1_000.0).replace(".0 ", " "),
        1_000_000..120_000_000 => format!("{:.1} s", duration.as_secs_f64()).replace(".0 ", " "),
        _ => format!("{} min", duration.as_secs() / 60),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_the_unit_that_a_person_would_choose() {
        let told = [51, 1_000, 1_250, 999_900, 1_000_000, 90_000_000, 600_000_000]
            .map(|micros| duration(Duration::from_micros(micros)));
        assert_eq!(told, ["51 us", "1 ms", "1.2 ms", "999.9 ms", "1 s", "90 s", "10 min"]);
    }
}
