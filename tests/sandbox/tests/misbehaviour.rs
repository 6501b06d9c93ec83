//! Guests that use too much, break, or never end. The rows are those of the catalogue of adversaries.
#![expect(clippy::expect_used, reason = "test code: what can not be set up ends the test")]

use busway_core::{Attempt, FailureClass, Handler as _, Limits, Ran, units::ByteSize};
use busway_engine::{LoadError, TrialError};
use busway_sandbox_tests::*;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

#[tokio::test]
async fn an_endless_loop_ends_at_the_processor_budget_with_a_backtrace() {
    // A1
    let began = Instant::now();
    let report = run(&guest("", "", "(loop $again (br $again)) unreachable"), b"").await;
    let took = began.elapsed();
    let failed = failure(&report);
    assert_eq!((failed.class, &*failed.code), (FailureClass::Cpu, "processor"));
    assert!(report.used.cpu >= Duration::from_millis(100), "{:?}", report.used);
    assert!(took < Duration::from_secs(5), "ended by the processor budget, not by the clock: {took:?}");
    assert!(failed.evidence.backtrace.iter().any(|frame| frame.contains("handle")), "{failed:?}");
}

#[tokio::test]
async fn a_guest_that_waits_for_ever_ends_at_the_wall_clock_limit() {
    // A3
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $timer (param i64) (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#;
    let core = guest(imports, "", "(call $block (call $timer (i64.const 3600000000000))) (i32.const 1024)");
    let limits = Limits { timeout: Duration::from_millis(200), ..short() };
    let plugin = plugin(&component(&core), limits).unwrap();
    let began = Instant::now();
    let report = plugin.call(&event(b""), Attempt(1)).await;
    assert_eq!(class(&report), FailureClass::Timeout);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(report.used.cpu < Duration::from_millis(100), "waiting is not processor time: {:?}", report.used);
}

#[tokio::test]
async fn a_guest_that_is_refused_memory_and_traps_failed_by_memory() {
    // A4
    let core = body(
        "(loop $again
           (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
           (memory.fill (i32.mul (i32.sub (memory.size) (i32.const 1)) (i32.const 65536)) (i32.const 1) (i32.const 65536))
           (br $again))
         unreachable",
    );
    let report = run(&core, b"").await;
    assert_eq!(class(&report), FailureClass::Memory, "{report:?}");
    assert!(report.used.memory_bytes <= 4 << 20, "{:?}", report.used);
}

#[tokio::test]
async fn two_memories_share_one_cap() {
    // A5
    let second = "(memory $second 40)";
    let report = run(&guest("", second, OK), b"").await;
    assert!(matches!(report.ran, Ran::Ok(_)), "3 MiB of 4: {report:?}");
    let report = run(&guest("", "(memory $second 64)", OK), b"").await;
    assert_eq!(class(&report), FailureClass::Memory, "{report:?}");
}

#[tokio::test]
async fn a_huge_table_is_refused_and_growing_one_answers_no() {
    // A6
    let huge = plugin(&component(&guest("", "(table $big 1000000 funcref)", OK)), short());
    assert!(matches!(&huge, Err(LoadError::Compile(why)) if why.contains("table")), "{:?}", huge.err());
    let grow = "(if (i32.ne (table.grow $t (ref.null func) (i32.const 2147483647)) (i32.const -1)) (then unreachable)) (i32.const 1024)";
    let report = run(&guest("", "(table $t 1 funcref)", grow), b"").await;
    assert!(matches!(report.ran, Ran::Ok(_)), "{report:?}");
}

#[tokio::test]
async fn endless_recursion_is_a_trap_with_its_own_code() {
    // A7
    let deep = "(func $deep (param i32) (result i32) (call $deep (i32.add (local.get 0) (i32.const 1))))";
    let report = run(&guest("", deep, "(call $deep (i32.const 0))"), b"").await;
    let failed = failure(&report);
    assert_eq!((failed.class, &*failed.code), (FailureClass::Trap, "stack-overflow"));
}

#[tokio::test]
async fn an_unreachable_and_an_exit_are_traps_and_an_exit_with_zero_is_no_success() {
    // A8
    let report = run(&body("unreachable"), b"").await;
    assert_eq!((class(&report), &*failure(&report).code), (FailureClass::Trap, "unreachable"));
    for status in [0, 1] {
        let exit = r#"(import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))"#;
        let core = guest(exit, "", &format!("(call $exit (i32.const {status})) (i32.const 1024)"));
        let report = run_foreign(&core).await;
        assert_eq!((class(&report), &*failure(&report).code), (FailureClass::Trap, "exit"), "{report:?}");
    }
}

/// Runs a guest that imports what stands outside our world, as guests of standard libraries do.
async fn run_foreign(core: &str) -> busway_core::Report {
    let plugin = plugin(&foreign_component(core), short()).expect("it loads");
    plugin.call(&event(b""), Attempt(1)).await
}

#[tokio::test]
async fn memory_that_is_filled_without_end_ends_close_to_the_budget() {
    // A9
    let core = guest(
        "",
        "",
        "(drop (memory.grow (i32.const 900))) (loop $again (memory.fill (i32.const 0) (i32.const 1) (i32.const 58982400)) (br $again)) unreachable",
    );
    let limits = Limits { memory: ByteSize::mib(64), ..short() };
    let report = run_within(&core, b"", limits).await;
    assert_eq!(class(&report), FailureClass::Cpu, "{report:?}");
    assert!(report.used.cpu < Duration::from_secs(2), "{:?}", report.used);
}

#[tokio::test]
async fn a_list_of_millions_of_strings_costs_the_host_nothing() {
    // A10: a header is 16 bytes of guest memory and two strings of the host's.
    let core = guest(
        PUBLISH,
        r#"(data (i32.const 16) "out.x")"#,
        "(drop (memory.grow (i32.const 900)))
         (call $publish (i32.const 16) (i32.const 5) (i32.const 65536) (i32.const 3000000) (i32.const 0) (i32.const 0) (i32.const 2048))
         (i32.const 1024)",
    );
    let limits = Limits { memory: ByteSize::mib(64), ..short() };
    let report = run_within(&core, b"", limits).await;
    assert!(matches!(report.ran, Ran::Failed(_)), "{report:?}");
}

#[tokio::test]
async fn pointers_beyond_memory_and_text_that_is_not_utf8_are_traps() {
    // A11, A12
    for call in
        ["(i32.const -16) (i32.const 64)", "(i32.const 16) (i32.const -1)", "(i32.const 600) (i32.const 2)"]
    {
        let body = format!(
            "(call $publish {call} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048)) (i32.const 1024)"
        );
        let report = run(&guest(PUBLISH, r#"(data (i32.const 600) "\ff\fe")"#, &body), b"").await;
        assert_eq!(class(&report), FailureClass::Trap, "{call}: {report:?}");
    }
}

#[tokio::test]
async fn a_reallocation_that_lies_is_a_trap() {
    // A13
    let good = guest("", "", OK);
    for (what, lie) in [("beyond memory", "(i32.const -8)"), ("a trap", "unreachable")] {
        let core = good.replace("(local.get $at))\n", &format!("{lie})\n"));
        assert_ne!(core, good);
        let report = run(&core, b"x").await;
        assert_eq!(class(&report), FailureClass::Trap, "{what}: {report:?}");
    }
}

#[tokio::test]
async fn a_start_that_loops_is_within_the_same_budget_and_refuses_the_trial() {
    // A14
    let core = guest("", "(func $start (loop $again (br $again))) (start $start)", OK);
    let plugin = plugin(&component(&core), short()).unwrap();
    let report = plugin.call(&event(b""), Attempt(1)).await;
    assert_eq!(class(&report), FailureClass::Cpu);
    let Err(TrialError::Failed(failed)) = plugin.trial().await else { panic!("the trial passes") };
    assert_eq!(failed.class, FailureClass::Cpu);
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_trap() {
    // A17
    let core = body("(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)");
    let report = run(&core, b"").await;
    assert_eq!(class(&report), FailureClass::Trap, "{report:?}");
    let core = body("(i32.const -4)");
    assert_eq!(class(&run(&core, b"").await), FailureClass::Trap);
}

#[tokio::test]
async fn sockets_and_files_are_there_and_lead_nowhere() {
    // A22
    let imports = r#"
        (import "wasi:filesystem/preopens@0.2.12" "get-directories" (func $folders (param i32)))
        (import "wasi:sockets/instance-network@0.2.12" "instance-network" (func $network (result i32)))
        (import "wasi:cli/environment@0.2.12" "get-environment" (func $environment (param i32)))
        (import "wasi:sockets/tcp-create-socket@0.2.12" "create-tcp-socket" (func $socket (param i32 i32)))"#;
    let body = "(call $folders (i32.const 2048)) (if (i32.load (i32.const 2052)) (then unreachable))
        (call $environment (i32.const 2048)) (if (i32.load (i32.const 2052)) (then unreachable))
        (drop (call $network))
        (call $socket (i32.const 0) (i32.const 2048)) (if (i32.eqz (i32.load8_u (i32.const 2048))) (then unreachable))
        (i32.const 1024)";
    let report = run_foreign(&guest(imports, "", body)).await;
    assert!(matches!(report.ran, Ran::Ok(_)), "{report:?}");
}

#[tokio::test]
async fn what_is_written_to_standard_output_becomes_log_lines() {
    let imports = r#"
        (import "wasi:cli/stdout@0.2.12" "get-stdout" (func $stdout (result i32)))
        (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
          (func $write (param i32 i32 i32 i32)))"#;
    let body = "(call $write (call $stdout) (i32.const 16) (i32.const 12) (i32.const 2048)) (i32.const 1024)";
    let report = run_foreign(&guest(imports, r#"(data (i32.const 16) "first\0asecond")"#, body)).await;
    let lines: Vec<_> = report.logs.iter().map(|line| (&*line.context, &*line.message)).collect();
    assert_eq!(lines, [("stdout", "first"), ("stdout", "second")], "{report:?}");
}

#[tokio::test]
async fn a_rust_panic_tells_its_words_its_file_and_its_line() {
    let folder = std::env::var_os("BUSWAY_GUESTS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"), PathBuf::from);
    let file = folder.join("panics.wasm");
    let bytes = std::fs::read(&file)
        .unwrap_or_else(|why| panic!("{}: {why}; run `cargo xtask build-guests`", file.display()));
    let plugin = plugin(&bytes, short()).unwrap();
    let report = plugin.call(&event(b"panic"), Attempt(1)).await;
    let failed = failure(&report);
    assert_eq!(failed.class, FailureClass::Trap);
    let panic = failed.evidence.panic.as_deref().unwrap_or_default();
    assert!(panic.contains("told to panic") && panic.contains("src/lib.rs:11"), "{failed:?}");
    assert!(failed.evidence.backtrace.iter().any(|frame| frame.contains("src/lib.rs:11")), "{failed:?}");
    let report = plugin.call(&event(b"overflow"), Attempt(1)).await;
    assert_eq!(class(&report), FailureClass::Trap);
}
