//! `busway:plugin/diagnostics`: what a language's run-time says just before it traps.

use crate::{
    bindings::busway::plugin::diagnostics::{Host, Location},
    store::State,
};
use busway_core::outcome::clean;

/// Bytes of a panic message that are kept.
const MESSAGE_BYTES_MAX: usize = 1024;

impl Host for State {
    fn panicked(&mut self, message: String, location: Option<Location>) -> wasmtime::Result<()> {
        let message = clean(&message, MESSAGE_BYTES_MAX);
        self.panic = Some(match location {
            Some(at) => format!("{message}, at {}:{}:{}", clean(&at.file, 256), at.line, at.column),
            None => message,
        });
        Ok(())
    }
}
