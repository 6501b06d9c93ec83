//! What a guest may do, and what the host answers.

use busway_core::{Attempt, FailureClass, Handler as _, Limits, LogLevel, Ran, units::ByteSize};
use busway_sandbox_tests::*;
use std::time::Duration;

#[tokio::test]
async fn an_event_arrives_and_its_output_waits_for_the_ok() {
    let report = run(&echo("out.echo"), b"\x00\xff payload").await;
    let Ran::Ok(outputs) = &report.ran else { panic!("{report:?}") };
    assert_eq!(outputs.messages.len(), 1);
    assert_eq!(
        (outputs.messages[0].subject.as_str(), &outputs.messages[0].payload[..]),
        ("out.echo", &b"\x00\xff payload"[..])
    );
    assert_eq!((report.used.publishes, report.used.publish_bytes), (1, 10));
    assert!(report.used.memory_bytes >= 65_536 && report.used.wall > Duration::ZERO);
}

#[tokio::test]
async fn an_empty_and_a_one_mebibyte_payload_arrive_whole() {
    for payload in [vec![], vec![7; 1 << 20]] {
        let limits = Limits { memory: ByteSize::mib(8), ..Limits::default() };
        let report = run_within(&echo("out.echo"), &payload, limits).await;
        let Ran::Ok(outputs) = &report.ran else { panic!("{report:?}") };
        assert!(outputs.messages[0].payload == payload);
    }
}

#[tokio::test]
async fn a_rejection_and_a_wish_for_a_retry_come_through_with_their_words() {
    let report = run(&reject("bad-order", "no id"), b"").await;
    let failed = failure(&report);
    assert_eq!((failed.class, &*failed.code, &*failed.reason), (FailureClass::Reject, "bad-order", "no id"));
    let report = run(&retry("busy", 1500), b"").await;
    let failed = failure(&report);
    assert_eq!((failed.class, &*failed.reason), (FailureClass::Retry, "busy"));
    assert_eq!(failed.after, Some(Duration::from_millis(1500)));
    let report = run(&retry("busy", u64::MAX), b"").await;
    assert_eq!(
        failure(&report).after,
        Some(Duration::from_millis(u64::MAX)),
        "bounded by the policy, not here"
    );
}

#[tokio::test]
async fn a_rejections_words_are_cut_and_can_not_break_a_header() {
    let line_breaks = "(memory.fill (i32.const 8192) (i32.const 10) (i32.const 2000))";
    let words = reject("c", "r")
        .replace("(i32.const 16)) (i32.store", &format!("(i32.const 8192)) {line_breaks} (i32.store"))
        .replace("(i32.const 32)) (i32.store", "(i32.const 8192)) (i32.store")
        .replace(
            "(i32.store (i32.const 1044) (i32.const 1))",
            "(i32.store (i32.const 1044) (i32.const 2000))",
        )
        .replace(
            "(i32.store (i32.const 1052) (i32.const 1))",
            "(i32.store (i32.const 1052) (i32.const 2000))",
        );
    let report = run(&words, b"").await;
    let failed = failure(&report);
    assert_eq!((failed.code.len(), failed.reason.len()), (64, 1024), "{failed:?}");
    assert!(!failed.code.chars().chain(failed.reason.chars()).any(char::is_control), "{failed:?}");
}

#[tokio::test]
async fn what_may_not_be_published_is_refused_by_its_own_error() {
    // The letter behind `refused` counts the error's place in the contract: a for denied, b for invalid-subject, …
    let long = format!("out.{}", "a".repeat(70));
    let table = [
        ("orders.created", "refuseda"),
        ("$JS.API.STREAM.PURGE.X", "refuseda"),
        ("busway.dlq.x", "refuseda"),
        ("out.*", "refusedb"),
        ("out..x", "refusedb"),
        ("out.a b", "refusedb"),
        (&long, "refusedb"),
    ];
    for (subject, expected) in table {
        let report = run(&echo(subject), b"x").await;
        assert_eq!(failure(&report).code, expected, "{subject}");
        assert_eq!(report.used.publishes, 0);
    }
    let report = run(&echo("orders.created"), b"x").await;
    assert_eq!(report.used.denied, 1);
}

#[tokio::test]
async fn a_guest_that_traps_after_a_denied_call_failed_by_the_denial() {
    let data = r#"(data (i32.const 16) "orders.created")"#;
    let body = "(call $publish (i32.const 16) (i32.const 14) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048))
         (if (i32.load8_u (i32.const 2048)) (then unreachable)) (i32.const 1024)";
    let report = run(&guest(PUBLISH, data, body), b"").await;
    let failed = failure(&report);
    assert_eq!((failed.class, &*failed.code), (FailureClass::Denied, "denied"), "{failed:?}");
}

#[tokio::test]
async fn a_message_beyond_the_brokers_limit_or_the_budget_is_refused() {
    let roomy = Limits { memory: ByteSize::mib(16), ..Limits::default() };
    let report = run_within(&echo("out.echo"), &vec![0; (1 << 20) + 1], roomy).await;
    assert_eq!(failure(&report).code, "refusedd", "too-large");
    let exact = run_within(&echo("out.echo"), &vec![0; 1 << 20], roomy).await;
    assert!(is_ok(&exact), "the largest that the broker takes: {exact:?}");
    let narrow = Limits { publish_bytes: ByteSize(10), ..Limits::default() };
    let report = run_within(&echo("out.echo"), b"eleven byte", narrow).await;
    assert_eq!(failure(&report).code, "refusede", "quota");
}

#[tokio::test]
async fn a_header_that_is_malformed_or_belongs_to_the_broker_or_the_host_is_invalid() {
    // C4; the place of `invalid-header` in the contract.
    let expected = 2;
    for name in
        ["a b", "", "Nats-Msg-Id", "NATS-ROLLUP", "nats-trace-dest", "Busway-Hops", "traceparent", "Status"]
    {
        let data = format!(
            r#"(data (i32.const 16) "out.x") (data (i32.const 32) "{name}")
               (data (i32.const 64) "\20\00\00\00\{:02x}\00\00\00\20\00\00\00\01\00\00\00")"#,
            name.len()
        );
        let body = "(call $publish (i32.const 16) (i32.const 5) (i32.const 64) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2048))
             (if (i32.ne (i32.load8_u (i32.const 2052)) (i32.const EXPECTED)) (then unreachable)) (i32.const 1024)";
        let core = guest(PUBLISH, &data, &body.replace("EXPECTED", &expected.to_string()));
        let report = run(&core, b"").await;
        assert!(matches!(&report.ran, Ran::Ok(outputs) if outputs.messages.is_empty()), "{name}: {report:?}");
    }
}

#[tokio::test]
async fn nothing_that_a_failed_run_published_is_kept() {
    // A27
    let body = "(local $i i32)
        (loop $again
          (call $publish (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
          (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50))))
        unreachable";
    let report = run(&guest(PUBLISH, r#"(data (i32.const 16) "out.x")"#, body), b"x").await;
    assert_eq!(class(&report), FailureClass::Trap);
    assert_eq!(report.used.publishes, 50);
}

#[tokio::test]
async fn a_guest_that_publishes_far_beyond_its_budget_is_ended() {
    let body = "(loop $again
          (call $publish (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
          (br $again))
        unreachable";
    let limits = Limits { publishes: 8, ..short() };
    let report = run_within(&guest(PUBLISH, r#"(data (i32.const 16) "out.x")"#, body), b"x", limits).await;
    assert_eq!(class(&report), FailureClass::Quota, "{report:?}");
    assert_eq!(report.used.publishes, 8);
}

#[tokio::test]
async fn log_lines_arrive_escaped_and_beyond_the_budget_are_counted() {
    // A2, A26
    let data = r#"(data (i32.const 16) "ctx") (data (i32.const 32) "a\0a\1b[2J{}")"#;
    let body = "(local $i i32)
        (loop $again
          (call $log (i32.const 3) (i32.const 16) (i32.const 3) (i32.const 32) (i32.const 8))
          (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
        (i32.const 1024)";
    let report = run(&guest(LOG, data, body), b"").await;
    assert!(matches!(report.ran, Ran::Ok(_)), "{report:?}");
    assert_eq!((report.used.log_lines, report.used.log_lines_dropped), (100, 900));
    let line = &report.logs[0];
    assert_eq!((line.level, &*line.context, &*line.message), (LogLevel::Warn, "ctx", "a\\n\\u{1b}[2J{}"));
}

#[tokio::test]
async fn a_log_flood_without_end_is_ended_by_the_processor_budget() {
    // A2
    let body = "(loop $again (call $log (i32.const 2) (i32.const 16) (i32.const 0) (i32.const 16) (i32.const 0)) (br $again)) unreachable";
    let report = run(&guest(LOG, "", body), b"").await;
    assert_eq!(class(&report), FailureClass::Cpu);
    assert_eq!(report.logs.len(), 100);
}

#[tokio::test]
async fn the_attempt_is_told() {
    let core =
        guest(ATTEMPT, "", "(if (i32.ne (call $attempt) (i32.const 3)) (then unreachable)) (i32.const 1024)");
    let plugin = plugin(&component(&core), short()).unwrap();
    assert!(matches!(plugin.call(&event(b""), Attempt(3)).await.ran, Ran::Ok(_)));
}

#[tokio::test]
async fn every_event_gets_a_sandbox_that_nobody_used_before() {
    // A40: leaves a mark behind, and traps when it finds one.
    let core = body(
        "(if (i32.load (i32.const 3000)) (then unreachable))
         (i32.store (i32.const 3000) (i32.const 42)) (i32.const 1024)",
    );
    let plugin = plugin(&component(&core), short()).unwrap();
    for _ in 0..1_000 {
        let report = plugin.call(&event(b"x"), Attempt(1)).await;
        assert!(is_ok(&report), "{report:?}");
    }
}
