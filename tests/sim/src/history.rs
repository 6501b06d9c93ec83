//! What happened, in order: plain data, without a word of how it was made.
//!
//! The simulator writes one while it runs; a run against a real broker can be written down in the same words and checked
//! by the same [`crate::check`]. An event is named by its sequence in its stream; a host's life is one start of one host,
//! numbered from 1, and 0 is nobody's.

use std::fmt;

/// A recorded run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What was promised.
    pub rules: Rules,
    /// What happened, in order.
    pub entries: Vec<Entry>,
}

/// What the checker holds a history against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Recorded failed runs of a retryable class after which an event is dead.
    pub attempts: u32,
    /// For how long the broker knows an output's id.
    pub dedupe_window_ms: u64,
    /// For how long an input is remembered; none where repeated ones are not recognised.
    pub input_ttl_ms: Option<u64>,
    /// Which events wait for each other.
    pub order: Order,
    /// Whether two hosts may have had the same event at a time: what each of them did alone can't be told then.
    pub hosts: Hosts,
    /// How long after the last fault everything is settled.
    pub settled_within_ms: u64,
}

/// Which events wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// None.
    None,
    /// Those with the same key.
    PerKey,
    /// All.
    Strict,
}

/// How many hosts shared the subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// One at a time.
    One,
    /// Several at once.
    Several,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// The host's life that did it or was told; 0: the publisher or the broker by itself.
    pub life: u32,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The stream took an event.
    Accepted {
        /// Its sequence.
        event: u64,
        /// What it is ordered by; none where it waits for no other, and none for it.
        key: Option<String>,
        /// What repeated inputs are recognised by, where they are.
        input: Option<String>,
        /// The digest of its payload.
        payload: String,
    },
    /// A host began to live.
    Started,
    /// A host ended without a word.
    Crashed,
    /// A host ended in order.
    Drained {
        /// Events that it gave back unfinished.
        abandoned: u64,
    },
    /// A delivery reached a host.
    Given {
        /// The event.
        event: u64,
        /// How often it had been given by then.
        delivered: u64,
    },
    /// A host was told that an event repeats the input of another one.
    Repeats {
        /// The event.
        event: u64,
        /// The other one.
        of: u64,
    },
    /// The handler was called.
    Ran {
        /// With this event.
        event: u64,
        /// As this attempt.
        attempt: u32,
    },
    /// The handler's call ended.
    Ended {
        /// The event.
        event: u64,
        /// How.
        how: Ended,
    },
    /// A stream took an output.
    OutputStored {
        /// Of this event.
        event: u64,
        /// Its place among the run's outputs.
        index: u64,
        /// The message id.
        id: String,
        /// Whether it had been stored before.
        duplicate: bool,
    },
    /// A host was told that an output will never be taken.
    OutputRefused {
        /// Of this event.
        event: u64,
    },
    /// A failed run was recorded.
    Recorded {
        /// The event.
        event: u64,
        /// How many runs have failed by this record.
        failed_runs: u32,
        /// Whether the event is to become a dead letter.
        last: bool,
    },
    /// A dead letter was stored.
    LetterStored {
        /// Of this event.
        event: u64,
        /// The digest of the payload that it carries.
        payload: String,
        /// Its class.
        class: String,
        /// Whether another attempt might have helped, by the class.
        retryable: bool,
        /// How many runs failed, by its own account.
        failed_runs: u32,
        /// Whether it had been stored before.
        duplicate: bool,
    },
    /// A copy of an event was stored, to come back later.
    Parked {
        /// The event.
        event: u64,
        /// When it comes back.
        until_ms: u64,
    },
    /// The broker took a message as done of which a later copy is the event.
    PassedOn {
        /// The event.
        event: u64,
    },
    /// The broker took an event as done.
    Acked {
        /// The event.
        event: u64,
    },
    /// The broker took an event as never to be given again.
    Terminated {
        /// The event.
        event: u64,
    },
    /// What a host was told of an operation that it had asked for.
    Told {
        /// On this event.
        event: u64,
        /// Which message of it: 0 is the one in the stream, others are the copies that came back.
        message: u64,
        /// Which.
        operation: Operation,
        /// What it was told.
        answer: Answer,
    },
    /// The last fault is over.
    Calm,
    /// At the end, the broker still holds this event.
    Pending {
        /// The event.
        event: u64,
    },
    /// At the end of a life, a counter stood at this.
    Counted {
        /// Which.
        counter: Counter,
        /// The value.
        value: u64,
    },
}

/// How a handler's call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It returned ok and wants to publish so many messages.
    Ok {
        /// How many.
        outputs: u64,
    },
    /// It failed.
    Failed,
    /// It was not able to run, which counts no attempt.
    Refused,
    /// It was cut off by a deadline, a lost lease or the end of a shutdown.
    Cut,
    /// A fault in the host.
    Panicked,
}

/// What a host asks of the broker about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// To take it as done.
    Ack,
    /// To give it again after a wait.
    PutBack,
    /// To take the message as done, since a later copy is the event.
    PassOn,
    /// Never to give it again.
    Terminate,
    /// To be patient.
    Progress,
    /// To keep the record of its failed runs.
    Record,
}

/// What a host was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Ok,
    /// Refused, or no answer.
    Failed,
}

/// What a host counts of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Began their path.
    Received,
    /// Were acknowledged.
    Acknowledged,
    /// Failed and were put back to be tried again.
    Retried,
    /// Failed and were parked.
    Parked,
    /// Were settled without a run, since a later copy is the event.
    PassedOn,
    /// Became dead letters.
    DeadLettered,
    /// Were put back without a counted attempt.
    PutBack,
    /// Were given back by a host that ended.
    GivenBack,
    /// Were left for the broker to give again.
    LeftToBroker,
    /// Were copies of what was held.
    CopiesHeld,
    /// Were copies of what was settled.
    CopiesDone,
    /// Met a fault of the host.
    HostFaults,
}

impl Counter {
    /// All of them.
    pub const ALL: [Counter; 12] = [
        Self::Received,
        Self::Acknowledged,
        Self::Retried,
        Self::Parked,
        Self::PassedOn,
        Self::DeadLettered,
        Self::PutBack,
        Self::GivenBack,
        Self::LeftToBroker,
        Self::CopiesHeld,
        Self::CopiesDone,
        Self::HostFaults,
    ];
}

impl History {
    /// The last lines, for people, without the counters.
    pub fn tail(&self, lines: usize) -> String {
        let told = self.entries.iter().filter(|entry| !matches!(entry.what, What::Counted { .. }));
        let mut told: Vec<String> = told.rev().take(lines).map(|entry| format!("  {entry}\n")).collect();
        told.reverse();
        told.concat()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_ms, life, what } = self;
        write!(f, "{:>10}.{:03} s  life {life}  {what:?}", at_ms / 1_000, at_ms % 1_000)
    }
}
