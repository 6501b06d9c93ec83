//! `busway doctor`: what a configuration needs of its broker, and whether the broker gives it.
//!
//! Nothing is changed unless `--apply` asks for it, and then only consumers, in place. What the files alone tell is
//! `busway check`'s; it is repeated here, so that one command tells everything.

mod findings;
mod monitor;
mod version;

use super::{ConfigFile, OutputFormat, connect, print};
use crate::{
    Exit, advice,
    config::{self, Config, StreamConfig},
    wire,
};
use busway_core::Binding;
use busway_transport::{
    ConsumerSettings, Nats, OpenError,
    nats::{BatchCost, StreamFinding},
};
use clap::Args;
use findings::{Findings, Level};
use serde_json::json;

/// Asks the broker whether it gives what the configuration needs.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway doctor\n  busway doctor --monitor http://127.0.0.1:8222\n  busway doctor --apply\n\nExit code 0 when nothing failed, 1 when something did."
)]
pub struct DoctorArgs {
    /// The broker's monitoring address, which alone tells how often it flushes its disk
    #[arg(long, value_name = "URL")]
    monitor: Option<String>,
    /// Change consumers that differ, in place; streams are never changed
    #[arg(long)]
    apply: bool,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    file: ConfigFile,
}

/// Examines.
pub fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let config = config::load(&args.file.config)?;
    connect::with_broker(&args.file.config, async |nats| {
        let mut findings = Findings::default();
        files(&config, &mut findings);
        copies(&config, &mut findings);
        broker(&config, nats, &mut findings);
        monitor::sync_interval(&config, args.monitor.as_deref(), &mut findings).await;
        streams(&config, nats, &mut findings).await;
        own_streams(&config, nats, &mut findings).await;
        for binding in wire::stream_bindings(&config) {
            consumer(&config, nats, &binding, args.drift(), &mut findings).await;
        }
        tell(&findings, args.output)?;
        Ok(if findings.failed() { Exit::Failed } else { Exit::Ok })
    })
}

/// What is done about consumers that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drift {
    /// They are told.
    Told,
    /// They are changed in place.
    Applied,
}

impl DoctorArgs {
    fn drift(&self) -> Drift {
        if self.apply { Drift::Applied } else { Drift::Told }
    }
}

fn tell(findings: &Findings, output: OutputFormat) -> anyhow::Result<()> {
    match output {
        OutputFormat::Json => {
            print::json(&json!({ "ok": !findings.failed(), "findings": findings.as_json() }))
        }
        OutputFormat::Text => {
            for finding in findings.iter() {
                print::line(finding.to_string())?;
            }
            print::line(findings.summary())
        }
    }
}

fn files(config: &Config, findings: &mut Findings) {
    for plugin in &config.plugins {
        for advice in advice::plugin(config, plugin) {
            findings.add(Level::Warning, format!("plugin {}", plugin.name.value), advice);
        }
    }
}

/// Records and dead letters should be as safe, and as reachable, as the events.
fn copies(config: &Config, findings: &mut Findings) {
    let own = config.host.replicas;
    for stream in config.streams.iter().filter(|stream| stream.replicas > u32::from(own)) {
        let what = format!(
            "stream {} has {} copies and the host's own streams {own}: while the one server that has them is away nothing runs; set `host.replicas` before they are made, or `nats stream edit BUSWAY_… --replicas {1}`",
            stream.name.value, stream.replicas
        );
        findings.add(Level::Warning, "own streams", what);
    }
}

fn broker(config: &Config, nats: &Nats, findings: &mut Findings) {
    let version = nats.server_version();
    let (level, what) = version::judge(&version);
    let what = format!("nats-server {version}, messages of at most {} bytes; {what}", nats.max_payload());
    findings.add(level, "broker", what);
    for (level, what) in version::needs(config, &version) {
        findings.add(level, "broker", what);
    }
}

async fn streams(config: &Config, nats: &Nats, findings: &mut Findings) {
    for stream in &config.streams {
        let name = &stream.name.value;
        let subject = format!("stream {name}");
        match nats.find_stream(&wire::spec(stream)).await {
            Ok(None) if stream.managed => {
                findings.add(Level::Good, subject, "does not exist yet; the host makes it at its start");
            }
            Ok(None) => {
                let what = "does not exist, and `managed = false` says that somebody else makes it";
                findings.add(Level::Failure, subject, what);
            }
            Ok(Some(found)) if found.differences.is_empty() => {
                findings.add(Level::Good, subject.clone(), format!("as configured, {}", filled(&found)));
                batches(config, stream, &found, findings);
            }
            Ok(Some(found)) => {
                for difference in &found.differences {
                    let what = format!(
                        "{difference}; a stream is never changed by itself: `nats stream edit {name}`, or change the configuration"
                    );
                    findings.add(Level::Failure, subject.clone(), what);
                }
            }
            Err(why) => findings.add(Level::Failure, subject, format!("can't be asked for: {why}")),
        }
    }
}

/// Batches are slow where the broker makes a store of files for each; only streams that outputs go to have any.
fn batches(config: &Config, stream: &StreamConfig, found: &StreamFinding, findings: &mut Findings) {
    let takes_outputs = config.plugins.iter().any(|plugin| {
        let mut granted = plugin.publish.iter();
        granted.any(|granted| stream.subjects.iter().any(|subject| subject.value.overlaps(&granted.value)))
    });
    if found.batches == BatchCost::StoreEach && takes_outputs {
        let what = "has `allow_atomic` and is on disk with one copy: several outputs of an event go out as one batch, which is about a hundred times slower than one by one; keep it where that matters less than that nobody sees a part of them, otherwise turn `allow_atomic` off, or give it more copies";
        findings.add(Level::Warning, format!("stream {}", stream.name.value), what);
    }
}

async fn own_streams(config: &Config, nats: &Nats, findings: &mut Findings) {
    let own = crate::wire::own_streams(config);
    let found = match nats.find_own_streams(own).await {
        Ok(found) => found,
        Err(why) => return findings.add(Level::Failure, "own streams", format!("can't be asked for: {why}")),
    };
    for (name, found) in found {
        let subject = format!("stream {name}");
        let Some(found) = found else {
            findings.add(Level::Good, subject, "does not exist yet; the host makes it at its start");
            continue;
        };
        for difference in &found.differences {
            findings.add(Level::Failure, subject.clone(), format!("{difference}: the host relies on it"));
        }
        let level = match share(&found) {
            Some(share) if share >= 1.0 => Level::Failure,
            Some(share) if share >= 0.8 => Level::Warning,
            _ => Level::Good,
        };
        findings.add(level, subject, filled(&found));
    }
}

async fn consumer(config: &Config, nats: &Nats, binding: &Binding, drift: Drift, findings: &mut Findings) {
    let settings = ConsumerSettings { ack_wait: config.host.ack_wait };
    let subject = format!("consumer {}", binding.durable());
    let found = match nats.find_consumer(binding, settings).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            return findings.add(Level::Good, subject, "does not exist yet; the host makes it at its start");
        }
        Err(why) => return findings.add(Level::Failure, subject, told(&why)),
    };
    for difference in &found.fixed {
        let what = format!("{difference}; it can't be changed in place: the host will refuse to start");
        findings.add(Level::Failure, subject.clone(), what);
    }
    for difference in &found.changeable {
        let what = format!(
            "{difference}; a host with other limits may share it, or somebody edited it: `busway doctor --apply` changes it, and so does a host at its start"
        );
        let level =
            if drift == Drift::Applied && found.fixed.is_empty() { Level::Good } else { Level::Warning };
        findings.add(level, subject.clone(), what);
    }
    if drift == Drift::Applied && found.fixed.is_empty() && !found.changeable.is_empty() {
        match nats.apply(binding, settings).await {
            Ok(()) => findings.add(Level::Good, subject, "changed as configured"),
            Err(why) => findings.add(Level::Failure, subject, told(&why)),
        }
    } else if found.fixed.is_empty() && found.changeable.is_empty() {
        let what = format!("as configured, {} pending, {} under way", found.pending, found.ack_pending);
        findings.add(Level::Good, subject, what);
    }
}

fn told(why: &OpenError) -> String {
    crate::plugins::chain(why)
}

/// How full a stream is; none where it has no limit.
fn share(found: &StreamFinding) -> Option<f64> {
    found.bytes_max.map(|max| found.bytes as f64 / max as f64)
}

fn filled(found: &StreamFinding) -> String {
    let messages = format!("{} messages, {} bytes", found.messages, found.bytes);
    match share(found) {
        Some(share) => format!("{messages}, {:.0} % of its limit", share * 100.0),
        None => messages,
    }
}
