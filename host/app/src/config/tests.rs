//! One line per rule: what is written, and what is said about it.

use super::{Config, Refused, load};
use busway_core::{
    Backoff, ClassPolicy, FailureClass, KeySource,
    binding::{Behind, Ordering},
};
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
        ("[host]\nreplicas = 6", ":2: host.replicas: must be between 1 and 5"),
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
        ("retry = { backoff = \"soon\" }", "plugin[0].retry.backoff: \"soon\" is not a duration"),
        ("retry = { backoff = { first = \"1s\", factor = 0.5 } }", "must be between 1 and 100"),
        ("retry = { backoff = { frist = \"1s\" } }", "did you mean `first`?"),
        ("retry = { after_min = \"2h\" }", "`after_min` is longer than `after_max`"),
        ("retry = { max_age = \"1ms\" }", "must be between 1s and 365d"),
        ("retry = { park_after = \"10ms\" }", "must be between 1s and 24h"),
        ("retry = { class = { timeuot = { attempts = 1 } } }", "did you mean `timeout`?"),
        ("retry = { class = { reject = { attempts = 2 } } }", "are never tried again"),
        ("retry = { class = { trap = { attempts = 0 } } }", "must be between 1 and 100"),
        ("breaker = { failures = 1.5 }", "must be between 0 and 1"),
        ("breaker = { open = \"20m\" }", "`open` is longer than `open_max`"),
        ("isolation = \"reuse\"", "\"reuse\" is not offered by this version"),
        ("digest = \"sha256:12\"", "a digest is written"),
        ("ack = \"never\"", "\"never\" is not one of \"fast\", \"confirmed\""),
        ("grants = { publish = [\"$JS.>\"] }", "$JS.> can't be granted"),
        ("grants = { publish = [\"_INBOX.>\"] }", "_INBOX.> can't be granted"),
        ("grants = { publish = [\"a.*b\"] }", "must be a whole token"),
        ("grants = { publish-core = [\"$SYS.>\"] }", "$SYS.> can't be granted"),
        ("grants = { request = [\"_INBOX.>\"] }", "_INBOX.> can't be granted"),
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
fn every_way_to_write_a_policy_is_read() {
    let first = |lines: &str| loaded(&plugin(lines)).unwrap().plugins.remove(0);
    let seconds = Duration::from_secs;
    let backoff = |text: &str| first(&format!("retry = {{ backoff = {text} }}")).retry.backoff;
    assert_eq!(backoff("\"none\""), Backoff::None);
    assert_eq!(backoff("\"sidekiq\""), Backoff::Sidekiq);
    assert_eq!(backoff("\"7s\""), Backoff::Fixed(seconds(7)));
    assert_eq!(backoff("[\"1s\", \"5s\"]"), Backoff::List(vec![seconds(1), seconds(5)]));
    let exponential = Backoff::Exponential { first: seconds(2), factor: 3.0, cap: seconds(60) };
    assert_eq!(backoff("{ first = \"2s\", factor = 3, cap = \"1m\" }"), exponential);
    let own =
        first("retry = { class = { timeout = { attempts = 2, backoff = \"9s\" } }, park_after = \"never\" }");
    let timeout = ClassPolicy { attempts: Some(2), backoff: Some(Backoff::Fixed(seconds(9))) };
    assert_eq!(own.retry.classes, [(FailureClass::Timeout, timeout)].into());
    assert_eq!(own.park_after, Duration::MAX);
}

#[test]
fn every_way_to_write_an_order_and_a_key_is_read() {
    let entry = |rest: &str| {
        let subscribe = format!("subscribe = [{{ stream = \"ORDERS\", subjects = [\"orders.>\"], {rest} }}]");
        let text = format!("{STREAM}[[plugin]]\nname = \"p\"\nsource = \"p.wasm\"\n{subscribe}\n");
        loaded(&text).unwrap().plugins.remove(0).subscribe.remove(0)
    };
    let (block, skip) = (Behind::Block, Behind::SkipToDlq);
    let table = [
        ("ordering = \"unordered\"", Ordering::Unordered),
        ("ordering = \"strict\"", Ordering::Strict { behind: block }),
        ("ordering = { behind = \"skip-to-dlq\" }", Ordering::Strict { behind: skip }),
        (
            "ordering = { key = { header = \"x-customer\" } }",
            Ordering::PerKey { key: KeySource::Header("x-customer".into()), behind: block },
        ),
        (
            "ordering = { key = { pointer = \"/a/0\" }, behind = \"skip-to-dlq\" }",
            Ordering::PerKey { key: KeySource::pointer("/a/0").unwrap(), behind: skip },
        ),
    ];
    for (text, expected) in table {
        assert_eq!(entry(text).ordering, expected, "{text}");
    }
    let dedup = entry("dedup = { key = { subject_token = 2 }, ttl = \"5m\" }").dedup.unwrap();
    assert_eq!((dedup.key, dedup.ttl), (KeySource::SubjectToken(2), Duration::from_secs(300)));
    assert_eq!(entry("dedup = { key = \"message-id\" }").dedup.unwrap().key, KeySource::MessageId);
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
        (two("{ subjects = [\"$SYS.>\"] }"), "$SYS.> can't be subscribed to"),
        (two("{ subjects = [\"a\"], group = \"a b\" }"), "a group's name has"),
        (two("{ subjects = [\"a\"], buffer = { messages = 0 } }"), "must be between 1 and 65536"),
        (two("{ subjects = [\"a\"], buffer = { overflow = \"block\" } }"), "is not one of \"drop-oldest\""),
        (two("{ subjects = [\"a\"], ordering = \"strict\" }"), "needs a `stream`"),
        (
            two("{ subjects = [\"a\"] }, { subjects = [\"b\"] }"),
            "another entry subscribes to plain subjects too",
        ),
        (two(&entry("\"orders.>\"", ", group = \"g\"")), "belongs to plain subjects"),
        (
            two(&entry("\"orders.>\"", ", ordering = \"sorted\"")),
            "\"sorted\" is not one of \"unordered\", \"strict\"",
        ),
        (
            two(&entry("\"orders.>\"", ", ordering = { key = { subject_token = 0 } }")),
            "tokens of a subject are counted from 1",
        ),
        (
            two(&entry("\"orders.>\"", ", ordering = { key = { header = \"a\", pointer = \"/b\" } }")),
            "write one of",
        ),
        (two(&entry("\"orders.>\"", ", ordering = { key = { pointer = \"b\" } }")), "begins with `/`"),
        (two(&entry("\"orders.>\"", ", dedup = { ttl = \"1h\" }")), "`key` is missing"),
        (
            two(&entry("\"orders.>\"", ", dedup = { key = \"message-id\", ttl = \"1ms\" }")),
            "must be between 1s and 30d",
        ),
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
