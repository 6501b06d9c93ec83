//! Subjects: which strings are one, which filter captures which, and which belong to the host alone.
//!
//! Three types, three doors. [`Subject`] is what a broker delivers: nearly anything. [`SubjectFilter`] is what an
//! operator writes: wildcards allowed. [`OutputSubject`] is what a plugin may publish to: checked strictly, because a
//! client library checks almost nothing and a broker answers a malformed subject by dropping the connection of every
//! plugin on it.

use std::{fmt, str::FromStr};

/// Bytes of the longest subject that a plugin may publish to.
pub const OUTPUT_BYTES_MAX: usize = 256;
/// Tokens of the longest subject that a plugin may publish to.
pub const OUTPUT_TOKENS_MAX: usize = 16;
/// Bytes of the longest token in a subject that a plugin may publish to.
pub const OUTPUT_TOKEN_BYTES_MAX: usize = 64;
/// Bytes of the longest filter; a broker's control line holds 4,096 bytes in all.
pub const FILTER_BYTES_MAX: usize = 1024;

/// A literal subject as a broker delivered it: not empty, no white space or control characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject(Box<str>);

/// A subject that a plugin may publish to: literal, 1 to 16 tokens of `A-Z a-z 0-9 _ -`, at most 256 bytes, and not
/// reserved.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OutputSubject(Box<str>);

/// A subject in which `*` stands for one token and a closing `>` for one or more.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectFilter(Box<str>);

/// Why a string is not a subject of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Nothing at all.
    #[error("a subject can't be empty")]
    Empty,
    /// Longer than the kind allows.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// More tokens than the kind allows.
    #[error("more than {OUTPUT_TOKENS_MAX} tokens")]
    TooManyTokens,
    /// Two dots in a row, or a dot at either end.
    #[error("an empty token (two dots in a row, or a dot at an end)")]
    EmptyToken,
    /// One token is longer than [`OUTPUT_TOKEN_BYTES_MAX`].
    #[error("a token longer than {OUTPUT_TOKEN_BYTES_MAX} bytes")]
    TokenTooLong,
    /// `*` or `>` where a literal subject is wanted.
    #[error("a wildcard where a literal subject is wanted")]
    Wildcard,
    /// `>` before the end, or `*` or `>` as a part of a token.
    #[error("`*` must be a whole token, and `>` the whole last one")]
    MisplacedWildcard,
    /// White space, a control character, or one outside the kind's alphabet.
    #[error("the character {0:?} is not allowed")]
    Character(char),
    /// A subject that only the host or the broker may use.
    #[error("reserved: subjects that begin with `$`, `_` or the host's own prefix are not for plugins")]
    Reserved,
}

impl Subject {
    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if text.is_empty() {
            return Err(SubjectError::Empty);
        }
        match text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            Some(c) => Err(SubjectError::Character(c)),
            None => Ok(Self(text.into())),
        }
    }
}

impl OutputSubject {
    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OutputSubject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if text.is_empty() {
            return Err(SubjectError::Empty);
        }
        if text.len() > OUTPUT_BYTES_MAX {
            return Err(SubjectError::TooLong(OUTPUT_BYTES_MAX));
        }
        if is_reserved(text) {
            return Err(SubjectError::Reserved);
        }
        for (index, token) in text.split('.').enumerate() {
            if index == OUTPUT_TOKENS_MAX {
                return Err(SubjectError::TooManyTokens);
            }
            check_output_token(token)?;
        }
        Ok(Self(text.into()))
    }
}

fn check_output_token(token: &str) -> Result<(), SubjectError> {
    if token.is_empty() {
        return Err(SubjectError::EmptyToken);
    }
    if token.len() > OUTPUT_TOKEN_BYTES_MAX {
        return Err(SubjectError::TokenTooLong);
    }
    match token.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))) {
        Some('*' | '>') => Err(SubjectError::Wildcard),
        Some(c) => Err(SubjectError::Character(c)),
        None => Ok(()),
    }
}

/// Whether a subject belongs to the broker (`$…`, `_…`) or to the host (`busway`, `busway.…`): never a plugin's, whatever
/// the grants say.
pub fn is_reserved(subject: &str) -> bool {
    let first = subject.split('.').next().unwrap_or_default();
    first.starts_with(['$', '_']) || first == "busway"
}

impl SubjectFilter {
    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the filter has no wildcard.
    pub fn is_literal(&self) -> bool {
        self.0.split('.').all(|token| token != "*" && token != ">")
    }

    /// Whether a literal subject is captured: `*` takes one token, `>` one or more.
    pub fn matches(&self, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for wanted in self.0.split('.') {
            match (wanted, tokens.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(token)) if literal == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether some literal subject is captured by both filters. Used for streams, consumers and grants alike.
    pub fn overlaps(&self, other: &SubjectFilter) -> bool {
        let mut theirs = other.0.split('.');
        for ours in self.0.split('.') {
            match (ours, theirs.next()) {
                (_, None) => return false,
                (">", Some(_)) | (_, Some(">")) => return true,
                ("*", Some(_)) | (_, Some("*")) => {}
                (a, Some(b)) if a == b => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether every subject that `inner` captures is captured by this filter too.
    pub fn contains(&self, inner: &SubjectFilter) -> bool {
        let mut theirs = inner.0.split('.');
        for ours in self.0.split('.') {
            match (ours, theirs.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(token)) if token != ">" => {}
                (a, Some(b)) if a == b => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }
}

impl FromStr for SubjectFilter {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if text.is_empty() {
            return Err(SubjectError::Empty);
        }
        if text.len() > FILTER_BYTES_MAX {
            return Err(SubjectError::TooLong(FILTER_BYTES_MAX));
        }
        if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(SubjectError::Character(c));
        }
        let mut tokens = text.split('.').peekable();
        while let Some(token) = tokens.next() {
            match token {
                "" => return Err(SubjectError::EmptyToken),
                "*" => {}
                ">" if tokens.peek().is_none() => {}
                token if token.contains(['*', '>']) => return Err(SubjectError::MisplacedWildcard),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}
impl fmt::Display for OutputSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for OutputSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}
impl fmt::Display for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> SubjectFilter {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_takes_one_token_and_an_arrow_the_rest() {
        let table = [
            ("orders.*", "orders.created", true),
            ("orders.*", "orders", false),
            ("orders.*", "orders.a.b", false),
            ("orders.*", "ordersx.a", false),
            ("orders.*", "Orders.a", false),
            ("orders.>", "orders.a.b", true),
            ("orders.>", "orders", false),
            (">", "a", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a", "a", true),
        ];
        for (pattern, subject, expected) in table {
            assert_eq!(filter(pattern).matches(subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn overlap_and_containment_follow_the_tokens() {
        let table = [
            ("a.*", "*.b", true, false),
            ("a.>", "a.b.c", true, true),
            ("a.>", "a.>", true, true),
            ("a.*", "a.>", true, false),
            ("a.>", "a.*", true, true),
            ("a.b", "a.c", false, false),
            (">", "a.*.c", true, true),
            ("a", "a.b", false, false),
        ];
        for (left, right, overlaps, contains) in table {
            assert_eq!(filter(left).overlaps(&filter(right)), overlaps, "{left} overlaps {right}");
            assert_eq!(filter(right).overlaps(&filter(left)), overlaps, "{right} overlaps {left}");
            assert_eq!(filter(left).contains(&filter(right)), contains, "{left} contains {right}");
        }
    }

    #[test]
    fn a_plugin_can_not_publish_to_anything_malformed_or_reserved() {
        use SubjectError::*;
        let long = "a".repeat(257);
        let many = ["a"; 17].join(".");
        let token = "a".repeat(65);
        let table: &[(&str, SubjectError)] = &[
            ("", Empty),
            ("orders.*", Wildcard),
            (">", Wildcard),
            ("a..b", EmptyToken),
            (".a", EmptyToken),
            ("a.", EmptyToken),
            ("a b", Character(' ')),
            ("a\tb", Character('\t')),
            ("a\r\nPUB x 0", Character('\r')),
            ("a\0", Character('\0')),
            ("orders.а", Character('а')),
            ("$JS.API.STREAM.PURGE.X", Reserved),
            ("$KV.bucket.key", Reserved),
            ("_INBOX.x", Reserved),
            ("_R_.x", Reserved),
            ("busway.dlq.x", Reserved),
            (&long, TooLong(256)),
            (&many, TooManyTokens),
            (&token, TokenTooLong),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<OutputSubject>().unwrap_err(), *expected, "{text:?}");
        }
        assert!("buswayx.a-b_C.9".parse::<OutputSubject>().is_ok());
    }

    #[test]
    fn a_filter_refuses_wildcards_inside_tokens() {
        for text in ["a*", "a.>.b", "a.b>", "", "a..b", "a b"] {
            assert!(text.parse::<SubjectFilter>().is_err(), "{text:?}");
        }
    }

    fn tokens(alphabet: &'static str) -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(alphabet.split(' ').collect::<Vec<_>>()), 1..5)
            .prop_map(|tokens| tokens.join("."))
    }

    proptest! {
        #[test]
        fn whatever_a_filter_matches_it_overlaps_and_contains(pattern in tokens("a b *"), subject in tokens("a b")) {
            let (pattern, literal) = (filter(&pattern), filter(&subject));
            prop_assert_eq!(pattern.matches(&subject), pattern.contains(&literal));
            prop_assert_eq!(pattern.matches(&subject), pattern.overlaps(&literal));
        }

        #[test]
        fn containment_carries_matching_over(outer in tokens("a *"), inner in tokens("a *"), subject in tokens("a b")) {
            let (outer, inner) = (filter(&outer), filter(&inner));
            if outer.contains(&inner) && inner.matches(&subject) {
                prop_assert!(outer.matches(&subject));
            }
        }
    }
}
