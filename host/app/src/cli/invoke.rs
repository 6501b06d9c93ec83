//! `busway invoke`: one event through one plugin, without a broker and without effects.

use super::{OutputFormat, Usage, print, publish};
use crate::{
    Exit,
    plugins::{chain, read_file},
};
use anyhow::Context as _;
use busway_core::{
    Attempt, Event, EventId, Failure, Handler as _, Headers, Limits, LogLine, Output, Ran, Reply, Report,
    SubjectFilter, Used,
    units::{ByteSize, parse_duration},
};
use busway_engine::{Engine, EngineConfig, Grants, Plugin, PluginSpec};
use clap::Args;
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

/// Gives one event to a plugin, without a broker: outcome, outputs, logs and what it used are printed, nothing is published.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway invoke plugin.wasm --subject orders.created --data '{\"id\": 7}'\n  busway invoke plugin.wasm --subject orders.created --data-file order.json --config to=orders.checked --output json\n\nExit code 0 when the handler returned ok, 1 when not."
)]
pub struct InvokeArgs {
    /// The plugin's component
    file: PathBuf,
    /// The event's subject
    #[arg(long)]
    subject: String,
    /// A header of the event; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// The event's payload [default: empty]
    #[arg(long, conflicts_with = "data_file")]
    data: Option<String>,
    /// A file with the payload; `-` is standard input
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// The event is a request: the plugin can reply to it
    #[arg(long)]
    request: bool,
    /// A value of the plugin's configuration, or the text of a file; may be repeated
    #[arg(long = "config", value_name = "KEY=VALUE|KEY=@FILE")]
    config: Vec<String>,
    /// What the plugin may publish to; may be repeated [default: everything]
    #[arg(long = "grant", value_name = "SUBJECT")]
    grants: Vec<SubjectFilter>,
    /// Which attempt the plugin is told it is
    #[arg(long, value_name = "N", default_value_t = 1)]
    attempt: u32,
    /// The wall-clock budget
    #[arg(long, value_parser = parse_duration, default_value = "5s")]
    timeout: Duration,
    /// The processor budget
    #[arg(long, value_parser = parse_duration, default_value = "500ms")]
    cpu: Duration,
    /// The memory budget
    #[arg(long, default_value = "64MiB")]
    memory: ByteSize,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Bytes of the largest message that a plugin may publish here: a broker's default.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

/// Runs the event.
pub fn run(args: &InvokeArgs) -> anyhow::Result<Exit> {
    let limits = limits(args)?;
    let event = event(args)?;
    let spec = PluginSpec {
        name: "invoked".parse()?,
        limits,
        grants: Grants { publish: grants(args)?, ..Grants::default() },
        config: config(args)?,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
    };
    let file = args.file.display();
    let bytes = read_file(&args.file).with_context(|| format!("{file} can't be read"))?;
    let engine = Engine::new(EngineConfig::default())?;
    let loaded = engine.load(&bytes).map_err(|why| anyhow::anyhow!("{file}: {}", chain(&why)))?;
    let plugin =
        Plugin::new(&engine, &loaded, spec).map_err(|why| anyhow::anyhow!("{file}: {}", chain(&why)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(plugin.call(&event, Attempt(args.attempt)));
    match args.output {
        OutputFormat::Json => print::json(&as_json(&report))?,
        OutputFormat::Text => as_text(&report, &limits)?,
    }
    Ok(if matches!(report.ran, Ran::Ok(_)) { Exit::Ok } else { Exit::Failed })
}

fn limits(args: &InvokeArgs) -> anyhow::Result<Limits> {
    let limits = Limits { timeout: args.timeout, cpu: args.cpu, memory: args.memory, ..Limits::default() };
    match limits.out_of_range().into_iter().next() {
        None => Ok(limits),
        Some(wrong) => {
            Err(Usage(format!("--{} must be between {} and {}", wrong.key, wrong.least, wrong.most)).into())
        }
    }
}

fn event(args: &InvokeArgs) -> anyhow::Result<Event> {
    let subject =
        args.subject.parse().map_err(|why| Usage(format!("--subject {:?}: {why}", args.subject)))?;
    Ok(Event {
        id: EventId::random([0; 32]),
        subject,
        headers: publish::headers(&args.headers)?,
        payload: publish::payload(args.data.as_deref(), args.data_file.as_deref())?,
        position: None,
        published_at_ms: None,
        hops: 0,
        can_reply: args.request,
    })
}

fn grants(args: &InvokeArgs) -> anyhow::Result<Vec<SubjectFilter>> {
    if args.grants.is_empty() { Ok(vec![">".parse()?]) } else { Ok(args.grants.clone()) }
}

fn config(args: &InvokeArgs) -> anyhow::Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for line in &args.config {
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| Usage(format!("--config {line:?}: write KEY=VALUE or KEY=@FILE")))?;
        let value = match value.strip_prefix('@') {
            Some(file) => {
                fs::read_to_string(file).with_context(|| format!("--config {key}: {file} can't be read"))?
            }
            None => value.to_owned(),
        };
        values.insert(key.to_owned(), value);
    }
    Ok(values)
}

fn as_text(report: &Report, limits: &Limits) -> anyhow::Result<()> {
    match &report.ran {
        Ran::Ok(outputs) => {
            print::line(format!("outcome  ok, {} published", outputs.messages.len()))?;
            for Output { subject, headers, payload, .. } in &outputs.messages {
                print_message(&format!("output   {subject}"), headers, payload)?;
            }
            if let Some(Reply { headers, payload }) = &outputs.reply {
                print_message("reply", headers, payload)?;
            }
        }
        Ran::Failed(failure) => print_failure(failure)?,
        Ran::Refused(refusal) => print::line(format!("outcome  refused: {}: {refusal:?}", refusal.code()))?,
    }
    for LogLine { level, context, message } in &report.logs {
        let context =
            if context.is_empty() { String::new() } else { format!("{}: ", print::escaped(context)) };
        print::line(format!("log      {level:?} {context}{}", print::escaped(message)))?;
    }
    let Used { wall, cpu, memory_bytes, publishes, publish_bytes, log_lines, log_lines_dropped, denied } =
        report.used;
    let us = |time: Duration| format!("{} us", time.as_micros());
    let rows = [
        ["wall".into(), us(wall), us(limits.timeout)],
        ["cpu".into(), us(cpu), us(limits.cpu)],
        ["memory".into(), format!("{} KiB", memory_bytes / 1024), limits.memory.to_string()],
        ["publishes".into(), publishes.to_string(), limits.publishes.to_string()],
        ["publish bytes".into(), publish_bytes.to_string(), limits.publish_bytes.to_string()],
        [
            "log lines".into(),
            format!("{log_lines} ({log_lines_dropped} dropped)"),
            limits.log_lines.to_string(),
        ],
        ["denied calls".into(), denied.to_string(), String::new()],
    ];
    print::table(["BUDGET", "USED", "LIMIT"], &rows)
}

fn print_failure(failure: &Failure) -> anyhow::Result<()> {
    let after =
        failure.after.map_or(String::new(), |after| format!(", again after {} ms", after.as_millis()));
    print::line(format!("outcome  {} {}{after}", failure.class, failure.code))?;
    print::line(format!("reason   {}", failure.reason))?;
    if let Some(panic) = &failure.evidence.panic {
        print::line(format!("panic    {}", print::escaped(panic)))?;
    }
    for frame in &failure.evidence.backtrace {
        print::line(format!("at       {}", print::escaped(frame)))?;
    }
    Ok(())
}

fn print_message(first: &str, headers: &Headers, payload: &[u8]) -> anyhow::Result<()> {
    print::line(first)?;
    for (name, value) in headers.iter() {
        print::line(format!("         {name}: {value}"))?;
    }
    match std::str::from_utf8(payload) {
        Ok(text) => print::line(format!("         {}", print::escaped(text))),
        Err(_) => print::line(format!("         (base64) {}", BASE64.encode(payload))),
    }
}

fn as_json(report: &Report) -> Value {
    let Used { wall, cpu, memory_bytes, publishes, publish_bytes, log_lines, log_lines_dropped, denied } =
        report.used;
    let logs = report.logs.iter();
    let logs: Vec<_> = logs
        .map(|line| json!({ "level": format!("{:?}", line.level).to_lowercase(), "context": line.context, "message": line.message }))
        .collect();
    json!({
        "outcome": outcome(&report.ran),
        "logs": logs,
        "used": {
            "wall_us": wall.as_micros() as u64, "cpu_us": cpu.as_micros() as u64, "memory_bytes": memory_bytes,
            "publishes": publishes, "publish_bytes": publish_bytes, "log_lines": log_lines,
            "log_lines_dropped": log_lines_dropped, "denied": denied,
        },
    })
}

fn outcome(ran: &Ran) -> Value {
    match ran {
        Ran::Ok(outputs) => {
            let reply = outputs.reply.as_ref().map(|reply| message_json(&reply.headers, &reply.payload));
            let outputs: Vec<_> = outputs.messages.iter().map(output_json).collect();
            json!({ "kind": "ok", "outputs": outputs, "reply": reply })
        }
        Ran::Failed(failure) => json!({
            "kind": "failed", "class": failure.class.code(), "code": failure.code, "reason": failure.reason,
            "after_ms": failure.after.map(|after| after.as_millis() as u64),
            "panic": failure.evidence.panic, "backtrace": failure.evidence.backtrace,
        }),
        Ran::Refused(refusal) => {
            json!({ "kind": "refused", "code": refusal.code(), "reason": format!("{refusal:?}") })
        }
    }
}

fn output_json(output: &Output) -> Value {
    let mut message = message_json(&output.headers, &output.payload);
    if let Some(fields) = message.as_object_mut() {
        fields.insert("subject".to_owned(), output.subject.as_str().into());
    }
    message
}

fn message_json(headers: &Headers, payload: &[u8]) -> Value {
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({
        "headers": headers,
        "payload": String::from_utf8_lossy(payload), "payload_base64": BASE64.encode(payload),
    })
}
