//! In a native build: the test harness in the host's place.
//!
//! A run sits in a thread-local for as long as the handler runs, so tests in several threads can't meet. The checks are
//! in the host's order: may it be sent at all, is it granted, then what the call itself asks.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::context::Position;
use crate::log::Level;
use crate::testing::{Harness, LogLine, Origin, Reply, Run};
use crate::{BusError, Event, Failure, Header, Message};

const SUBJECT_TOKENS_MAX: usize = 16;
const SUBJECT_BYTES_MAX: usize = 256;
const HEADERS_MAX: usize = 32;
const HEADER_NAME_BYTES_MAX: usize = 64;
const HEADER_VALUE_BYTES_MAX: usize = 1024;
const HEADERS_BYTES_MAX: usize = 8 * 1024;

struct Stage {
    harness: Harness,
    held: Vec<Message>,
    reply: Option<Reply>,
    requests: Vec<Message>,
    logs: Vec<LogLine>,
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Clears the stage when a run ends, also when it ends by a panic.
struct Curtain;

impl Drop for Curtain {
    fn drop(&mut self) {
        STAGE.take();
    }
}

pub(crate) fn run_on_stage(
    harness: &Harness,
    handler: fn(Event) -> Result<(), Failure>,
    event: Event,
) -> Run {
    let stage = Stage {
        harness: harness.clone(),
        held: Vec::new(),
        reply: None,
        requests: Vec::new(),
        logs: Vec::new(),
    };
    STAGE.set(Some(stage));
    let curtain = Curtain;
    let outcome = handler(event);
    let stage = with_stage(|stage| {
        let released = if outcome.is_ok() { std::mem::take(&mut stage.held) } else { Vec::new() };
        let reply = if outcome.is_ok() { stage.reply.take() } else { None };
        (released, reply, std::mem::take(&mut stage.requests), std::mem::take(&mut stage.logs))
    });
    drop(curtain);
    let (outputs, reply, requests, logs) = stage;
    Run { outcome, outputs, reply, requests, logs }
}

#[expect(clippy::panic, reason = "only in native builds, where it is a failing test that says what to do")]
fn with_stage<T>(act: impl FnOnce(&mut Stage) -> T) -> T {
    STAGE.with_borrow_mut(|stage| match stage {
        Some(stage) => act(stage),
        None => panic!("no host here: call the handler through `busway_sdk::testing::run`"),
    })
}

pub(crate) fn publish(message: &Message) -> Result<(), BusError> {
    with_stage(|stage| {
        check(&stage.harness, message)?;
        stage.held.push(message.clone());
        Ok(())
    })
}

pub(crate) fn reply(headers: &[Header], payload: &[u8]) -> Result<(), BusError> {
    with_stage(|stage| {
        if !matches!(stage.harness.origin, Origin::Request) {
            return Err(BusError::NoReply);
        }
        check_headers(headers)?;
        if stage.reply.is_some() {
            return Err(BusError::AlreadyReplied);
        }
        stage.reply = Some(Reply { headers: headers.to_vec(), payload: payload.to_vec() });
        Ok(())
    })
}

pub(crate) fn request(message: &Message, _timeout_ms: u32) -> Result<Message, BusError> {
    with_stage(|stage| {
        check(&stage.harness, message)?;
        stage.requests.push(message.clone());
        let answers = stage.harness.answers.get_mut(&message.subject);
        answers.and_then(|answers| answers.pop_front()).unwrap_or(Err(BusError::NoResponders))
    })
}

pub(crate) fn attempt() -> u32 {
    with_stage(|stage| stage.harness.attempt)
}

pub(crate) fn remaining_ms() -> u64 {
    with_stage(|stage| u64::try_from(stage.harness.remaining.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn published_at_ms() -> Option<u64> {
    with_stage(|stage| match &stage.harness.origin {
        Origin::Stored { published_at, .. } => {
            let since_epoch = published_at.duration_since(UNIX_EPOCH).ok()?;
            u64::try_from(since_epoch.as_millis()).ok()
        }
        Origin::Request => None,
    })
}

pub(crate) fn stored_at() -> Option<Position> {
    with_stage(|stage| match &stage.harness.origin {
        Origin::Stored { at, .. } => Some(at.clone()),
        Origin::Request => None,
    })
}

pub(crate) fn can_reply() -> bool {
    with_stage(|stage| matches!(stage.harness.origin, Origin::Request) && stage.reply.is_none())
}

pub(crate) fn secret(name: &str) -> Option<Vec<u8>> {
    with_stage(|stage| stage.harness.secrets.get(name).cloned())
}

pub(crate) fn now() -> SystemTime {
    with_stage(|stage| stage.harness.now).unwrap_or_else(SystemTime::now)
}

pub(crate) fn config(key: &str) -> Option<String> {
    with_stage(|stage| stage.harness.config.get(key).cloned())
}

pub(crate) fn log(level: Level, message: &str) {
    with_stage(|stage| stage.logs.push(LogLine { level, message: message.to_owned() }));
}

fn check(harness: &Harness, message: &Message) -> Result<(), BusError> {
    check_subject(&message.subject)?;
    check_headers(&message.headers)?;
    if harness.denied.iter().any(|filter| matches(filter, &message.subject)) {
        return Err(BusError::Denied);
    }
    Ok(())
}

fn check_subject(subject: &str) -> Result<(), BusError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let valid = subject.len() <= SUBJECT_BYTES_MAX
        && subject.split('.').count() <= SUBJECT_TOKENS_MAX
        && subject.split('.').all(|token| !token.is_empty() && token.bytes().all(allowed));
    if valid { Ok(()) } else { Err(BusError::InvalidSubject) }
}

fn check_headers(headers: &[Header]) -> Result<(), BusError> {
    let bytes: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    let valid = headers.len() <= HEADERS_MAX && bytes <= HEADERS_BYTES_MAX && headers.iter().all(can_be_sent);
    if valid { Ok(()) } else { Err(BusError::InvalidHeader) }
}

fn can_be_sent(header: &Header) -> bool {
    let name = header.name.to_ascii_lowercase();
    let hosts_own = name.starts_with("nats-")
        || name.starts_with("busway-")
        || name == "traceparent"
        || name == "tracestate";
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    let fits =
        (1..=HEADER_NAME_BYTES_MAX).contains(&name.len()) && header.value.len() <= HEADER_VALUE_BYTES_MAX;
    !hosts_own && printable && fits && !header.value.contains(['\r', '\n', '\0'])
}

/// Whether a subject falls under a filter of NATS.
fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in filter.split('.') {
        match (wanted, tokens.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_in_what_nats_would() {
        for (filter, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("*.b", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
        ] {
            assert_eq!(matches(filter, subject), expected, "{filter} and {subject}");
        }
    }

    #[test]
    fn a_subject_is_checked_as_the_host_checks_it() {
        for subject in ["a", "orders.created.eu-1", "A_b.9"] {
            assert_eq!(check_subject(subject), Ok(()), "{subject}");
        }
        let long = "x".repeat(257);
        let deep = ["x"; 17].join(".");
        for subject in ["", ".", "a.", "a..b", "a.*", "a.>", "a b", "grün", &long, &deep] {
            assert_eq!(check_subject(subject), Err(BusError::InvalidSubject), "{subject}");
        }
    }

    #[test]
    fn a_header_is_checked_as_the_host_checks_it() {
        let header = |name: &str, value: &str| Header { name: name.to_owned(), value: value.to_owned() };
        assert_eq!(check_headers(&[header("Content-Type", "application/json")]), Ok(()));
        let long = "x".repeat(1025);
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a:b", "x"),
            ("Nats-Msg-Id", "x"),
            ("busway-attempt", "x"),
            ("traceparent", "x"),
            ("a", "x\r\ny"),
            ("a", &long),
        ] {
            assert_eq!(
                check_headers(&[header(name, value)]),
                Err(BusError::InvalidHeader),
                "{name}: {value}"
            );
        }
        assert_eq!(check_headers(&vec![header("a", "x"); 33]), Err(BusError::InvalidHeader));
    }
}
