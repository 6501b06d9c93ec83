//! The plugin as the host sees it.

use busway_sdk::testing::{Harness, Run};
use busway_sdk::{BusError, Event, Failure, Message};

use super::handle;

const RULES: &str = r#"[
    { "when": { "header": "X-GitHub-Event", "equals": "push" }, "to": "routed.push.{/repository/name}" },
    { "when": { "header": "X-GitHub-Event", "equals": "ping" }, "to": "routed.ping" },
    { "when": { "pointer": "/action", "in": ["opened", "closed"] }, "to": "routed.life.{/action}" }
]"#;

fn run(event: Event) -> Run {
    Harness::new().config("rules", RULES).run(handle, event)
}

fn event(kind: &str, payload: &str) -> Event {
    Event::test("github.any", payload).with_header("X-GitHub-Event", kind)
}

#[test]
fn the_first_rule_that_holds_gives_the_subject_and_the_event_goes_on_unchanged() {
    let payload = r#"{"action": "opened", "repository": {"name": "octo.repo"}}"#;
    let run = run(event("push", payload).with_header("traceparent", "00-…"));
    assert_eq!(run.outcome, Ok(()));
    assert_eq!(
        run.outputs,
        [Message::new("routed.push.octo_repo", payload).header("X-GitHub-Event", "push")]
    );
}

#[test]
fn a_rule_can_look_into_the_payload() {
    assert_eq!(run(event("issues", r#"{"action": "closed"}"#)).outputs[0].subject, "routed.life.closed");
}

#[test]
fn a_payload_that_is_not_json_is_routed_by_header_alone() {
    assert_eq!(run(event("ping", "\u{1}binary")).outputs[0].subject, "routed.ping");
}

#[test]
fn a_payload_that_is_not_json_is_a_reject_where_a_rule_asks_for_a_part_of_it() {
    let expected = Failure::reject("invalid-json", "expected value at line 1 column 1");
    assert_eq!(run(event("issues", "<xml/>")).outcome, Err(expected));
}

#[test]
fn an_event_that_no_rule_takes_is_a_reject() {
    let run = run(event("issues", r#"{"action": "edited"}"#));
    assert_eq!(run.outcome, Err(Failure::reject("no-route", "no rule holds and there is no `default`")));
    assert!(run.outputs.is_empty());
}

#[test]
fn an_event_that_no_rule_takes_goes_to_the_default() {
    let harness =
        Harness::new().config("rules", RULES).config("default", "routed.other.{header:X-GitHub-Event}");
    let run = harness.run(handle, event("watch", r#"{"action": "started"}"#));
    assert_eq!(run.outputs[0].subject, "routed.other.watch");
}

#[test]
fn a_default_alone_is_enough() {
    let run =
        Harness::new().config("default", "copy.{subject}").run(handle, Event::test("orders.created", "x"));
    assert_eq!(run.outputs[0].subject, "copy.orders.created");
}

#[test]
fn a_rule_without_a_condition_holds_always() {
    let run = Harness::new().config("rules", r#"[{ "to": "all" }]"#).run(handle, Event::test("a", ""));
    assert_eq!(run.outputs[0].subject, "all");
}

#[test]
fn rules_that_can_not_be_read_are_a_retry_that_names_the_place() {
    let run = Harness::new().config("rules", r#"[{ "to": "a.{b}" }]"#).run(handle, Event::test("a", ""));
    let Err(Failure::Retry(later)) = run.outcome else { panic!("{:?}", run.outcome) };
    assert!(later.reason.starts_with("configuration key `rules`: `{b}` is none of"), "{}", later.reason);
    assert!(later.reason.ends_with("in `[0].to`"), "{}", later.reason);
}

#[test]
fn a_subject_that_is_not_granted_is_a_reject() {
    let run = Harness::new().config("rules", RULES).deny("routed.ping").run(handle, event("ping", ""));
    assert_eq!(run.outcome, Err(BusError::Denied.into()));
}
