//! `busway plugin`: what the plugins are doing, and pausing them by hand.
//!
//! A pause is kept at the server, on the plugin's consumers: it holds for all hosts, survives restarts and needs no host to
//! run. What runs at that moment finishes; everything else stays in the stream.

use super::{ConfigFile, OutputFormat, Usage, connect, print};
use crate::{
    Exit,
    config::{self, Config, PluginConfig},
    health,
    plugins::read_file,
    quarantine::Quarantine,
    wire,
};
use busway_core::{Binding, Digest, PluginName, binding::Subscription};
use busway_transport::{Nats, PauseError, ServerPause, nats::ConsumerState};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Shows what the plugins are doing; pauses and resumes them for all hosts.
#[derive(Debug, Args)]
pub struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    Ls(LsArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
}

/// Lists the plugins: running, paused or quarantined, and what waits for them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  busway plugin ls\n  busway plugin ls --output json")]
struct LsArgs {
    /// How the list is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    file: ConfigFile,
}

/// Pauses a plugin on all hosts: what runs finishes, everything else stays in its stream until `busway plugin resume`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  busway plugin pause validate")]
struct PauseArgs {
    /// The plugin's name in the configuration
    name: PluginName,
    #[command(flatten)]
    file: ConfigFile,
}

/// Resumes a plugin on all hosts.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  busway plugin resume validate")]
struct ResumeArgs {
    /// The plugin's name in the configuration
    name: PluginName,
    #[command(flatten)]
    file: ConfigFile,
}

/// What is wanted of a plugin's consumers.
#[derive(Debug, Clone, Copy)]
enum Change {
    Pause,
    Resume,
}

/// One consumer of a plugin, or none where it has none.
struct Row {
    plugin: PluginName,
    place: Option<(String, String)>,
    state: State,
    seen: Option<ConsumerState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    PausedByHand,
    PausedByBreaker(u64),
    Quarantined,
    NoConsumer,
    NotPausable,
}

/// Runs the command.
pub fn run(args: &PluginArgs) -> anyhow::Result<Exit> {
    match &args.command {
        PluginCommand::Ls(args) => {
            let config = config::load(&args.file.config)?;
            connect::with_broker(&args.file.config, async |nats| ls(nats, &config, args.output).await)
        }
        PluginCommand::Pause(PauseArgs { name, file }) => change(name, file, Change::Pause),
        PluginCommand::Resume(ResumeArgs { name, file }) => change(name, file, Change::Resume),
    }
}

fn change(name: &PluginName, file: &ConfigFile, change: Change) -> anyhow::Result<Exit> {
    let config = config::load(&file.config)?;
    let plugin = find(&config, name)?;
    let places = places(plugin);
    if places.is_empty() {
        let what = format!("plugin {name} reads no stream; only what waits in a stream can be held back");
        return Err(Usage(what).into());
    }
    connect::with_broker(&file.config, async |nats| {
        for (stream, consumer) in &places {
            let done = match change {
                Change::Pause => nats.pause_consumer(stream, consumer).await,
                Change::Resume => nats.resume_consumer(stream, consumer).await,
            };
            done?;
        }
        // What comes back from long waits has a consumer of its own, where there ever was any.
        let returned = returned(name);
        let done = match change {
            Change::Pause => nats.pause_consumer(&returned.0, &returned.1).await,
            Change::Resume => nats.resume_consumer(&returned.0, &returned.1).await,
        };
        match done {
            Ok(()) | Err(PauseError::NoConsumer { .. }) => {}
            Err(why) => return Err(why.into()),
        }
        print::line(match change {
            Change::Pause => {
                format!("{name} is paused on all hosts; `busway plugin resume {name}` ends that")
            }
            Change::Resume => format!("{name} is resumed on all hosts"),
        })?;
        Ok(Exit::Ok)
    })
}

fn find<'c>(config: &'c Config, name: &PluginName) -> Result<&'c PluginConfig, Usage> {
    config.plugins.iter().find(|plugin| plugin.name.value == *name).ok_or_else(|| {
        let names: Vec<_> = config.plugins.iter().map(|plugin| plugin.name.value.as_str()).collect();
        let there = if names.is_empty() { "there is none".into() } else { names.join(", ") };
        Usage(format!("no plugin {name} in {}; the plugins are: {there}", config.main.display()))
    })
}

/// Stream and durable of each consumer that reads a stream for the plugin.
fn places(plugin: &PluginConfig) -> Vec<(String, String)> {
    wire::bindings(plugin).iter().filter_map(place).collect()
}

fn returned(name: &PluginName) -> (String, String) {
    place(&Binding::new(name.clone(), Subscription::Returned)).unwrap_or_default()
}

fn place(binding: &Binding) -> Option<(String, String)> {
    health::stream_of(binding).map(|stream| (stream.to_owned(), binding.durable()))
}

async fn ls(nats: &Nats, config: &Config, output: OutputFormat) -> anyhow::Result<Exit> {
    let quarantine = Quarantine::read(&config.host.state)?;
    let mut rows = Vec::new();
    for plugin in &config.plugins {
        let bytes = read_file(&config.resolve(&plugin.source.value));
        let quarantined = bytes.is_ok_and(|bytes| quarantine.holds(&Digest::of(&bytes)));
        let name = &plugin.name.value;
        let (own, returned) = (places(plugin), returned(name));
        if own.is_empty() {
            let state = if quarantined { State::Quarantined } else { State::NotPausable };
            rows.push(Row { plugin: name.clone(), place: None, state, seen: None });
        }
        for place in own.into_iter().chain([returned.clone()]) {
            let seen = nats.consumer_state(&place.0, &place.1).await?;
            // Made on first use, so that most plugins have none.
            if place == returned && seen.is_none() {
                continue;
            }
            let state = if quarantined { State::Quarantined } else { state(seen.as_ref()) };
            rows.push(Row { plugin: name.clone(), place: Some(place), state, seen });
        }
    }
    match output {
        OutputFormat::Json => print::json(&rows.iter().map(value).collect::<Vec<_>>())?,
        OutputFormat::Text if rows.is_empty() => print::line("no plugins")?,
        OutputFormat::Text => {
            let headings = ["PLUGIN", "STATE", "STREAM", "CONSUMER", "PENDING", "IN FLIGHT", "REDELIVERED"];
            print::table(headings, &rows.iter().map(cells).collect::<Vec<_>>())?;
        }
    }
    Ok(Exit::Ok)
}

fn state(seen: Option<&ConsumerState>) -> State {
    match seen.map(|seen| seen.pause) {
        None => State::NoConsumer,
        Some(None) => State::Running,
        Some(Some(ServerPause::ByHand)) => State::PausedByHand,
        Some(Some(ServerPause::Awhile(left))) => State::PausedByBreaker(left.as_secs()),
    }
}

fn cells(row: &Row) -> [String; 7] {
    let state = match row.state {
        State::Running => "running".into(),
        State::PausedByHand => "paused by hand".into(),
        State::PausedByBreaker(seconds) => format!("paused by a breaker for {seconds}s"),
        State::Quarantined => "quarantined on this host".into(),
        State::NoConsumer => "no consumer yet".into(),
        State::NotPausable => "reads no stream".into(),
    };
    let (stream, consumer) = row.place.clone().unwrap_or_default();
    let count = |count: fn(&ConsumerState) -> u64| {
        row.seen.as_ref().map_or(String::new(), |seen| count(seen).to_string())
    };
    [
        row.plugin.to_string(),
        state,
        stream,
        consumer,
        count(|seen| seen.pending),
        count(|seen| seen.in_flight),
        count(|seen| seen.redelivered),
    ]
}

fn value(row: &Row) -> Value {
    let (code, seconds) = match row.state {
        State::Running => ("running", None),
        State::PausedByHand => ("paused-by-hand", None),
        State::PausedByBreaker(seconds) => ("paused-by-breaker", Some(seconds)),
        State::Quarantined => ("quarantined", None),
        State::NoConsumer => ("no-consumer", None),
        State::NotPausable => ("no-stream", None),
    };
    json!({
        "plugin": row.plugin.as_str(),
        "state": code,
        "paused_for_seconds": seconds,
        "stream": row.place.as_ref().map(|place| &place.0),
        "consumer": row.place.as_ref().map(|place| &place.1),
        "pending": row.seen.as_ref().map(|seen| seen.pending),
        "in_flight": row.seen.as_ref().map(|seen| seen.in_flight),
        "redelivered": row.seen.as_ref().map(|seen| seen.redelivered),
    })
}
