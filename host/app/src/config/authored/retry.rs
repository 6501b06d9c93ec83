//! `retry` and `breaker`: how often and how late, for a plugin and per class of failure.

use super::{duration_within, within};
use crate::config::reader::{Located, Section, Shape};
use busway_core::{
    Backoff, ClassPolicy, FailureClass, RetryPolicy,
    binding::{BreakerPolicy, PARK_AFTER},
    units::parse_duration,
};
use std::time::Duration;

/// The longest wait that can be written.
const WAIT_MAX: &str = "24h";
/// The shortest.
const WAIT_MIN: &str = "10ms";

/// A plugin's policy, and the wait beyond which an event is parked.
pub(super) fn retry(plugin: &Section<'_>) -> (RetryPolicy, Duration) {
    let mut policy = RetryPolicy::default();
    let Some(section) = plugin.section("retry") else { return (policy, PARK_AFTER) };
    if let Some(attempts) = section.count("attempts") {
        policy.attempts = within(&section, &attempts, 1..=100);
    }
    if let Some(backoff) = backoff(&section) {
        policy.backoff = backoff;
    }
    if let Some(jitter) = section.number("jitter") {
        policy.jitter = share(&section, &jitter);
    }
    if let Some(least) = section.duration("after_min") {
        policy.wish_min = duration_within(&section, &least, WAIT_MIN, WAIT_MAX);
    }
    if let Some(most) = section.duration("after_max") {
        policy.wish_max = duration_within(&section, &most, WAIT_MIN, WAIT_MAX);
    }
    if policy.wish_min > policy.wish_max {
        let what = "`after_min` is longer than `after_max` (which is 1h where it is not written)";
        section.document().refuse(&section.place_of("after_min"), what);
    }
    if let Some(age) = section.duration("max_age") {
        policy.age_max = Some(duration_within(&section, &age, "1s", "365d"));
    }
    if let Some(same) = section.count("same_trap") {
        policy.same_trap_max = within(&section, &same, 0..=100);
    }
    let park_after = match section.text("park_after") {
        Some(off) if off.value == "never" => Duration::MAX,
        Some(text) => wait(&section, &text, "1s").unwrap_or(PARK_AFTER),
        None => PARK_AFTER,
    };
    classes(&section, &mut policy);
    section.finish();
    (policy, park_after)
}

fn classes(retry: &Section<'_>, policy: &mut RetryPolicy) {
    let Some(classes) = retry.section("class") else { return };
    for class in FailureClass::ALL {
        let Some(section) = classes.section(class.code()) else { continue };
        if !class.is_retryable() {
            let what = format!("events that end as `{class}` are never tried again: leave it out");
            section.document().refuse(&section.place(), what);
        }
        let attempts = section.count("attempts").map(|attempts| within(&section, &attempts, 1..=100));
        policy.classes.insert(class, ClassPolicy { attempts, backoff: backoff(&section) });
        section.finish();
    }
    classes.finish();
}

/// `"none"`, `"sidekiq"`, `"5s"`, `["1s", "5s"]`, or `{ first = "1s", factor = 2, cap = "10m" }`.
fn backoff(section: &Section<'_>) -> Option<Backoff> {
    const KEY: &str = "backoff";
    match section.shape(KEY)? {
        Shape::Table => exponential(&section.section(KEY)?),
        Shape::Text => {
            let text = section.text(KEY)?;
            match text.value.as_str() {
                "none" => Some(Backoff::None),
                "sidekiq" => Some(Backoff::Sidekiq),
                _ => wait(section, &text, WAIT_MIN).map(Backoff::Fixed),
            }
        }
        Shape::List | Shape::Other => {
            let waits = section.texts(KEY)?;
            if waits.is_empty() {
                let what = "name at least one wait, such as [\"1s\"], or write \"none\"";
                section.document().refuse(&section.place_of(KEY), what);
            }
            Some(Backoff::List(waits.iter().filter_map(|text| wait(section, text, WAIT_MIN)).collect()))
        }
    }
}

fn exponential(section: &Section<'_>) -> Option<Backoff> {
    let bounded = |key, default: Duration| {
        section.duration(key).map_or(default, |wait| duration_within(section, &wait, WAIT_MIN, WAIT_MAX))
    };
    let first = bounded("first", Duration::from_secs(1));
    let cap = bounded("cap", Duration::from_secs(600));
    let factor = section.number("factor");
    section.finish();
    let factor = match factor {
        None => 2.0,
        Some(factor) if (1.0..=100.0).contains(&factor.value) => factor.value,
        Some(factor) => {
            section.document().refuse(&factor, "must be between 1 and 100");
            return None;
        }
    };
    Some(Backoff::Exponential { first, factor, cap })
}

fn wait(section: &Section<'_>, text: &Located<String>, least: &str) -> Option<Duration> {
    match parse_duration(&text.value) {
        Ok(duration) => Some(duration_within(section, &text.with(duration), least, WAIT_MAX)),
        Err(why) => {
            section.document().refuse(text, why);
            None
        }
    }
}

/// When a plugin is left alone for a while.
pub(super) fn breaker(plugin: &Section<'_>) -> BreakerPolicy {
    let mut policy = BreakerPolicy::default();
    let Some(section) = plugin.section("breaker") else { return policy };
    if let Some(calls) = section.count("calls") {
        policy.calls = within(&section, &calls, 0..=100_000);
    }
    if let Some(failures) = section.number("failures") {
        policy.failures = share(&section, &failures);
    }
    for (key, target) in
        [("window", &mut policy.window), ("open", &mut policy.open), ("open_max", &mut policy.open_max)]
    {
        if let Some(time) = section.duration(key) {
            *target = duration_within(&section, &time, "1s", "24h");
        }
    }
    if policy.open > policy.open_max {
        let what = "`open` is longer than `open_max` (which is 10m where it is not written)";
        section.document().refuse(&section.place_of("open"), what);
    }
    section.finish();
    policy
}

fn share(section: &Section<'_>, value: &Located<f64>) -> f64 {
    if !(0.0..=1.0).contains(&value.value) {
        section.document().refuse(value, "must be between 0 and 1");
    }
    value.value
}
