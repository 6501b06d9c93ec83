//! The answer to a request: where it may go, and what the requester is told when the plugin has failed.
//!
//! Where an answer goes is the requester's choice, and this host publishes it with its own permissions. So a reply subject
//! is looked at before anybody may answer to it: an inbox is fine, and so is any other literal subject that belongs
//! neither to the broker nor to this host. What begins with `$` is the broker's own interface (`$JS.ACK…` would settle
//! somebody's event, `$JS.API…` would delete somebody's stream), what begins with `_` is the broker's plumbing (`_R_` and
//! `_GR_` are answers on their way between accounts and clusters) unless it is an inbox. A request without a subject that
//! may be answered is an event all the same; only `can-reply` says no.

use crate::{
    Failure, FailureClass, Headers, Reply, SubjectFilter,
    outcome::clean,
    subject::{SubjectError, is_reserved},
};
use bytes::Bytes;
use std::{fmt, str::FromStr};

/// What went wrong, in words (ADR-32 of NATS).
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// What went wrong, as a number of HTTP's (ADR-32 of NATS).
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// What the first token of an inbox begins with; brokers that permit each client an inbox of its own append to it.
const INBOX: &str = "_INBOX";
/// Bytes of the words that a requester is told.
const WORDS_BYTES_MAX: usize = 512;

/// A subject that an answer may be sent to: literal, at most 1,024 bytes, and not reserved.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReplySubject(Box<str>);

impl ReplySubject {
    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an inbox: a subject that nobody else listens to.
    pub fn is_inbox(&self) -> bool {
        self.0.starts_with(INBOX)
    }
}

impl FromStr for ReplySubject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if text.contains(['*', '>']) {
            return Err(SubjectError::Wildcard);
        }
        // Without a wildcard a filter is a literal subject, with the same rules for its text.
        text.parse::<SubjectFilter>()?;
        if is_reserved(text) && !text.starts_with(INBOX) {
            return Err(SubjectError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ReplySubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ReplySubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// What a requester is told whose request became a dead letter, so that it does not wait until its patience ends. The
/// words of a rejection are the plugin's own and meant for it; of everything else it is told the class alone, because a
/// trap's words and places are for the operator.
pub fn of_failure(failure: &Failure) -> Reply {
    let class = failure.class;
    let words = match class {
        FailureClass::Reject => format!("{}: {}", failure.code, failure.reason),
        _ => format!("the request was not handled: {class}"),
    };
    error(status(class), &words)
}

/// An answer that says no.
pub fn error(code: u16, words: &str) -> Reply {
    let mut headers = Headers::new();
    headers.push(SERVICE_ERROR, &clean(words, WORDS_BYTES_MAX));
    headers.push(SERVICE_ERROR_CODE, &code.to_string());
    Reply { headers, payload: Bytes::new() }
}

/// The class as a number of HTTP's.
fn status(class: FailureClass) -> u16 {
    match class {
        FailureClass::Reject | FailureClass::Undecodable => 400,
        FailureClass::Expired => 408,
        FailureClass::Quota => 429,
        FailureClass::Timeout => 504,
        FailureClass::Loop => 508,
        FailureClass::Retry => 503,
        FailureClass::Cpu
        | FailureClass::Trap
        | FailureClass::Memory
        | FailureClass::Unroutable
        | FailureClass::Denied
        | FailureClass::HostCrash => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_to_an_inbox_or_a_subject_of_nobodys_and_nowhere_else() {
        use SubjectError::*;
        for fine in ["_INBOX.abc.def", "_INBOX_user1.x", "answers.a", "inbox.user.1", "busway2.x"] {
            assert_eq!(fine.parse::<ReplySubject>().map(|reply| reply.to_string()), Ok(fine.to_owned()));
        }
        let long = format!("a.{}", "b".repeat(1024));
        let table = [
            ("", Empty),
            ("$JS.ACK.S.c.1.1.1.1.0", Reserved),
            ("$JS.API.STREAM.DELETE.X", Reserved),
            ("$SYS.REQ.SERVER.PING", Reserved),
            ("$KV.b.k", Reserved),
            ("$SRV.PING", Reserved),
            ("_R_.abc", Reserved),
            ("_GR_.abc", Reserved),
            ("busway.dlq.p.x.0", Reserved),
            ("busway", Reserved),
            ("a.*", Wildcard),
            ("a.>", Wildcard),
            ("a..b", EmptyToken),
            ("a.", EmptyToken),
            ("a b", Character(' ')),
            ("a\r\nPUB x 0", Character('\r')),
            (&long, TooLong(1024)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<ReplySubject>(), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn a_requester_reads_a_rejections_words_and_of_a_trap_only_that_there_was_one() {
        let told = |class, reason| {
            let headers = of_failure(&Failure::new(class, "code", reason)).headers;
            let header = |name| headers.get(name).unwrap_or_default().to_owned();
            (header(SERVICE_ERROR), header(SERVICE_ERROR_CODE))
        };
        assert_eq!(told(FailureClass::Reject, "no\r\nid"), ("code: no  id".into(), "400".into()));
        let (words, code) = told(FailureClass::Trap, "panicked: secret at src/lib.rs:3");
        assert_eq!((&*words, &*code), ("the request was not handled: trap", "500"));
        for class in FailureClass::ALL {
            assert!(told(class, "x").1.parse::<u16>().is_ok_and(|code| code >= 400), "{class}");
        }
    }
}
