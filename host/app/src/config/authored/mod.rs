//! The files as people write them: which keys there are, what each may hold, and its default.
//!
//! Here: the broker, the host, streams, what the host keeps of its own. [`plugin`], [`subscribe`] and [`retry`] read the
//! parts of a plugin.

mod plugin;
mod retry;
mod subscribe;

use super::{
    checked::{
        Batches, Config, Discard, History, NatsSettings, Retention, SecretSource, Storage, StreamConfig,
    },
    reader::{Located, Section},
};
use busway_core::units::{ByteSize, parse_duration};
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// The main file.
pub(super) fn main_file(top: &Section<'_>, config: &mut Config) {
    if let Some(nats) = top.section("nats") {
        config.nats = nats_settings(&nats);
        nats.finish();
    }
    if let Some(admin) = top.section("admin") {
        if let Some(listen) = admin.parsed("listen") {
            config.admin.listen = listen.value;
        }
        admin.finish();
    }
    if let Some(host) = top.section("host") {
        host_section(&host, config);
        host.finish();
    }
    if let Some(history) = top.section("history") {
        config.history = history_section(&history);
        history.finish();
    }
    if let Some(letters) = top.section("dead_letters") {
        if let Some(size) = letters.size("max_bytes") {
            config.dead_letters_max = size_within(&letters, &size, "1MiB", "1024GiB");
        }
        letters.finish();
    }
    for stream in top.sections("stream") {
        config.streams.extend(stream_section(&stream));
        stream.finish();
    }
    plugins_file(top, config);
}

/// A file in `plugins.d`: plugins only.
pub(super) fn plugins_file(top: &Section<'_>, config: &mut Config) {
    for plugin in top.sections("plugin") {
        let file = config.file.clone();
        config.plugins.extend(plugin::plugin(&plugin, file));
        plugin.finish();
    }
}

fn nats_settings(nats: &Section<'_>) -> NatsSettings {
    let path = |key| nats.text(key).map(|text| PathBuf::from(text.value));
    NatsSettings {
        urls: nats.texts("url").unwrap_or_default().into_iter().map(|url| url.value).collect(),
        user: nats.text("user").map(|user| user.value),
        password: secret(nats, "password"),
        token: secret(nats, "token"),
        creds: path("creds"),
        nkey: path("nkey"),
        ca: path("ca"),
        cert: path("cert"),
        key: path("key"),
        tls_first: nats.flag("tls_first").is_some_and(|flag| flag.value),
    }
}

/// `{ file = "…" }` or `{ env = "…" }`.
fn secret(section: &Section<'_>, key: &'static str) -> Option<SecretSource> {
    let source = section.section(key)?;
    let (file, env) = (source.text("file"), source.text("env"));
    source.finish();
    match (file, env) {
        (Some(file), None) => Some(SecretSource::File(file.value.into())),
        (None, Some(env)) => Some(SecretSource::Environment(env.value)),
        _ => {
            let what = "a secret is written { file = \"…\" } or { env = \"…\" }, never in the file itself";
            section.document().refuse(&source.place(), what);
            None
        }
    }
}

fn host_section(host: &Section<'_>, config: &mut Config) {
    config.host.name = host.text("name").map(|name| name.value);
    if let Some(concurrency) = host.count("concurrency") {
        config.host.concurrency = within(host, &concurrency, 1..=1024);
    }
    if let Some(drain) = host.duration("drain") {
        config.host.drain = duration_within(host, &drain, "1s", "10m");
    }
    if let Some(ack_wait) = host.duration("ack_wait") {
        config.host.ack_wait = duration_within(host, &ack_wait, "5s", "10m");
    }
    if let Some(replicas) = host.count("replicas") {
        config.host.replicas = u8::try_from(within(host, &replicas, 1..=5)).unwrap_or(1);
    }
    if let Some(state) = host.text("state") {
        config.host.state = config.folder.join(state.value);
    }
}

fn history_section(section: &Section<'_>) -> History {
    let mut history = History::default();
    if let Some(enabled) = section.flag("enabled") {
        history.enabled = enabled.value;
    }
    if let Some(age) = section.duration("max_age") {
        history.max_age = duration_within(section, &age, "1m", "365d");
    }
    if let Some(size) = section.size("max_bytes") {
        history.max_bytes = size_within(section, &size, "1MiB", "1024GiB");
    }
    history
}

fn stream_section(stream: &Section<'_>) -> Option<StreamConfig> {
    let retentions = [
        ("limits", Retention::Limits),
        ("work-queue", Retention::WorkQueue),
        ("interest", Retention::Interest),
    ];
    let batches =
        [("where-cheap", Batches::WhereCheap), ("always", Batches::Always), ("never", Batches::Never)];
    let discards = [("old", Discard::Old), ("new", Discard::New)];
    let name = stream_name(stream, "name");
    let spec = StreamConfig {
        subjects: stream.all_parsed("subjects").unwrap_or_default(),
        retention: stream.choice("retention", &retentions).map_or(Retention::Limits, |choice| choice.value),
        storage: stream
            .choice("storage", &[("file", Storage::File), ("memory", Storage::Memory)])
            .map_or(Storage::File, |choice| choice.value),
        discard: stream.choice("discard", &discards).map_or(Discard::Old, |choice| choice.value),
        max_bytes: stream.size("max_bytes").map(|size| size.value),
        max_messages: stream.count("max_messages").map(|count| count.value),
        max_age: stream.duration("max_age").map(|age| age.value),
        duplicate_window: stream
            .duration("duplicate_window")
            .map_or(Duration::from_secs(20 * 60), |window| duration_within(stream, &window, "2m", "1h")),
        replicas: stream.count("replicas").map_or(1, |replicas| within(stream, &replicas, 1..=5)),
        batches: stream.choice("batches", &batches).map_or(Batches::WhereCheap, |choice| choice.value),
        managed: stream.flag("managed").is_none_or(|flag| flag.value),
        // Last: a key that was not read would be told as unknown.
        name: name?,
    };
    if stream.names_nothing("subjects") && spec.managed {
        stream.document().refuse(&stream.place(), "`subjects` is missing: say what the stream captures");
    }
    Some(spec)
}

/// A stream's name as the broker takes it.
fn stream_name(section: &Section<'_>, key: &'static str) -> Option<Located<String>> {
    let Some(name) = section.text(key) else {
        section.document().refuse(&section.place(), format!("`{key}` is missing"));
        return None;
    };
    let valid = (1..=255).contains(&name.value.len())
        && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !valid {
        let what =
            format!("{:?} is not a stream's name: letters, digits, `-` and `_`, no wildcards", name.value);
        section.document().refuse(&name, what);
        return None;
    }
    Some(name)
}

fn within(section: &Section<'_>, value: &Located<u32>, range: RangeInclusive<u32>) -> u32 {
    if !range.contains(&value.value) {
        section.document().refuse(value, format!("must be between {} and {}", range.start(), range.end()));
    }
    value.value
}

fn duration_within(section: &Section<'_>, value: &Located<Duration>, least: &str, most: &str) -> Duration {
    // The bounds are literals of this file; one that can't be read would bound nothing, and a test covers each.
    let inside = parse_duration(least).is_ok_and(|least| value.value >= least)
        && parse_duration(most).is_ok_and(|most| value.value <= most);
    if !inside {
        section.document().refuse(value, format!("must be between {least} and {most}"));
    }
    value.value
}

fn size_within(section: &Section<'_>, value: &Located<ByteSize>, least: &str, most: &str) -> ByteSize {
    let bound = |text: &str| text.parse::<ByteSize>();
    let inside = bound(least).is_ok_and(|least| value.value.0 >= least.0)
        && bound(most).is_ok_and(|most| value.value.0 <= most.0);
    if !inside {
        section.document().refuse(value, format!("must be between {least} and {most}"));
    }
    value.value
}
