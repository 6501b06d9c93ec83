//! Rules between parts of the configuration: names that meet, subjects that overlap, times that don't fit together.

use super::{
    Mistake,
    checked::{Config, PluginConfig, Retention, StreamConfig, Subscribe},
};
use busway_core::{SubjectFilter, subject::is_reserved};

/// Before the names of streams that belong to the host.
const OWN_STREAMS: &str = "BUSWAY_";

/// Notes every broken rule.
pub(super) fn check(config: &Config, mistakes: &mut Vec<Mistake>) {
    streams(config, mistakes);
    for (index, plugin) in config.plugins.iter().enumerate() {
        let earlier = config.plugins.iter().take(index);
        if let Some(other) = earlier.clone().find(|other| other.name.value == plugin.name.value) {
            let what =
                format!("the name is taken by the plugin at {}:{}", other.file.display(), other.name.line);
            mistakes.push(plugin.mistake(&plugin.name, what));
        }
        subscriptions(config, plugin, mistakes);
    }
    work_queues(config, mistakes);
    credentials(config, mistakes);
}

fn streams(config: &Config, mistakes: &mut Vec<Mistake>) {
    let file = &config.main;
    let mut note = |stream: &StreamConfig, line: usize, what: String| {
        mistakes.push(Mistake { file: file.clone(), line, key: stream.name.key.clone(), what });
    };
    for (index, stream) in config.streams.iter().enumerate() {
        if stream.name.value.starts_with(OWN_STREAMS) {
            let what = format!("streams whose name begins with {OWN_STREAMS} belong to the host");
            note(stream, stream.name.line, what);
        }
        for subject in stream.subjects.iter().filter(|subject| captures_own(&subject.value)) {
            let what = format!(
                "{} overlaps busway.>, where the host keeps its dead letters: narrow it",
                subject.value
            );
            note(stream, subject.line, what);
        }
        for other in config.streams.iter().take(index) {
            if other.name.value == stream.name.value {
                note(
                    stream,
                    stream.name.line,
                    format!("the name is taken by the stream on line {}", other.name.line),
                );
            } else if let Some((ours, theirs)) = overlap(stream, other) {
                let what = format!(
                    "{ours} overlaps {theirs} of stream {}: the broker refuses this",
                    other.name.value
                );
                note(stream, stream.name.line, what);
            }
        }
    }
}

/// Whether a stream would capture the host's own subjects. Those of the broker (`$…`) it would refuse by itself.
fn captures_own(subject: &SubjectFilter) -> bool {
    let own: Option<SubjectFilter> = "busway.>".parse().ok();
    own.is_some_and(|own| own.overlaps(subject))
        || (is_reserved(subject.as_str()) && !subject.as_str().starts_with('$'))
}

fn overlap<'a>(
    left: &'a StreamConfig,
    right: &'a StreamConfig,
) -> Option<(&'a SubjectFilter, &'a SubjectFilter)> {
    let pairs = left.subjects.iter().flat_map(|l| right.subjects.iter().map(move |r| (&l.value, &r.value)));
    pairs.into_iter().find(|(l, r)| l.overlaps(r))
}

fn subscriptions(config: &Config, plugin: &PluginConfig, mistakes: &mut Vec<Mistake>) {
    for (index, entry) in plugin.subscribe.iter().enumerate() {
        if let Some(stream) = entry.stream().filter(|stream| stream.starts_with(OWN_STREAMS)) {
            mistakes.push(plugin.mistake(&entry.place, format!("stream {stream} belongs to the host")));
        }
        if entry.stream().is_none() {
            core_subjects(plugin, entry, mistakes);
        }
        own_filters(plugin, entry, mistakes);
        captured(config, plugin, entry, mistakes);
        for other in plugin.subscribe.iter().take(index) {
            entries(plugin, entry, other, mistakes);
        }
    }
}

fn own_filters(plugin: &PluginConfig, entry: &Subscribe, mistakes: &mut Vec<Mistake>) {
    for (index, filter) in entry.subjects.iter().enumerate() {
        if let Some(other) = entry.subjects.iter().take(index).find(|other| other.overlaps(filter)) {
            let what = format!(
                "{filter} overlaps {other}: an event would be given twice; leave one out or narrow it"
            );
            mistakes.push(plugin.mistake(&entry.place, what));
        }
    }
}

/// What belongs to the broker or the host is not for plugins.
fn core_subjects(plugin: &PluginConfig, entry: &Subscribe, mistakes: &mut Vec<Mistake>) {
    for filter in entry.subjects.iter().filter(|filter| is_reserved(filter.as_str())) {
        let what = format!("{filter} can't be subscribed to: it belongs to the broker or the host");
        mistakes.push(plugin.mistake(&entry.place, what));
    }
}

/// A stream of this file must capture what is asked of it.
fn captured(config: &Config, plugin: &PluginConfig, entry: &Subscribe, mistakes: &mut Vec<Mistake>) {
    let stream = config.streams.iter().find(|stream| entry.stream() == Some(&stream.name.value));
    let Some(stream) = stream.filter(|stream| !stream.subjects.is_empty()) else { return };
    for filter in &entry.subjects {
        if !stream.subjects.iter().any(|subject| subject.value.overlaps(filter)) {
            let what = format!("stream {} captures nothing of {filter}", stream.name.value);
            mistakes.push(plugin.mistake(&entry.place, what));
        }
    }
}

/// Two entries of one plugin on one stream: told apart by name, and without a common event.
fn entries(plugin: &PluginConfig, entry: &Subscribe, other: &Subscribe, mistakes: &mut Vec<Mistake>) {
    if entry.stream() != other.stream() {
        return;
    }
    if entry.name == other.name {
        let whose = entry.stream().map_or("plain subjects".to_owned(), |stream| format!("stream {stream}"));
        let what = format!(
            "another entry subscribes to {whose} too: put their subjects into one, or give each a name = \"…\" of its own"
        );
        mistakes.push(plugin.mistake(&entry.place, what));
    }
    for filter in &entry.subjects {
        if let Some(theirs) = other.subjects.iter().find(|theirs| theirs.overlaps(filter)) {
            let what = format!(
                "{filter} overlaps {theirs} of the entry on line {}: an event would be given twice",
                other.place.line
            );
            mistakes.push(plugin.mistake(&entry.place, what));
        }
    }
}

/// A work queue gives each event to one consumer, so two plugins can't both have it.
fn work_queues(config: &Config, mistakes: &mut Vec<Mistake>) {
    let queues = config.streams.iter().filter(|stream| stream.retention == Retention::WorkQueue);
    for queue in queues {
        let entries: Vec<_> = config
            .plugins
            .iter()
            .flat_map(|plugin| plugin.subscribe.iter().map(move |entry| (plugin, entry)))
            .filter(|(_, entry)| entry.stream() == Some(&queue.name.value))
            .collect();
        for (index, (plugin, entry)) in entries.iter().enumerate() {
            let shared = entries.iter().take(index).find(|(other, theirs)| {
                other.name.value != plugin.name.value
                    && entry
                        .subjects
                        .iter()
                        .any(|ours| theirs.subjects.iter().any(|filter| filter.overlaps(ours)))
            });
            if let Some((other, _)) = shared {
                let what = format!(
                    "plugin {} takes some of these events from work queue {} already, and a work queue gives each to one only: narrow the subjects, or use retention = \"limits\"",
                    other.name.value, queue.name.value
                );
                mistakes.push(plugin.mistake(&entry.place, what));
            }
        }
    }
}

fn credentials(config: &Config, mistakes: &mut Vec<Mistake>) {
    let nats = &config.nats;
    let mut note = |key: &str, what: &str| {
        let (file, key, what) = (config.main.clone(), format!("nats.{key}"), what.to_owned());
        mistakes.push(Mistake { file, line: 0, key, what });
    };
    if nats.user.is_some() != nats.password.is_some() {
        note("user", "`user` and `password` go together");
    }
    if nats.cert.is_some() != nats.key.is_some() {
        note("cert", "`cert` and `key` go together");
    }
    let ways = [nats.user.is_some(), nats.token.is_some(), nats.creds.is_some(), nats.nkey.is_some()];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        note("user", "choose one of user/password, token, creds and nkey");
    }
    let any = ways.contains(&true) || nats.ca.is_some() || nats.cert.is_some() || nats.tls_first;
    if nats.urls.is_empty() && any {
        note(
            "url",
            "credentials and TLS need a `url`: without one a private server is started, which makes its own",
        );
    }
}
