//! The trace that an event belongs to (W3C Trace Context), carried from input to outputs and dead letters.

use crate::{EventId, Headers};
use sha2::{Digest as _, Sha256};

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";

/// The `traceparent` for what an event causes: the event's own trace, or one derived from its id where it has none or a
/// malformed one. The span is derived from the event, the plugin and the attempt, so that a repeated release repeats it.
pub fn traceparent(event_headers: &Headers, id: &EventId, plugin: &str, attempt: u32) -> String {
    let mut hash = Sha256::new();
    for part in [id.as_str(), plugin] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(attempt.to_be_bytes());
    let derived = data_encoding::HEXLOWER.encode(&hash.finalize());
    let span = derived.get(..16).unwrap_or_default();
    match event_headers.get(TRACEPARENT).and_then(parse) {
        Some((trace, flags)) => format!("00-{trace}-{span}-{flags}"),
        None => format!("00-{}-{span}-00", derived_trace_id(id)),
    }
}

/// The trace id of an event that brings none along.
pub fn derived_trace_id(id: &EventId) -> String {
    let mut trace = data_encoding::HEXLOWER.encode(&Sha256::digest(id.as_str().as_bytes()));
    trace.truncate(32);
    trace
}

/// The trace id in a `traceparent`, where it is well-formed.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    parse(traceparent).map(|(trace, _)| trace)
}

fn parse(value: &str) -> Option<(&str, &str)> {
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |text: &str| text.bytes().all(|b| b == b'0');
    let valid = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && is_hex(trace, 32)
        && !is_zero(trace)
        && is_hex(span, 16)
        && !is_zero(span)
        && is_hex(flags, 2);
    valid.then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_trace_goes_on_and_the_span_is_new() {
        let headers: Headers = [(TRACEPARENT, GOOD)].into_iter().collect();
        let id = EventId::random([1; 32]);
        let next = traceparent(&headers, &id, "p", 1);
        assert_eq!(trace_id(&next), trace_id(GOOD));
        assert!(next.ends_with("-01") && !next.contains("00f067aa0ba902b7"), "{next}");
        assert_ne!(next, traceparent(&headers, &id, "p", 2));
    }

    #[test]
    fn a_malformed_trace_is_dropped_and_a_new_one_begins() {
        let id = EventId::random([1; 32]);
        for bad in [
            "",
            "x",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            &GOOD.to_uppercase(),
            &GOOD.repeat(200),
        ] {
            let headers: Headers = [(TRACEPARENT, bad)].into_iter().collect();
            let next = traceparent(&headers, &id, "p", 1);
            assert!(trace_id(&next).is_some(), "{next}");
        }
    }
}
