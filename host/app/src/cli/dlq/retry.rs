//! `busway dlq retry` and `edit`: events go back to the plugin that failed, and to no other.

use super::{
    super::{ConfigFile, OutputFormat, Usage, print},
    letter,
    select::Selection,
};
use crate::Exit;
use busway_core::again::{Copy, round_of};
use busway_transport::{DeadLetters, nats::StoredLetter};
use clap::Args;
use serde_json::json;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Hexadecimal digits of a version.
const VERSION_DIGITS: std::ops::RangeInclusive<usize> = 4..=64;

/// Gives the events of dead letters to the plugin that failed once more, and to no other.
///
/// Each event keeps its id, its headers and its trace, and has all of its attempts anew. Its letter is deleted when the
/// broker has confirmed that the event is stored; a command that was interrupted may be repeated. After three rounds an
/// event is refused.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  busway dlq retry 17\n  busway dlq retry --plugin validate --class timeout --dry-run\n  busway dlq retry --all --rate 50/s\n  busway dlq retry --plugin validate --to-version 3f9a01bc"
)]
pub struct RetryArgs {
    #[command(flatten)]
    selection: Selection,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// At most so many in a second, minute or hour, as in 50/s
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<Duration>,
    #[command(flatten)]
    version: ToVersion,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Which version of the plugin is meant.
#[derive(Debug, Clone, Args)]
pub struct ToVersion {
    /// Only a plugin whose digest begins so may run the events; hosts with another version put them back
    #[arg(long, value_name = "DIGEST", value_parser = version)]
    pub to_version: Option<String>,
}

/// The time between two events.
fn rate(text: &str) -> Result<Duration, String> {
    let wrong = || "a number with its unit, as in 50/s, 100/m or 1000/h".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let number: u32 = number.trim().parse().map_err(|_| wrong())?;
    let unit = match unit.trim() {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3_600),
        _ => return Err(wrong()),
    };
    unit.checked_div(number).ok_or_else(wrong)
}

fn version(text: &str) -> Result<String, String> {
    let digits = text.trim_start_matches("sha256:").to_ascii_lowercase();
    if VERSION_DIGITS.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    Err("the beginning of a plugin's digest: 4 to 64 hexadecimal digits, as `busway inspect` prints them"
        .into())
}

/// Redrives.
pub async fn run(letters: &DeadLetters, args: &RetryArgs) -> anyhow::Result<Exit> {
    let meant = args.selection.find(letters).await?;
    let mut pace = args.rate.map(tokio::time::interval);
    if let Some(pace) = &mut pace {
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let version = args.version.to_version.as_deref();
    let mut told = Told { output: args.output, dry_run: args.dry_run, ..Told::default() };
    for stored in meant {
        if let Some(pace) = &mut pace
            && !args.dry_run
        {
            pace.tick().await;
        }
        let done = match args.dry_run {
            true => would(&stored, version),
            false => redriven(letters, &stored, version).await,
        };
        told.say(&stored, done)?;
    }
    told.end()
}

fn would(stored: &StoredLetter, version: Option<&str>) -> Result<String, String> {
    let copy = Copy::redriven(&stored.headers, stored.payload.clone(), version);
    copy.map(|_| "would be redriven".to_owned()).map_err(|why| why.to_string())
}

async fn redriven(
    letters: &DeadLetters,
    stored: &StoredLetter,
    version: Option<&str>,
) -> Result<String, String> {
    let stored = letters.get(stored.sequence).await.map_err(|why| crate::plugins::chain(&why))?;
    redrive(letters, &stored, version).await
}

/// Redrives one letter that is whole, and says what came of it.
pub async fn redrive(
    letters: &DeadLetters,
    stored: &StoredLetter,
    version: Option<&str>,
) -> Result<String, String> {
    match letters.redrive(stored, version).await {
        Ok(done) if done.duplicate => Ok("was redriven before; its letter is deleted now".to_owned()),
        Ok(_) => Ok(format!("redriven, round {}", round_of(&stored.headers).unwrap_or_default() + 1)),
        Err(why) => Err(crate::plugins::chain(&why)),
    }
}

/// What was done, letter by letter, and what could not be.
#[derive(Default)]
struct Told {
    output: OutputFormat,
    dry_run: bool,
    entries: Vec<serde_json::Value>,
    done: usize,
    failed: usize,
}

impl Told {
    fn say(&mut self, stored: &StoredLetter, done: Result<String, String>) -> anyhow::Result<()> {
        match &done {
            Ok(_) => self.done += 1,
            Err(_) => self.failed += 1,
        }
        if self.output == OutputFormat::Json {
            let mut entry = letter::summary(stored);
            if let serde_json::Value::Object(fields) = &mut entry {
                let key = if self.dry_run { "would_redrive" } else { "redriven" };
                fields.insert(key.into(), done.is_ok().into());
                fields.insert("what".into(), done.unwrap_or_else(|why| why).into());
            }
            self.entries.push(entry);
            return Ok(());
        }
        let what = done.unwrap_or_else(|why| format!("not redriven: {why}"));
        print::line(format!("{}  {}", letter::name(stored), print::escaped(&what)))
    }

    fn end(self) -> anyhow::Result<Exit> {
        let Self { output, dry_run, entries, done, failed } = self;
        let what = if dry_run { "would be redriven" } else { "redriven" };
        match output {
            OutputFormat::Json => print::json(&json!(entries))?,
            OutputFormat::Text if done + failed == 0 => print::line("no dead letters are meant")?,
            OutputFormat::Text => {
                let rest = if failed == 0 { String::new() } else { format!(", {failed} refused") };
                print::line(format!("{done} {what}{rest}"))?;
            }
        }
        Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
    }
}

/// A command line that names more than there is.
pub fn usage(what: &str) -> anyhow::Error {
    Usage(what.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_time_between_two_events() {
        assert_eq!(rate("50/s"), Ok(Duration::from_millis(20)));
        assert_eq!(rate("60/m"), Ok(Duration::from_secs(1)));
        for wrong in ["50", "0/s", "x/s", "5/d", "-1/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_version_is_the_beginning_of_a_digest() {
        assert_eq!(version("sha256:3F9A01bc"), Ok("3f9a01bc".to_owned()));
        for wrong in ["3f9", "latest", "", "3f9a 1bc"] {
            assert!(version(wrong).is_err(), "{wrong}");
        }
    }
}
