//! What was found, and how bad it is.

use serde_json::{Value, json};
use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// Should be known.
    Warning,
    /// The host will not start, or will not keep its promises.
    Failure,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    level: Level,
    subject: String,
    what: String,
}

/// Everything that was found, in the order of the questions.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl Findings {
    /// Notes one.
    pub(super) fn add(&mut self, level: Level, subject: impl Into<String>, what: impl Into<String>) {
        self.0.push(Finding { level, subject: subject.into(), what: what.into() });
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// Whether any is a failure.
    pub(super) fn failed(&self) -> bool {
        self.count(Level::Failure) > 0
    }

    /// The last line.
    pub(super) fn summary(&self) -> String {
        let (failures, warnings) = (self.count(Level::Failure), self.count(Level::Warning));
        let counted = |number, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        format!("{}, {}", counted(failures, "failure"), counted(warnings, "warning"))
    }

    /// For programs.
    pub(super) fn as_json(&self) -> Value {
        let each = |finding: &Finding| json!({ "level": finding.level.word(), "subject": finding.subject, "what": finding.what });
        self.0.iter().map(each).collect()
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = crate::cli::print::escaped(&self.what);
        write!(f, "{:<8} {}: {escaped}", self.level.word(), self.subject)
    }
}
