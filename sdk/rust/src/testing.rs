//! Runs a handler natively, so that a plugin is tested by `cargo test` alone: no WebAssembly, no broker, no host.
//!
//! ```
//! # use busway_sdk::{BusError, Event, Failure, Message, publish, testing::{self, Harness}};
//! # fn handle(event: Event) -> Result<(), Failure> {
//! #     publish(Message::new("orders.checked", event.payload))?;
//! #     Ok(())
//! # }
//! let event = Event::test("orders.created", r#"{"id": 7}"#).with_header("Tenant", "acme");
//! assert_eq!(testing::run(handle, event.clone()).outputs[0].subject, "orders.checked");
//!
//! let denied = Harness::new().deny("orders.>").run(handle, event);
//! assert_eq!(denied.outcome, Err(Failure::from(BusError::Denied)));
//! assert!(denied.outputs.is_empty());
//! ```
//!
//! The harness keeps the host's rules where a handler can notice them: which subjects and headers can be sent, that
//! outputs are released only after ok, that a reply is given once. It grants every subject that is not denied, and it has
//! no time limit. A panic of the handler is a panic of the test.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::context::Position;
use crate::host::run_on_stage;
use crate::log::Level;
use crate::{BusError, Event, Failure, Header, Message};

/// A line that the handler logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// What it says.
    pub message: String,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// In the order in which they were given.
    pub headers: Vec<Header>,
    /// The bytes of the answer.
    pub payload: Vec<u8>,
}

/// What came of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What the handler returned.
    pub outcome: Result<(), Failure>,
    /// What the host would release: what was published, in order, when the outcome is ok; otherwise nothing.
    pub outputs: Vec<Message>,
    /// The reply that the host would send; none when the outcome is a failure.
    pub reply: Option<Reply>,
    /// The requests that the handler made. They act at once, so they are here whatever the outcome.
    pub requests: Vec<Message>,
    /// What was logged, in order.
    pub logs: Vec<LogLine>,
}

/// Runs the handler once, on the first attempt, with everything granted and nothing configured.
pub fn run(handler: fn(Event) -> Result<(), Failure>, event: Event) -> Run {
    Harness::new().run(handler, event)
}

/// The world around a run. `Harness::new()` is a first attempt at a durable event, with everything granted, five seconds
/// left and nothing configured; each method changes one thing.
#[derive(Debug, Clone)]
pub struct Harness {
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    pub(crate) denied: Vec<String>,
    pub(crate) answers: BTreeMap<String, VecDeque<Result<Message, BusError>>>,
    pub(crate) attempt: u32,
    pub(crate) remaining: Duration,
    pub(crate) origin: Origin,
    pub(crate) now: Option<SystemTime>,
}

/// Where the event comes from, which decides what can be asked about it.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A stream.
    Stored { at: Position, published_at: SystemTime },
    /// A request of core NATS.
    Request,
}

impl Default for Harness {
    fn default() -> Self {
        let at = Position { stream: "TEST".to_owned(), sequence: 1 };
        Self {
            config: BTreeMap::new(),
            secrets: BTreeMap::new(),
            denied: Vec::new(),
            answers: BTreeMap::new(),
            attempt: 1,
            remaining: Duration::from_secs(5),
            origin: Origin::Stored { at, published_at: UNIX_EPOCH + Duration::from_secs(1_700_000_000) },
            now: None,
        }
    }
}

impl Harness {
    /// A first attempt at a durable event, with everything granted and nothing configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a configuration value.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// Grants a secret.
    #[must_use]
    pub fn secret(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.secrets.insert(name.into(), value.into());
        self
    }

    /// Denies the subjects of a filter; `*` is one token, `>` at the end is one or more.
    #[must_use]
    pub fn deny(mut self, filter: impl Into<String>) -> Self {
        self.denied.push(filter.into());
        self
    }

    /// Answers the next request on `subject`; several answers are given in order. A request without an answer finds no
    /// responders.
    #[must_use]
    pub fn answer(mut self, subject: impl Into<String>, answer: Result<Message, BusError>) -> Self {
        self.answers.entry(subject.into()).or_default().push_back(answer);
        self
    }

    /// Makes it attempt number `attempt`, from 1.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Leaves this much time. It does not run down.
    #[must_use]
    pub fn remaining(mut self, remaining: Duration) -> Self {
        self.remaining = remaining;
        self
    }

    /// Says where and when the event was stored. Otherwise it is the first of a stream `TEST`.
    #[must_use]
    pub fn stored(mut self, stream: impl Into<String>, sequence: u64, published_at: SystemTime) -> Self {
        let at = Position { stream: stream.into(), sequence };
        self.origin = Origin::Stored { at, published_at };
        self
    }

    /// Makes the event a request of core NATS: it can be replied to, and it is stored nowhere.
    #[must_use]
    pub fn as_request(mut self) -> Self {
        self.origin = Origin::Request;
        self
    }

    /// Stops the clock at `now`. Otherwise it is the machine's.
    #[must_use]
    pub fn clock(mut self, now: SystemTime) -> Self {
        self.now = Some(now);
        self
    }

    /// Runs the handler once. The harness is not used up: each run starts from it anew.
    pub fn run(&self, handler: fn(Event) -> Result<(), Failure>, event: Event) -> Run {
        run_on_stage(self, handler, event)
    }
}

/// For tests.
impl Event {
    /// An event for tests, with the id `test` and no headers.
    pub fn test(subject: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { id: "test".to_owned(), subject: subject.into(), headers: Vec::new(), payload: payload.into() }
    }

    /// The event with one more header line, for tests.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(Header { name: name.into(), value: value.into() });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{context, log, publish, reply, request, secret};

    fn speak(event: Event) -> Result<(), Failure> {
        publish(Message::new("said.once", "1"))?;
        publish(Message::new("said.twice", "2").header("Kind", "number"))?;
        log::warn("spoken");
        if event.payload.is_empty() { Err(Failure::retry("nothing to say")) } else { Ok(()) }
    }

    #[test]
    fn outputs_are_released_in_order_after_ok() {
        let run = run(speak, Event::test("talk", "x"));
        let subjects: Vec<_> = run.outputs.iter().map(|output| output.subject.as_str()).collect();
        assert_eq!(subjects, ["said.once", "said.twice"]);
        assert_eq!(run.outputs[1].headers[0].value, "number");
    }

    #[test]
    fn nothing_is_released_after_a_failure_and_the_log_stays() {
        let run = run(speak, Event::test("talk", ""));
        assert_eq!(run.outcome, Err(Failure::retry("nothing to say")));
        assert!(run.outputs.is_empty());
        assert_eq!(run.logs, [LogLine { level: Level::Warn, message: "spoken".to_owned() }]);
    }

    #[test]
    fn a_denied_subject_is_told_at_once() {
        let run = Harness::new().deny("said.twice").run(speak, Event::test("talk", "x"));
        assert_eq!(run.outcome, Err(BusError::Denied.into()));
        assert!(run.outputs.is_empty());
    }

    #[test]
    fn a_run_leaves_nothing_behind_for_the_next_one() {
        let harness = Harness::new();
        let first = harness.run(speak, Event::test("talk", "x"));
        assert_eq!(harness.run(speak, Event::test("talk", "x")), first);
    }

    #[test]
    fn what_a_handler_asks_about_its_event_is_what_the_harness_says() {
        fn ask(_: Event) -> Result<(), Failure> {
            let at = context::stored_at().map(|at| format!("{}:{}", at.stream, at.sequence));
            let key = secret("KEY").map(|key| String::from_utf8_lossy(&key).into_owned());
            let published = context::published_at().and_then(|at| at.elapsed().ok()).is_some();
            log::info(format_args!(
                "{} {:?} {at:?} {published} {key:?} {}",
                context::attempt(),
                context::remaining(),
                context::can_reply(),
            ));
            Ok(())
        }
        let run = Harness::new()
            .attempt(3)
            .remaining(Duration::from_millis(250))
            .stored("ORDERS", 42, UNIX_EPOCH)
            .secret("KEY", "s3cret")
            .run(ask, Event::test("a", ""));
        assert_eq!(run.logs[0].message, r#"3 250ms Some("ORDERS:42") true Some("s3cret") false"#);
    }

    #[test]
    fn a_stopped_clock_stands_still() {
        fn tell(_: Event) -> Result<(), Failure> {
            let now = crate::clock::now().duration_since(UNIX_EPOCH).map_err(Failure::retry)?;
            log::info(now.as_secs());
            Ok(())
        }
        let run = Harness::new().clock(UNIX_EPOCH + Duration::from_secs(9)).run(tell, Event::test("a", ""));
        assert_eq!(run.logs[0].message, "9");
    }

    #[test]
    fn a_request_can_be_replied_to_once() {
        fn answer(event: Event) -> Result<(), Failure> {
            reply(Vec::new(), event.payload)?;
            assert_eq!(reply(Vec::new(), "again"), Err(BusError::AlreadyReplied));
            Ok(())
        }
        let run = Harness::new().as_request().run(answer, Event::test("ask", "x"));
        assert_eq!(run.reply, Some(Reply { headers: Vec::new(), payload: b"x".to_vec() }));
    }

    #[test]
    fn an_event_of_a_stream_can_not_be_replied_to() {
        fn answer(event: Event) -> Result<(), Failure> {
            Ok(reply(Vec::new(), event.payload)?)
        }
        assert_eq!(run(answer, Event::test("ask", "x")).outcome, Err(BusError::NoReply.into()));
    }

    #[test]
    fn requests_are_answered_in_order_and_kept() {
        fn ask(_: Event) -> Result<(), Failure> {
            let answer = request(Message::new("prices.get", "tea"), Duration::from_secs(1))?;
            log::info(String::from_utf8_lossy(&answer.payload));
            request(Message::new("prices.get", "milk"), Duration::from_secs(1))?;
            Ok(())
        }
        let harness = Harness::new().answer("prices.get", Ok(Message::new("prices.get", "2.5")));
        let run = harness.run(ask, Event::test("a", ""));
        assert_eq!(run.logs[0].message, "2.5");
        assert_eq!(run.requests.len(), 2);
        assert_eq!(run.outcome, Err(BusError::NoResponders.into()));
    }

    #[test]
    #[should_panic(expected = "call the handler through `busway_sdk::testing::run`")]
    fn a_call_outside_a_run_says_what_to_do() {
        log::info("to nobody");
    }
}
