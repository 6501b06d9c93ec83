//! `busway dlq discard`: letters are deleted for good.

use super::{
    super::{ConfigFile, print},
    letter,
    retry::usage,
    select::Selection,
};
use crate::Exit;
use busway_transport::DeadLetters;
use clap::Args;
use std::io::{self, IsTerminal as _, Write as _};

/// Deletes dead letters for good, with their payloads. Asks before.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway dlq discard 17\n  busway dlq discard --plugin validate --older 30d --yes"
)]
pub struct DiscardArgs {
    #[command(flatten)]
    selection: Selection,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Discards.
pub async fn run(letters: &DeadLetters, args: &DiscardArgs) -> anyhow::Result<Exit> {
    if !args.yes && !io::stdin().is_terminal() {
        return Err(usage("discarding is for good: without a terminal to ask on, say --yes"));
    }
    let meant = args.selection.find(letters).await?;
    if meant.is_empty() {
        print::line("no dead letters are meant")?;
        return Ok(Exit::Ok);
    }
    if !args.yes {
        for stored in &meant {
            print::line(letter::name(stored))?;
        }
        if !is_sure(meant.len())? {
            print::line("nothing was discarded")?;
            return Ok(Exit::Failed);
        }
    }
    for stored in &meant {
        letters.discard(stored).await?;
        print::line(format!("{}  discarded", letter::name(stored)))?;
    }
    print::line(format!("{} discarded", meant.len()))?;
    Ok(Exit::Ok)
}

fn is_sure(letters: usize) -> anyhow::Result<bool> {
    let mut errors = io::stderr().lock();
    write!(errors, "discard {letters} dead letters for good? [y/N] ")?;
    errors.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
