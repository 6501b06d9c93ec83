//! What of an event is its key: for ordering, and for recognising a repeated input.
//!
//! A key is text. It comes from the message as it was stored, because the publisher's message id is a header of the
//! broker's, which no plugin is shown. Whatever the publisher wrote, reading its key costs little: see [`crate::pointer`].
//! An empty key is no key: otherwise all events that a publisher forgot to mark would count as the same one.

use crate::{
    Headers, PluginName,
    event::base32,
    headers::NAME_BYTES_MAX,
    pointer::{JsonPointer, MalformedPointer, PointerError},
};
use sha2::{Digest as _, Sha256};
use std::{borrow::Cow, fmt};

/// Bytes of the longest key that is kept as it is. Of a longer one `sha256-` and its hash are the key.
pub const KEY_BYTES_MAX: usize = 256;
/// The header that carries the publisher's message id.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The last subject token that can be named: a subject of the longest control line has no more.
const TOKEN_MAX: u32 = 2_048;

/// Where a key is found. Best made by the checked constructors; an unchecked variant that names nothing finds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// The nth token of the subject, from 1.
    SubjectToken(u32),
    /// The first header line of this name, compared without regard to case.
    Header(String),
    /// The publisher's message id, `Nats-Msg-Id`.
    MessageId,
    /// A JSON pointer (RFC 6901) into the payload.
    Pointer(JsonPointer),
}

/// Why a key can't be found anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAKeySource {
    /// A token's number out of range.
    #[error("tokens of a subject are counted from 1, up to {TOKEN_MAX}; {0} is none")]
    Token(u32),
    /// A header's name that can't be one.
    #[error("a header's name has 1 to {NAME_BYTES_MAX} visible ASCII characters and no colon; {0:?} is none")]
    Header(String),
    /// A pointer that is none.
    #[error(transparent)]
    Pointer(#[from] MalformedPointer),
}

/// Why an event has no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The subject is too short.
    #[error("the subject has no token {0}")]
    NoToken(u32),
    /// No line of this name.
    #[error("there is no header {0}")]
    NoHeader(String),
    /// There is a place for the key, and nothing in it.
    #[error("the {0} is empty")]
    Empty(String),
    /// The payload has none.
    #[error(transparent)]
    Pointer(#[from] PointerError),
}

impl KeySource {
    /// The nth token of the subject, from 1.
    ///
    /// # Errors
    /// 0, or more than a subject can have.
    pub fn subject_token(n: u32) -> Result<Self, NotAKeySource> {
        if (1..=TOKEN_MAX).contains(&n) { Ok(Self::SubjectToken(n)) } else { Err(NotAKeySource::Token(n)) }
    }

    /// The first header line of this name.
    ///
    /// # Errors
    /// What can't be a header's name.
    pub fn header(name: &str) -> Result<Self, NotAKeySource> {
        let valid = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if valid { Ok(Self::Header(name.to_owned())) } else { Err(NotAKeySource::Header(name.to_owned())) }
    }

    /// A JSON pointer into the payload, such as `/order/id`.
    ///
    /// # Errors
    /// A malformed pointer, or one that leads deeper than a payload is read.
    pub fn pointer(text: &str) -> Result<Self, NotAKeySource> {
        Ok(Self::Pointer(text.parse()?))
    }

    /// The key of a message: `headers` are all lines as stored, the broker's own included. Never empty, at most
    /// [`KEY_BYTES_MAX`] bytes, and may hold any character.
    ///
    /// # Errors
    /// There is none: the token, the header or the place in the payload is missing or empty, or the payload can't be read
    /// that far.
    pub fn key_of(&self, subject: &str, headers: &Headers, payload: &[u8]) -> Result<String, KeyError> {
        let key = match self {
            Self::SubjectToken(n) => Cow::Borrowed(token(subject, *n).ok_or(KeyError::NoToken(*n))?),
            Self::Header(name) => Cow::Borrowed(header(headers, name)?),
            Self::MessageId => Cow::Borrowed(header(headers, MESSAGE_ID)?),
            Self::Pointer(pointer) => pointer.scalar(payload)?,
        };
        if key.is_empty() {
            return Err(KeyError::Empty(self.to_string()));
        }
        Ok(bounded(key))
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SubjectToken(n) => write!(f, "subject token {n}"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::MessageId => write!(f, "header {MESSAGE_ID}"),
            Self::Pointer(pointer) => write!(f, "payload at {pointer}"),
        }
    }
}

/// What a key of a plugin's input is stored under: the same everywhere, never two keys under one name, and safe in a
/// subject whatever the key holds.
pub fn entry_name(plugin: &PluginName, key: &str) -> String {
    let mut hash = Sha256::new();
    for part in [plugin.as_str(), key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    base32(&hash.finalize())
}

fn token(subject: &str, n: u32) -> Option<&str> {
    subject.split('.').nth(n.checked_sub(1)? as usize)
}

fn header<'a>(headers: &'a Headers, name: &str) -> Result<&'a str, KeyError> {
    headers.get(name).map(str::trim_ascii).ok_or_else(|| KeyError::NoHeader(name.to_owned()))
}

fn bounded(key: Cow<'_, str>) -> String {
    if key.len() <= KEY_BYTES_MAX {
        return key.into_owned();
    }
    format!("sha256-{}", base32(&Sha256::digest(key.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: Result<KeySource, NotAKeySource>, payload: &str) -> Result<String, KeyError> {
        let headers: Headers = [("x-order", " 7 "), ("X-Order", "8"), ("Nats-Msg-Id", "m-1"), ("x-none", "")]
            .into_iter()
            .collect();
        source.unwrap().key_of("orders.eu.created", &headers, payload.as_bytes())
    }

    #[test]
    fn a_key_is_found_where_its_source_says() {
        let table = [
            (KeySource::subject_token(1), "orders"),
            (KeySource::subject_token(3), "created"),
            (KeySource::header("X-ORDER"), "7"),
            (Ok(KeySource::MessageId), "m-1"),
            (KeySource::pointer("/order/id"), "o-9"),
        ];
        for (source, expected) in table {
            assert_eq!(
                key(source.clone(), r#"{"order":{"id":"o-9"}}"#).as_deref(),
                Ok(expected),
                "{source:?}"
            );
        }
    }

    #[test]
    fn what_is_missing_or_empty_is_no_key() {
        let table = [
            (KeySource::subject_token(4), KeyError::NoToken(4)),
            (Ok(KeySource::SubjectToken(0)), KeyError::NoToken(0)),
            (KeySource::header("x-other"), KeyError::NoHeader("x-other".into())),
            (KeySource::header("x-none"), KeyError::Empty("header x-none".into())),
            (KeySource::pointer("/a"), KeyError::Empty("payload at /a".into())),
            (KeySource::pointer("/b"), KeyError::Pointer(PointerError::NotFound)),
        ];
        for (source, expected) in table {
            assert_eq!(key(source.clone(), r#"{"a":""}"#), Err(expected), "{source:?}");
        }
    }

    #[test]
    fn a_source_that_names_nothing_is_refused() {
        assert_eq!(KeySource::subject_token(0), Err(NotAKeySource::Token(0)));
        assert_eq!(KeySource::subject_token(2_049), Err(NotAKeySource::Token(2_049)));
        for name in ["", "a b", "a:b", "ä", "a\r\n"] {
            assert_eq!(KeySource::header(name), Err(NotAKeySource::Header(name.into())));
        }
        assert!(KeySource::header(&"n".repeat(65)).is_err());
        assert!(KeySource::pointer("order/id").is_err());
    }

    #[test]
    fn an_entrys_name_differs_with_plugin_and_key_and_is_safe_in_a_subject() {
        let name = |plugin: &str, key: &str| entry_name(&plugin.parse().unwrap(), key);
        assert_eq!(name("a", "b.> *\0"), name("a", "b.> *\0"));
        assert_ne!(name("a", "bc"), name("ab", "c"));
        assert!(name("a", "b.> *\0").bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn a_long_key_is_hashed_and_long_keys_differ() {
        let of = |text: &str| key(KeySource::pointer(""), &format!("\"{text}\"")).unwrap();
        assert_eq!(of(&"k".repeat(256)), "k".repeat(256));
        let (one, other) = (of(&"k".repeat(257)), of(&"k".repeat(258)));
        assert!(one.starts_with("sha256-") && one.len() < KEY_BYTES_MAX, "{one}");
        assert_ne!(one, other);
    }
}
