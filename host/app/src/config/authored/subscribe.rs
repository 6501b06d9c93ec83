//! `subscribe`: where a plugin's events come from, whether they wait for each other, and how a repeated one is known.

use super::{duration_within, stream_name, within};
use crate::config::{
    checked::{Origin, Subscribe},
    reader::{Located, Section, Shape},
};
use busway_core::{
    KeySource, PluginName, SubjectFilter,
    binding::{Behind, CoreBuffer, InputDedup, Ordering, Overflow},
};
use std::time::Duration;

/// The entries of one plugin.
pub(super) fn subscriptions(plugin: &Section<'_>) -> Vec<Subscribe> {
    let entries = plugin.sections("subscribe");
    if entries.is_empty() && !plugin.was_given("subscribe") {
        let what =
            "`subscribe` is missing: write subscribe = [{ stream = \"ORDERS\", subjects = [\"orders.>\"] }]";
        plugin.document().refuse(&plugin.place(), what);
    }
    entries.iter().filter_map(subscription).collect()
}

fn subscription(entry: &Section<'_>) -> Option<Subscribe> {
    let name = entry.parsed::<PluginName>("name").map(|name| name.value.as_str().to_owned());
    let subjects: Option<Vec<Located<SubjectFilter>>> = entry.all_parsed("subjects");
    let origin = if entry.was_given("stream") { stream(entry) } else { Some(core(entry)) };
    let (ordering, dedup) = (ordering(entry), dedup(entry));
    entry.finish();
    let subjects = match subjects {
        Some(subjects) if !subjects.is_empty() => subjects.into_iter().map(|subject| subject.value).collect(),
        _ => {
            let what = "`subjects` is missing: say which subjects, such as [\"orders.>\"]";
            if entry.names_nothing("subjects") {
                entry.document().refuse(&entry.place(), what);
            }
            return None;
        }
    };
    Some(Subscribe { place: entry.place(), name, origin: origin?, subjects, ordering, dedup })
}

fn stream(entry: &Section<'_>) -> Option<Origin> {
    for key in ["group", "buffer"] {
        if entry.was_given(key) {
            let what = "belongs to plain subjects: hosts share a stream's events by themselves, and the stream holds them";
            entry.document().refuse(&entry.place_of(key), what);
        }
    }
    Some(Origin::Stream(stream_name(entry, "stream")?.value))
}

fn core(entry: &Section<'_>) -> Origin {
    for key in ["ordering", "dedup"] {
        if entry.was_given(key) {
            let what = "needs a `stream`: plain subjects are given at most once and in no promised order";
            entry.document().refuse(&entry.place_of(key), what);
        }
    }
    let group = entry.text("group").and_then(|group| {
        let valid = (1..=64).contains(&group.value.len())
            && group.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !valid {
            entry.document().refuse(&group, "a group's name has 1 to 64 letters, digits, `-` and `_`");
        }
        valid.then_some(group.value)
    });
    Origin::Core { group, buffer: buffer(entry) }
}

fn buffer(entry: &Section<'_>) -> CoreBuffer {
    let mut buffer = CoreBuffer::default();
    let Some(section) = entry.section("buffer") else { return buffer };
    if let Some(messages) = section.count("messages") {
        buffer.messages_max = within(&section, &messages, 1..=65_536);
    }
    if let Some(bytes) = section.size("bytes") {
        if !(64 << 10..=1 << 30).contains(&bytes.value.0) {
            section.document().refuse(&bytes, "must be between 64KiB and 1GiB");
        }
        buffer.bytes_max = bytes.value.0;
    }
    let policies = [("drop-oldest", Overflow::DropOldest), ("drop-newest", Overflow::DropNewest)];
    if let Some(overflow) = section.choice("overflow", &policies) {
        buffer.overflow = overflow.value;
    }
    section.finish();
    buffer
}

/// A mode that is written as one word.
#[derive(Clone, Copy)]
enum Word {
    Unordered,
    Strict,
}

/// `"unordered"`, `"strict"`, `{ behind = "…" }` for strict with a policy, or `{ key = …, behind = "…" }` per key.
fn ordering(entry: &Section<'_>) -> Ordering {
    const KEY: &str = "ordering";
    let Some(shape) = entry.shape(KEY) else { return Ordering::default() };
    if shape != Shape::Table {
        let word = entry.choice(KEY, &[("unordered", Word::Unordered), ("strict", Word::Strict)]);
        return match word.map(|word| word.value) {
            Some(Word::Strict) => Ordering::Strict { behind: Behind::default() },
            Some(Word::Unordered) | None => Ordering::Unordered,
        };
    }
    let Some(section) = entry.section(KEY) else { return Ordering::default() };
    let policies = [("block", Behind::Block), ("skip-to-dlq", Behind::SkipToDlq)];
    let behind = section.choice("behind", &policies).map_or(Behind::default(), |behind| behind.value);
    let ordering = match section.was_given("key") {
        true => key(&section).map_or(Ordering::Strict { behind }, |key| Ordering::PerKey { key, behind }),
        false => Ordering::Strict { behind },
    };
    section.finish();
    ordering
}

fn dedup(entry: &Section<'_>) -> Option<InputDedup> {
    let section = entry.section("dedup")?;
    if !section.was_given("key") {
        let what = "`key` is missing: write \"message-id\", { header = \"…\" }, { pointer = \"/…\" } or { subject_token = 2 }";
        section.document().refuse(&section.place(), what);
    }
    let key = key(&section);
    let ttl = section
        .duration("ttl")
        .map_or(Duration::from_secs(60 * 60), |ttl| duration_within(&section, &ttl, "1s", "30d"));
    section.finish();
    Some(InputDedup { key: key?, ttl })
}

/// `"message-id"`, or a table with one of `header`, `pointer`, `subject_token`.
fn key(section: &Section<'_>) -> Option<KeySource> {
    const KEY: &str = "key";
    if section.shape(KEY)? != Shape::Table {
        return section.choice(KEY, &[("message-id", ())]).map(|_| KeySource::MessageId);
    }
    let table = section.section(KEY)?;
    let ways = ["header", "pointer", "subject_token"].into_iter().filter(|way| table.was_given(way)).count();
    let (header, pointer, token) =
        (table.text("header"), table.text("pointer"), table.count("subject_token"));
    table.finish();
    let refuse = |what: &str| {
        table.document().refuse(&table.place(), what);
        None
    };
    if ways != 1 {
        return refuse("write one of { header = \"…\" }, { pointer = \"/…\" }, { subject_token = 2 }");
    }
    let source = match (header, pointer, token) {
        (Some(header), ..) => KeySource::header(&header.value),
        (_, Some(pointer), _) => KeySource::pointer(&pointer.value),
        (.., Some(token)) => KeySource::subject_token(token.value),
        // It was of a wrong kind, which is told already.
        (None, None, None) => return None,
    };
    source.map_or_else(|why| refuse(&why.to_string()), Some)
}
