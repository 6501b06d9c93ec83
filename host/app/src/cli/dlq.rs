//! `busway dlq`: the dead letters, to be looked at.

use super::{ConfigFile, OutputFormat, connect, print};
use crate::Exit;
use busway_core::{PluginName, dead_letter as letter};
use busway_transport::{DeadLetters, LetterFilter, nats::StoredLetter};
use clap::{Args, Subcommand};
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Letters that one read of the broker brings.
const PAGE: usize = 100;

/// Looks at dead letters: events that will not be tried again, and why.
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    Ls(LsArgs),
    Show(ShowArgs),
}

/// Lists dead letters, newest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway dlq ls\n  busway dlq ls --plugin validate --limit 10 --output json"
)]
struct LsArgs {
    /// Only this plugin's
    #[arg(long, value_name = "NAME")]
    plugin: Option<PluginName>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// How the list is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    file: ConfigFile,
}

/// Shows one dead letter whole: what happened, where it came from, its payload.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  busway dlq show 17\n  busway dlq show 17 --output json")]
struct ShowArgs {
    /// The letter's number, as `busway dlq ls` prints it, or the event's id or its beginning
    id: String,
    /// How the letter is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    file: ConfigFile,
}

/// Runs the command.
pub fn run(args: &DlqArgs) -> anyhow::Result<Exit> {
    match &args.command {
        DlqCommand::Ls(args) => {
            connect::with_broker(&args.file.config, async |nats| ls(&nats.dead_letters(), args).await)
        }
        DlqCommand::Show(args) => {
            connect::with_broker(&args.file.config, async |nats| show(&nats.dead_letters(), args).await)
        }
    }
}

async fn ls(letters: &DeadLetters, args: &LsArgs) -> anyhow::Result<Exit> {
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let limit = PAGE.min(args.limit - found.len());
        let page = letters.list(&LetterFilter { plugin: args.plugin.clone(), before, limit }).await?;
        found.extend(page.letters);
        before = page.before;
        if before.is_none() || found.len() >= args.limit {
            break;
        }
    }
    match args.output {
        OutputFormat::Json => print::json(&found.iter().map(summary).collect::<Vec<_>>())?,
        OutputFormat::Text if found.is_empty() => print::line("no dead letters")?,
        OutputFormat::Text => {
            let rows: Vec<_> = found.iter().map(row).collect();
            print::table(
                ["NUMBER", "PLUGIN", "CLASS", "CODE", "ATTEMPTS", "AGE", "SUBJECT", "REASON"],
                &rows,
            )?;
        }
    }
    Ok(Exit::Ok)
}

async fn show(letters: &DeadLetters, args: &ShowArgs) -> anyhow::Result<Exit> {
    let sequence = match args.id.trim_start_matches('#').parse() {
        Ok(sequence) => sequence,
        Err(_) => sequence_of_event(letters, &args.id).await?,
    };
    let stored = letters.get(sequence).await?;
    match args.output {
        OutputFormat::Json => print::json(&whole(&stored))?,
        OutputFormat::Text => print::line(pages(&stored))?,
    }
    Ok(Exit::Ok)
}

async fn sequence_of_event(letters: &DeadLetters, start: &str) -> anyhow::Result<u64> {
    let mut before = None;
    loop {
        let page = letters.list(&LetterFilter { plugin: None, before, limit: PAGE }).await?;
        let is_meant = |stored: &&StoredLetter| field(stored, letter::EVENT_ID).starts_with(start);
        if let Some(stored) = page.letters.iter().find(is_meant) {
            return Ok(stored.sequence);
        }
        before = page.before;
        anyhow::ensure!(
            before.is_some(),
            "no dead letter for an event whose id begins with {start:?}; `busway dlq ls` lists them"
        );
    }
}

fn field<'a>(stored: &'a StoredLetter, name: &str) -> &'a str {
    stored.headers.get(name).unwrap_or_default()
}

fn row(stored: &StoredLetter) -> [String; 8] {
    let text = |name| field(stored, name).to_owned();
    [
        stored.sequence.to_string(),
        text(letter::PLUGIN),
        text(letter::CLASS),
        text(letter::CODE),
        text(letter::ATTEMPTS),
        age(stored.stored_at_ms),
        text(letter::SUBJECT),
        shortened(field(stored, letter::REASON), 80),
    ]
}

fn summary(stored: &StoredLetter) -> Value {
    let text = |name| field(stored, name);
    json!({
        "number": stored.sequence,
        "event_id": text(letter::EVENT_ID),
        "plugin": text(letter::PLUGIN),
        "class": text(letter::CLASS),
        "code": text(letter::CODE),
        "reason": text(letter::REASON),
        "attempts": text(letter::ATTEMPTS).parse::<u64>().ok(),
        "stored_at_ms": stored.stored_at_ms,
        "subject": text(letter::SUBJECT),
        "stream": text(letter::STREAM),
        "sequence": text(letter::SEQUENCE).parse::<u64>().ok(),
    })
}

fn whole(stored: &StoredLetter) -> Value {
    let headers: Vec<_> =
        stored.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let mut value = summary(stored);
    if let Value::Object(fields) = &mut value {
        fields.insert("headers".into(), headers.into());
        fields.insert("payload_base64".into(), BASE64.encode(&stored.payload).into());
        if let Ok(payload) = serde_json::from_slice::<Value>(&stored.payload) {
            fields.insert("payload_json".into(), payload);
        }
    }
    value
}

/// A letter for a person: what happened first, then where it came from, then what was published.
fn pages(stored: &StoredLetter) -> String {
    let mut lines = vec![format!("dead letter {}", stored.sequence)];
    let mut say = |label: &str, text: &str| {
        if !text.is_empty() {
            lines.push(format!("  {label:<10} {}", print::escaped(text)));
        }
    };
    let text = |name| field(stored, name);
    say("plugin", &format!("{}  {}", text(letter::PLUGIN), text(letter::PLUGIN_DIGEST)));
    say("class", &format!("{}  {}", text(letter::CLASS), text(letter::CODE)));
    say("reason", text(letter::REASON));
    say("panic", text(letter::PANIC));
    for frame in all(stored, letter::FRAME) {
        say("at", frame);
    }
    say("attempts", text(letter::ATTEMPTS));
    for attempt in all(stored, letter::ATTEMPT) {
        say("", attempt);
    }
    say("event", text(letter::EVENT_ID));
    say("subject", text(letter::SUBJECT));
    say("stored in", &format!("{} {}", text(letter::STREAM), text(letter::SEQUENCE)));
    say("died", &format!("{} ago, on host {}", age(stored.stored_at_ms), text(letter::HOST)));
    say("trace", text("traceparent"));
    for (name, value) in stored.headers.iter().filter(|(name, _)| !busway_core::headers::is_reserved(name)) {
        say("header", &format!("{name}: {value}"));
    }
    lines.push(format!("  payload    {} bytes", stored.payload.len()));
    lines.push(readable(&stored.payload));
    lines.join("\n")
}

fn all<'a>(stored: &'a StoredLetter, name: &'a str) -> impl Iterator<Item = &'a str> {
    stored.headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
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

fn age(stored_at_ms: u64) -> String {
    let stored = UNIX_EPOCH + Duration::from_millis(stored_at_ms);
    let seconds = SystemTime::now().duration_since(stored).map_or(0, |age| age.as_secs());
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
