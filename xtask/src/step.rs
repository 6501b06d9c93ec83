//! Runs other programs, and tells on standard error what ran and how long it took.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// Does a step and tells its time, also when it failed.
///
/// # Errors
/// What the step refuses.
pub fn timed<T>(name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("xtask: {name}");
    let start = Instant::now();
    let done = step();
    let word = if done.is_ok() { "done" } else { "FAILED" };
    eprintln!("xtask: {name}: {word} in {}", seconds(start.elapsed()));
    done.with_context(|| format!("{name} failed"))
}

/// Runs a program without input; what it says goes to the terminal.
///
/// # Errors
/// When it cannot be started (it is then named, with how to get it), or ends with anything but 0.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = name(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| missing(&program))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

/// Runs a program without input, and reads its standard output.
///
/// # Errors
/// As for [`run`]; what the program said on standard error is part of the error.
pub fn read(command: &mut Command) -> anyhow::Result<String> {
    let program = name(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| missing(&program))?;
    if !output.status.success() {
        bail!("{program} ended with {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed something that is not UTF-8"))
}

/// Whether a program can be started at all.
pub fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `12.3 s`, or `2 min 03 s`.
pub fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn missing(program: &str) -> String {
    let from = match program {
        "npm" => " (it comes with Node.js: nodejs.org, or apt-get install npm)",
        "tar" => " (apt-get install tar)",
        "cargo" => " (it comes with Rust: rustup.rs)",
        _ => "",
    };
    format!("cannot run {program}: install it{from}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named_with_where_to_get_it() {
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err().to_string();
        assert!(error.contains("cannot run no-such-program-here"), "{error}");
        assert!(missing("npm").contains("Node.js"));
    }

    #[test]
    fn times_are_told_as_people_read_them() {
        assert_eq!(seconds(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(123)), "2 min 03 s");
    }
}
