//! Guests that use too much, break, or never end. The rows are those of the catalogue of adversaries.

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
    let budget = Duration::from_millis(100);
    assert!(report.used.cpu >= budget && report.used.cpu < 4 * budget, "{:?}", report.used);
    assert!(took < Duration::from_secs(5), "ended by the processor budget, not by the clock: {took:?}");
    assert!(failed.evidence.backtrace.iter().any(|frame| frame.contains("handle")), "{failed:?}");
}

#[tokio::test]
async fn a_guest_that_is_busy_beyond_the_wall_clock_limit_ends_there() {
    // A1, A45
    let core = body("(loop $again (br $again)) unreachable");
    let limits = Limits { timeout: Duration::from_millis(100), cpu: Duration::from_secs(60), ..short() };
    let report = run_within(&core, b"", limits).await;
    assert_eq!((class(&report), &*failure(&report).code), (FailureClass::Timeout, "wall-clock"));
    assert!(report.used.wall < Duration::from_secs(5), "{:?}", report.used);
}

#[tokio::test]
async fn asking_without_end_for_what_is_ready_is_processor_time() {
    // A3: each call returns at once, so that no single one is a wait.
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $timer (param i64) (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#;
    let body = "(local $past i32) (local.set $past (call $timer (i64.const 0)))
        (loop $again (call $block (local.get $past)) (br $again)) unreachable";
    let report = run(&guest(imports, "", body), b"").await;
    assert_eq!(class(&report), FailureClass::Cpu, "{report:?}");
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
    let grow = format!(
        "{} {} {OK}",
        ensure("(i32.eq (memory.grow $second (i32.const 20)) (i32.const 40))"),
        ensure("(i32.eq (memory.grow $second (i32.const 20)) (i32.const -1))")
    );
    assert!(is_ok(&run(&guest("", second, &grow), b"").await), "60 pages and one of 64");
    let many = "(memory 1) (memory 1) (memory 1) (memory 1)";
    let five = plugin(&component(&guest("", many, OK)), short());
    assert!(matches!(&five, Err(LoadError::Compile(why)) if why.contains("memories")), "{:?}", five.err());
}

#[tokio::test]
async fn memories_of_inner_components_share_the_cap_too() {
    // A5
    let few = plugin(&composed(20), short()).unwrap().call(&event(b"x"), Attempt(1)).await;
    assert_eq!(class(&few), FailureClass::Reject, "{few:?}");
    assert_eq!(few.used.memory_bytes, 40 << 16);
    let many = plugin(&composed(40), short()).unwrap();
    assert_eq!(class(&many.call(&event(b"x"), Attempt(1)).await), FailureClass::Memory);
    assert!(matches!(many.trial().await, Err(TrialError::Failed(why)) if why.class == FailureClass::Memory));
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
    assert!(failed.evidence.backtrace.len() <= 16 && failed.evidence.backtrace[0] == "deep", "{failed:?}");
}

#[tokio::test]
async fn a_host_call_at_the_bottom_of_the_stack_has_the_room_it_needs() {
    // A7: were the host's part of the stack too small, this would end the process.
    let imports = format!(
        r#"{LOG} (import "wasi:config/store@0.2.0-rc.1" "get-all" (func $all (param i32)))
        (import "wasi:random/random@0.2.12" "get-random-bytes" (func $random (param i64 i32)))"#
    );
    for call in [
        "(call $log (i32.const 3) (i32.const 16) (i32.const 0) (i32.const 16) (i32.const 8))",
        "(call $all (i32.const 2048))",
        "(call $random (i64.const 8) (i32.const 2048))",
    ] {
        // Memory that the answer took is taken again, so that the stack is what runs out.
        let deep = format!("(func $deep {call} (global.set $free (i32.const 4096)) (call $deep))");
        let limits = Limits { cpu: Duration::from_secs(10), ..short() };
        let report = run_within(&guest(&imports, &deep, "(call $deep) (i32.const 1024)"), b"", limits).await;
        assert_eq!(failure(&report).code, "stack-overflow", "{call}: {report:?}");
    }
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
    let failed = failure(&report);
    assert_eq!((failed.class, &*failed.code), (FailureClass::Trap, "host-call"));
    assert!(failed.reason.contains("too much data"), "{failed:?}");
    assert!(report.used.cpu < Duration::from_millis(100), "refused, not read: {:?}", report.used);
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
    let begins = "(local $at i32)";
    let spins = good.replace(begins, &format!("{begins} (loop $again (br $again))"));
    assert_eq!(class(&run(&spins, b"x").await), FailureClass::Cpu);
    let call = "(call $log (i32.const 2) (i32.const 16) (i32.const 0) (i32.const 16) (i32.const 0))";
    let calls = guest(LOG, "", OK).replace(begins, &format!("{begins} {call}"));
    let report = run(&calls, b"x").await;
    assert_eq!(class(&report), FailureClass::Trap, "{report:?}");
    assert_eq!(report.logs, [], "it may not call the host while the host calls it");
}

#[tokio::test]
async fn handles_without_end_and_handles_that_are_none_are_traps() {
    // A15, A16
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $timer (param i64) (result i32)))
        (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $drop (param i32)))
        (import "wasi:io/poll@0.2.12" "poll" (func $poll (param i32 i32 i32)))"#;
    for body in [
        "(loop $again (drop (call $timer (i64.const 3600000000000))) (br $again)) unreachable",
        "(local $one i32) (local.set $one (call $timer (i64.const 1)))
         (call $drop (local.get $one)) (call $drop (local.get $one)) (i32.const 1024)",
        "(call $drop (i32.const 77)) (i32.const 1024)",
        "(i32.store (i32.const 2048) (i32.const 77)) (call $poll (i32.const 2048) (i32.const 1) (i32.const 3000)) (i32.const 1024)",
        "(call $poll (i32.const 2048) (i32.const 0) (i32.const 3000)) (i32.const 1024)",
    ] {
        let report = run(&guest(imports, "", body), b"").await;
        assert_eq!(class(&report), FailureClass::Trap, "{body}: {report:?}");
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

    let grows = "(func $start (loop $again
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (br $again))) (start $start)";
    let core = guest("", grows, OK);
    let plugin = self::plugin(&component(&core), short()).unwrap();
    assert_eq!(class(&plugin.call(&event(b""), Attempt(1)).await), FailureClass::Memory);
    assert!(
        matches!(plugin.trial().await, Err(TrialError::Failed(why)) if why.class == FailureClass::Memory)
    );
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_trap() {
    // A17
    let core = body("(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)");
    let report = run(&core, b"").await;
    assert_eq!(class(&report), FailureClass::Trap, "{report:?}");
    let core = body("(i32.const -4)");
    assert_eq!(class(&run(&core, b"").await), FailureClass::Trap);
    // A rejection with 32 MiB of reason.
    let core = reject("c", "r").replace(
        "(i32.store (i32.const 1052) (i32.const 1))",
        "(drop (memory.grow (i32.const 900))) (i32.store (i32.const 1052) (i32.const 33554432))",
    );
    let report = run_within(&core, b"", Limits { memory: ByteSize::mib(64), ..short() }).await;
    assert_eq!(class(&report), FailureClass::Trap, "{report:?}");
    assert!(failure(&report).reason.contains("too much data"), "{report:?}");
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
