//! The plan: what happens at which point, as it is written in `BUSWAY_FAILPOINTS`.
//!
//! `point=action[:when]`, separated by commas: `settle.ack.after=error:0.05,publish.publish-all.before=abort:once@17`.
//! A plan with a mistake is refused: a test whose fault never happens would prove nothing.

use crate::point::Point;
use std::{fmt, time::Duration};

/// How long `delay` takes without a time of its own.
pub const DELAY: Duration = Duration::from_secs(2);

/// What happens at which point.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan(Vec<(Point, Action, When)>);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The host's code panics there.
    Panic,
    /// An error is told; before the operation it is not done, after it it is.
    Error,
    /// It goes on later. Written `delay` ([`DELAY`]) or `delay(250)` in milliseconds.
    Delay(Duration),
    /// The process ends there, as if it were killed.
    Abort,
}

/// At which passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// At each.
    Always,
    /// At this share of them, from 0 to 1.
    Chance(f64),
    /// At the nth alone, from 1: `once@17`.
    Once(u64),
    /// At every nth: `every@17`.
    Every(u64),
}

/// Why a plan is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not `point=action`.
    #[error("{0:?}: write point=action or point=action:when")]
    Shape(String),
    /// There is no such point.
    #[error("{0:?} is no fail point; there are {names}", names = names())]
    Point(String),
    /// There is no such action.
    #[error("{0:?}: write panic, error, abort, delay or delay(milliseconds)")]
    Action(String),
    /// No such condition.
    #[error("{0:?}: write a share such as 0.05, once@n or every@n, n from 1")]
    When(String),
}

fn names() -> String {
    Point::all().map(|point| point.to_string()).collect::<Vec<_>>().join(", ")
}

impl Plan {
    /// Reads a plan; an empty text is an empty plan.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let rules = text.split(',').map(str::trim).filter(|rule| !rule.is_empty());
        rules.map(rule).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = (Point, Action, When)> {
        self.0.iter().copied()
    }
}

fn rule(text: &str) -> Result<(Point, Action, When), PlanError> {
    let (name, what) = text.split_once('=').ok_or_else(|| PlanError::Shape(text.to_owned()))?;
    let point = name.trim().parse().map_err(|()| PlanError::Point(name.to_owned()))?;
    let (action, when) = match what.split_once(':') {
        Some((action, condition)) => (action, self::when(condition)?),
        None => (what, When::Always),
    };
    Ok((point, self::action(action)?, when))
}

fn action(text: &str) -> Result<Action, PlanError> {
    let wrong = || PlanError::Action(text.to_owned());
    match text {
        "panic" => Ok(Action::Panic),
        "error" => Ok(Action::Error),
        "abort" => Ok(Action::Abort),
        "delay" => Ok(Action::Delay(DELAY)),
        _ => {
            let time = text.strip_prefix("delay(").and_then(|rest| rest.strip_suffix(')'));
            let milliseconds = time.and_then(|time| time.parse().ok()).ok_or_else(wrong)?;
            Ok(Action::Delay(Duration::from_millis(milliseconds)))
        }
    }
}

fn when(text: &str) -> Result<When, PlanError> {
    let wrong = || PlanError::When(text.to_owned());
    let nth = |number: &str| number.parse().ok().filter(|n| *n > 0).ok_or_else(wrong);
    match text.split_once('@') {
        Some(("once", number)) => nth(number).map(When::Once),
        Some(("every", number)) => nth(number).map(When::Every),
        Some(_) => Err(wrong()),
        None => {
            text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).map(When::Chance).ok_or_else(wrong)
        }
    }
}

impl When {
    /// Whether it is now, at this pass.
    pub(crate) fn is_now(self, pass: u64, chance: impl FnOnce() -> f64) -> bool {
        match self {
            Self::Always => true,
            Self::Chance(share) => chance() < share,
            Self::Once(nth) => pass == nth,
            Self::Every(nth) => pass.is_multiple_of(nth),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic => f.write_str("panic"),
            Self::Error => f.write_str("error"),
            Self::Abort => f.write_str("abort"),
            Self::Delay(time) => write!(f, "delay({})", time.as_millis()),
        }
    }
}
