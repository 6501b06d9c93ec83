//! What became of one attempt, grouped by consequence.
//!
//! A guest that traps is a normal day, so nothing here is an error type. The sandbox answers with [`Ran`]; releasing the
//! outputs turns that into an [`Outcome`], and only an outcome has a verdict: outputs that are not stored yet can't be
//! acknowledged, because no type says so.

use crate::{EventId, Headers, OutputSubject, event::base32, port::Released};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// What the sandbox answers for one attempt.
#[derive(Debug, Clone)]
pub struct Report {
    /// How it ended.
    pub ran: Ran,
    /// What it used of its budgets.
    pub used: Used,
    /// What it logged, oldest first, within the budget.
    pub logs: Vec<LogLine>,
}

/// How an attempt ended, before its outputs are released.
#[derive(Debug, Clone)]
pub enum Ran {
    /// The handler returned ok; these wait for their release.
    Ok(Outputs),
    /// The attempt failed; whatever it published is discarded.
    Failed(Failure),
    /// The host could not run it: not the event's fault, and not the plugin's.
    Refused(Refusal),
}

/// How an attempt ended, outputs included.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Handled, and the broker has stored every output.
    Done {
        /// What was stored, and where.
        released: Released,
        /// How many messages were sent to whoever listens.
        core: usize,
    },
    /// Not handled: its key is another event's, which was handled or is being handled.
    Duplicate {
        /// The other event.
        of: EventId,
    },
    /// The attempt failed and counts.
    Failed(Failure),
    /// The attempt does not count.
    Refused(Refusal),
}

/// What a plugin wants to say, all of it held back until the handler's ok.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Messages, in the order in which the handler published them.
    pub messages: Vec<Output>,
    /// The answer to a core request.
    pub reply: Option<Reply>,
}

/// What a published message is worth to the broker. The grant that captured its subject says which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Guarantee {
    /// A stream stores it before the event is acknowledged.
    #[default]
    Stored,
    /// It is sent once, to whoever listens.
    Core,
}

/// The answer to a core request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Checked headers, without the host's.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

/// A message that a plugin published and that waits for the handler's ok.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What it is worth to the broker.
    pub guarantee: Guarantee,
    /// Where to.
    pub subject: OutputSubject,
    /// Checked headers, without the host's.
    pub headers: Headers,
    /// The bytes.
    pub payload: Bytes,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub class: FailureClass,
    /// The guest's own short code, or the host's: for grouping.
    pub code: String,
    /// What happened, for people; at most 1 KiB, without control characters.
    pub reason: String,
    /// When the guest asked to be called again.
    pub after: Option<Duration>,
    /// What the sandbox saw, if anything.
    pub evidence: Box<Evidence>,
}

/// What the sandbox saw of a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The panic message that the guest's run-time handed over, with file and line.
    pub panic: Option<String>,
    /// The guest's stack, innermost frame first: function, and file and line where the component has them.
    pub backtrace: Vec<String>,
    /// The last lines that the failing attempt logged, oldest first.
    pub logs: Vec<LogLine>,
    /// What the failing attempt used.
    pub used: Used,
}

/// The kinds of failure. What follows from each stands in `docs/failure-table.md`, which a test compares with
/// [`FailureClass::is_retryable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// The handler said that no retry can help.
    Reject,
    /// The handler asked for a retry.
    Retry,
    /// The wall-clock budget was spent.
    Timeout,
    /// The processor budget was spent.
    Cpu,
    /// The guest trapped: a panic, an out-of-bounds access, a stack overflow.
    Trap,
    /// The guest trapped after it was refused memory.
    Memory,
    /// The guest went far beyond a budget of host calls.
    Quota,
    /// An output was refused by the broker, or no stream captures its subject.
    Unroutable,
    /// The stored message can't be an event: malformed headers or subject.
    Undecodable,
    /// The event went through too many plugins: they feed each other.
    Loop,
    /// The guest trapped after a call was denied to it: it needs a grant that it does not have.
    Denied,
    /// The event is older than the policy lets it become.
    Expired,
    /// The host died while it handled this event, more than once.
    HostCrash,
}

impl FailureClass {
    /// Every class, in the order of the failure table.
    pub const ALL: [FailureClass; 13] = [
        Self::Reject,
        Self::Retry,
        Self::Timeout,
        Self::Cpu,
        Self::Trap,
        Self::Memory,
        Self::Quota,
        Self::Unroutable,
        Self::Undecodable,
        Self::Loop,
        Self::Denied,
        Self::Expired,
        Self::HostCrash,
    ];

    /// The stable name in headers, metrics and listings.
    pub fn code(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Retry => "retry",
            Self::Timeout => "timeout",
            Self::Cpu => "cpu",
            Self::Trap => "trap",
            Self::Memory => "memory",
            Self::Quota => "quota",
            Self::Unroutable => "unroutable",
            Self::Undecodable => "undecodable",
            Self::Loop => "loop",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::HostCrash => "host-crash",
        }
    }

    /// The class with a stable name.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.code() == code)
    }

    /// Whether another attempt may help. The others become dead letters at once.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Retry
            | Self::Timeout
            | Self::Cpu
            | Self::Trap
            | Self::Memory
            | Self::Quota
            | Self::Unroutable => true,
            Self::Reject
            | Self::Undecodable
            | Self::Loop
            | Self::Denied
            | Self::Expired
            | Self::HostCrash => false,
        }
    }
}

impl std::fmt::Display for FailureClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// Why an event was put back without an attempt being counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The host is shutting down or this version is being replaced.
    Draining,
    /// An operator has paused the plugin, or its breaker is open.
    Paused(String),
    /// The broker did not take an output, an attempt record or a dead letter.
    BrokerTrouble(String),
    /// No sandbox was free in time.
    NoSandbox(String),
    /// The broker has not heard from this host for so long that it may have given the event to another one.
    LeaseLost,
    /// The event was redriven for another version of the plugin than this host has.
    OtherVersion(String),
    /// A fault in the host itself.
    HostFault(String),
}

impl Refusal {
    /// The stable names, in the order of the failure table.
    pub const CODES: [&'static str; 7] =
        ["draining", "paused", "broker-trouble", "no-sandbox", "lease-lost", "other-version", "host-fault"];

    /// The stable name in metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Paused(_) => "paused",
            Self::BrokerTrouble(_) => "broker-trouble",
            Self::NoSandbox(_) => "no-sandbox",
            Self::LeaseLost => "lease-lost",
            Self::OtherVersion(_) => "other-version",
            Self::HostFault(_) => "host-fault",
        }
    }
}

/// What an attempt used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// From the first instruction to the end, host calls included.
    pub wall: Duration,
    /// Inside the guest.
    pub cpu: Duration,
    /// Linear memory at its largest, all memories added up.
    pub memory_bytes: u64,
    /// Messages published.
    pub publishes: u32,
    /// Payload and header bytes published.
    pub publish_bytes: u64,
    /// Log lines kept.
    pub log_lines: u32,
    /// Log lines dropped because the budget was spent.
    pub log_lines_dropped: u32,
    /// Calls answered with `denied`.
    pub denied: u32,
}

/// One line that a plugin logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How serious.
    pub level: LogLevel,
    /// The plugin's own grouping; may be empty.
    pub context: String,
    /// The text; control characters are escaped, at most 8 KiB.
    pub message: String,
}

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Values and the flow of control.
    Trace,
    /// For a person who debugs.
    Debug,
    /// For a person who watches.
    Info,
    /// Hazardous.
    Warn,
    /// Serious, fatal included.
    Error,
}

impl LogLevel {
    /// In lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl Failure {
    /// A failure without evidence. The reason is cut to 1 KiB and control characters are replaced.
    pub fn new(class: FailureClass, code: impl Into<String>, reason: impl AsRef<str>) -> Self {
        Self {
            class,
            code: clean(&code.into(), 64),
            reason: clean(reason.as_ref(), 1024),
            after: None,
            evidence: Box::default(),
        }
    }

    /// The same for every trap at the same place of the same plugin, whatever values were at hand; none for failures that
    /// are not traps.
    pub fn fingerprint(&self) -> Option<String> {
        if self.class != FailureClass::Trap {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(&self.code);
        for frame in &self.evidence.backtrace {
            hash.update([0]);
            hash.update(frame);
        }
        if self.evidence.backtrace.is_empty() {
            hash.update(&self.reason);
        }
        Some(base32(hash.finalize().get(..10).unwrap_or_default()))
    }
}

/// Text for a header or a log: control characters become spaces, and what is over `bytes_max` is cut at a character.
pub fn clean(text: &str, bytes_max: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if cleaned.len() + c.len_utf8() > bytes_max {
            break;
        }
        cleaned.push(c);
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        for class in FailureClass::ALL {
            assert_eq!(FailureClass::from_code(class.code()), Some(class));
        }
    }

    #[test]
    fn a_reason_fits_into_a_header() {
        assert_eq!(clean("a\r\nb\u{1b}[31m", 1024), "a  b [31m");
        assert_eq!(clean("üü", 3), "ü");
    }
}
