//! In a WebAssembly build: the bindings of world `busway:plugin/plugin`, and what stands around a handler's run.
//!
//! The SDK's own types are handed to the bindings (`with`), so an event or a message is never converted. Everything of
//! the world is generated and what a plugin does not use is dropped by the linker: a component imports only what it
//! calls.

use std::panic::{self, PanicHookInfo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::context::Position;
use crate::log::Level;
use crate::{BusError, Event, Failure, Header, Message};

mod bindings {
    #![expect(missing_docs, reason = "written by wit-bindgen from the WIT")]

    wit_bindgen::generate!({
        path: "wit",
        world: "busway:plugin/plugin",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "busway_sdk::__private",
        with: {
            "busway:plugin/types@0.1.0/header": crate::Header,
            "busway:plugin/types@0.1.0/event": crate::Event,
            "busway:plugin/types@0.1.0/message": crate::Message,
            "busway:plugin/types@0.1.0/failure": crate::Failure,
            "busway:plugin/types@0.1.0/retry-later": crate::RetryLater,
            "busway:plugin/types@0.1.0/rejection": crate::Rejection,
            "busway:plugin/types@0.1.0/bus-error": crate::BusError,
            "busway:plugin/context@0.1.0/position": crate::context::Position,
        },
    });
}

use bindings::busway::plugin::{bus, context, diagnostics, secrets};
pub use bindings::exports::busway::plugin::handler::Guest;
use bindings::wasi::clocks::wall_clock;
use bindings::wasi::config::store;
use bindings::wasi::logging::logging;
pub use bindings::{export, exports};

/// Runs the handler. The hook is set each time, because the first event of an instance looks like any other; it costs
/// no allocation.
pub fn handle(handler: fn(Event) -> Result<(), Failure>, event: Event) -> Result<(), Failure> {
    panic::set_hook(Box::new(tell_the_host));
    handler(event)
}

/// After this the panic becomes a trap, and a trap has no words.
fn tell_the_host(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a panic whose payload is not text");
    let location = panic.location().map(|at| diagnostics::Location {
        file: at.file().to_owned(),
        line: at.line(),
        column: at.column(),
    });
    diagnostics::panicked(message, location.as_ref());
}

pub(crate) fn publish(message: &Message) -> Result<(), BusError> {
    bus::publish(message)
}

pub(crate) fn reply(headers: &[Header], payload: &[u8]) -> Result<(), BusError> {
    bus::reply(headers, payload)
}

pub(crate) fn request(message: &Message, timeout_ms: u32) -> Result<Message, BusError> {
    bus::request(message, timeout_ms)
}

pub(crate) fn attempt() -> u32 {
    context::attempt()
}

pub(crate) fn remaining_ms() -> u64 {
    context::remaining_ms()
}

pub(crate) fn published_at_ms() -> Option<u64> {
    context::published_at_ms()
}

pub(crate) fn stored_at() -> Option<Position> {
    context::stored_at()
}

pub(crate) fn can_reply() -> bool {
    context::can_reply()
}

pub(crate) fn secret(name: &str) -> Option<Vec<u8>> {
    secrets::get(name)
}

pub(crate) fn now() -> SystemTime {
    let now = wall_clock::now();
    UNIX_EPOCH + Duration::new(now.seconds, now.nanoseconds)
}

pub(crate) fn config(key: &str) -> Option<String> {
    match store::get(key) {
        Ok(value) => value,
        #[expect(
            clippy::panic,
            reason = "an attempt must not go on without its configuration; the host repeats it"
        )]
        Err(store::Error::Upstream(why) | store::Error::Io(why)) => {
            panic!("the host can't read configuration key `{key}`: {why}")
        }
    }
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => logging::Level::Trace,
        Level::Debug => logging::Level::Debug,
        Level::Info => logging::Level::Info,
        Level::Warn => logging::Level::Warn,
        Level::Error => logging::Level::Error,
    };
    logging::log(level, "", message);
}
