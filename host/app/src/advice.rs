//! What is not wrong in a configuration and should be known: times and limits that don't fit each other.
//!
//! Everything here follows from the files alone. What only a broker can tell is `busway doctor`'s.

use crate::config::{Config, PluginConfig, StreamConfig, Subscribe};
use busway_core::{SubjectFilter, units::write_duration};
use std::time::Duration;

/// Everything to be known about one plugin.
pub fn plugin(config: &Config, plugin: &PluginConfig) -> Vec<String> {
    let mut advice = Vec::new();
    outputs(config, plugin, &mut advice);
    times(config, plugin, &mut advice);
    for entry in &plugin.subscribe {
        subscription(config, plugin, entry, &mut advice);
    }
    advice
}

/// Streams of the file that store what is published to these subjects.
fn storing<'c>(config: &'c Config, filter: &'c SubjectFilter) -> impl Iterator<Item = &'c StreamConfig> + 'c {
    let stores = move |stream: &&StreamConfig| stream.subjects.iter().any(|own| own.value.overlaps(filter));
    config.streams.iter().filter(stores)
}

fn outputs(config: &Config, plugin: &PluginConfig, advice: &mut Vec<String>) {
    let span = plugin.retry.span();
    for filter in plugin.publish.iter().map(|filter| &filter.value) {
        let mut streams = storing(config, filter).peekable();
        if streams.peek().is_none() {
            advice.push(format!(
                "no [[stream]] of this file captures {filter}: unless the broker has one, events that publish there fail as unroutable"
            ));
        }
        for stream in streams.filter(|stream| stream.duplicate_window < span) {
            advice.push(format!(
                "stream {} recognises repeated outputs for {}, and this plugin's retries may take {}: an output that was stored before a late retry would be stored again; lengthen `duplicate_window`",
                stream.name.value,
                time(stream.duplicate_window),
                time(span)
            ));
        }
    }
    for filter in plugin.publish_core.iter().map(|filter| &filter.value) {
        for stream in storing(config, filter) {
            advice.push(format!(
                "`publish-core` grants {filter}, which stream {} stores: such messages are sent once and nobody waits until they are stored; grant it as `publish`",
                stream.name.value
            ));
        }
    }
    for filter in plugin.request.iter().map(|filter| &filter.value) {
        for stream in storing(config, filter) {
            advice.push(format!(
                "`request` grants {filter}, which stream {} stores: requests there are denied, because they would be stored at once and not undone",
                stream.name.value
            ));
        }
    }
}

fn times(config: &Config, plugin: &PluginConfig, advice: &mut Vec<String>) {
    let (timeout, ack_wait, span) = (plugin.limits.timeout, config.host.ack_wait, plugin.retry.span());
    if timeout > ack_wait.mul_f64(0.9) {
        advice.push(format!(
            "a run may take {}, and the broker waits {} for word of an event: if no progress report gets through for so long, the run is cancelled and the event given again; lengthen `host.ack_wait`",
            time(timeout),
            time(ack_wait)
        ));
    }
    if timeout > config.host.drain {
        advice.push(format!(
            "a run may take {}, and a host that is told to stop waits {}: it may be abandoned and run again elsewhere; lengthen `host.drain`",
            time(timeout),
            time(config.host.drain)
        ));
    }
    if let Some(age) = plugin.retry.age_max.filter(|age| *age < span) {
        advice.push(format!(
            "events expire after {}, before their attempts are spent (up to {}): lengthen `retry.max_age` or shorten `retry.backoff`",
            time(age),
            time(span)
        ));
    }
}

fn subscription(config: &Config, plugin: &PluginConfig, entry: &Subscribe, advice: &mut Vec<String>) {
    let span = plugin.retry.span();
    if let Some(dedup) = entry.dedup.as_ref().filter(|dedup| dedup.ttl < span) {
        advice.push(format!(
            "a repeated input is recognised for {}, and this plugin's retries may take {}: lengthen `dedup.ttl`",
            time(dedup.ttl),
            time(span)
        ));
    }
    let Some(name) = entry.stream() else {
        for filter in &entry.subjects {
            for stream in storing(config, filter) {
                advice.push(format!(
                    "{filter} is stored by stream {}, and this subscription takes it at most once: write stream = \"{0}\" to lose nothing",
                    stream.name.value
                ));
            }
        }
        return;
    };
    let stream = config.streams.iter().find(|stream| stream.name.value == name);
    if let Some(age) = stream.and_then(|stream| stream.max_age).filter(|age| *age < span) {
        advice.push(format!(
            "stream {name} drops events after {}, and this plugin's retries may take {}: an event may vanish while it waits; lengthen `max_age`",
            time(age),
            time(span)
        ));
    }
}

/// A time as people say it: whole hours or minutes where it is long.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs().max(1);
    let whole = match seconds {
        7_200.. => seconds.div_ceil(3_600) * 3_600,
        300.. => seconds.div_ceil(60) * 60,
        _ => seconds,
    };
    write_duration(Duration::from_secs(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const STREAMS: &str = "[host]\nack_wait = \"30s\"\n[[stream]]\nname = \"ORDERS\"\nsubjects = [\"orders.>\"]\n[[stream]]\nname = \"OUT\"\nsubjects = [\"out.>\"]\n";

    /// The advice about a plugin with these lines.
    fn advice(lines: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("busway.toml");
        let start = "[[plugin]]\nname = \"p\"\nsource = \"p.wasm\"\n";
        let subscribe = match lines.contains("subscribe") {
            true => "",
            false => "subscribe = [{ stream = \"ORDERS\", subjects = [\"orders.>\"] }]\n",
        };
        std::fs::write(&file, format!("{STREAMS}{start}{subscribe}{lines}")).unwrap();
        let config = config::load(&file).unwrap();
        plugin(&config, config.plugins.first().unwrap())
    }

    #[test]
    fn the_defaults_need_no_advice() {
        assert_eq!(advice("grants = { publish = [\"out.a\"] }"), [] as [String; 0]);
    }

    #[test]
    fn each_pair_that_does_not_fit_is_told_with_its_mend() {
        let long = "retry = { attempts = 20, backoff = \"1h\" }";
        let table = [
            ("grants = { publish = [\"nowhere.a\"] }".to_owned(), "no [[stream]] of this file captures nowhere.a"),
            (format!("{long}\ngrants = {{ publish = [\"out.a\"] }}"), "lengthen `duplicate_window`"),
            ("grants = { publish-core = [\"out.a\"] }".to_owned(), "grant it as `publish`"),
            ("grants = { request = [\"out.a\"] }".to_owned(), "requests there are denied"),
            ("limits = { timeout = \"1m\" }".to_owned(), "lengthen `host.ack_wait`"),
            ("limits = { timeout = \"26s\" }".to_owned(), "lengthen `host.drain`"),
            ("retry = { max_age = \"1m\" }".to_owned(), "lengthen `retry.max_age`"),
            (
                "subscribe = [{ stream = \"ORDERS\", subjects = [\"orders.>\"], dedup = { key = \"message-id\", ttl = \"1m\" } }]"
                    .to_owned(),
                "lengthen `dedup.ttl`",
            ),
            ("subscribe = [{ subjects = [\"orders.a\"] }]".to_owned(), "write stream = \"ORDERS\" to lose nothing"),
        ];
        for (lines, expected) in table {
            let found = advice(&lines);
            assert!(found.iter().any(|advice| advice.contains(expected)), "{lines}\n{found:#?}");
        }
    }
}
