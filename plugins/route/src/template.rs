//! The subject that a rule writes, with places that are filled from the event.
//!
//! `{subject}` is put in as it is: it is a subject already. Everything else is data of the publisher and becomes exactly
//! one token, whatever it holds; so no value can add tokens, make a wildcard, or move the event to another branch of the
//! subject space than the rule says.

use std::str::FromStr;

use busway_sdk::Failure;
use serde::Deserialize;
use serde_json::Value;

use crate::facts::Facts;

/// Longer values are cut, so that one of them can't use up the 256 bytes of a subject.
const TOKEN_BYTES_MAX: usize = 64;

/// A subject with places: `routed.{header:X-GitHub-Event}.{/repository/name}`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Subject,
    Header(String),
    Pointer(String),
}

impl Template {
    /// The subject for an event.
    ///
    /// # Errors
    /// A reject with the code `missing-value` when the event lacks what a place asks for, and `invalid-json` when the
    /// payload is asked for and is not JSON.
    pub fn fill(&self, facts: &Facts<'_>) -> Result<String, Failure> {
        let mut subject = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => subject.push_str(text),
                Part::Subject => subject.push_str(facts.subject()),
                Part::Header(name) => {
                    let value = facts.header(name).ok_or_else(|| missing(format!("no header {name}")))?;
                    push_token(&mut subject, value);
                }
                Part::Pointer(pointer) => push_part(&mut subject, pointer, facts.part(pointer)?)?,
            }
        }
        Ok(subject)
    }
}

fn push_part(subject: &mut String, pointer: &str, part: Option<&Value>) -> Result<(), Failure> {
    match part {
        Some(Value::String(text)) => push_token(subject, text),
        Some(Value::Number(number)) => push_token(subject, &number.to_string()),
        Some(Value::Bool(truth)) => push_token(subject, if *truth { "true" } else { "false" }),
        None => return Err(missing(format!("nothing at {pointer}"))),
        Some(Value::Null) => return Err(missing(format!("null at {pointer}"))),
        Some(Value::Array(_) | Value::Object(_)) => {
            return Err(missing(format!("a list or an object at {pointer}, where one value is needed")));
        }
    }
    Ok(())
}

fn missing(what: String) -> Failure {
    Failure::reject("missing-value", what)
}

/// Letters, digits, `_` and `-` of ASCII stay, every other character becomes `_`, and nothing at all becomes `_` too.
fn push_token(subject: &mut String, value: &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let token = value.chars().take(TOKEN_BYTES_MAX);
    subject.extend(token.map(|c| if allowed(c) { c } else { '_' }));
    if value.is_empty() {
        subject.push('_');
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, place)) = rest.split_once('{') {
            let (name, after) =
                place.split_once('}').ok_or_else(|| format!("`{text}` has a `{{` without its `}}`"))?;
            push_literal(&mut parts, literal);
            parts.push(name.parse()?);
            rest = after;
        }
        push_literal(&mut parts, rest);
        if parts.is_empty() { Err("the subject is empty".to_owned()) } else { Ok(Self { parts }) }
    }
}

fn push_literal(parts: &mut Vec<Part>, literal: &str) {
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.to_owned()));
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "subject" {
            return Ok(Self::Subject);
        }
        if let Some(header) = name.strip_prefix("header:") {
            return Ok(Self::Header(header.to_owned()));
        }
        if name.starts_with('/') {
            return Ok(Self::Pointer(name.to_owned()));
        }
        Err(format!("`{{{name}}}` is none of `{{subject}}`, `{{header:Name}}` and `{{/json/pointer}}`"))
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use busway_sdk::Event;

    use super::*;

    fn fill(template: &str, event: &Event) -> Result<String, Failure> {
        template.parse::<Template>().unwrap().fill(&Facts::of(event))
    }

    #[test]
    fn places_are_filled_from_subject_header_and_payload() {
        let event =
            Event::test("github.push", r#"{"repository": {"name": "busway"}, "size": 3, "forced": false}"#)
                .with_header("X-GitHub-Event", "push");
        let template = "routed.{subject}.{header:X-GitHub-Event}.{/repository/name}.{/size}-{/forced}";
        assert_eq!(fill(template, &event).unwrap(), "routed.github.push.push.busway.3-false");
    }

    #[test]
    fn a_value_becomes_one_token_whatever_it_holds() {
        for (value, token) in [
            ("octo-org/octo.repo", "octo-org_octo_repo"),
            (">", "_"),
            ("*.a b\u{7f}", "__a_b_"),
            ("größe", "gr__e"),
            ("", "_"),
            (&"x".repeat(300), &"x".repeat(64)),
        ] {
            let event = Event::test("a", "").with_header("V", value);
            assert_eq!(fill("to.{header:V}", &event).unwrap(), format!("to.{token}"), "{value}");
        }
    }

    #[test]
    fn a_value_that_is_not_there_is_a_reject_that_names_its_place() {
        let event = Event::test("a", r#"{"list": [1], "none": null}"#);
        for (template, reason) in [
            ("{header:Kind}", "no header Kind"),
            ("{/deep/er}", "nothing at /deep/er"),
            ("{/none}", "null at /none"),
            ("{/list}", "a list or an object at /list, where one value is needed"),
        ] {
            assert_eq!(fill(template, &event), Err(Failure::reject("missing-value", reason)));
        }
        assert_eq!(fill("{/list/0}", &event).unwrap(), "1");
    }

    #[test]
    fn a_template_that_can_not_be_read_says_why() {
        for (template, why) in [
            ("a.{b", "`a.{b` has a `{` without its `}`"),
            ("a.{b}", "`{b}` is none of `{subject}`, `{header:Name}` and `{/json/pointer}`"),
            ("", "the subject is empty"),
        ] {
            assert_eq!(template.parse::<Template>(), Err(why.to_owned()));
        }
    }
}
