//! Compiling in a process of its own, which can be given limits and killed.
//!
//! A valid plugin can cost a code generator minutes and gigabytes, and inside of the host neither could be taken back.
//! The child is this same program: it bounds itself before it reads anything, takes the component on its standard input
//! and gives native code on its standard output. What it writes is trusted as far as the host trusts itself: it runs the
//! same code as the same user, and sees nothing but the component. One compiles at a time.

use crate::{component::LoadError, engine};
use busway_core::units::{ByteSize, write_duration};
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use wasmtime::InstanceAllocationStrategy;

/// Between two looks at the child.
const LOOK: Duration = Duration::from_millis(5);
/// Of what the child says of itself so much is kept.
const WORDS_BYTES_MAX: u64 = 4 << 10;
/// How much lower its priority is.
const NICENESS: i32 = 10;
/// Signals that end the child when it passes a limit.
const SIGXCPU: i32 = 24;
const SIGKILL: i32 = 9;

/// Where plugins are compiled.
#[derive(Debug, Clone, Default)]
pub enum Compiling {
    /// In this process: for tools that compile what their own user has just built.
    #[default]
    Here,
    /// In a child.
    Child(ChildCompiler),
}

/// A program that calls [`compile_child`] with the same bounds.
#[derive(Debug, Clone)]
pub struct ChildCompiler {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What it may use.
    pub bounds: CompileBounds,
}

/// What compiling one plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileBounds {
    /// Processor time. Default 30 s.
    pub cpu: Duration,
    /// Address space. Default 2 GiB.
    pub memory: ByteSize,
    /// Time. Default 60 s.
    pub wall: Duration,
}

impl Default for CompileBounds {
    fn default() -> Self {
        Self { cpu: Duration::from_secs(30), memory: ByteSize::mib(2048), wall: Duration::from_secs(60) }
    }
}

/// The child's side: bounds this process, compiles what comes in, writes native code. For a process that does nothing else.
///
/// # Errors
/// For people, to be written to standard error: what can't be read, bounded or compiled.
pub fn compile_child(
    bounds: CompileBounds,
    mut input: impl Read,
    mut output: impl Write,
) -> Result<(), String> {
    let limit = |resource, most| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|why| why.to_string())
    };
    limit(Resource::Cpu, bounds.cpu.as_secs().max(1))?;
    limit(Resource::As, bounds.memory.0)?;
    limit(Resource::Core, 0)?;
    // Where it is not granted, compiling is only less polite.
    let _granted = nice(NICENESS);
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|why| why.to_string())?;
    // A pool would reserve more addresses than the child has; its native code is the same.
    let settings = engine::settings(InstanceAllocationStrategy::OnDemand);
    let engine = wasmtime::Engine::new(&settings).map_err(|why| format!("{why:#}"))?;
    let compiled = engine.precompile_component(&bytes).map_err(|why| format!("{why:#}"))?;
    output.write_all(&compiled).and_then(|()| output.flush()).map_err(|why| why.to_string())
}

impl ChildCompiler {
    /// The native code of a component.
    ///
    /// # Errors
    /// [`LoadError::Compile`], which names the limit that was passed.
    pub(crate) fn compile(&self, component: &[u8]) -> Result<Vec<u8>, LoadError> {
        let failed = |why: io::Error| LoadError::Compile(format!("{}: {why}", self.program.display()));
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (input, output, words) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            // A child that ends before it has read everything has said why.
            scope.spawn(move || input.map(|mut input| input.write_all(component)));
            let output = scope.spawn(move || read(output, u64::MAX));
            let words = scope.spawn(move || read(words, WORDS_BYTES_MAX));
            let ended = self.ended(&mut child).map_err(failed)?;
            let (compiled, words) = (output.join().unwrap_or_default(), words.join().unwrap_or_default());
            match ended {
                Some(status) if status.success() => Ok(compiled),
                ended => Err(LoadError::Compile(self.told(ended, &String::from_utf8_lossy(&words)))),
            }
        })
    }

    /// How it ended; none where it was killed because its time was over.
    fn ended(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + self.bounds.wall;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            thread::sleep(LOOK);
        }
    }

    fn told(&self, ended: Option<ExitStatus>, words: &str) -> String {
        let bounds = &self.bounds;
        let Some(status) = ended else {
            return format!(
                "it took longer than {}; is it made to be expensive?",
                write_duration(bounds.wall)
            );
        };
        match status.signal() {
            // At the hard limit the kernel kills for good.
            Some(SIGXCPU | SIGKILL) => format!(
                "it took more than {} of processor time; is it made to be expensive?",
                write_duration(bounds.cpu)
            ),
            Some(_) if words.contains("memory allocation") || words.contains("out of memory") => {
                format!("it took more than {} of memory; is it made to be expensive?", bounds.memory)
            }
            Some(signal) => format!("the compiler was ended by signal {signal}: {}", words.trim()),
            None if words.trim().is_empty() => format!("the compiler ended with {status} and said nothing"),
            None => words.trim().trim_start_matches("error: ").to_owned(),
        }
    }
}

fn read(from: Option<impl Read>, bytes_max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What was read before an error is what there is; the exit status tells whether it is whole.
        drop(from.take(bytes_max).read_to_end(&mut bytes));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a child that does so.
    fn told(script: &str) -> String {
        let bounds = CompileBounds { wall: Duration::from_millis(300), ..CompileBounds::default() };
        let arguments = ["-c", script].map(OsString::from).to_vec();
        let child = ChildCompiler { program: "/bin/sh".into(), arguments, bounds };
        match child.compile(b"component") {
            Ok(compiled) => format!("ok {}", String::from_utf8_lossy(&compiled)),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn a_child_that_passes_a_limit_is_told_by_the_limit() {
        assert_eq!(told("cat"), "ok component");
        assert!(
            told("kill -XCPU $$").contains("more than 30s of processor time"),
            "{}",
            told("kill -XCPU $$")
        );
        assert!(told("exec sleep 60").contains("longer than 300ms"));
        let memory = told("echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$");
        assert!(memory.contains("more than 2GiB of memory"), "{memory}");
        assert!(told("echo 'no such thing' >&2; exit 1").ends_with("no such thing"));
        assert!(told("exit 1").contains("said nothing"));
    }

    #[test]
    fn a_compiler_that_is_not_there_is_told() {
        let bounds = CompileBounds::default();
        let child = ChildCompiler { program: "/nowhere/busway".into(), arguments: Vec::new(), bounds };
        let why = child.compile(b"").unwrap_err().to_string();
        assert!(why.contains("/nowhere/busway"), "{why}");
    }
}
