//! Header lines, held in one buffer, and which of them a plugin may set.
//!
//! An event has a handful of headers and there is one [`Headers`] per event on the fast path, so the text of all lines
//! stands in one allocation and the lines are ranges in it.

/// Most header lines in one message of a plugin.
pub const LINES_MAX: usize = 32;
/// Bytes of the longest name that a plugin may set.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of the longest value that a plugin may set.
pub const VALUE_BYTES_MAX: usize = 1024;
/// Bytes of all names and values that one message of a plugin may carry.
pub const TOTAL_BYTES_MAX: usize = 8 * 1024;

/// Name and value lines in order. Names may repeat.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    text: String,
    lines: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Line {
    start: u32,
    value: u32,
    end: u32,
}

/// Why a plugin may not send a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A name that is empty, too long or holds more than letters, digits and `-`, `_`, `.`.
    #[error("a header's name has 1 to {NAME_BYTES_MAX} bytes of letters, digits, `-`, `_` and `.`")]
    Name,
    /// A value that is too long or holds a control character.
    #[error("a header's value has at most {VALUE_BYTES_MAX} bytes and no control characters")]
    Value,
    /// A name of the host's or the broker's.
    #[error("this header is set by the host or the broker only")]
    Reserved,
    /// Too many lines or bytes.
    #[error("at most {LINES_MAX} headers with {TOTAL_BYTES_MAX} bytes in all")]
    TooMany,
}

impl Headers {
    /// No lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line as it is. What came from a plugin goes through [`Headers::push_checked`].
    pub fn push(&mut self, name: &str, value: &str) {
        let start = self.text.len() as u32;
        self.text.push_str(name);
        let middle = self.text.len() as u32;
        self.text.push_str(value);
        self.lines.push(Line { start, value: middle, end: self.text.len() as u32 });
    }

    /// Adds a line that a plugin asked for.
    ///
    /// # Errors
    /// A name or value that can't be sent, a reserved name (see [`is_reserved`]), or more than the caps allow.
    pub fn push_checked(&mut self, name: &str, value: &str) -> Result<(), HeaderError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_name_byte) {
            return Err(HeaderError::Name);
        }
        if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            return Err(HeaderError::Value);
        }
        if is_reserved(name) {
            return Err(HeaderError::Reserved);
        }
        if self.lines.len() == LINES_MAX || self.text.len() + name.len() + value.len() > TOTAL_BYTES_MAX {
            return Err(HeaderError::TooMany);
        }
        self.push(name, value);
        Ok(())
    }

    /// The lines in order, as (name, value).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.lines.iter().map(|line| (self.slice(line.start, line.value), self.slice(line.value, line.end)))
    }

    /// The first value of a name; names are compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes of all names and values.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    fn slice(&self, start: u32, end: u32) -> &str {
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(lines: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in lines {
            headers.push(name, value);
        }
        headers
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Whether a header belongs to the broker, to the host or to tracing: the broker acts on its own (`Nats-Rollup` purges,
/// `Nats-Trace-Dest` publishes elsewhere), so no plugin may set it and none is copied from an input to an output.
pub fn is_reserved(name: &str) -> bool {
    const PREFIXES: [&str; 2] = ["nats-", "busway-"];
    const NAMES: [&str; 4] = ["kv-operation", "status", "traceparent", "tracestate"];
    PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix)))
        || NAMES.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// Whether a stored header is shown to a plugin: the publisher's own and the trace, not the broker's or the host's.
pub fn is_shown(name: &str) -> bool {
    !is_reserved(name) || name.eq_ignore_ascii_case("traceparent") || name.eq_ignore_ascii_case("tracestate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_order_and_repeat() {
        let headers: Headers = [("a", "1"), ("b", ""), ("a", "2")].into_iter().collect();
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "1"), ("b", ""), ("a", "2")]);
        assert_eq!(headers.get("A"), Some("1"));
        assert_eq!(headers.get("c"), None);
    }

    #[test]
    fn a_plugin_can_not_set_what_the_host_or_the_broker_acts_on() {
        let table = [
            ("Nats-Msg-Id", "x", HeaderError::Reserved),
            ("nats-trace-dest", "x", HeaderError::Reserved),
            ("NATS-Rollup", "all", HeaderError::Reserved),
            ("Busway-Hops", "0", HeaderError::Reserved),
            ("KV-Operation", "DEL", HeaderError::Reserved),
            ("traceparent", "x", HeaderError::Reserved),
            ("Status", "503", HeaderError::Reserved),
            ("", "x", HeaderError::Name),
            ("a b", "x", HeaderError::Name),
            ("a:b", "x", HeaderError::Name),
            ("a", "x\r\ny", HeaderError::Value),
            ("a", "\0", HeaderError::Value),
        ];
        for (name, value, expected) in table {
            assert_eq!(Headers::new().push_checked(name, value), Err(expected), "{name:?} {value:?}");
        }
        assert_eq!(Headers::new().push_checked("a", &"v".repeat(1025)), Err(HeaderError::Value));
        let mut full = Headers::new();
        for _ in 0..LINES_MAX {
            assert_eq!(full.push_checked("x-a", "ü"), Ok(()));
        }
        assert_eq!(full.push_checked("x-a", "1"), Err(HeaderError::TooMany));
    }
}
