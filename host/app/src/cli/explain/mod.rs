//! `busway explain`: why an event ended as it did.
//!
//! Three things are put together: the account of attempts, what the broker knows of the event (where it is stored, how
//! each consumer stands to it), and what the host keeps for its own work (failed runs, dead letters). The last two answer
//! where no record is, and say why that may be so.

mod page;
mod story;
mod telling;

use super::{ConfigFile, OutputFormat, Usage, connect, print};
use crate::Exit;
use anyhow::Context as _;
use busway_core::{EventId, units};
use busway_transport::Nats;
use clap::Args;
use std::{str::FromStr, time::Duration};
use story::Story;

/// Tells what became of an event: every attempt of every plugin, with its outputs or its reason.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway explain ORDERS:17\n  busway explain ORDERS:17 --output json\n  busway explain 6v2mz4j3h7…   (an event's id, from a dead letter, a log line or the header Busway-Event-Id)\n  busway explain --all --since 1h   (every attempt, one JSON object per line)"
)]
pub struct ExplainArgs {
    /// The event: STREAM:SEQUENCE, or its id
    #[arg(value_name = "STREAM:SEQ|EVENT-ID", required_unless_present = "all")]
    event: Option<Asked>,
    /// Every attempt there is a record of, as JSON, one line each, oldest first
    #[arg(long, conflicts_with = "event")]
    all: bool,
    /// With --all: only attempts that began within this time before now
    #[arg(long, value_name = "DURATION", requires = "all", value_parser = units::parse_duration)]
    since: Option<Duration>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    file: ConfigFile,
}

/// How an event is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Place { stream: String, sequence: u64 },
    Id(EventId),
}

impl FromStr for Asked {
    type Err = Usage;
    fn from_str(text: &str) -> Result<Self, Usage> {
        let refuse = |why: &str| {
            Usage(format!(
                "{why}; an event is named STREAM:SEQUENCE, such as ORDERS:17, or by its id of 52 characters"
            ))
        };
        let Some((stream, sequence)) = text.rsplit_once(':') else {
            return text.parse().map(Self::Id).map_err(|why| refuse(&format!("{text:?}: {why}")));
        };
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
        if stream.is_empty() || stream.contains(forbidden) {
            return Err(refuse(&format!("{stream:?} is not a stream's name")));
        }
        match sequence.parse() {
            Ok(sequence) if sequence > 0 => Ok(Self::Place { stream: stream.to_owned(), sequence }),
            _ => Err(refuse(&format!("{sequence:?} is not a sequence: they count from 1"))),
        }
    }
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    connect::with_broker(&args.file.config, async |nats| match &args.event {
        Some(asked) => one(nats, asked, args.output).await,
        None => all(nats, args.since).await,
    })
}

async fn one(nats: &Nats, asked: &Asked, output: OutputFormat) -> anyhow::Result<Exit> {
    let story = match asked {
        Asked::Place { stream, sequence } => Story::of_place(nats, stream, *sequence).await?,
        Asked::Id(id) => Story::of_id(nats, id).await?,
    };
    match output {
        OutputFormat::Json => print::json(&page::json(&story))?,
        OutputFormat::Text => print::line(page::text(&story))?,
    }
    Ok(Exit::Ok)
}

async fn all(nats: &Nats, since: Option<Duration>) -> anyhow::Result<Exit> {
    let span = since.map_or(u64::MAX, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let account = nats.history().since(story::now_ms().saturating_sub(span)).await?;
    for entry in &account.entries {
        let mut value = page::attempt_json(entry);
        if let serde_json::Value::Object(fields) = &mut value {
            fields.extend(page::origin_json(entry));
        }
        print::line(serde_json::to_string(&value)?)?;
    }
    let unreadable = account.unreadable.first().map(|first| {
        anyhow::anyhow!("{} messages of the history can't be read: {first}", account.unreadable.len())
    });
    unreadable.map_or(Ok(Exit::Ok), Err).context("the list is incomplete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_by_its_place_or_its_id() {
        let place = |stream: &str, sequence| Ok(Asked::Place { stream: stream.into(), sequence });
        let asked = |text: &str| text.parse::<Asked>().map_err(|why| why.to_string());
        assert_eq!(asked("IN:7"), place("IN", 7));
        assert_eq!(asked("A:B:7"), place("A:B", 7));
        let id = EventId::random([3; 32]);
        assert_eq!(asked(id.as_str()), Ok(Asked::Id(id)));
        for (bad, expected) in [
            ("IN", "52 characters"),
            ("IN:", "not a sequence"),
            ("IN:0", "count from 1"),
            ("IN:-1", "not a sequence"),
            (":7", "not a stream's name"),
            ("a.b:7", "not a stream's name"),
            ("", "52 characters"),
        ] {
            let why = asked(bad).unwrap_err();
            assert!(why.contains(expected), "{bad}: {why}");
        }
    }
}
