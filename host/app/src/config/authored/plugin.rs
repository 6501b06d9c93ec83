//! A plugin: what it is, what it may use, what it may do.

use super::{
    retry::{breaker, retry},
    subscribe::subscriptions,
};
use crate::config::{
    checked::PluginConfig,
    reader::{Located, Section},
};
use busway_core::{AckPolicy, Limits, SubjectFilter, subject::is_reserved};
use std::{path::PathBuf, time::Duration};

/// A plugin, where name, source and what it subscribes to can be read.
pub(super) fn plugin(plugin: &Section<'_>, file: PathBuf) -> Option<PluginConfig> {
    let name = required(plugin, "name", plugin.parsed("name"));
    let source = required(plugin, "source", plugin.text("source"));
    let (grants, ack) = (grants(plugin), ack_policy(plugin));
    let subscribe = subscriptions(plugin);
    let (limits, (retry, park_after), breaker) = (limits(plugin), retry(plugin), breaker(plugin));
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
        park_after,
        breaker,
        ack,
        publish: grants.publish,
        publish_core: grants.publish_core,
        request: grants.request,
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

/// What a plugin may do.
#[derive(Default)]
struct Granted {
    publish: Vec<Located<SubjectFilter>>,
    publish_core: Vec<Located<SubjectFilter>>,
    request: Vec<Located<SubjectFilter>>,
}

fn grants(plugin: &Section<'_>) -> Granted {
    let Some(grants) = plugin.section("grants") else { return Granted::default() };
    let granted = Granted {
        publish: subjects(&grants, "publish"),
        publish_core: subjects(&grants, "publish-core"),
        request: subjects(&grants, "request"),
    };
    for key in ["kv", "http", "secrets"] {
        if grants.was_given(key) {
            let what = "not offered by this version: leave it out";
            grants.document().refuse(&grants.place_of(key), what);
        }
    }
    grants.finish();
    granted
}

fn subjects(grants: &Section<'_>, key: &'static str) -> Vec<Located<SubjectFilter>> {
    let filters: Vec<Located<SubjectFilter>> = grants.all_parsed(key).unwrap_or_default();
    for filter in filters.iter().filter(|filter| is_reserved(filter.value.as_str())) {
        let what = format!("{} can't be granted: it belongs to the broker or the host", filter.value);
        grants.document().refuse(filter, what);
    }
    filters
}
