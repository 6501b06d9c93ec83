//! What a letter says, as text and as JSON.

use super::super::print;
use busway_core::{date, dead_letter as account, units::write_duration};
use busway_transport::nats::StoredLetter;
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first value of a header; empty where there is none.
pub fn field<'a>(stored: &'a StoredLetter, name: &str) -> &'a str {
    stored.headers.get(name).unwrap_or_default()
}

fn all<'a>(stored: &'a StoredLetter, name: &'a str) -> impl Iterator<Item = &'a str> {
    stored.headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// How a line about a letter begins: number, plugin, event.
pub fn name(stored: &StoredLetter) -> String {
    let (plugin, event) = (field(stored, account::PLUGIN), field(stored, account::EVENT_ID));
    print::escaped(&format!("{}  {plugin}  {event}", stored.sequence))
}

/// A row of the list.
pub fn row(stored: &StoredLetter) -> [String; 8] {
    let text = |name| field(stored, name).to_owned();
    [
        stored.sequence.to_string(),
        text(account::PLUGIN),
        text(account::CLASS),
        text(account::CODE),
        text(account::ATTEMPTS),
        write_age(age(stored)),
        text(account::SUBJECT),
        shortened(field(stored, account::REASON), 80),
    ]
}

/// An entry of the list for programs.
pub fn summary(stored: &StoredLetter) -> Value {
    let text = |name| field(stored, name);
    let number = |name| text(name).parse::<u64>().ok();
    json!({
        "number": stored.sequence,
        "event_id": text(account::EVENT_ID),
        "plugin": text(account::PLUGIN),
        "round": number(account::ROUND),
        "class": text(account::CLASS),
        "code": text(account::CODE),
        "reason": text(account::REASON),
        "attempts": number(account::ATTEMPTS),
        "stored_at_ms": stored.stored_at_ms,
        "subject": text(account::SUBJECT),
        "stream": text(account::STREAM),
        "sequence": number(account::SEQUENCE),
    })
}

/// Everything for programs.
pub fn whole(stored: &StoredLetter) -> Value {
    let headers: Vec<_> =
        stored.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let attempts: Vec<_> = all(stored, account::ATTEMPT).map(|line| json!(Attempt::read(line))).collect();
    let mut value = summary(stored);
    if let Value::Object(fields) = &mut value {
        fields.insert("headers".into(), headers.into());
        fields.insert("failed_runs".into(), attempts.into());
        for (key, name) in [("backtrace", account::FRAME), ("logs", account::LOG)] {
            fields.insert(key.into(), all(stored, name).collect());
        }
        for (key, name) in [
            ("panic", account::PANIC),
            ("used", account::USED),
            ("host", account::HOST),
            ("plugin_digest", account::PLUGIN_DIGEST),
            ("payload_digest", account::PAYLOAD_DIGEST),
            ("traceparent", "traceparent"),
        ] {
            fields.insert(key.into(), stored.headers.get(name).into());
        }
        fields.insert("payload_base64".into(), BASE64.encode(&stored.payload).into());
        if let Ok(payload) = serde_json::from_slice::<Value>(&stored.payload) {
            fields.insert("payload_json".into(), payload);
        }
    }
    value
}

/// A letter for a person: what happened first, then where it came from, then what was published.
pub fn page(stored: &StoredLetter) -> String {
    let mut lines = vec![format!("dead letter {}", stored.sequence)];
    let mut say = |label: &str, text: &str| {
        if !text.trim().is_empty() {
            lines.push(format!("  {label:<10} {}", print::escaped(text)));
        }
    };
    let text = |name| field(stored, name);
    say("plugin", &format!("{}  {}", text(account::PLUGIN), text(account::PLUGIN_DIGEST)));
    say("class", &format!("{}  {}", text(account::CLASS), text(account::CODE)));
    say("reason", text(account::REASON));
    say("panic", text(account::PANIC));
    for frame in all(stored, account::FRAME) {
        say("at", frame);
    }
    for log in all(stored, account::LOG) {
        say("log", log);
    }
    say("used", text(account::USED));
    say("attempts", text(account::ATTEMPTS));
    let attempts: Vec<_> = all(stored, account::ATTEMPT).map(|line| Attempt::read(line).row()).collect();
    if !attempts.is_empty() {
        let headings = ["ENDED", "CLASS", "CODE", "RAN", "THEN WAITED", "HOST", "VERSION", "REASON"];
        for row in print::rows(headings, &attempts) {
            say("", &row);
        }
    }
    say("round", &format!("{} of {}", text(account::ROUND), busway_core::again::ROUNDS_MAX));
    say("event", text(account::EVENT_ID));
    say("subject", text(account::SUBJECT));
    say("stored in", &format!("{} {}", text(account::STREAM), text(account::SEQUENCE)));
    let died = format!("{}, {} ago", date::utc(stored.stored_at_ms), write_age(age(stored)));
    say("died", &format!("{died}, on host {}", text(account::HOST)));
    say("trace", text("traceparent"));
    for (name, value) in busway_core::again::unwrap(&stored.headers).iter() {
        say("header", &format!("{name}: {value}"));
    }
    lines.push(format!("  payload    {} bytes", stored.payload.len()));
    lines.push(readable(&stored.payload));
    lines.join("\n")
}

/// One line of the account of attempts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct Attempt<'a> {
    at_ms: Option<u64>,
    class: &'a str,
    code: &'a str,
    wait_ms: Option<u64>,
    host: &'a str,
    version: &'a str,
    ran_us: Option<u64>,
    reason: &'a str,
}

impl<'a> Attempt<'a> {
    fn read(line: &'a str) -> Self {
        let mut rest = line;
        let mut until = |next: &str| {
            let (value, after) = rest.split_once(next).unwrap_or((rest, ""));
            rest = after;
            value
        };
        let at = until(" class=");
        let (class, code, wait) = (until(" code="), until(" wait="), until(" host="));
        let (host, version, ran, reason) =
            (until(" version="), until(" ran="), until(" reason="), until("\n"));
        Self {
            at_ms: at.strip_prefix("at=").and_then(|at| at.parse().ok()),
            class,
            code,
            wait_ms: wait.strip_suffix("ms").and_then(|wait| wait.parse().ok()),
            host,
            version,
            ran_us: ran.strip_suffix("us").and_then(|ran| ran.parse().ok()),
            reason,
        }
    }

    fn row(&self) -> [String; 8] {
        let text = str::to_owned;
        [
            self.at_ms.map_or_else(String::new, date::utc),
            text(self.class),
            text(self.code),
            self.ran_us.map_or_else(String::new, |us| format!("{:.1} ms", us as f64 / 1_000.0)),
            self.wait_ms.map_or_else(|| text("-"), |ms| write_duration(Duration::from_millis(ms))),
            text(self.host),
            text(self.version),
            shortened(self.reason, 80),
        ]
    }
}

/// JSON indented, text as it is, anything else in base64.
fn readable(payload: &[u8]) -> String {
    if let Ok(value) = serde_json::from_slice::<Value>(payload) {
        return serde_json::to_string_pretty(&value).unwrap_or_default();
    }
    match std::str::from_utf8(payload) {
        Ok(text) => text.lines().map(print::escaped).collect::<Vec<_>>().join("\n"),
        Err(_) => format!("(base64) {}", BASE64.encode(payload)),
    }
}

/// For how long a letter has been there.
pub fn age(stored: &StoredLetter) -> Duration {
    let stored = UNIX_EPOCH + Duration::from_millis(stored.stored_at_ms);
    SystemTime::now().duration_since(stored).unwrap_or_default()
}

fn write_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_account_is_read_back() {
        let line = "at=5 class=trap code=a b wait=1500ms host=h1 version=0123 ran=2000us reason=x reason=y";
        let read = Attempt::read(line);
        assert_eq!((read.at_ms, read.class, read.code), (Some(5), "trap", "a b"));
        assert_eq!((read.wait_ms, read.ran_us), (Some(1500), Some(2000)));
        assert_eq!((read.host, read.version, read.reason), ("h1", "0123", "x reason=y"));
        assert_eq!(
            Attempt::read("at=5 class=trap code= wait=none host=h version= ran=1us reason=").wait_ms,
            None
        );
        assert_eq!(Attempt::read("nonsense").class, "");
    }
}
