//! What rules and templates can ask of an event.

use std::cell::OnceCell;

use busway_sdk::{Event, Failure};
use serde_json::Value;

/// An event, with its payload read as JSON at the first question about it and kept.
pub struct Facts<'event> {
    event: &'event Event,
    payload: OnceCell<Value>,
}

impl<'event> Facts<'event> {
    /// The facts about `event`. Reads nothing yet.
    pub fn of(event: &'event Event) -> Self {
        Self { event, payload: OnceCell::new() }
    }

    /// The subject the event was published on.
    pub fn subject(&self) -> &str {
        &self.event.subject
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.event.header(name)
    }

    /// The part of the payload that a JSON pointer leads to.
    ///
    /// # Errors
    /// A reject with the code `invalid-json` when the payload is not JSON.
    pub fn part(&self, pointer: &str) -> Result<Option<&Value>, Failure> {
        if self.payload.get().is_none() {
            let payload = self.event.json()?;
            return Ok(self.payload.get_or_init(|| payload).pointer(pointer));
        }
        Ok(self.payload.get().and_then(|payload| payload.pointer(pointer)))
    }
}
