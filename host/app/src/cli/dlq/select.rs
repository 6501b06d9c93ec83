//! Which letters a command is about: by their names, or by what they say.

use super::{
    super::Usage,
    letter::{age, field},
};
use busway_core::{FailureClass, PluginName, SubjectFilter, dead_letter as account, units::parse_duration};
use busway_transport::{DeadLetters, LetterFilter, nats::StoredLetter};
use bytes::Bytes;
use clap::Args;
use std::time::Duration;

/// Letters that one read of the broker brings.
const PAGE: usize = 100;

/// What letters must say to be meant; everything that is given must fit.
#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// Only this plugin's
    #[arg(long, value_name = "NAME")]
    plugin: Option<PluginName>,
    /// Only of this class: reject, retry, timeout, cpu, trap, memory, quota, denied, …
    #[arg(long, value_name = "CLASS", value_parser = class)]
    class: Option<FailureClass>,
    /// Only events on subjects that this lets through; `*` and `>` are wildcards
    #[arg(long, value_name = "PATTERN")]
    subject: Option<SubjectFilter>,
    /// Only those that have been there for longer, as in 90m or 2d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    older: Option<Duration>,
    /// Only those that have been there for less
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    newer: Option<Duration>,
    /// Only with this text in reason, panic message or payload, in whatever case
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

/// Which letters are changed: nobody redrives everything by leaving something out.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// The letters' numbers, or their events' ids or how these begin
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Every letter
    #[arg(long)]
    all: bool,
}

fn class(text: &str) -> Result<FailureClass, String> {
    FailureClass::from_code(text).ok_or_else(|| {
        let known: Vec<_> = FailureClass::ALL.iter().map(|class| class.code()).collect();
        format!("no such class; there are {}", known.join(", "))
    })
}

impl Filter {
    fn is_empty(&self) -> bool {
        let Self { plugin, class, subject, older, newer, text } = self;
        plugin.is_none()
            && class.is_none()
            && subject.is_none()
            && older.is_none()
            && newer.is_none()
            && text.is_none()
    }

    /// Whether a letter is meant, its text apart.
    fn fits(&self, stored: &StoredLetter) -> bool {
        let Self { plugin, class, subject, older, newer, .. } = self;
        plugin.as_ref().is_none_or(|plugin| field(stored, account::PLUGIN) == plugin.as_str())
            && class.is_none_or(|class| field(stored, account::CLASS) == class.code())
            && subject.as_ref().is_none_or(|filter| filter.matches(field(stored, account::SUBJECT)))
            && older.is_none_or(|older| age(stored) > older)
            && newer.is_none_or(|newer| age(stored) < newer)
    }

    /// Whether a whole letter has the text.
    fn has_text(&self, stored: &StoredLetter) -> bool {
        let Some(text) = &self.text else { return true };
        let text = text.to_lowercase();
        let has = |part: &str| part.to_lowercase().contains(&text);
        has(field(stored, account::REASON))
            || has(field(stored, account::PANIC))
            || has(&String::from_utf8_lossy(&stored.payload))
    }

    /// The letters that are meant, newest first, at most so many, without their payloads.
    pub async fn find(&self, letters: &DeadLetters, limit: usize) -> anyhow::Result<Vec<StoredLetter>> {
        let mut found = Vec::new();
        let mut before = None;
        while found.len() < limit {
            let filter = LetterFilter { plugin: self.plugin.clone(), before, limit: PAGE };
            let page = letters.list(&filter).await?;
            for stored in page.letters {
                if !self.fits(&stored) {
                    continue;
                }
                let is_elsewhere = stored.headers.get(account::PAYLOAD_OBJECT).is_some();
                let has_text = match self.text.is_some() && is_elsewhere {
                    true => self.has_text(&letters.get(stored.sequence).await?),
                    false => self.has_text(&stored),
                };
                if has_text {
                    // Whoever needs a payload reads the letter again: all of them together may be large.
                    found.push(StoredLetter { payload: Bytes::new(), ..stored });
                }
            }
            before = page.before;
            if before.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

impl Selection {
    /// The letters that are meant, oldest first.
    ///
    /// # Errors
    /// Nothing was said, or two things that exclude each other; a name that fits no letter or several.
    pub async fn find(&self, letters: &DeadLetters) -> anyhow::Result<Vec<StoredLetter>> {
        let ways = [!self.ids.is_empty(), !self.filter.is_empty(), self.all];
        if ways.iter().filter(|way| **way).count() != 1 {
            let what = "say which letters: by their numbers or ids, by a filter such as --plugin, or --all";
            return Err(Usage(what.to_owned()).into());
        }
        let mut found = Vec::new();
        for id in &self.ids {
            found.push(one(letters, id).await?);
        }
        if self.ids.is_empty() {
            found = self.filter.find(letters, usize::MAX).await?;
        }
        found.sort_by_key(|stored| stored.sequence);
        found.dedup_by_key(|stored| stored.sequence);
        Ok(found)
    }
}

/// The letter of this number, or of the event whose id begins so; whole.
///
/// # Errors
/// None, or several.
pub async fn one(letters: &DeadLetters, id: &str) -> anyhow::Result<StoredLetter> {
    if let Ok(sequence) = id.trim_start_matches('#').parse() {
        return Ok(letters.get(sequence).await?);
    }
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = letters.list(&LetterFilter { plugin: None, before, limit: PAGE }).await?;
        let is_meant = |stored: &&StoredLetter| field(stored, account::EVENT_ID).starts_with(id);
        found.extend(page.letters.iter().filter(is_meant).map(|stored| stored.sequence));
        before = page.before;
        if before.is_none() {
            break;
        }
    }
    match &found[..] {
        [] => anyhow::bail!(
            "no dead letter for an event whose id begins with {id:?}; `busway dlq ls` lists them"
        ),
        [sequence] => Ok(letters.get(*sequence).await?),
        several => {
            let numbers: Vec<_> = several.iter().map(u64::to_string).collect();
            anyhow::bail!(
                "several dead letters are of events whose ids begin with {id:?}: say which by its number, {}",
                numbers.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> StoredLetter {
        let headers = [
            (account::PLUGIN, "p"),
            (account::CLASS, "trap"),
            (account::SUBJECT, "orders.created"),
            (account::REASON, "Index out of bounds"),
        ];
        StoredLetter {
            sequence: 1,
            stored_at_ms: now_ms() - 3_600_000,
            subject: String::new(),
            headers: headers.into_iter().collect(),
            payload: Bytes::from_static(b"{\"id\": 7}"),
        }
    }

    fn now_ms() -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or_default()
    }

    fn is_meant(filter: &Filter) -> bool {
        filter.fits(&stored()) && filter.has_text(&stored())
    }

    #[test]
    fn everything_that_is_given_must_fit() {
        let none = Filter::default;
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3_600));
        assert!(is_meant(&none()));
        assert!(is_meant(&Filter { plugin: "p".parse().ok(), class: Some(FailureClass::Trap), ..none() }));
        assert!(!is_meant(&Filter { plugin: "p".parse().ok(), class: Some(FailureClass::Retry), ..none() }));
        assert!(is_meant(&Filter { subject: "orders.*".parse().ok(), ..none() }));
        assert!(!is_meant(&Filter { subject: "users.>".parse().ok(), ..none() }));
        assert!(
            is_meant(&Filter { newer: hours(2), ..none() })
                && !is_meant(&Filter { newer: hours(0), ..none() })
        );
        assert!(
            is_meant(&Filter { older: hours(0), ..none() })
                && !is_meant(&Filter { older: hours(2), ..none() })
        );
        for (text, expected) in [("OUT OF", true), ("\"id\": 7", true), ("absent", false)] {
            assert_eq!(is_meant(&Filter { text: Some(text.into()), ..none() }), expected, "{text}");
        }
    }
}
