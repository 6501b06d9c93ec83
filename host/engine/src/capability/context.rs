//! `busway:plugin/context`: the event in hand, as the host knows it.

use crate::{
    bindings::busway::plugin::context::{Host, Position},
    store::State,
};

impl Host for State {
    fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.about.attempt)
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.remaining().as_millis() as u64)
    }

    fn published_at_ms(&mut self) -> wasmtime::Result<Option<u64>> {
        Ok(self.about.published_at_ms)
    }

    fn stored_at(&mut self) -> wasmtime::Result<Option<Position>> {
        let position = self.about.position.as_ref();
        Ok(position.map(|at| Position { stream: at.stream.as_ref().to_owned(), sequence: at.sequence }))
    }

    fn can_reply(&mut self) -> wasmtime::Result<bool> {
        Ok(self.about.can_reply && self.outputs.reply.is_none())
    }
}
