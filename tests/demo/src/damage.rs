//! The damaged events: what real publishers get wrong, made from real payloads, and what has to be said about each.
//!
//! A dead letter for the wrong reason is a fault of the demo's as much as a lost event, so every one of them says which
//! code its letter must carry and what its reason must contain.

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::events::{Event, Fate, Recorded};

/// The ways in which an event is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The connection broke in the middle of the body.
    CutJson,
    /// A field holds something else than it should.
    WrongType,
    /// A field is not there.
    MissingField,
    /// No body at all.
    Empty,
    /// Bytes that never were JSON.
    Binary,
    /// A kind that nobody expects.
    UnknownKind,
}

/// What is wrong with an event, and what its dead letter has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged {
    /// How it is damaged.
    pub how: Damage,
    /// A part of the reason in its dead letter.
    pub reason: &'static str,
}

impl Damage {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 6] =
        [Self::CutJson, Self::WrongType, Self::MissingField, Self::Empty, Self::Binary, Self::UnknownKind];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::CutJson => "cut JSON",
            Self::WrongType => "wrong type",
            Self::MissingField => "missing field",
            Self::Empty => "empty",
            Self::Binary => "binary",
            Self::UnknownKind => "unknown kind",
        }
    }

    /// The class of the dead letter: the plugin says of each that no retry can help.
    pub fn class(self) -> &'static str {
        "reject"
    }

    /// The code of the dead letter.
    pub fn code(self) -> &'static str {
        match self {
            Self::CutJson | Self::Empty | Self::Binary => "invalid-json",
            Self::WrongType | Self::MissingField => "schema-mismatch",
            Self::UnknownKind => "unknown-kind",
        }
    }
}

/// Every damaged event.
///
/// # Errors
/// A kind that is made use of is not among the recorded ones.
pub fn all(recorded: &[Recorded]) -> anyhow::Result<Vec<Event>> {
    let bytes = |kind: &str| original(recorded, kind).map(|body| body.to_string().into_bytes());
    let mut push = bytes("push")?;
    push.truncate(push.len() / 2);
    let mut issue = bytes("issues")?;
    issue.pop();
    let with = |kind: &str, field: &str, value: Value| altered(recorded, kind, field, Some(value));
    let without = |kind: &str, field: &str| altered(recorded, kind, field, None);
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let compressed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xabV\xaaW\x02\x00".to_vec();

    use Damage::{Binary, CutJson, Empty, MissingField, UnknownKind, WrongType};
    let table = [
        (CutJson, "push", push, "EOF while parsing"),
        (CutJson, "issues", issue, "EOF while parsing an object"),
        (
            WrongType,
            "issues",
            with("issues", "sender", json!("octocat"))?,
            "/sender: is a string, not an object",
        ),
        (
            WrongType,
            "pull_request",
            with("pull_request", "number", json!("7"))?,
            "/number: is a string, not an integer",
        ),
        (WrongType, "push", with("push", "commits", json!({}))?, "/commits: is an object, not an array"),
        (MissingField, "issues", without("issues", "repository")?, "lacks `repository`"),
        (MissingField, "push", without("push", "ref")?, "lacks `ref`"),
        (MissingField, "release", without("release", "action")?, "lacks `action`"),
        (Empty, "ping", Vec::new(), "EOF while parsing a value at line 1 column 0"),
        (Empty, "watch", Vec::new(), "EOF while parsing a value at line 1 column 0"),
        (Binary, "push", compressed, "expected value at line 1 column 1"),
        (Binary, "star", every_byte, "expected value at line 1 column 1"),
        (UnknownKind, "coffee_break", bytes("push")?, "no schema for X-GitHub-Event: coffee_break"),
        (UnknownKind, "PUSH", bytes("push")?, "no schema for X-GitHub-Event: PUSH"),
    ];
    let mut events = Vec::with_capacity(table.len());
    for (at, (how, kind, payload, reason)) in table.into_iter().enumerate() {
        events.push(Event {
            id: format!("damaged-{:02}-{}", at + 1, how.name().to_lowercase().replace(' ', "-")),
            kind: kind.to_owned(),
            payload: Bytes::from(payload),
            fate: Fate::Dead(Damaged { how, reason }),
        });
    }
    Ok(events)
}

/// The first recorded body of a kind.
fn original<'a>(recorded: &'a [Recorded], kind: &str) -> anyhow::Result<&'a Value> {
    let found = recorded.iter().find(|recorded| recorded.kind == kind);
    Ok(&found.with_context(|| format!("no recorded payload is of the kind {kind}"))?.body)
}

/// That body with another value in a field, or without the field.
fn altered(recorded: &[Recorded], kind: &str, field: &str, value: Option<Value>) -> anyhow::Result<Vec<u8>> {
    let mut body = original(recorded, kind)?.clone();
    let fields = body.as_object_mut().with_context(|| format!("a recorded {kind} is not an object"))?;
    fields.remove(field).with_context(|| format!("a recorded {kind} has no {field}"))?;
    if let Some(value) = value {
        fields.insert(field.to_owned(), value);
    }
    Ok(serde_json::to_vec(&body)?)
}
