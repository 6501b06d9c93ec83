//! `busway publish`: one message onto the bus, and the broker's word that it is stored.

use super::{ConfigFile, OutputFormat, Usage, connect, print};
use crate::Exit;
use anyhow::Context as _;
use busway_core::Headers;
use busway_transport::{Durability, OneMessage, Published};
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

/// Publishes one message and waits until a stream has stored it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway publish orders.created '{\"id\": 7}'\n  busway publish orders.created --header Nats-Msg-Id=order-7 --data-file order.json\n  echo '{}' | busway publish orders.created --data-file -"
)]
pub struct PublishArgs {
    /// The subject, without wildcards
    subject: String,
    /// The payload [default: empty]
    #[arg(conflicts_with = "data_file")]
    data: Option<String>,
    /// A file with the payload; `-` is standard input
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// A header; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// A plain publish: nobody says whether anyone was there
    #[arg(long)]
    core: bool,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    file: ConfigFile,
}

/// Publishes.
pub fn run(args: &PublishArgs) -> anyhow::Result<Exit> {
    let message = OneMessage {
        subject: args.subject.clone(),
        headers: headers(&args.headers)?,
        payload: payload(args.data.as_deref(), args.data_file.as_deref())?,
    };
    let durability = if args.core { Durability::Core } else { Durability::Durable };
    connect::with_broker(&args.file.config, async |nats| {
        let published = nats.publish_one(&message, durability).await;
        match published.with_context(|| format!("{} was not published", args.subject))? {
            Published::Sent => {
                answer(args.output, "sent; nobody says whether anyone was there", json!({ "sent": true }))
            }
            Published::Stored(stored) => {
                let again = if stored.duplicate { ", where it was already" } else { "" };
                let text = format!("stored in {}, sequence {}{again}", stored.stream, stored.sequence);
                let value = json!({ "stream": stored.stream, "sequence": stored.sequence, "duplicate": stored.duplicate });
                answer(args.output, &text, value)
            }
        }
    })
}

fn answer(output: OutputFormat, text: &str, value: serde_json::Value) -> anyhow::Result<Exit> {
    match output {
        OutputFormat::Text => print::line(text)?,
        OutputFormat::Json => print::json(&value)?,
    }
    Ok(Exit::Ok)
}

/// `NAME=VALUE` lines as headers.
pub fn headers(lines: &[String]) -> anyhow::Result<Headers> {
    let mut headers = Headers::new();
    for line in lines {
        let (name, value) =
            line.split_once('=').ok_or_else(|| Usage(format!("--header {line:?}: write NAME=VALUE")))?;
        headers.push(name, value);
    }
    Ok(headers)
}

/// The payload that a command line names.
pub fn payload(data: Option<&str>, file: Option<&std::path::Path>) -> anyhow::Result<Bytes> {
    match (data, file) {
        (Some(data), _) => Ok(Bytes::copy_from_slice(data.as_bytes())),
        (None, Some(file)) if file.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).context("standard input can't be read")?;
            Ok(bytes.into())
        }
        (None, Some(file)) => {
            let bytes = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
            Ok(bytes.into())
        }
        (None, None) => Ok(Bytes::new()),
    }
}
