//! What a handler is called with, and the ways to read it.
//!
//! The fields are public and owned: a handler that passes a payload on moves it. The readers answer with a [`Failure`]
//! that is already the right one, a reject, because bytes that can't be read now can't be read later either.

use std::str;

use serde::Deserialize;

use crate::{Failure, Message, json};

/// One header line. A name repeats when a header has several values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// As it was published; upper and lower case differ.
    pub name: String,
    /// UTF-8 text.
    pub value: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Stable over redeliveries, retries and redrives: use it as the key of your own deduplication.
    pub id: String,
    /// The subject it was published on, without wildcards.
    pub subject: String,
    /// The publisher's headers; the values of one name keep their order. The host's own (`Nats-…`, `Busway-…`) are not
    /// among them.
    pub headers: Vec<Header>,
    /// The bytes as they were published.
    pub payload: Vec<u8>,
}

impl Event {
    /// The payload as JSON.
    ///
    /// # Errors
    /// A reject with the code `invalid-json` when the payload is not JSON or not of the type asked for; its reason names
    /// the path, line and column.
    pub fn json<'event, T: Deserialize<'event>>(&'event self) -> Result<T, Failure> {
        json::parse(&self.payload)
    }

    /// The payload as text.
    ///
    /// # Errors
    /// A reject with the code `invalid-text` when the payload is not UTF-8; its reason names the first wrong byte.
    pub fn text(&self) -> Result<&str, Failure> {
        str::from_utf8(&self.payload).map_err(|error| {
            Failure::reject("invalid-text", format_args!("not UTF-8 from byte {} on", error.valid_up_to()))
        })
    }

    /// The event's headers and payload as a message for another subject, to pass it on unchanged. `traceparent` and
    /// `tracestate` stay behind: the host continues the trace by itself.
    pub fn forward(self, subject: impl Into<String>) -> Message {
        let mut headers = self.headers;
        headers.retain(|header| !is_trace_context(&header.name));
        Message { subject: subject.into(), headers, payload: self.payload }
    }

    /// The first value of a header. Upper and lower case differ, as they do in NATS.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name == name).map(|header| header.value.as_str())
    }
}

fn is_trace_context(name: &str) -> bool {
    name.eq_ignore_ascii_case("traceparent") || name.eq_ignore_ascii_case("tracestate")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Order<'a> {
        id: u64,
        #[serde(borrow)]
        items: Vec<Item<'a>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Item<'a> {
        name: &'a str,
        price: f64,
    }

    fn refusal(payload: &[u8]) -> (String, String) {
        match Event::test("orders.created", payload).json::<Order>() {
            Err(Failure::Reject(rejection)) => (rejection.code, rejection.reason),
            other => panic!("not a reject: {other:?}"),
        }
    }

    #[test]
    fn a_typed_payload_may_borrow_from_the_event() {
        let event = Event::test("orders.created", r#"{"id": 7, "items": [{"name": "tea", "price": 2.5}]}"#);
        let order: Order = event.json().unwrap();
        assert_eq!(order, Order { id: 7, items: vec![Item { name: "tea", price: 2.5 }] });
    }

    #[test]
    fn json_that_is_cut_off_is_rejected_with_its_place() {
        let (code, reason) = refusal(b"{\"id\": 7,\n \"items\": [");
        assert_eq!(code, "invalid-json");
        assert_eq!(reason, "EOF while parsing a list at line 2 column 11");
    }

    #[test]
    fn json_of_another_shape_is_rejected_with_its_path() {
        let (code, reason) = refusal(br#"{"id": 7, "items": [{"name": "tea", "price": "free"}]}"#);
        assert_eq!(code, "invalid-json");
        assert_eq!(
            reason,
            "invalid type: string \"free\", expected f64 at line 1 column 51, in `items[0].price`"
        );
    }

    #[test]
    fn bytes_after_the_json_value_are_rejected() {
        assert_eq!(refusal(br#"{"id": 7, "items": []} {}"#).1, "trailing characters at line 1 column 24");
    }

    #[test]
    fn an_empty_payload_is_rejected() {
        assert_eq!(refusal(b"").1, "EOF while parsing a value at line 1 column 0");
    }

    #[test]
    fn text_that_is_not_utf8_is_rejected_with_the_first_wrong_byte() {
        let failure = Event::test("notes", b"abc\xff").text().unwrap_err();
        assert_eq!(failure, Failure::reject("invalid-text", "not UTF-8 from byte 3 on"));
    }

    #[test]
    fn an_event_is_passed_on_with_its_headers_and_without_its_trace() {
        let event = Event::test("a", "x").with_header("Tag", "one").with_header("traceparent", "00-…");
        assert_eq!(event.forward("b"), Message::new("b", "x").header("Tag", "one"));
    }

    #[test]
    fn the_first_value_of_a_repeated_header_is_found_by_its_exact_name() {
        let event = Event::test("a", "").with_header("Tag", "one").with_header("Tag", "two");
        assert_eq!(event.header("Tag"), Some("one"));
        assert_eq!(event.header("tag"), None);
    }
}
