//! The pool of sandboxes: what calls that end in every way leave behind. A program of its own, because it uses all of it.
#![expect(clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

use busway_core::{Attempt, FailureClass, Handler as _, Limits, Ran, Refusal};
use busway_engine::Plugin;
use busway_sandbox_tests::*;
use std::time::Duration;
use tokio::{sync::Mutex, task::JoinSet, time::timeout};

/// More calls than there are sandboxes.
const MANY: usize = 300;
/// One test at a time: each counts on the whole pool.
static POOL: Mutex<()> = Mutex::const_new(());

fn fine() -> Plugin {
    plugin(&component(&echo("out.x")), short()).unwrap()
}

async fn all_are_free() {
    let fine = fine();
    for _ in 0..MANY {
        let report = fine.call(&event(b"x"), Attempt(1)).await;
        assert!(is_ok(&report), "{report:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    // A38: more dropped calls than there are sandboxes.
    let _pool = POOL.lock().await;
    let patient =
        Limits { timeout: Duration::from_secs(60), cpu: Duration::from_secs(60), ..Limits::default() };
    let spin = plugin(&component(&body("(loop $again (br $again)) unreachable")), patient).unwrap();
    let payload = event(b"x");
    for round in 0..MANY as u64 {
        let patience = Duration::from_micros(round * 37 % 15_000);
        assert!(timeout(patience, spin.call(&payload, Attempt(1))).await.is_err());
    }
    all_are_free().await;
}

#[tokio::test]
async fn calls_that_trap_wait_or_are_refused_memory_leave_nothing_behind() {
    let _pool = POOL.lock().await;
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $timer (param i64) (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#;
    let waits = guest(imports, "", "(call $block (call $timer (i64.const 3600000000000))) (i32.const 1024)");
    let hasty = Limits { timeout: Duration::from_millis(10), ..short() };
    let table = [
        (body("unreachable"), short(), FailureClass::Trap),
        (guest("", "(memory $second 64)", OK), short(), FailureClass::Memory),
        (waits, hasty, FailureClass::Timeout),
    ];
    for (core, limits, expected) in table {
        let plugin = plugin(&component(&core), limits).unwrap();
        for _ in 0..MANY {
            assert_eq!(class(&plugin.call(&event(b""), Attempt(1)).await), expected);
        }
    }
    all_are_free().await;
}

#[tokio::test]
async fn a_call_beyond_the_pool_is_refused_by_the_host_and_is_not_the_plugins_failure() {
    let _pool = POOL.lock().await;
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $timer (param i64) (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#;
    let waits = guest(imports, "", "(call $block (call $timer (i64.const 3600000000000))) (i32.const 1024)");
    let limits = Limits { timeout: Duration::from_secs(3), cpu: Duration::from_secs(3), ..short() };
    let plugin = plugin(&component(&waits), limits).unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..MANY {
        let plugin = plugin.clone();
        calls.spawn(async move { plugin.call(&event(b""), Attempt(1)).await.ran });
    }
    let (mut held, mut refused) = (0, 0);
    while let Some(ran) = calls.join_next().await {
        match ran.unwrap() {
            Ran::Failed(failure) if failure.class == FailureClass::Timeout => held += 1,
            Ran::Refused(Refusal::NoSandbox(_)) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((held, refused), (256, MANY - 256), "where there is no room for a pool none is refused");
    all_are_free().await;
}
