//! `busway:plugin/secrets`: none are granted by this version, and what is not granted looks like what does not exist.

use crate::{bindings::busway::plugin::secrets::Host, store::State};

impl Host for State {
    fn get(&mut self, _name: String) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
