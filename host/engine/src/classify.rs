//! The only place where an error of wasmtime gets a meaning.
//!
//! Order matters: what the host itself ended (processor budget, quota) is told first, then what could not begin, then
//! what the guest did after it was refused memory, and last any other trap.

use crate::{
    bindings::busway::plugin::types::Failure as GuestFailure, capability::bus::QuotaSpent, cpu::CpuSpent,
    instance::Misfit, store::State,
};
use busway_core::{Failure, FailureClass, Outputs, Ran, Refusal, outcome::clean};
use rustc_demangle::demangle;
use std::time::Duration;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Stack frames that are kept.
const FRAMES_MAX: usize = 16;

/// What the handler returned, as an end of the run.
pub(crate) fn returned(answer: Result<(), GuestFailure>, outputs: Outputs) -> Ran {
    match answer {
        Ok(()) => Ran::Ok(outputs),
        Err(GuestFailure::Retry(later)) => {
            let mut failure = Failure::new(FailureClass::Retry, "retry", later.reason);
            failure.after = later.after_ms.map(Duration::from_millis);
            Ran::Failed(failure)
        }
        Err(GuestFailure::Reject(rejection)) => {
            Ran::Failed(Failure::new(FailureClass::Reject, rejection.code, rejection.reason))
        }
    }
}

/// The wall-clock budget was spent.
pub(crate) fn timed_out(state: &State) -> Ran {
    let limit = state.shared.limits.timeout.as_millis();
    Ran::Failed(Failure::new(FailureClass::Timeout, "wall-clock", format!("not done within {limit} ms")))
}

/// What an error of wasmtime means.
pub(crate) fn failed(error: &wasmtime::Error, state: &State) -> Ran {
    if let Some(why) = error.downcast_ref::<PoolConcurrencyLimitError>() {
        return Ran::Refused(Refusal::NoSandbox(why.to_string()));
    }
    let (class, code, reason) = meaning(error, state);
    let mut failure = Failure::new(class, code, reason);
    failure.evidence.panic.clone_from(&state.panic);
    failure.evidence.backtrace = backtrace(error);
    Ran::Failed(failure)
}

fn meaning(error: &wasmtime::Error, state: &State) -> (FailureClass, &'static str, String) {
    if let Some(spent) = error.downcast_ref::<CpuSpent>() {
        return (FailureClass::Cpu, "processor", spent.to_string());
    }
    if let Some(spent) = error.downcast_ref::<QuotaSpent>() {
        return (FailureClass::Quota, spent.code(), spent.to_string());
    }
    if let Some(misfit) = error.downcast_ref::<Misfit>() {
        return (FailureClass::Trap, "contract", misfit.to_string());
    }
    if state.limiter.was_refused() {
        let reason = format!("trapped after it was refused memory beyond {}", state.shared.limits.memory);
        return (FailureClass::Memory, "memory", with_panic(reason, state));
    }
    if state.used.denied > 0 {
        let reason = format!(
            "trapped after {} denied calls: it needs a grant that it does not have",
            state.used.denied
        );
        return (FailureClass::Denied, "denied", with_panic(reason, state));
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return (
            FailureClass::Trap,
            "exit",
            format!("the guest called exit({}) instead of returning", exit.0),
        );
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => (FailureClass::Trap, code(*trap), with_panic(trap.to_string(), state)),
        None => (FailureClass::Trap, "host-call", with_panic(format!("{:#}", error.root_cause()), state)),
    }
}

/// The guest's own words are worth more than `unreachable`.
fn with_panic(reason: String, state: &State) -> String {
    match &state.panic {
        Some(panic) => format!("panicked: {panic}"),
        None => reason,
    }
}

fn code(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack-overflow",
        Trap::MemoryOutOfBounds | Trap::HeapMisaligned => "memory-out-of-bounds",
        Trap::TableOutOfBounds => "table-out-of-bounds",
        Trap::IndirectCallToNull | Trap::BadSignature => "bad-indirect-call",
        Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger => "arithmetic",
        Trap::UnreachableCodeReached => "unreachable",
        Trap::Interrupt => "interrupted",
        _ => "trap",
    }
}

fn backtrace(error: &wasmtime::Error) -> Vec<String> {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    trace.frames().iter().flat_map(frame).take(FRAMES_MAX).collect()
}

/// A frame, with the functions that were inlined into it where debug information tells of them.
fn frame(frame: &wasmtime::FrameInfo) -> Vec<String> {
    // Rust's names without their hashes; other languages' are left as they are.
    let name = |name: Option<&str>| clean(&format!("{:#}", demangle(name.unwrap_or("(unnamed)"))), 192);
    if frame.symbols().is_empty() {
        return vec![name(frame.func_name())];
    }
    let symbol = |symbol: &wasmtime::FrameSymbol| {
        let function = name(symbol.name().or(frame.func_name()));
        match (symbol.file(), symbol.line()) {
            (Some(file), Some(line)) => format!("{function} at {}:{line}", clean(file, 192)),
            _ => function,
        }
    };
    frame.symbols().iter().map(symbol).collect()
}
