//! The account notices what it is there for: one output that is missing, one that is there twice.
//!
//! Needs what `cargo xtask test` builds: the program (`BUSWAY_BIN`), the guests (`BUSWAY_GUESTS`), a nats-server.
#![expect(clippy::expect_used, reason = "test code: what can not be set up ends the test")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn target() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_busway-chaos")).parent().and_then(Path::parent);
    target.expect("a target folder").to_owned()
}

fn chaos(name: &str, arguments: &[&str]) -> (Output, PathBuf) {
    let named = |variable: &str, else_at: &str| {
        env::var_os(variable).map_or_else(|| target().join(else_at), PathBuf::from)
    };
    let folder = env::temp_dir().join(format!("busway-chaos-{}-{name}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_busway-chaos"))
        .args(["--host-kills", "1", "--broker-kills", "0", "--pauses", "0", "--events", "100"])
        .args(arguments)
        .arg("--json")
        .arg(folder.with_extension("json"))
        .env("BUSWAY_BIN", named("BUSWAY_BIN", "debug/busway"))
        .env("BUSWAY_GUESTS", named("BUSWAY_GUESTS", "guests"))
        .env("BUSWAY_CHAOS_DIR", &folder)
        .env("NATS_SERVER", busway_testkit::nats::program().expect("a nats-server"))
        .output()
        .expect("the program runs");
    (output, folder)
}

/// Runs it, and gives its exit code, what it said and its report.
fn told(name: &str, arguments: &[&str]) -> (Option<i32>, String, serde_json::Value) {
    let (output, folder) = chaos(name, arguments);
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let json = folder.with_extension("json");
    let report = fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    for file in [folder, json] {
        drop(fs::remove_dir_all(&file).or_else(|_| fs::remove_file(&file)));
    }
    (output.status.code(), said, report)
}

#[test]
fn an_event_that_is_missing_or_doubled_is_told_and_fails_and_without_sabotage_nothing_is() {
    let number =
        |report: &serde_json::Value, name: &str| report.get(name).and_then(serde_json::Value::as_u64);
    let (code, said, report) = told("none", &[]);
    assert_eq!((code, number(&report, "accepted")), (Some(0), Some(100)), "{said}");
    assert_eq!((number(&report, "lost"), number(&report, "duplicate_outputs")), (Some(0), Some(0)), "{said}");
    let (code, said, report) = told("drop", &["--sabotage", "drop-one"]);
    assert_eq!((code, number(&report, "lost")), (Some(1), Some(1)), "{said}");
    assert!(said.contains("NOT every event is accounted for; again with --seed 1"), "{said}");
    let (code, said, report) = told("double", &["--sabotage", "double-one"]);
    assert_eq!((code, number(&report, "duplicate_outputs")), (Some(1), Some(1)), "{said}");
}
