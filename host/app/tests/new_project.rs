//! A stranger's first minutes: `busway new`, the project's own test, `busway build`; outside of the repository.
//!
//! Needs what `cargo xtask setup` installs. The target folder is kept between runs, or each would compile the project's
//! dependencies anew.
#![expect(clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

use std::{
    path::Path,
    process::{Command, Output},
};

const BUSWAY: &str = env!("CARGO_BIN_EXE_busway");

/// Runs a command in a folder, and shows all it said if it fails.
fn done(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).current_dir(folder).args(arguments).output().unwrap();
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).join("\n");
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{told}", output.status);
    output
}

#[test]
fn a_new_project_passes_its_test_and_builds_to_a_component_with_its_manifest() {
    let root = tempfile::tempdir().unwrap();
    done(root.path(), BUSWAY, &["new", "demo-plugin", "--lang", "rust"]);
    let project = root.path().join("demo-plugin");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-project");
    let target = target.to_str().unwrap();
    done(&project, env!("CARGO"), &["test", "--target-dir", target]);
    done(&project, BUSWAY, &["build", "--target-dir", target, "--out", "demo.wasm"]);

    let component = std::fs::read(project.join("demo.wasm")).unwrap();
    assert!(component.starts_with(b"\0asm\x0d\0\x01\0"), "not a component");
    let text = String::from_utf8_lossy(&component);
    let manifest = &text[text.rfind("busway:manifest").expect("no manifest")..];
    assert!(manifest.contains("\"demo-plugin\""), "{manifest}");
}

#[test]
fn what_cannot_be_made_is_refused_as_wrong_usage() {
    let root = tempfile::tempdir().unwrap();
    for arguments in [
        ["new", "Bad_Name", "--lang", "rust"],
        ["new", "fine", "--lang", "go"],
        ["new", "fine", "--lang", "cobol"],
    ] {
        let output = Command::new(BUSWAY).current_dir(root.path()).args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "nothing may be written");
}
