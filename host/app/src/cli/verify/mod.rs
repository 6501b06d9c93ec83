//! `busway verify`: is every accepted event accounted for?
//!
//! What was accepted and what came of it is read from a running broker or from a recorded history; which of them is lost,
//! doubled or changed is decided in `busway_core::audit` alone, the same for both.

mod history;
mod running;

use super::{ConfigFile, OutputFormat, Usage, connect, print};
use crate::Exit;
use anyhow::Context as _;
use busway_core::{
    PluginName, Position,
    audit::{Account, History, Violation},
};
use clap::Args;
use serde_json::{Value, json};
use std::{fs, io, path::PathBuf};

/// Violations that a person is told; JSON holds more.
const TOLD: usize = 10;

/// Accounts for every accepted event: done, dead or pending, once each and with its bytes unchanged.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway verify --stream ORDERS --plugin enrich --outputs ENRICHED\n  busway verify --stream ORDERS --plugin enrich --record history.jsonl\n  busway verify history.jsonl --output json\n\nExit codes: 0 every event is accounted for, 1 one is lost, doubled or changed. What a history is: docs/history.md"
)]
pub struct VerifyArgs {
    /// A recorded history; without it the broker of the configuration is read
    #[arg(value_name = "HISTORY", conflicts_with_all = ["stream", "plugin", "outputs", "name", "record"])]
    history: Option<PathBuf>,
    /// The stream whose events were to be handled
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// The plugin that was to handle them
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<PluginName>,
    /// The name of its subscription, where it has one
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A stream that its outputs are in; may be repeated
    #[arg(long, value_name = "STREAM")]
    outputs: Vec<String>,
    /// The fewest outputs that a handled event leaves [default: 1 with --outputs, else 0]
    #[arg(long, value_name = "N")]
    outputs_min: Option<u32>,
    /// Also writes what was read as a history
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// How the account is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    file: ConfigFile,
}

/// What was read, and what is to be known about how.
struct Reading {
    history: History,
    /// Where the accepted events are, in their order.
    positions: Vec<Position>,
    notes: Vec<String>,
}

/// Makes the account and prints it.
pub fn run(args: &VerifyArgs) -> anyhow::Result<Exit> {
    if let Some(file) = &args.history {
        let failed = || format!("{} can't be read", file.display());
        let lines = io::BufReader::new(fs::File::open(file).with_context(failed)?);
        let mut history = history::read(lines).with_context(failed)?;
        history.outputs_min = args.outputs_min.unwrap_or(history.outputs_min);
        return tell(args, &Reading { history, positions: Vec::new(), notes: Vec::new() });
    }
    let (Some(stream), Some(plugin)) = (&args.stream, &args.plugin) else {
        return Err(Usage("name a recorded history, or --stream and --plugin".into()).into());
    };
    let wanted = running::Wanted {
        stream,
        plugin,
        name: args.name.as_deref(),
        outputs: &args.outputs,
        outputs_min: args.outputs_min.unwrap_or(u32::from(!args.outputs.is_empty())),
    };
    connect::with_broker(&args.file.config, async |nats| {
        let reading = running::read(&nats.kept(), &wanted).await?;
        if let Some(file) = &args.record {
            let failed = || format!("{} can't be written", file.display());
            let mut lines = io::BufWriter::new(fs::File::create(file).with_context(failed)?);
            history::write(&reading.history, &reading.positions, &mut lines).with_context(failed)?;
        }
        tell(args, &reading)
    })
}

fn tell(args: &VerifyArgs, reading: &Reading) -> anyhow::Result<Exit> {
    let account = Account::of(&reading.history);
    match args.output {
        OutputFormat::Json => print::json(&whole(reading, &account))?,
        OutputFormat::Text => print::line(pages(reading, &account))?,
    }
    Ok(if account.is_balanced() { Exit::Ok } else { Exit::Failed })
}

fn whole(reading: &Reading, account: &Account) -> Value {
    let violations: Vec<_> = account.violations.iter().map(violation).collect();
    json!({
        "plugin": reading.history.plugin,
        "accepted": account.accepted,
        "done": account.done,
        "dead": account.dead,
        "pending": account.pending,
        "lost": account.lost,
        "duplicate_outputs": account.duplicate_outputs,
        "outputs": account.outputs,
        "strangers": account.strangers,
        "balanced": account.is_balanced(),
        "violated": account.violated,
        "violations": violations,
        "notes": reading.notes,
    })
}

fn violation(violation: &Violation) -> Value {
    let Violation { kind, event, sequence, what } = violation;
    json!({ "kind": kind.code(), "event": event.as_str(), "sequence": sequence, "what": what })
}

fn pages(reading: &Reading, account: &Account) -> String {
    let rows = [
        ("accepted", account.accepted),
        ("done", account.done),
        ("dead", account.dead),
        ("pending", account.pending),
        ("lost", account.lost),
        ("duplicate outputs", account.duplicate_outputs),
        ("outputs", account.outputs),
        ("of other events", account.strangers),
    ];
    let mut lines: Vec<_> = rows.iter().map(|(label, count)| format!("{label:<18} {count:>9}")).collect();
    lines.extend(reading.notes.iter().map(|note| format!("note: {note}")));
    for Violation { kind, event, sequence, what } in account.violations.iter().take(TOLD) {
        lines.push(format!("{} {sequence} ({event}): {}", kind.code(), print::escaped(what)));
    }
    let more = account.violated.saturating_sub(TOLD as u64);
    if more > 0 {
        lines
            .push(format!("and {more} more; --output json tells the first {}", busway_core::audit::TOLD_MAX));
    }
    let balanced = "every accepted event is accounted for, once and unchanged";
    lines.push(if account.is_balanced() { balanced } else { "NOT every event is accounted for" }.to_owned());
    lines.join("\n")
}
