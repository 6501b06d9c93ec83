//! When a rule holds.
//!
//! A condition has one thing to look at and one question about it. Values are compared as they are written, without
//! patterns: a rule that reads like a sentence can be checked by eye, and what needs more than that is a plugin.

use busway_sdk::Failure;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::facts::Facts;
use crate::template::Template;

/// One entry of `rules`: `{ "when": { "header": "X-GitHub-Event", "equals": "push" }, "to": "routed.push" }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Without a condition the rule holds always.
    when: Option<Condition>,
    /// Where the event goes.
    pub to: Template,
}

impl Rule {
    /// Whether the rule holds for an event.
    ///
    /// # Errors
    /// A reject with the code `invalid-json` when the rule asks for a part of the payload and it is not JSON.
    pub fn holds(&self, facts: &Facts<'_>) -> Result<bool, Failure> {
        self.when.as_ref().map_or(Ok(true), |when| when.holds(facts))
    }
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "AuthoredCondition")]
struct Condition {
    look_at: LookAt,
    question: Question,
    and: Option<Box<Condition>>,
}

#[derive(Debug)]
enum LookAt {
    Header(String),
    Pointer(String),
}

#[derive(Debug)]
enum Question {
    IsThere,
    Equals(Value),
    IsIn(Vec<Value>),
}

impl Condition {
    fn holds(&self, facts: &Facts<'_>) -> Result<bool, Failure> {
        let here = match &self.look_at {
            LookAt::Header(name) => facts
                .header(name)
                .is_some_and(|value| self.question.is_answered_by(|wanted| is_text(wanted, value))),
            LookAt::Pointer(pointer) => facts
                .part(pointer)?
                .is_some_and(|value| self.question.is_answered_by(|wanted| wanted == value)),
        };
        match &self.and {
            Some(and) if here => and.holds(facts),
            _ => Ok(here),
        }
    }
}

impl Question {
    fn is_answered_by(&self, is: impl Fn(&Value) -> bool) -> bool {
        match self {
            Self::IsThere => true,
            Self::Equals(wanted) => is(wanted),
            Self::IsIn(wanted) => wanted.iter().any(is),
        }
    }
}

/// A header is text; a number or a truth value in a rule means its usual spelling.
fn is_text(wanted: &Value, text: &str) -> bool {
    match wanted {
        Value::String(wanted) => wanted == text,
        other => {
            let spelling = other.to_string();
            spelling == text
        }
    }
}

/// A condition as it is written, before it is known to say exactly one thing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthoredCondition {
    header: Option<String>,
    pointer: Option<String>,
    #[serde(default, deserialize_with = "even_null")]
    equals: Option<Value>,
    #[serde(rename = "in")]
    is_in: Option<Vec<Value>>,
    and: Option<Box<Condition>>,
}

/// `"equals": null` asks for null; it is not the same as no `equals` at all.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl TryFrom<AuthoredCondition> for Condition {
    type Error = &'static str;

    fn try_from(authored: AuthoredCondition) -> Result<Self, Self::Error> {
        let look_at = match (authored.header, authored.pointer) {
            (Some(name), None) => LookAt::Header(name),
            (None, Some(pointer)) if pointer.is_empty() || pointer.starts_with('/') => {
                LookAt::Pointer(pointer)
            }
            (None, Some(_)) => return Err("a JSON pointer starts with `/`"),
            _ => return Err("a condition looks at one `header` or at one `pointer`"),
        };
        let question = match (authored.equals, authored.is_in) {
            (None, None) => Question::IsThere,
            (Some(wanted), None) => Question::Equals(wanted),
            (None, Some(wanted)) => Question::IsIn(wanted),
            (Some(_), Some(_)) => return Err("a condition asks `equals` or `in`, not both"),
        };
        Ok(Self { look_at, question, and: authored.and })
    }
}

#[cfg(test)]
mod tests {
    use busway_sdk::Event;
    use serde_json::json;

    use super::*;

    fn holds(when: Value, event: &Event) -> bool {
        let rule: Rule = serde_json::from_value(json!({ "when": when, "to": "x" })).unwrap();
        rule.holds(&Facts::of(event)).unwrap()
    }

    #[test]
    fn a_condition_is_answered_by_header_or_payload() {
        let event = Event::test("a", r#"{"action": "opened", "size": 3, "none": null}"#)
            .with_header("Kind", "push")
            .with_header("N", "3");
        for (when, expected) in [
            (json!({ "header": "Kind" }), true),
            (json!({ "header": "kind" }), false),
            (json!({ "header": "Kind", "equals": "push" }), true),
            (json!({ "header": "Kind", "equals": "pull" }), false),
            (json!({ "header": "N", "equals": 3 }), true),
            (json!({ "header": "Kind", "in": ["pull", "push"] }), true),
            (json!({ "header": "Kind", "in": [] }), false),
            (json!({ "pointer": "/action", "equals": "opened" }), true),
            (json!({ "pointer": "/size", "equals": 3 }), true),
            (json!({ "pointer": "/size", "equals": "3" }), false),
            (json!({ "pointer": "/none" }), true),
            (json!({ "pointer": "/none", "equals": null }), true),
            (json!({ "pointer": "/action", "equals": null }), false),
            (json!({ "pointer": "/missing" }), false),
            (json!({ "header": "Kind", "and": { "pointer": "/size", "equals": 3 } }), true),
            (json!({ "header": "Kind", "and": { "pointer": "/size", "equals": 4 } }), false),
            (json!({ "header": "Other", "and": { "pointer": "/size", "equals": 3 } }), false),
        ] {
            assert_eq!(holds(when.clone(), &event), expected, "{when}");
        }
    }

    #[test]
    fn a_rule_that_can_not_be_read_says_why() {
        for (rule, why) in [
            (json!({ "to": "x", "when": {} }), "a condition looks at one `header` or at one `pointer`"),
            (
                json!({ "to": "x", "when": { "header": "a", "pointer": "/b" } }),
                "a condition looks at one `header` or at one `pointer`",
            ),
            (json!({ "to": "x", "when": { "pointer": "b" } }), "a JSON pointer starts with `/`"),
            (
                json!({ "to": "x", "when": { "header": "a", "equals": 1, "in": [1] } }),
                "a condition asks `equals` or `in`, not both",
            ),
            (json!({ "to": "x", "if": {} }), "unknown field `if`, expected `when` or `to`"),
            (json!({ "when": { "header": "a" } }), "missing field `to`"),
        ] {
            assert_eq!(serde_json::from_value::<Rule>(rule).unwrap_err().to_string(), why);
        }
    }
}
