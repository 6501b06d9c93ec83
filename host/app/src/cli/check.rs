//! `busway check`: everything that can be known before the host starts, without touching a broker.

use super::{ConfigFile, OutputFormat, print};
use crate::{
    Exit, advice,
    config::{self, Config, Refused},
    plugins::{self, Ready},
    telemetry::{self, LogFormat},
};
use busway_core::{SubjectFilter, binding::Ordering, units::write_duration};
use clap::Args;
use serde_json::json;

/// Reads the configuration, loads every plugin, and tells every mistake; starts nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway check\n  busway check -c staging.toml --output json\n\nExit code 0 when the host would start, 2 when not."
)]
pub struct CheckArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Bytes of the largest message where no broker was asked.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

/// Checks.
pub fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    telemetry::start(LogFormat::Text, "warn")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match runtime.block_on(check(args)) {
        Ok(()) => Ok(Exit::Ok),
        Err(error) if args.output == OutputFormat::Json => match error.downcast_ref::<Refused>() {
            Some(Refused(mistakes)) => {
                let mistakes = mistakes.iter().map(|mistake| {
                    json!({ "file": mistake.file, "line": mistake.line, "key": mistake.key, "what": mistake.what })
                });
                print::json(&json!({ "ok": false, "mistakes": mistakes.collect::<Vec<_>>() }))?;
                Ok(Exit::Usage)
            }
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

async fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let (config, mistakes) = config::read(&args.file.config);
    let engine = plugins::engine(&config)?;
    let ready = plugins::load_all(&engine, &config, mistakes, PAYLOAD_BYTES_MAX).await?;
    match args.output {
        OutputFormat::Text => tell(&config, &ready),
        OutputFormat::Json => print::json(&json!({
            "ok": true,
            "plugins": ready.iter().map(|ready| json!({
                "name": ready.config.name.value.as_str(),
                "digest": ready.plugin.digest().to_string(),
                "warnings": warnings(&config, ready),
            })).collect::<Vec<_>>(),
        })),
    }
}

fn tell(config: &Config, ready: &[Ready<'_>]) -> anyhow::Result<()> {
    let rows: Vec<_> = ready.iter().flat_map(rows).collect();
    if !rows.is_empty() {
        print::table(["PLUGIN", "STREAM", "SUBJECTS", "GUARANTEE", "MAY PUBLISH TO", "DIGEST"], &rows)?;
    }
    for plugin in ready {
        for warning in warnings(config, plugin) {
            print::line(format!("warning: {}: {warning}", plugin.config.name.value))?;
        }
    }
    for plugin in config.plugins.iter().filter(|plugin| plugin.parks()) {
        let wait = write_duration(plugin.park_after);
        print::line(format!(
            "note: {}: waits of {wait} or more free the consumer's window with nats-server 2.12 or later; with an older one they hold it",
            plugin.name.value
        ))?;
    }
    let broker = if config.nats.urls.is_empty() {
        "a private nats-server".to_owned()
    } else {
        config.nats.urls.join(", ")
    };
    let (plugins, streams) = (counted(ready.len(), "plugin"), counted(config.streams.len(), "stream"));
    print::line(format!("ok: {plugins}, {streams}, broker {broker} (`busway doctor` asks it)"))
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn rows(ready: &Ready<'_>) -> Vec<[String; 6]> {
    let join = |filters: &mut dyn Iterator<Item = &SubjectFilter>| {
        let texts: Vec<_> = filters.map(SubjectFilter::as_str).collect();
        if texts.is_empty() { "nothing".to_owned() } else { texts.join(" ") }
    };
    let publish = join(&mut ready.config.publish.iter().map(|filter| &filter.value));
    let digest: String = ready.plugin.digest().to_string().chars().take(19).collect();
    let row = |entry: &config::Subscribe| {
        [
            ready.config.name.value.to_string(),
            entry.stream().unwrap_or("-").to_owned(),
            join(&mut entry.subjects.iter()),
            guarantee(entry).to_owned(),
            publish.clone(),
            digest.clone(),
        ]
    };
    ready.config.subscribe.iter().map(row).collect()
}

fn guarantee(entry: &config::Subscribe) -> &'static str {
    match (entry.stream(), &entry.ordering) {
        (None, _) => "at most once",
        (Some(_), Ordering::Unordered) => "at least once",
        (Some(_), Ordering::PerKey { .. }) => "at least once, in order per key",
        (Some(_), Ordering::Strict { .. }) => "at least once, in order",
    }
}

/// What is not wrong and should be known.
fn warnings(config: &Config, ready: &Ready<'_>) -> Vec<String> {
    ready.warnings.iter().cloned().chain(advice::plugin(config, ready.config)).collect()
}
