//! One line per rule: what is written, and what is said about it.

use super::{Config, Refused, load};
use std::{fs, time::Duration};

const STREAM: &str = "[[stream]]\nname = \"ORDERS\"\nsubjects = [\"orders.>\"]\n";

fn plugin(lines: &str) -> String {
    let start = "[[plugin]]\nname = \"p\"\nsource = \"p.wasm\"\nsubscribe = [{ stream = \"ORDERS\", subjects = [\"orders.>\"] }]\n";
    format!("{STREAM}{start}{lines}")
}

fn loaded(text: &str) -> Result<Config, Refused> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("busway.toml");
    fs::write(&file, text).unwrap();
    load(&file)
}

/// The mistakes without the folder.
fn mistakes(text: &str) -> Vec<String> {
    let Err(Refused(mistakes)) = loaded(text) else { return Vec::new() };
    let name =
        |line: String| line.split_once("busway.toml").map_or(line.clone(), |(_, rest)| rest.to_owned());
    mistakes.iter().map(|mistake| name(mistake.to_string())).collect()
}

#[test]
fn nothing_written_means_the_defaults() {
    let config = loaded("").unwrap();
    assert!(config.nats.urls.is_empty() && config.plugins.is_empty());
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9321");
    assert_eq!((config.host.concurrency, config.host.drain), (64, Duration::from_secs(25)));
    let config = loaded(&plugin("")).unwrap();
    let plugin = config.plugins.first().unwrap();
    assert_eq!((plugin.limits, plugin.retry.clone()), Default::default());
}

#[test]
fn the_example_in_the_reference_is_a_configuration() {
    let example = include_str!("../../../../docs/busway.example.toml");
    assert_eq!(mistakes(example), [] as [String; 0]);
}

#[test]
fn each_bad_value_is_refused_with_its_line_key_and_mend() {
    let table: &[(&str, &str)] = &[
        ("nope = 1", ":1: nope: unknown key; known here:"),
        ("[nats]\nurll = \"x\"", ":2: nats.urll: unknown key; did you mean `url`?"),
        ("[nats]\npassword = \"geheim\"", ":2: nats.password: must be a table"),
        ("[nats]\nurl = \"x\"\nuser = \"u\"", ": nats.user: `user` and `password` go together"),
        ("[nats]\nca = \"ca.pem\"", ": nats.url: credentials and TLS need a `url`"),
        ("[admin]\nlisten = \"9321\"", ":2: admin.listen: \"9321\": invalid socket address"),
        ("[host]\ndrain = \"5\"", ":2: host.drain: \"5\" is not a duration"),
        ("[host]\nack_wait = \"1s\"", ":2: host.ack_wait: must be between 5s and 10m"),
        ("[[stream]]\nsubjects = [\"a\"]", ":1: stream[0]: `name` is missing"),
        (
            "[[stream]]\nname = \"A*\"\nsubjects = [\"a\"]",
            ":2: stream[0].name: \"A*\" is not a stream's name",
        ),
        (
            "[[stream]]\nname = \"A\"\nsubjects = [\"a.>.b\"]",
            ":3: stream[0].subjects[0]: \"a.>.b\": `*` must be",
        ),
        ("[[stream]]\nname = \"A\"\nsubjects = [\">\"]", "> overlaps busway.>"),
        ("[[stream]]\nname = \"A\"\nsubjects = [\"busway.dlq.>\"]", "busway.dlq.> overlaps busway.>"),
        ("[[stream]]\nname = \"BUSWAY_DLQ\"\nsubjects = [\"a\"]", "belong to the host"),
        (
            "[[stream]]\nname = \"A\"\nsubjects = [\"a\"]\nretention = \"forever\"",
            "\"forever\" is not one of \"limits\"",
        ),
        ("[[stream]]\nname = \"A\"\nsubjects = [\"a\"]\nreplicas = 6", "must be between 1 and 5"),
    ];
    for (text, expected) in table {
        let found = mistakes(text);
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{text}\n{found:#?}");
    }
}

#[test]
fn each_bad_value_of_a_plugin_is_refused() {
    let table: &[(&str, &str)] = &[
        ("limits = { timeout = \"5\" }", ":8: plugin[0].limits.timeout: \"5\" is not a duration"),
        ("limits = { timeout = \"1ms\" }", "must be between 10ms and 5m"),
        ("limits = { memory = \"64MB\" }", "\"64MB\" is not a size"),
        ("limits = { memory = \"1GiB\" }", "must be between 1MiB and 512MiB"),
        ("limits = { concurrency = 65 }", "must be between 1 and 64"),
        ("retry = { attempts = 0 }", "must be between 1 and 100"),
        ("retry = { backoff = [] }", "name at least one wait"),
        ("retry = { backoff = [\"1\"] }", "plugin[0].retry.backoff[0]: \"1\" is not a duration"),
        ("retry = { backoff = [\"0s\"] }", "must be between 10ms and 24h"),
        ("retry = { jitter = 2 }", "must be between 0 and 1"),
        ("isolation = \"reuse\"", "\"reuse\" is not offered by this version"),
        ("digest = \"sha256:12\"", "a digest is written"),
        ("ack = \"never\"", "\"never\" is not one of \"fast\", \"confirmed\""),
        ("grants = { publish = [\"$JS.>\"] }", "$JS.> can't be granted"),
        ("grants = { publish = [\"_INBOX.>\"] }", "_INBOX.> can't be granted"),
        ("grants = { publish = [\"a.*b\"] }", "must be a whole token"),
        ("grants = { kv = [] }", "plugin[0].grants.kv: not offered by this version"),
        ("grants = { publsh = [] }", "did you mean `publish`?"),
        ("[plugin.config]\nx = 1", "plugin[0].config.x: must be text"),
    ];
    for (lines, expected) in table {
        let found = mistakes(&plugin(lines));
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{lines}\n{found:#?}");
    }
}

#[test]
fn names_and_subjects_that_meet_are_refused() {
    let two = |subscribe: &str| {
        format!("{STREAM}[[plugin]]\nname = \"p\"\nsource = \"p.wasm\"\nsubscribe = [{subscribe}]\n")
    };
    let entry =
        |subjects: &str, rest: &str| format!("{{ stream = \"ORDERS\", subjects = [{subjects}]{rest} }}");
    let queue = "[[stream]]\nname = \"Q\"\nsubjects = [\"q.>\"]\nretention = \"work-queue\"\n";
    let taker = |name: &str| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nsource = \"p.wasm\"\nsubscribe = [{{ stream = \"Q\", subjects = [\"q.>\"] }}]\n"
        )
    };
    let again = plugin("")
        + "[[plugin]]\nname = \"p\"\nsource = \"q.wasm\"\nsubscribe = [{ stream = \"ORDERS\", subjects = [\"orders.>\"] }]\n";
    let table = [
        (again, "the name is taken by the plugin at"),
        (two(&entry("\"orders.*\", \"orders.a\"", "")), "orders.a overlaps orders.*"),
        (
            two(&format!("{}, {}", entry("\"orders.a\"", ""), entry("\"orders.b\"", ""))),
            "another entry subscribes to stream ORDERS too",
        ),
        (
            two(&format!(
                "{}, {}",
                entry("\"orders.>\"", ", name = \"x\""),
                entry("\"orders.b\"", ", name = \"y\"")
            )),
            "orders.b overlaps orders.>",
        ),
        (two(&entry("\"payments.>\"", "")), "stream ORDERS captures nothing of payments.>"),
        (two("{ subjects = [\"orders.>\"] }"), "`stream` is missing"),
        (two("{ stream = \"ORDERS\" }"), "`subjects` is missing"),
        (two(&entry("", "")), "`subjects` is missing"),
        (
            two("{ stream = \"BUSWAY_DLQ\", subjects = [\"busway.>\"] }"),
            "stream BUSWAY_DLQ belongs to the host",
        ),
        (
            format!("{queue}{}{}", taker("a"), taker("b")),
            "plugin a takes some of these events from work queue Q already",
        ),
        (
            format!("{STREAM}{}", STREAM.replace("ORDERS", "OTHER")),
            "orders.> overlaps orders.> of stream ORDERS",
        ),
    ];
    for (text, expected) in table {
        let found = mistakes(&text);
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{text}\n{found:#?}");
    }
}

#[test]
fn a_value_that_is_wrong_makes_no_further_mistakes() {
    for text in [
        "[[stream]]\nname = \"A*\"\nsubjects = [\"a\"]\nretention = \"limits\"",
        "[[stream]]\nname = \"A\"\nsubjects = [\"a.>.b\"]",
        "[[stream]]\nname = \"A\"\nsubjects = []",
    ] {
        assert_eq!(mistakes(text).len(), 1, "{text}\n{:#?}", mistakes(text));
    }
}

#[test]
fn a_broken_file_tells_all_of_its_mistakes() {
    let text = "nope = 1\n[host]\ndrain = 5\n[[plugin]]\nname = \"A\"\n";
    let found = mistakes(text);
    assert_eq!(found.len(), 5, "{found:#?}");
}
