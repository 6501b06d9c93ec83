//! One scalar of a JSON payload, found by a JSON pointer (RFC 6901) without reading the payload whole.
//!
//! The payload is a stranger's, so it is scanned, not parsed: nothing is built, no more than [`SCAN_BYTES_MAX`] bytes are
//! looked at and no more than [`DEPTH_MAX`] containers are open at once. What stands before the wanted place must be JSON;
//! what stands behind it is not looked at. Where a name occurs twice in an object, the first one counts, which is why the
//! scan can stop there. The type does not count, the text does: `7` and `"7"` are the same key.

use std::{borrow::Cow, fmt, str::FromStr};

/// Bytes at the start of a payload that are looked at.
pub const SCAN_BYTES_MAX: usize = 64 * 1024;
/// Containers that may be open at once before the wanted place.
pub const DEPTH_MAX: usize = 64;
/// Bytes of the longest pointer.
pub const POINTER_BYTES_MAX: usize = 1024;

/// A JSON pointer: empty for the whole document, or `/`-led names and indexes, `~1` for `/` and `~0` for `~` in them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonPointer {
    text: Box<str>,
    tokens: Box<[Box<str>]>,
}

/// Why a string is no pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedPointer {
    /// It must lead from the root.
    #[error("a JSON pointer is empty or begins with `/`, such as `/order/id`")]
    NoSlash,
    /// A `~` that stands for nothing.
    #[error("in a JSON pointer `~` is written `~0` and `/` within a name `~1`")]
    Tilde,
    /// Deeper than a payload is read.
    #[error("a JSON pointer leads through at most {DEPTH_MAX} containers")]
    TooDeep,
    /// Too long.
    #[error("a JSON pointer has at most {POINTER_BYTES_MAX} bytes")]
    TooLong,
}

/// Why a payload has no key at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// The payload breaks JSON's rules before the place.
    #[error("the payload is not JSON at byte {0}")]
    NotJson(usize),
    /// Nothing is at the place.
    #[error("the payload has nothing at that place")]
    NotFound,
    /// Only strings, numbers, `true` and `false` are keys.
    #[error("the payload has {0} at that place; only a string, a number, true or false can be a key")]
    NotScalar(&'static str),
    /// Too many containers are open before the place.
    #[error("the payload is nested deeper than {DEPTH_MAX} before that place")]
    TooDeep,
    /// The place, or its end, is further than the scan goes.
    #[error("that place is not within the first {SCAN_BYTES_MAX} bytes of the payload")]
    TooFar,
}

impl FromStr for JsonPointer {
    type Err = MalformedPointer;
    fn from_str(text: &str) -> Result<Self, MalformedPointer> {
        if text.len() > POINTER_BYTES_MAX {
            return Err(MalformedPointer::TooLong);
        }
        let tokens = match text.strip_prefix('/') {
            Some(path) => path.split('/').map(unescaped).collect::<Result<Vec<_>, _>>()?,
            None if text.is_empty() => Vec::new(),
            None => return Err(MalformedPointer::NoSlash),
        };
        if tokens.len() > DEPTH_MAX {
            return Err(MalformedPointer::TooDeep);
        }
        Ok(Self { text: text.into(), tokens: tokens.into() })
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() { "the root" } else { &self.text })
    }
}

impl JsonPointer {
    /// The pointer as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text of the scalar at this place: a string's content, a number as it is written, `true` or `false`.
    ///
    /// # Errors
    /// See [`PointerError`].
    pub fn scalar<'a>(&self, payload: &'a [u8]) -> Result<Cow<'a, str>, PointerError> {
        let mut scan = Scan { bytes: payload.get(..SCAN_BYTES_MAX).unwrap_or(payload), at: 0, depth: 0 };
        let found = scan.find(&self.tokens);
        match found {
            // The scan ended at its own bound and not at the payload's end.
            Err(PointerError::NotJson(at)) if at >= SCAN_BYTES_MAX && payload.len() > SCAN_BYTES_MAX => {
                Err(PointerError::TooFar)
            }
            found => found,
        }
    }
}

fn unescaped(token: &str) -> Result<Box<str>, MalformedPointer> {
    let mut text = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        text.push(match (c, c == '~') {
            (_, false) => c,
            (_, true) => match chars.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(MalformedPointer::Tilde),
            },
        });
    }
    Ok(text.into())
}

/// A position in a payload.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Scan<'a> {
    fn find(&mut self, tokens: &[Box<str>]) -> Result<Cow<'a, str>, PointerError> {
        for token in tokens {
            match self.peek()? {
                b'{' => self.enter_member(token)?,
                b'[' => self.enter_element(token)?,
                _ => return Err(PointerError::NotFound),
            }
        }
        let scalar = match self.peek()? {
            b'"' => self.string()?,
            b'{' => return Err(PointerError::NotScalar("an object")),
            b'[' => return Err(PointerError::NotScalar("an array")),
            b'n' => return Err(PointerError::NotScalar("null")),
            _ => Cow::Borrowed(self.word()?),
        };
        self.check_end_of_value()?;
        Ok(scalar)
    }

    /// From before an object to before the value of the first member with this name.
    fn enter_member(&mut self, name: &str) -> Result<(), PointerError> {
        self.open()?;
        if self.peek()? == b'}' {
            return Err(PointerError::NotFound);
        }
        loop {
            let found = self.name()? == name;
            if found {
                return Ok(());
            }
            self.skip_value()?;
            if self.is_closed_by(b'}')? {
                return Err(PointerError::NotFound);
            }
        }
    }

    /// From before an array to before its nth element.
    fn enter_element(&mut self, token: &str) -> Result<(), PointerError> {
        let leading_zero = token.len() > 1 && token.starts_with('0');
        let digits = token.bytes().all(|byte| byte.is_ascii_digit());
        let index = if leading_zero || !digits { None } else { token.parse::<usize>().ok() };
        let Some(index) = index else { return Err(PointerError::NotFound) };
        self.open()?;
        if self.peek()? == b']' {
            return Err(PointerError::NotFound);
        }
        for _ in 0..index {
            self.skip_value()?;
            if self.is_closed_by(b']')? {
                return Err(PointerError::NotFound);
            }
        }
        Ok(())
    }

    /// Over one value. Calls itself, at most [`DEPTH_MAX`] deep.
    fn skip_value(&mut self) -> Result<(), PointerError> {
        match self.peek()? {
            b'"' => self.skip_string(),
            b'{' => self.skip_container(b'}'),
            b'[' => self.skip_container(b']'),
            _ => self.word().map(|_| ()),
        }
    }

    fn skip_container(&mut self, end: u8) -> Result<(), PointerError> {
        self.open()?;
        if self.peek()? == end {
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            if end == b'}' {
                self.expect(b'"')?;
                self.at -= 1;
                self.skip_string()?;
                self.expect(b':')?;
            }
            self.skip_value()?;
            if self.is_closed_by(end)? {
                return Ok(());
            }
        }
    }

    /// A member's name, and the colon behind it.
    fn name(&mut self) -> Result<Cow<'a, str>, PointerError> {
        if self.peek()? != b'"' {
            return Err(self.broken());
        }
        let name = self.string()?;
        self.expect(b':')?;
        Ok(name)
    }

    fn open(&mut self) -> Result<(), PointerError> {
        if self.depth == DEPTH_MAX {
            return Err(PointerError::TooDeep);
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Over a comma, or over the container's end.
    fn is_closed_by(&mut self, end: u8) -> Result<bool, PointerError> {
        let byte = self.peek()?;
        if byte != b',' && byte != end {
            return Err(self.broken());
        }
        self.at += 1;
        self.depth -= usize::from(byte == end);
        Ok(byte == end)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), PointerError> {
        if self.peek()? != wanted {
            return Err(self.broken());
        }
        self.at += 1;
        Ok(())
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Result<u8, PointerError> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.here() {
            self.at += 1;
        }
        self.here().ok_or(self.broken())
    }

    fn here(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn broken(&self) -> PointerError {
        PointerError::NotJson(self.at)
    }

    fn check_end_of_value(&self) -> Result<(), PointerError> {
        match self.here() {
            // Only a payload that is nothing but a scalar may end behind it.
            None if self.depth == 0 && self.at < SCAN_BYTES_MAX => Ok(()),
            Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b']' | b'}') => Ok(()),
            None => Err(self.broken()),
            Some(_) => Err(self.broken()),
        }
    }

    /// A number, `true`, `false` or `null`, as written.
    fn word(&mut self) -> Result<&'a str, PointerError> {
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let length = rest.iter().take_while(|byte| is_word(byte)).count();
        let word = rest.get(..length).and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default();
        if length == rest.len() {
            // It may go on behind the scan's bound.
            self.at += length;
            if self.at >= SCAN_BYTES_MAX {
                return Err(self.broken());
            }
        }
        if !matches!(word, "true" | "false" | "null") && !is_number(word) {
            return Err(PointerError::NotJson(start));
        }
        self.at = start + length;
        Ok(word)
    }

    fn skip_string(&mut self) -> Result<(), PointerError> {
        self.at += 1;
        loop {
            match self.here() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2,
                Some(0..0x20) | None => return Err(self.broken()),
                Some(_) => self.at += 1,
            }
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, PointerError> {
        let start = self.at + 1;
        self.skip_string()?;
        let content = self.bytes.get(start..self.at - 1).unwrap_or_default();
        let text = std::str::from_utf8(content).map_err(|_| PointerError::NotJson(start))?;
        if !text.contains('\\') {
            return Ok(Cow::Borrowed(text));
        }
        decoded(text).map(Cow::Owned).ok_or(PointerError::NotJson(start))
    }
}

/// JSON's grammar of a number: no leading zero, no bare dot, no plus.
fn is_number(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let magnitude = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match magnitude.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (magnitude, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// A string's content without its escapes; none where one is malformed or half a surrogate pair.
fn decoded(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            decoded.push(c);
            continue;
        }
        decoded.push(match chars.next()? {
            c @ ('"' | '\\' | '/') => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => match hex4(&mut chars)? {
                high @ 0xD800..0xDC00 => {
                    let low = (chars.next()? == '\\' && chars.next()? == 'u').then(|| hex4(&mut chars))??;
                    if !(0xDC00..0xE000).contains(&low) {
                        return None;
                    }
                    char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00))?
                }
                code => char::from_u32(code)?,
            },
            _ => return None,
        });
    }
    Some(decoded)
}

fn hex4(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let mut code = 0;
    for _ in 0..4 {
        code = code * 16 + chars.next()?.to_digit(16)?;
    }
    Some(code)
}

#[cfg(test)]
mod tests;
