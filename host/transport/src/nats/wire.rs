//! Headers in three shapes: ours, the client library's, and the block of bytes as it is stored.
//!
//! The library's own conversions from text panic on a carriage return or a space in the wrong place, so names and values
//! go in through `FromStr` only. And its parser ends the connection over a block that it can't read, so [`parse`] follows
//! its rules to the letter: what passes here passes there.

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, StatusCode};
use busway_core::{
    Headers,
    port::{Content, Malformed, Message as Came},
};
use std::str::FromStr as _;

/// The largest header block that a stream takes.
pub(super) const BLOCK_BYTES_MAX: usize = 64 * 1024 - 1;

/// A header that can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the header {name:?} can't be sent: a name has visible ASCII without `:`, a value has no line breaks"
)]
pub(super) struct NotSendable {
    name: String,
}

/// What a stored message has, as the events' path sees it.
pub(super) fn from_library(map: &HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for (name, values) in map.iter() {
        for value in values {
            headers.push(name.as_ref(), value.as_str());
        }
    }
    headers
}

/// What came, for the events' path. A header without a name is received by the library and can't be sent again, neither
/// in a dead letter nor in a copy: such a message is a malformed one, whose header block is kept as bytes.
pub(super) fn content(message: Message) -> Content {
    let headers = message.headers.as_ref().map(from_library).unwrap_or_default();
    let (subject, payload) = (message.subject.into_string(), message.payload);
    if headers.iter().any(|(name, _)| name.is_empty()) {
        let why = "a header without a name".to_owned();
        return Content::Malformed(Malformed {
            subject,
            header_block: to_block(&headers).into(),
            payload,
            why,
        });
    }
    Content::Message(Came { subject, headers, payload })
}

/// What is sent.
pub(super) fn to_library(headers: &Headers) -> Result<HeaderMap, NotSendable> {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        append(&mut map, name, value)?;
    }
    Ok(map)
}

pub(super) fn append(map: &mut HeaderMap, name: &str, value: &str) -> Result<(), NotSendable> {
    let refuse = || NotSendable { name: name.chars().take(64).collect() };
    if name.is_empty() {
        return Err(refuse());
    }
    let key = HeaderName::from_str(name).map_err(|_| refuse())?;
    map.append(key, HeaderValue::from_str(value).map_err(|_| refuse())?);
    Ok(())
}

/// Bytes of the block that these headers become.
pub(super) fn block_bytes(headers: &Headers) -> usize {
    const VERSION: usize = "NATS/1.0\r\n".len() + "\r\n".len();
    const LINE: usize = ": ".len() + "\r\n".len();
    VERSION + headers.text_bytes() + headers.len() * LINE
}

/// Bytes of the block that the library makes of these, or a few more.
pub(super) fn library_block_bytes(map: &HeaderMap) -> usize {
    const VERSION: usize = "NATS/1.0\r\n".len() + "\r\n".len();
    const LINE: usize = ": ".len() + "\r\n".len();
    let lines = map.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    VERSION
        + lines
            .map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len() + LINE)
            .sum::<usize>()
}

/// The block that these headers become.
pub(super) fn to_block(headers: &Headers) -> Vec<u8> {
    let mut block = Vec::with_capacity(block_bytes(headers));
    block.extend_from_slice(b"NATS/1.0\r\n");
    for (name, value) in headers.iter() {
        for part in [name, ": ", value, "\r\n"] {
            block.extend_from_slice(part.as_bytes());
        }
    }
    block.extend_from_slice(b"\r\n");
    block
}

/// The lines of a stored block, or what the client library would stumble over.
pub(super) fn parse(block: &[u8]) -> Result<Headers, String> {
    let text = std::str::from_utf8(block).map_err(|_| "a header that is not UTF-8".to_owned())?;
    let mut lines = text.lines().peekable();
    let version = lines.next().and_then(|line| line.strip_prefix("NATS/1.0"));
    let version = version.ok_or("a header block that does not begin with NATS/1.0")?.trim();
    let status = version.split_once(' ').map_or(version, |(status, _)| status.trim());
    if !status.is_empty() && status.parse::<StatusCode>().is_err() {
        return Err(format!("the status {status:?} in the header block"));
    }
    let mut headers = Headers::new();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) =
            line.split_once(':').ok_or_else(|| format!("a header line without `:`, {line:?}"))?;
        if name.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(format!("the header name {name:?}"));
        }
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        value.truncate(value.trim_end().len());
        if value.contains(['\r', '\n']) {
            return Err(format!("a line break in the value of the header {name:?}"));
        }
        headers.push(name, &value);
    }
    Ok(headers)
}

/// What the client library would stumble over in a subject; a message with headers is read more strictly than one
/// without. `U+FFFD` is what the broker put in place of bytes that are no UTF-8.
pub(super) fn check_subject(subject: &str, has_headers: bool) -> Result<(), String> {
    if subject.contains(char::REPLACEMENT_CHARACTER) {
        return Err("a subject that is not UTF-8".to_owned());
    }
    if has_headers && subject.contains(char::is_whitespace) {
        return Err("white space in the subject".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_went() {
        let headers: Headers = [("a", "1"), ("a", "2"), ("B-c", "ü")].into_iter().collect();
        let block = to_block(&headers);
        assert_eq!(block.len(), block_bytes(&headers));
        assert_eq!(parse(&block).unwrap(), headers);
        let back = from_library(&to_library(&headers).unwrap());
        assert_eq!(back.get("b-c"), Some("ü"));
        assert_eq!(
            back.iter().filter(|(name, _)| *name == "a").map(|(_, v)| v).collect::<Vec<_>>(),
            ["1", "2"]
        );
    }

    #[test]
    fn what_the_client_library_stumbles_over_is_named() {
        let table: [(&[u8], &str); 8] = [
            (b"NATS/1.0\r\na: \xff\r\n\r\n", "not UTF-8"),
            (b"NATS/1.0\r\nno colon\r\n\r\n", "without `:`"),
            (b"NATS/1.0\r\na b: c\r\n\r\n", "name \"a b\""),
            (b"NATS/1.0\r\na: b\rc\r\n\r\n", "line break"),
            (b"NATS/2.0\r\n\r\n", "begin with NATS/1.0"),
            (b"", "begin with NATS/1.0"),
            (b"NATS/1.0 abc\r\n\r\n", "status"),
            ("NATS/1.0\r\nü: c\r\n\r\n".as_bytes(), "name \"ü\""),
        ];
        for (block, expected) in table {
            let why = parse(block).unwrap_err();
            assert!(why.contains(expected), "{why} does not contain {expected}");
        }
        assert_eq!(
            parse(b"NATS/1.0 409 Consumer Deleted\r\nx: 1\r\n  2\r\n\r\n").unwrap().get("x"),
            Some("1  2")
        );
    }

    #[test]
    fn what_would_make_the_client_library_panic_is_refused() {
        for (name, value) in [("a b", "c"), ("a:b", "c"), ("", "c"), ("a", "b\rc"), ("a", "b\nc"), ("ü", "c")]
        {
            let headers: Headers = [(name, value)].into_iter().collect();
            assert!(to_library(&headers).is_err(), "{name:?} {value:?}");
        }
    }

    #[test]
    fn a_message_with_a_header_without_a_name_is_malformed_and_keeps_every_line() {
        let came = |names: &[&str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(HeaderName::from_str(name).unwrap(), HeaderValue::from_str("v").unwrap());
            }
            content(Message {
                subject: "in.a".into(),
                reply: None,
                payload: "1".into(),
                headers: Some(headers),
                status: None,
                description: None,
                length: 0,
            })
        };
        assert!(matches!(came(&["a"]), Content::Message(_)));
        let Content::Malformed(malformed) = came(&["a", ""]) else { panic!("it can't be sent again") };
        assert_eq!((malformed.subject.as_str(), &malformed.payload[..]), ("in.a", &b"1"[..]));
        assert_eq!(parse(&malformed.header_block).unwrap().len(), 2);
    }
}
