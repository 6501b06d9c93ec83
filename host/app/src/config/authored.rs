//! The files as people write them: which keys there are, what each may hold, and its default.

use super::{
    checked::{
        Config, Discard, NatsSettings, PluginConfig, Retention, SecretSource, Storage, StreamConfig,
        Subscribe,
    },
    reader::{Located, Section},
};
use busway_core::{
    AckPolicy, Backoff, Limits, RetryPolicy, SubjectFilter, subject::is_reserved, units::parse_duration,
};
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
        config.plugins.extend(plugin_section(&plugin, file));
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
    if let Some(state) = host.text("state") {
        config.host.state = config.folder.join(state.value);
    }
}

fn stream_section(stream: &Section<'_>) -> Option<StreamConfig> {
    let retentions = [
        ("limits", Retention::Limits),
        ("work-queue", Retention::WorkQueue),
        ("interest", Retention::Interest),
    ];
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
            .map_or(Duration::from_secs(600), |window| duration_within(stream, &window, "2m", "1h")),
        replicas: stream.count("replicas").map_or(1, |replicas| within(stream, &replicas, 1..=5)),
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

fn plugin_section(plugin: &Section<'_>, file: PathBuf) -> Option<PluginConfig> {
    let name = required(plugin, "name", plugin.parsed("name"));
    let source = required(plugin, "source", plugin.text("source"));
    let (publish, ack) = (grants(plugin), ack_policy(plugin));
    let subscribe = subscriptions(plugin);
    let (limits, retry) = (limits(plugin), retry(plugin));
    isolation(plugin);
    let digest = plugin.parsed("digest");
    let config = plugin.section("config").map(|config| config.free_texts()).unwrap_or_default();
    let source = source?;
    Some(PluginConfig {
        name: name?,
        source: source.with(PathBuf::from(&source.value)),
        digest,
        subscribe,
        limits,
        retry,
        ack,
        publish,
        config: config.into_iter().map(|(key, text, place)| (key, place.with(text))).collect(),
        file,
    })
}

fn required<T>(section: &Section<'_>, key: &str, value: Option<Located<T>>) -> Option<Located<T>> {
    if value.is_none() && !section.was_given(key) {
        section.document().refuse(&section.place(), format!("`{key}` is missing"));
    }
    value
}

fn isolation(plugin: &Section<'_>) {
    let Some(isolation) = plugin.text("isolation") else { return };
    if isolation.value != "fresh" {
        let what =
            format!("{:?} is not offered by this version: leave it out, or write \"fresh\"", isolation.value);
        plugin.document().refuse(&isolation, what);
    }
}

fn ack_policy(plugin: &Section<'_>) -> AckPolicy {
    let choices = [("fast", AckPolicy::Fast), ("confirmed", AckPolicy::Confirmed)];
    plugin.choice("ack", &choices).map_or(AckPolicy::default(), |choice| choice.value)
}

fn subscriptions(plugin: &Section<'_>) -> Vec<Subscribe> {
    let entries = plugin.sections("subscribe");
    if entries.is_empty() && !plugin.was_given("subscribe") {
        let what =
            "`subscribe` is missing: write subscribe = [{ stream = \"ORDERS\", subjects = [\"orders.>\"] }]";
        plugin.document().refuse(&plugin.place(), what);
    }
    entries.iter().filter_map(subscription).collect()
}

fn subscription(entry: &Section<'_>) -> Option<Subscribe> {
    let name = entry.parsed::<busway_core::PluginName>("name").map(|name| name.value.as_str().to_owned());
    let subjects: Option<Vec<Located<SubjectFilter>>> = entry.all_parsed("subjects");
    if !entry.was_given("stream") {
        let what =
            "`stream` is missing: this version takes events from streams only, not from plain subjects";
        entry.document().refuse(&entry.place(), what);
        entry.finish();
        return None;
    }
    let stream = stream_name(entry, "stream");
    entry.finish();
    let subjects = match subjects {
        Some(subjects) if !subjects.is_empty() => subjects.into_iter().map(|subject| subject.value).collect(),
        _ => {
            let what = "`subjects` is missing: say which of the stream's subjects, such as [\"orders.>\"]";
            if entry.names_nothing("subjects") {
                entry.document().refuse(&entry.place(), what);
            }
            return None;
        }
    };
    Some(Subscribe { place: entry.place(), name, stream: stream?.value, subjects })
}

fn limits(plugin: &Section<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(section) = plugin.section("limits") else { return limits };
    let set = |target: &mut Duration, value: Option<Located<Duration>>| {
        if let Some(value) = value {
            *target = value.value;
        }
    };
    set(&mut limits.timeout, section.duration("timeout"));
    set(&mut limits.cpu, section.duration("cpu"));
    if let Some(memory) = section.size("memory") {
        limits.memory = memory.value;
    }
    if let Some(bytes) = section.size("publish_bytes") {
        limits.publish_bytes = bytes.value;
    }
    for (key, target) in [
        ("concurrency", &mut limits.concurrency),
        ("publishes", &mut limits.publishes),
        ("log_lines", &mut limits.log_lines),
    ] {
        if let Some(count) = section.count(key) {
            *target = count.value;
        }
    }
    for wrong in limits.out_of_range() {
        let place = section.place_of(wrong.key);
        section.document().refuse(&place, format!("must be between {} and {}", wrong.least, wrong.most));
    }
    section.finish();
    limits
}

fn retry(plugin: &Section<'_>) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    let Some(section) = plugin.section("retry") else { return policy };
    if let Some(attempts) = section.count("attempts") {
        policy.attempts = within(&section, &attempts, 1..=100);
    }
    if let Some(backoff) = section.texts("backoff") {
        let waits = backoff.iter().filter_map(|wait| backoff_wait(&section, wait)).collect();
        policy.backoff = Backoff::List(waits);
        if backoff.is_empty() {
            section
                .document()
                .refuse(&section.place_of("backoff"), "name at least one wait, such as [\"1s\"]");
        }
    }
    if let Some(jitter) = section.number("jitter") {
        if !(0.0..=1.0).contains(&jitter.value) {
            section.document().refuse(&jitter, "must be between 0 and 1");
        }
        policy.jitter = jitter.value;
    }
    section.finish();
    policy
}

fn backoff_wait(section: &Section<'_>, wait: &Located<String>) -> Option<Duration> {
    match parse_duration(&wait.value) {
        Ok(duration) => Some(duration_within(section, &wait.with(duration), "10ms", "24h")),
        Err(why) => {
            section.document().refuse(wait, why);
            None
        }
    }
}

fn grants(plugin: &Section<'_>) -> Vec<Located<SubjectFilter>> {
    let Some(grants) = plugin.section("grants") else { return Vec::new() };
    let publish: Vec<Located<SubjectFilter>> = grants.all_parsed("publish").unwrap_or_default();
    for filter in publish.iter().filter(|filter| is_reserved(filter.value.as_str())) {
        let what = format!("{} can't be granted: it belongs to the broker or the host", filter.value);
        grants.document().refuse(filter, what);
    }
    for key in ["publish-core", "request", "kv", "http", "secrets"] {
        if grants.was_given(key) {
            let what = "not offered by this version: leave it out";
            grants.document().refuse(&grants.place_of(key), what);
        }
    }
    grants.finish();
    publish
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
