//! Plugins written by hand, in a few lines of WebAssembly text each, and what runs them.
//!
//! A guest is a core module with the canonical names of our world; [`component`] wraps it as `busway build` wraps what a
//! compiler made. Written out by hand a guest can do what no compiler would let it do.
#![expect(clippy::expect_used, reason = "test code: what can not be set up ends the test")]

use busway_core::{
    Attempt, Event, EventId, Failure, FailureClass, Handler as _, Headers, Limits, Ran, Report,
    units::ByteSize,
};
use busway_engine::{Engine, EngineConfig, Grants, LoadError, Plugin, PluginSpec};
use bytes::Bytes;
use std::{collections::BTreeMap, path::Path, sync::OnceLock, time::Duration};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The export that every plugin has.
pub const HANDLE: &str = "busway:plugin/handler@0.1.0#handle";
/// `bus.publish(subject, headers, payload) -> result`, the result at the last pointer: 0 for ok, else 1 and the error at 4.
pub const PUBLISH: &str =
    r#"(import "busway:plugin/bus@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32)))"#;
/// `bus.reply(headers, payload) -> result`, the result at the last pointer as above.
pub const REPLY: &str =
    r#"(import "busway:plugin/bus@0.1.0" "reply" (func $reply (param i32 i32 i32 i32 i32)))"#;
/// `bus.request(subject, headers, payload, timeout-ms) -> result<message>`, the result at the last pointer: 0 for ok and
/// subject at 4, headers at 12, payload at 20, each as pointer and length; else 1 and the error at 4.
pub const REQUEST: &str =
    r#"(import "busway:plugin/bus@0.1.0" "request" (func $request (param i32 i32 i32 i32 i32 i32 i32 i32)))"#;
/// `context.can-reply()`.
pub const CAN_REPLY: &str =
    r#"(import "busway:plugin/context@0.1.0" "can-reply" (func $can_reply (result i32)))"#;
/// `logging.log(level, context, message)`.
pub const LOG: &str =
    r#"(import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))"#;
/// `context.attempt()`.
pub const ATTEMPT: &str = r#"(import "busway:plugin/context@0.1.0" "attempt" (func $attempt (result i32)))"#;

/// A module with these imports, these definitions, and this body of the handler, whose parameters are pointer and length
/// of id ($0, $1), subject ($2, $3), headers ($4, $5) and payload ($6, $7) and whose result points to the answer.
///
/// Memory: text of the guest's own from 16, answers from 1024 (zeros: ok), what the host passes from 4096 upwards.
pub fn guest(imports: &str, definitions: &str, body: &str) -> String {
    format!(
        r#"(module {imports}
          (memory (export "memory") 1)
          (global $free (mut i32) (i32.const 4096))
          (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and
              (i32.add (global.get $free) (i32.sub (local.get 2) (i32.const 1)))
              (i32.sub (i32.const 0) (local.get 2))))
            (global.set $free (i32.add (local.get $at) (local.get 3)))
            (block $fits
              (br_if $fits (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
              (br_if $fits (i32.ne (i32.const -1) (memory.grow (i32.add (i32.const 1)
                (i32.div_u (local.get 3) (i32.const 65536))))))
              unreachable)
            (local.get $at))
          {definitions}
          (func $handle (export "{HANDLE}") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
            {body}))"#
    )
}

/// The answer ok.
pub const OK: &str = "(i32.const 1024)";

/// A rejection with the text from 16 as its code and the text from 32 as its reason.
pub fn reject(code: &str, reason: &str) -> String {
    let body = format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
         (i32.store (i32.const 1040) (i32.const 16)) (i32.store (i32.const 1044) (i32.const {}))
         (i32.store (i32.const 1048) (i32.const 32)) (i32.store (i32.const 1052) (i32.const {})) {OK}",
        code.len(),
        reason.len()
    );
    let data = format!(r#"(data (i32.const 16) "{code}") (data (i32.const 32) "{reason}")"#);
    guest("", &data, &body)
}

/// A wish for a retry after so many milliseconds.
pub fn retry(reason: &str, after_ms: u64) -> String {
    let body = format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 0))
         (i32.store (i32.const 1040) (i32.const 16)) (i32.store (i32.const 1044) (i32.const {}))
         (i32.store8 (i32.const 1048) (i32.const 1)) (i64.store (i32.const 1056) (i64.const {after_ms})) {OK}",
        reason.len()
    );
    guest("", &format!(r#"(data (i32.const 16) "{reason}")"#), &body)
}

/// Instructions that reject the event with `refused` and the letter of the error at `at`, if the answer before it is no;
/// uses the text at 512.
pub fn reject_if_refused(at: u32) -> String {
    format!(
        "(if (i32.load8_u (i32.const {at})) (then
           (i32.store8 (i32.const 519) (i32.add (i32.const 97) (i32.load8_u (i32.const {}))))
           (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
           (i32.store (i32.const 1040) (i32.const 512)) (i32.store (i32.const 1044) (i32.const 8))
           (i32.store (i32.const 1048) (i32.const 512)) (i32.store (i32.const 1052) (i32.const 0))
           (return {OK})))",
        at + 4
    )
}

/// Publishes the payload to a subject, then returns ok, whatever the host said; the host's answer is the reason of a
/// rejection when it was no.
pub fn echo(subject: &str) -> String {
    let data = format!(r#"(data (i32.const 16) "{subject}") (data (i32.const 512) "refused0")"#);
    let body = format!(
        "(call $publish (i32.const 16) (i32.const {}) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
         (if (i32.load8_u (i32.const 2048)) (then
           (i32.store8 (i32.const 519) (i32.add (i32.const 97) (i32.load8_u (i32.const 2052))))
           (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
           (i32.store (i32.const 1040) (i32.const 512)) (i32.store (i32.const 1044) (i32.const 8))
           (i32.store (i32.const 1048) (i32.const 512)) (i32.store (i32.const 1052) (i32.const 0))))
         {OK}",
        subject.len()
    );
    guest(PUBLISH, &data, &body)
}

/// Instructions that trap unless the condition holds: how a guest says that the host answered something else.
pub fn ensure(condition: &str) -> String {
    format!("(if (i32.eqz {condition}) (then unreachable))")
}

/// A guest without imports whose handler is this body.
pub fn body(body: &str) -> String {
    guest("", "", body)
}

/// Assembles a core module and makes a component of it that claims the world `busway:plugin/plugin`.
pub fn component(core: &str) -> Vec<u8> {
    wrap(core, "", None).expect("a guest of the tests is a plugin")
}

/// The same for a guest that imports the interfaces that standard libraries do.
pub fn foreign_component(core: &str) -> Vec<u8> {
    wrap(core, "include wasi:cli/imports@0.2.12;", None).expect("a guest of the tests is a plugin")
}

/// The same in a world that has more than ours, from a package that only the test knows.
pub fn wrap_with_package(core: &str, more: &str, package: &str) -> Vec<u8> {
    wrap(core, more, Some(package)).expect("a guest of the tests fits its world")
}

fn wrap(core: &str, more: &str, package: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut module = wat::parse_str(core)?;
    let mut resolve = Resolve::default();
    resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit"))?;
    if let Some(package) = package {
        resolve.push_str("package.wit", package)?;
    }
    let world = format!("package test:guest;\nworld plugin {{ include busway:plugin/plugin@0.1.0; {more} }}");
    let package = resolve.push_str("guest.wit", &world)?;
    let world = resolve.select_world(&[package], Some("plugin"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().validate(true).module(&module)?.encode()
}

/// A plugin composed of two components, each with a memory of so many pages: the outer one passes the event's subject to
/// the inner one as text, and rejects the event with the text that comes back as its code: `!` for the first letter.
pub fn composed(pages: u32) -> Vec<u8> {
    let text = format!(
        r#"(component
          (core module $libc
            (memory (export "memory") {pages})
            (global $free (mut i32) (i32.const 4096))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
              (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
              (global.set $free (i32.add (local.get $at) (local.get 3)))
              (local.get $at)))
          (component $inner
            (alias outer 1 $libc (core module $libc))
            (core instance $libc (instantiate $libc))
            (core module $code (import "libc" "memory" (memory 1))
              (func (export "shout") (param i32 i32) (result i32)
                (i32.store8 (local.get 0) (i32.const 33))
                (i32.store (i32.const 1024) (local.get 0)) (i32.store (i32.const 1028) (local.get 1))
                (i32.const 1024)))
            (core instance $code (instantiate $code (with "libc" (instance $libc))))
            (func (export "shout") (param "text" string) (result string)
              (canon lift (core func $code "shout") (memory $libc "memory") (realloc (func $libc "realloc")))))
          (component $outer
            (import "shout" (func $shout (param "text" string) (result string)))
            (alias outer 1 $libc (core module $libc))
            (core instance $libc (instantiate $libc))
            (core func $shout
              (canon lower (func $shout) (memory $libc "memory") (realloc (func $libc "realloc"))))
            (core module $code
              (import "libc" "memory" (memory 1))
              (import "inner" "shout" (func $shout (param i32 i32 i32)))
              (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
                (call $shout (local.get 2) (local.get 3) (i32.const 1040))
                (i32.const 1024)))
            (core instance $code (instantiate $code
              (with "libc" (instance $libc))
              (with "inner" (instance (export "shout" (func $shout))))))
            (type $header' (record (field "name" string) (field "value" string)))
            (export $header "header" (type $header'))
            (type $event' (record (field "id" string) (field "subject" string)
              (field "headers" (list $header)) (field "payload" (list u8))))
            (export $event "event" (type $event'))
            (type $later' (record (field "reason" string) (field "after-ms" (option u64))))
            (export $later "retry-later" (type $later'))
            (type $rejection' (record (field "code" string) (field "reason" string)))
            (export $rejection "rejection" (type $rejection'))
            (type $failure' (variant (case "retry" $later) (case "reject" $rejection)))
            (export $failure "failure" (type $failure'))
            (func (export "handle") (param "event" $event) (result (result (error $failure)))
              (canon lift (core func $code "handle") (memory $libc "memory") (realloc (func $libc "realloc")))))
          (instance $inner (instantiate $inner))
          (instance $outer (instantiate $outer (with "shout" (func $inner "shout"))))
          (export "busway:plugin/handler@0.1.0" (instance $outer)))"#
    );
    wat::parse_str(&text).expect("a composed guest is a component")
}

/// The engine of a test program: one per process, as in the host.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(EngineConfig::default()).expect("this machine can run the sandbox"))
}

/// Limits that end a guest soon. The wall clock is generous: the machine may be busy with other tests, and a guest that uses
/// its processor must end by that budget and not by this one.
pub fn short() -> Limits {
    Limits {
        timeout: Duration::from_secs(10),
        cpu: Duration::from_millis(100),
        memory: ByteSize::mib(4),
        ..Limits::default()
    }
}

/// A plugin of these bytes, which may publish to `out.>`, to `core.>` at most once, and ask on `ask.>`.
///
/// # Errors
/// What the engine says of the bytes.
pub fn plugin(component: &[u8], limits: Limits) -> Result<Plugin, LoadError> {
    let loaded = engine().load(component)?;
    let filter = |filter: &str| vec![filter.parse().expect("a literal filter")];
    let spec = PluginSpec {
        name: "guest".parse().expect("a literal name"),
        limits,
        grants: Grants { publish: filter("out.>"), publish_core: filter("core.>"), request: filter("ask.>") },
        config: BTreeMap::from([("region".to_owned(), "eu".to_owned())]),
        payload_bytes_max: 1 << 20,
    };
    Plugin::new(engine(), &loaded, spec)
}

/// An event with this payload.
pub fn event(payload: &[u8]) -> Event {
    Event {
        id: EventId::random([7; 32]),
        subject: "orders.created".parse().expect("a literal subject"),
        headers: Headers::from_iter([("x-a", "1"), ("x-b", "zwei")]),
        payload: Bytes::copy_from_slice(payload),
        position: None,
        published_at_ms: None,
        hops: 0,
        can_reply: false,
    }
}

/// Gives one event to a guest with short limits.
pub async fn run(core: &str, payload: &[u8]) -> Report {
    run_within(core, payload, short()).await
}

/// Gives one event to a guest within these limits.
pub async fn run_within(core: &str, payload: &[u8], limits: Limits) -> Report {
    let plugin = plugin(&component(core), limits).expect("a guest of the tests loads");
    plugin.call(&event(payload), Attempt(1)).await
}

/// Gives one event to a guest that imports what standard libraries do.
pub async fn run_foreign(core: &str) -> Report {
    let plugin = plugin(&foreign_component(core), short()).expect("a guest of the tests loads");
    plugin.call(&event(b""), Attempt(1)).await
}

/// Whether the handler returned ok.
pub fn is_ok(report: &Report) -> bool {
    matches!(report.ran, Ran::Ok(_))
}

/// The failure that a report tells of.
///
/// # Panics
/// When it tells of none.
pub fn failure(report: &Report) -> &Failure {
    let failure = match &report.ran {
        Ran::Failed(failure) => Some(failure),
        _ => None,
    };
    failure.expect("the guest fails")
}

/// The class of the failure that a report tells of.
pub fn class(report: &Report) -> FailureClass {
    failure(report).class
}
