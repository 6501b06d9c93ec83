//! What the host's interfaces answer beside the bus: clocks, streams, names, requests, the log, and `init`.
#![expect(clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

use busway_core::{Attempt, FailureClass, Handler as _, LogLevel};
use busway_engine::{Plugin, TrialError};
use busway_sandbox_tests::*;

/// What builds a request of `wasi:http`.
const REQUEST: &str = r#"
    (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
    (import "wasi:http/types@0.2.12" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-method"
      (func $method (param i32 i32 i32 i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-authority"
      (func $authority (param i32 i32 i32 i32) (result i32)))
    (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-path-with-query"
      (func $path (param i32 i32 i32 i32) (result i32)))"#;

#[tokio::test]
async fn both_clocks_tell_whole_milliseconds() {
    // A37: a finer clock measures what the neighbours do.
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.12" "now" (func $now (result i64)))
        (import "wasi:clocks/monotonic-clock@0.2.12" "resolution" (func $resolution (result i64)))
        (import "wasi:clocks/wall-clock@0.2.12" "now" (func $wall (param i32)))"#;
    let body = [
        "(local $i i32)",
        &ensure("(i64.eq (call $resolution) (i64.const 1000000))"),
        "(call $wall (i32.const 2048))",
        &ensure("(i64.gt_u (i64.load (i32.const 2048)) (i64.const 1700000000))"),
        &ensure("(i32.eqz (i32.rem_u (i32.load (i32.const 2056)) (i32.const 1000000)))"),
        "(loop $again",
        &ensure("(i64.le_u (call $now) (call $now))"),
        &ensure("(i64.eqz (i64.rem_u (call $now) (i64.const 1000000)))"),
        "(br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))",
        OK,
    ];
    let report = run_foreign(&guest(imports, "", &body.join(" "))).await;
    assert!(is_ok(&report), "{report:?}");
}

#[tokio::test]
async fn there_is_nothing_to_read_no_name_to_resolve_and_no_socket() {
    // A22
    let imports = r#"
        (import "wasi:cli/stdin@0.2.12" "get-stdin" (func $stdin (result i32)))
        (import "wasi:io/streams@0.2.12" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))
        (import "wasi:sockets/instance-network@0.2.12" "instance-network" (func $network (result i32)))
        (import "wasi:sockets/ip-name-lookup@0.2.12" "resolve-addresses" (func $resolve (param i32 i32 i32 i32)))
        (import "wasi:sockets/udp-create-socket@0.2.12" "create-udp-socket" (func $udp (param i32 i32)))
        (import "wasi:cli/environment@0.2.12" "get-arguments" (func $arguments (param i32)))
        (import "wasi:cli/environment@0.2.12" "initial-cwd" (func $folder (param i32)))"#;
    let is_error = "(i32.load8_u (i32.const 2048))";
    let table = [
        ("(call $read (call $stdin) (i64.const 1000000000000) (i32.const 2048))", is_error),
        ("(call $resolve (call $network) (i32.const 16) (i32.const 9) (i32.const 2048))", is_error),
        ("(call $udp (i32.const 0) (i32.const 2048))", is_error),
        ("(call $arguments (i32.const 2048))", "(i32.eqz (i32.load (i32.const 2052)))"),
        ("(call $folder (i32.const 2048))", "(i32.eqz (i32.load8_u (i32.const 2048)))"),
    ];
    for (call, expected) in table {
        let body = format!("{call} {} {OK}", ensure(expected));
        let report = run_foreign(&guest(imports, r#"(data (i32.const 16) "localhost")"#, &body)).await;
        assert!(is_ok(&report), "{call}: {report:?}");
    }
}

#[tokio::test]
async fn a_request_is_denied_before_anything_is_dialled() {
    let imports = format!(
        r#"{REQUEST}
        (import "wasi:http/outgoing-handler@0.2.12" "handle" (func $send (param i32 i32 i32 i32)))
        (import "wasi:http/types@0.2.12" "[method]future-incoming-response.subscribe" (func $wait (param i32) (result i32)))
        (import "wasi:http/types@0.2.12" "[method]future-incoming-response.get" (func $get (param i32 i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#
    );
    // The answer: an option, a result, a result, and the error's place in the contract: 15, `HTTP-request-denied`.
    let body = [
        "(local $request i32) (local $answer i32) (local.set $request (call $request (call $fields)))",
        &ensure(
            "(i32.eqz (call $authority (local.get $request) (i32.const 1) (i32.const 16) (i32.const 9)))",
        ),
        &ensure("(i32.eqz (call $path (local.get $request) (i32.const 1) (i32.const 32) (i32.const 1)))"),
        "(call $send (local.get $request) (i32.const 0) (i32.const 0) (i32.const 2048))",
        &ensure("(i32.eqz (i32.load8_u (i32.const 2048)))"),
        "(local.set $answer (i32.load (i32.const 2056)))",
        "(call $block (call $wait (local.get $answer))) (call $get (local.get $answer) (i32.const 2048))",
        &ensure("(i32.load8_u (i32.const 2048))"),
        &ensure("(i32.eqz (i32.load8_u (i32.const 2056)))"),
        &ensure("(i32.load8_u (i32.const 2064))"),
        &ensure("(i32.eq (i32.load8_u (i32.const 2072)) (i32.const 15))"),
        OK,
    ];
    let data = r#"(data (i32.const 16) "127.0.0.1") (data (i32.const 32) "/")"#;
    let report = run(&guest(&imports, data, &body.join(" ")), b"").await;
    assert!(is_ok(&report), "{report:?}");
}

#[tokio::test]
async fn what_a_guest_builds_of_a_request_is_bounded_in_the_hosts_memory() {
    let call = |function: &str, tag: u32, bytes: u32| {
        format!(
            "(call ${function} (local.get $request) (i32.const {tag}) (i32.const 4096) (i32.const {bytes}))"
        )
    };
    let mut body = "(local $request i32) (memory.fill (i32.const 4096) (i32.const 65) (i32.const 9000))
        (local.set $request (call $request (call $fields)))"
        .to_owned();
    for (function, tag) in [("method", 9), ("authority", 1)] {
        body += &ensure(&format!("(i32.eqz {})", call(function, tag, 8192)));
        body += &ensure(&call(function, tag, 8193));
    }
    body += "(i32.store8 (i32.const 4096) (i32.const 47))";
    body += &ensure(&format!("(i32.eqz {})", call("path", 1, 8192)));
    body += &ensure(&call("path", 1, 8193));
    let report = run(&guest(REQUEST, "", &(body + OK)), b"").await;
    assert!(is_ok(&report), "{report:?}");

    // A body holds so many bytes at a time, and no more until somebody takes them.
    let imports = format!(
        r#"{REQUEST}
        (import "wasi:http/types@0.2.12" "[method]outgoing-request.body" (func $body (param i32 i32)))
        (import "wasi:http/types@0.2.12" "[method]outgoing-body.write" (func $stream (param i32 i32)))
        (import "wasi:io/streams@0.2.12" "[method]output-stream.check-write" (func $check (param i32 i32)))"#
    );
    let body = [
        "(call $body (call $request (call $fields)) (i32.const 2048))",
        "(call $stream (i32.load (i32.const 2052)) (i32.const 2048))",
        "(call $check (i32.load (i32.const 2052)) (i32.const 2048))",
        &ensure("(i64.eq (i64.load (i32.const 2056)) (i64.const 4096))"),
        OK,
    ];
    let report = run(&guest(&imports, "", &body.join(" ")), b"").await;
    assert!(is_ok(&report), "{report:?}");
}

#[tokio::test]
async fn a_stream_of_nothing_and_one_of_zeros_cost_the_host_nothing() {
    // GHSA-5m8g-xhq4-4h93 and its neighbours.
    let imports = r#"
        (import "wasi:cli/stdout@0.2.12" "get-stdout" (func $stdout (result i32)))
        (import "wasi:io/streams@0.2.12" "[method]output-stream.write-zeroes" (func $zeros (param i32 i64 i32)))
        (import "wasi:io/streams@0.2.12" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))"#;
    let much = format!("(call $zeros (call $stdout) (i64.const 1000000000000) (i32.const 2048)) {OK}");
    let report = run_foreign(&guest(imports, "", &much)).await;
    assert_eq!(class(&report), FailureClass::Trap, "{report:?}");
    for bytes in [0, 60_000] {
        let endless = format!(
            "(local $out i32) (local.set $out (call $stdout))
             (loop $again (call $write (local.get $out) (i32.const 0) (i32.const {bytes}) (i32.const 2048)) (br $again))
             unreachable"
        );
        let report = run_foreign(&guest(imports, "", &endless)).await;
        assert_eq!(class(&report), FailureClass::Cpu, "{report:?}");
        let kept: usize = report.logs.iter().map(|line| line.message.len()).sum();
        assert!(kept <= 9 * 1024, "a line of zeros is cut like any other: {kept}");
    }
}

#[tokio::test]
async fn every_level_of_the_log_comes_through_and_fatal_is_an_error() {
    let body: String = (0..6)
        .map(|level| {
            format!(
                "(call $log (i32.const {level}) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 2))"
            )
        })
        .collect();
    let report = run(&guest(LOG, r#"(data (i32.const 16) "\c3\bc")"#, &(body + OK)), b"").await;
    let levels: Vec<_> = report.logs.iter().map(|line| (line.level, &*line.message)).collect();
    let expected =
        [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error, LogLevel::Error];
    assert_eq!(levels, expected.map(|level| (level, "ü")));
}

#[tokio::test]
async fn a_long_line_is_cut_and_all_lines_together_are_bounded() {
    // A2, A26
    let data = r#"(func $shout (memory.fill (i32.const 4096) (i32.const 65) (i32.const 60000))
        (call $log (i32.const 2) (i32.const 4096) (i32.const 60000) (i32.const 4096) (i32.const 60000)))"#;
    let body = format!("{} {OK}", "(call $shout)".repeat(20));
    let report = run(&guest(LOG, data, &body), b"").await;
    assert!(is_ok(&report), "{report:?}");
    let longest = report.logs.iter().map(|line| line.message.len()).max();
    assert!(longest.is_some_and(|bytes| bytes <= 8 * 1024 + 16), "{longest:?}");
    let kept: usize = report.logs.iter().map(|line| line.message.len() + line.context.len()).sum();
    assert!(kept <= 66 * 1024, "{kept}");
    assert_eq!(report.used.log_lines + report.used.log_lines_dropped, 20);
    assert!(report.used.log_lines_dropped >= 10, "{:?}", report.used);
}

#[tokio::test]
async fn init_runs_before_the_handler_and_its_refusal_refuses_the_load() {
    let fine = with_init("", "(global.set $began (i32.const 1)) (i32.const 1024)", "(global.get $began)");
    fine.trial().await.unwrap();
    let report = fine.call(&event(b""), Attempt(1)).await;
    assert!(is_ok(&report), "{report:?}");

    let refusal = "(i32.store8 (i32.const 3000) (i32.const 1)) (i32.store (i32.const 3004) (i32.const 16))
        (i32.store (i32.const 3008) (i32.const 5)) (i32.const 3000)";
    let refuses = with_init("", refusal, "(i32.const 0)");
    assert!(matches!(refuses.trial().await, Err(TrialError::Init(why)) if why == "out.x"));
    let report = refuses.call(&event(b""), Attempt(1)).await;
    assert_eq!((class(&report), &*failure(&report).reason), (FailureClass::Retry, "init refuses: out.x"));

    let traps = with_init("", "unreachable", "(i32.const 0)");
    assert!(matches!(traps.trial().await, Err(TrialError::Failed(why)) if why.code == "unreachable"));
}

#[tokio::test]
async fn nothing_is_published_while_init_runs() {
    let publish = "(call $publish (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048))";
    let unavailable = ensure("(i32.eq (i32.load8_u (i32.const 2052)) (i32.const 9))");
    let plugin = with_init(PUBLISH, &format!("{publish} {unavailable} (i32.const 1024)"), "(i32.const 1)");
    plugin.trial().await.unwrap();
    assert_eq!(plugin.call(&event(b""), Attempt(1)).await.used.publishes, 0);
}

/// A plugin with this `init` whose handler traps unless the condition holds.
fn with_init(imports: &str, init: &str, condition: &str) -> Plugin {
    let definitions = format!(
        r#"(data (i32.const 16) "out.x") (global $began (mut i32) (i32.const 0))
           (func (export "busway:plugin/lifecycle@0.1.0#init") (result i32) {init})"#
    );
    let core = guest(imports, &definitions, &format!("{} {OK}", ensure(condition)));
    let package = "package test:none; interface none {}";
    let bytes = wrap_with_package(&core, "export busway:plugin/lifecycle@0.1.0;", package);
    plugin(&bytes, short()).unwrap()
}
