//! Words and decisions of Busway.
//!
//! Everything here is pure: no clock, no network, no file, no thread. What an event is, what can become of it, and
//! which of these it becomes is decided here, so that it can be read and tested as tables. The other host crates carry
//! the decisions out; they meet only through the traits in [`port`].
//!
//! Reading order: [`subject`], [`headers`], [`event`], [`reply`], [`key`], [`pointer`], [`plugin`], [`limits`],
//! [`outcome`], [`backoff`], [`retry`], [`verdict`], [`breaker`], [`dead_letter`], [`binding`], [`audit`],
//! [`port`].

pub mod again;
pub mod audit;
pub mod backoff;
pub mod binding;
pub mod breaker;
pub mod date;
pub mod dead_letter;
pub mod event;
pub mod headers;
pub mod history;
pub mod key;
pub mod limits;
pub mod outcome;
pub mod plugin;
pub mod pointer;
pub mod port;
pub mod reply;
pub mod retry;
pub mod subject;
pub mod trace;
pub mod units;
pub mod verdict;

pub use backoff::Backoff;
pub use binding::{AckPolicy, Binding};
pub use breaker::Breaker;
pub use dead_letter::DeadLetter;
pub use event::{Event, EventId, Position};
pub use headers::Headers;
pub use history::HistoryEntry;
pub use key::KeySource;
pub use limits::Limits;
pub use outcome::{
    Evidence, Failure, FailureClass, Guarantee, LogLevel, LogLine, Outcome, Output, Outputs, Ran, Refusal,
    Reply, Report, Used,
};
pub use plugin::{Digest, PluginName};
pub use port::{Delivery, Handler, Message, Publish, Receipt, Request, Settle, Source};
pub use reply::ReplySubject;
pub use retry::{Attempt, AttemptRecord, ClassPolicy, FailedRun, RetryPolicy};
pub use subject::{OutputSubject, Subject, SubjectFilter};
pub use verdict::Verdict;
