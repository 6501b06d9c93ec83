//! The plugin as the host sees it.

use busway_sdk::testing::Harness;
use busway_sdk::{Event, Failure, Message};

use super::handle;

const SCHEMAS: &str = r#"{
    "push": { "type": "object", "required": ["ref"], "properties": { "ref": { "type": "string" } } },
    "ping": { "required": ["zen"] },
    "broken": { "typ": "object" }
}"#;

fn by_kind() -> Harness {
    Harness::new()
        .config("kind-header", "X-GitHub-Event")
        .config("schemas", SCHEMAS)
        .config("to", "valid.{subject}")
}

fn event(kind: &str, payload: &str) -> Event {
    Event::test(format!("github.{kind}"), payload).with_header("X-GitHub-Event", kind)
}

#[test]
fn a_valid_event_goes_on_unchanged() {
    let payload = r#"{ "ref":  "main" }"#;
    let run = by_kind().run(handle, event("push", payload).with_header("traceparent", "00-…"));
    assert_eq!(run.outcome, Ok(()));
    assert_eq!(run.outputs, [Message::new("valid.github.push", payload).header("X-GitHub-Event", "push")]);
}

#[test]
fn a_mismatch_is_a_reject_with_its_places() {
    let run = by_kind().run(handle, event("push", r#"{ "ref": 3 }"#));
    assert_eq!(run.outcome, Err(Failure::reject("schema-mismatch", "/ref: is a number, not a string")));
    assert!(run.outputs.is_empty());
}

#[test]
fn each_kind_has_its_own_schema() {
    let run = by_kind().run(handle, event("ping", r#"{ "ref": "main" }"#));
    assert_eq!(run.outcome, Err(Failure::reject("schema-mismatch", "(root): lacks `zen`")));
}

#[test]
fn bytes_that_are_not_json_are_a_reject() {
    for payload in ["", "{", "{\"ref\": \"main\"} x", "\u{1}\u{2}"] {
        let run = by_kind().run(handle, event("push", payload));
        assert!(
            matches!(&run.outcome, Err(Failure::Reject(why)) if why.code == "invalid-json"),
            "{payload:?}: {:?}",
            run.outcome
        );
    }
}

#[test]
fn a_kind_without_a_schema_is_a_reject_whatever_its_payload() {
    let run = by_kind().run(handle, event("watch", "not json"));
    assert_eq!(run.outcome, Err(Failure::reject("unknown-kind", "no schema for X-GitHub-Event: watch")));

    let run = by_kind().run(handle, Event::test("github.push", r#"{ "ref": "main" }"#));
    assert_eq!(run.outcome, Err(Failure::reject("unknown-kind", "no header X-GitHub-Event")));
}

#[test]
fn a_kind_without_a_schema_falls_to_the_schema_for_the_rest() {
    let harness = by_kind().config("schema", r#"{ "type": "object" }"#);
    assert_eq!(harness.run(handle, event("watch", "{}")).outcome, Ok(()));
    let run = harness.run(handle, event("watch", "[]"));
    assert_eq!(run.outcome, Err(Failure::reject("schema-mismatch", "(root): is an array, not an object")));
}

#[test]
fn one_schema_for_all_needs_no_kind() {
    let harness = Harness::new().config("schema", r#"{ "type": "array" }"#).config("to", "lists");
    let run = harness.run(handle, Event::test("in.any", "[1]"));
    assert_eq!(run.outputs, [Message::new("lists", "[1]")]);
}

#[test]
fn a_configuration_that_can_not_be_used_is_a_retry_that_names_the_key() {
    let push = || event("push", r#"{ "ref": "main" }"#);
    for (harness, event, why) in [
        (Harness::new(), push(), "`schema`: it is needed where `kind-header` is not set"),
        (Harness::new().config("kind-header", "X-GitHub-Event"), push(), "`schemas`: it is needed where"),
        (Harness::new().config("schema", "true"), push(), "`to`: it is required and not set"),
        (
            Harness::new().config("schema", "{ \"typ\": 1 }"),
            push(),
            "`schema`: in the schema at `typ`: unknown field",
        ),
        (
            by_kind(),
            event("broken", "{}"),
            "`schemas`: `broken`: in the schema at `typ`: unknown field `typ`",
        ),
    ] {
        let run = harness.run(handle, event);
        assert!(
            matches!(&run.outcome, Err(Failure::Retry(later)) if later.reason.contains(why)),
            "{why}: {:?}",
            run.outcome
        );
    }
}
