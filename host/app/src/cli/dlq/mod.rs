//! `busway dlq`: the dead letters, one file per verb. [`select`] says which are meant, [`letter`] what each of them says.

mod discard;
mod edit;
mod letter;
mod retry;
mod select;
mod transfer;

use super::{ConfigFile, OutputFormat, connect, print};
use crate::Exit;
use busway_transport::DeadLetters;
use clap::{Args, Subcommand};

/// Looks at dead letters, redrives, edits or discards them: events that will not be tried again, and why.
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    Ls(LsArgs),
    Show(ShowArgs),
    Retry(retry::RetryArgs),
    Edit(edit::EditArgs),
    Discard(discard::DiscardArgs),
    Export(transfer::ExportArgs),
    Import(transfer::ImportArgs),
}

/// Lists dead letters, newest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway dlq ls\n  busway dlq ls --plugin validate --class trap --newer 2h\n  busway dlq ls --text 'out of bounds' --limit 10 --output json"
)]
struct LsArgs {
    #[command(flatten)]
    filter: select::Filter,
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
    let file = match &args.command {
        DlqCommand::Ls(args) => &args.file,
        DlqCommand::Show(args) => &args.file,
        DlqCommand::Retry(args) => &args.file,
        DlqCommand::Edit(args) => &args.file,
        DlqCommand::Discard(args) => &args.file,
        DlqCommand::Export(args) => &args.file,
        DlqCommand::Import(args) => &args.file,
    };
    connect::with_broker(&file.config, async |nats| {
        let letters = nats.dead_letters();
        match &args.command {
            DlqCommand::Ls(args) => ls(&letters, args).await,
            DlqCommand::Show(args) => show(&letters, args).await,
            DlqCommand::Retry(args) => retry::run(&letters, args).await,
            DlqCommand::Edit(args) => edit::run(&letters, args).await,
            DlqCommand::Discard(args) => discard::run(&letters, args).await,
            DlqCommand::Export(args) => transfer::export(&letters, args).await,
            DlqCommand::Import(args) => transfer::import(&letters, args).await,
        }
    })
}

async fn ls(letters: &DeadLetters, args: &LsArgs) -> anyhow::Result<Exit> {
    let found = args.filter.find(letters, args.limit).await?;
    match args.output {
        OutputFormat::Json => print::json(&found.iter().map(letter::summary).collect::<Vec<_>>())?,
        OutputFormat::Text if found.is_empty() => print::line("no dead letters")?,
        OutputFormat::Text => {
            let rows: Vec<_> = found.iter().map(letter::row).collect();
            print::table(
                ["NUMBER", "PLUGIN", "CLASS", "CODE", "ATTEMPTS", "AGE", "SUBJECT", "REASON"],
                &rows,
            )?;
        }
    }
    Ok(Exit::Ok)
}

async fn show(letters: &DeadLetters, args: &ShowArgs) -> anyhow::Result<Exit> {
    let stored = select::one(letters, &args.id).await?;
    match args.output {
        OutputFormat::Json => print::json(&letter::whole(&stored))?,
        OutputFormat::Text => print::line(letter::page(&stored))?,
    }
    Ok(Exit::Ok)
}
