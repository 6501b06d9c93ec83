//! Something to say on the bus.

use serde::{Deserialize, Serialize};

use crate::{Failure, Header, json};

/// Something a plugin wants to say on the bus, or was answered by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Without wildcards; tokens of `A-Z a-z 0-9 _ -` joined by dots, at most 16 of them and 256 bytes in all.
    pub subject: String,
    /// At most 32, names of at most 64 bytes, values of at most 1 KiB, 8 KiB in all. `Nats-…`, `Busway-…`,
    /// `traceparent` and `tracestate` are the host's.
    pub headers: Vec<Header>,
    /// The bytes to send.
    pub payload: Vec<u8>,
}

impl Message {
    /// A message without headers.
    pub fn new(subject: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { subject: subject.into(), headers: Vec::new(), payload: payload.into() }
    }

    /// A message whose payload is `value` as JSON. It gets no content type header: add one where somebody reads it.
    ///
    /// # Errors
    /// A reject with the code `unwritable-json` when `value` has no JSON form, like a map whose keys are not text.
    pub fn json<T: Serialize + ?Sized>(subject: impl Into<String>, value: &T) -> Result<Self, Failure> {
        let payload = serde_json::to_vec(value).map_err(|error| Failure::reject("unwritable-json", error))?;
        Ok(Self::new(subject, payload))
    }

    /// The message with one more header line.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    /// The payload as JSON, for answers of [`request`](crate::request) and for tests.
    ///
    /// # Errors
    /// Those of [`Event::json`](crate::Event::json).
    pub fn payload_json<'message, T: Deserialize<'message>>(&'message self) -> Result<T, Failure> {
        json::parse(&self.payload)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_value_becomes_a_json_payload_with_headers() {
        let message = Message::json("totals", &[1, 2]).unwrap().header("Kind", "sum");
        assert_eq!(message.payload, b"[1,2]");
        assert_eq!(message.headers, [Header { name: "Kind".to_owned(), value: "sum".to_owned() }]);
        assert_eq!(message.payload_json::<Vec<u8>>(), Ok(vec![1, 2]));
    }

    #[test]
    fn a_value_without_a_json_form_is_a_reject() {
        let keyed_by_list = HashMap::from([(vec![1], 2)]);
        let failure = Message::json("totals", &keyed_by_list).unwrap_err();
        assert_eq!(failure, Failure::reject("unwritable-json", "key must be a string"));
    }
}
