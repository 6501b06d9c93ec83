//! What is published: every recorded payload, and between them the damaged ones.
//!
//! Each event has an id that is told to GitHub's receivers as `X-GitHub-Delivery`. Plugins pass it on and dead letters
//! keep it, so that it is what the account counts by.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde_json::Value;

use crate::damage::{self, Damaged};

/// The header that names the kind of an event.
pub const KIND: &str = "X-GitHub-Event";
/// The header that holds the id of an event.
pub const DELIVERY: &str = "X-GitHub-Delivery";

/// One event to be published.
#[derive(Debug, Clone)]
pub struct Event {
    /// Unique in the demo: `issues-03`, `damaged-empty-1`.
    pub id: String,
    /// As in [`KIND`].
    pub kind: String,
    /// The bytes.
    pub payload: Bytes,
    /// How it has to end.
    pub fate: Fate,
}

/// How an event has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// In the stream `ROUTED`, unchanged.
    Routed,
    /// As a dead letter with this cause.
    Dead(Damaged),
}

/// A payload as it was recorded.
#[derive(Debug)]
pub struct Recorded {
    /// As in [`KIND`].
    pub kind: String,
    /// The body.
    pub body: Value,
}

impl Event {
    /// The subject that it is published on.
    pub fn subject(&self) -> String {
        format!("github.{}", self.kind)
    }
}

/// The recorded events in their order, the damaged ones spread among them.
///
/// # Errors
/// A file that can't be read, or is not a list of `{ name, examples: […] }`.
pub fn all(file: &Path) -> anyhow::Result<Vec<Event>> {
    let recorded = recorded(file).with_context(|| format!("{} can't be used", file.display()))?;
    let damaged = damage::all(&recorded)?;
    let mut seen = 0;
    let mut last = "";
    let mut events = Vec::with_capacity(recorded.len() + damaged.len());
    let gap = recorded.len() / (damaged.len() + 1);
    let mut between = damaged.into_iter();
    for (at, Recorded { kind, body }) in recorded.iter().enumerate() {
        seen = if last == kind { seen + 1 } else { 1 };
        last = kind;
        let payload = serde_json::to_vec(body)?.into();
        events.push(Event {
            id: format!("{kind}-{seen:02}"),
            kind: kind.clone(),
            payload,
            fate: Fate::Routed,
        });
        if at % gap == gap - 1 {
            events.extend(between.next());
        }
    }
    events.extend(between);
    Ok(events)
}

fn recorded(file: &Path) -> anyhow::Result<Vec<Recorded>> {
    let kinds: Vec<Value> = serde_json::from_slice(&fs::read(file)?)?;
    let mut recorded = Vec::new();
    for kind in kinds {
        let name = kind.get("name").and_then(Value::as_str).context("an entry without a name")?;
        let examples = kind.get("examples").and_then(Value::as_array).context("an entry without examples")?;
        recorded.extend(examples.iter().map(|body| Recorded { kind: name.to_owned(), body: body.clone() }));
    }
    ensure!(!recorded.is_empty(), "it holds no examples");
    Ok(recorded)
}
