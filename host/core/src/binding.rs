//! A binding: one plugin, one subscription, one policy. Each has a consumer, a queue and permits of its own.

use crate::{KeySource, Limits, PluginName, RetryPolicy, SubjectFilter};
use std::time::Duration;

/// The wait beyond which an event is parked, unless the operator says otherwise.
pub const PARK_AFTER: Duration = Duration::from_secs(30);

/// One `subscribe` entry of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The plugin.
    pub plugin: PluginName,
    /// Tells entries of one plugin on one stream apart; part of the durable consumer's name.
    pub name: Option<String>,
    /// Where the events come from.
    pub subscription: Subscription,
    /// What one attempt may use.
    pub limits: Limits,
    /// How often and how late a failed event is tried again.
    pub retry: RetryPolicy,
    /// How an event that is done is acknowledged.
    pub ack: AckPolicy,
    /// Whether events wait for each other.
    pub ordering: Ordering,
    /// How a repeated input is recognised; none: it is not.
    pub dedup: Option<InputDedup>,
    /// When a plugin that fails all the time is left alone for a while.
    pub breaker: BreakerPolicy,
    /// A wait longer than this is spent outside of the consumer, where the broker can. Default 30 s; `Duration::MAX` turns
    /// it off.
    pub park_after: Duration,
}

/// Whether events of one binding wait for each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ordering {
    /// As many at once as there are permits, in any order.
    #[default]
    Unordered,
    /// One at a time per key, in the order of the stream; keys in parallel.
    PerKey {
        /// What the key is.
        key: KeySource,
        /// What those behind a failing event do.
        behind: Behind,
    },
    /// One at a time, in the order of the stream.
    Strict {
        /// What those behind a failing event do.
        behind: Behind,
    },
}

/// What the events behind a failing one do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behind {
    /// They wait while it is tried again, and go on when it is done or dead.
    #[default]
    Block,
    /// They do not wait: the failing one becomes a dead letter after its first failed run.
    SkipToDlq,
}

/// How a repeated input is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputDedup {
    /// Events with the same key are the same.
    pub key: KeySource,
    /// For how long a key is remembered. 1 s to 30 d; default 1 h.
    pub ttl: Duration,
}

/// When a plugin that fails all the time is left alone for a while. Only failures of the plugin's surroundings and the
/// plugin itself count (every class but `reject`, `undecodable`, `loop`, `expired`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerPolicy {
    /// It opens when at least so many runs ended within the window. Default 20; 0 turns the breaker off.
    pub calls: u32,
    /// … and at least this share of them failed. Default 0.5.
    pub failures: f64,
    /// Default 60 s.
    pub window: Duration,
    /// After this it lets one event through; each time that one fails too, the time doubles. Default 30 s.
    pub open: Duration,
    /// The longest time between two such tries. Default 10 min.
    pub open_max: Duration,
}

/// Deliveries of a binding in order per key that are unsettled at once, running and waiting together. What lies beyond them
/// in the stream is not seen before one of them ends, so this bounds the memory and how far other keys get past a hot one.
pub const PER_KEY_WINDOW: u32 = 256;
/// The same where one event runs at a time: enough that a pull brings many.
pub const STRICT_WINDOW: u32 = 64;

impl Ordering {
    /// What those behind a failing event do; none where nobody waits for anybody.
    pub fn behind(&self) -> Option<Behind> {
        match self {
            Self::Unordered => None,
            Self::PerKey { behind, .. } | Self::Strict { behind } => Some(*behind),
        }
    }

    /// Whether events wait for each other.
    pub fn is_ordered(&self) -> bool {
        self.behind().is_some()
    }

    /// How many deliveries may be unsettled at once where order is kept.
    pub fn window(&self) -> Option<u32> {
        match self {
            Self::Unordered => None,
            Self::PerKey { .. } => Some(PER_KEY_WINDOW),
            Self::Strict { .. } => Some(STRICT_WINDOW),
        }
    }
}

impl Behind {
    /// The word for it, as it is configured and as dead letters tell it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::SkipToDlq => "skip-to-dlq",
        }
    }
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            calls: 20,
            failures: 0.5,
            window: Duration::from_secs(60),
            open: Duration::from_secs(30),
            open_max: Duration::from_secs(600),
        }
    }
}

/// Where events come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Subscription {
    /// A durable stream: nothing is lost.
    Stream {
        /// The stream's name.
        stream: String,
        /// Which of its subjects.
        filters: Vec<SubjectFilter>,
    },
    /// Plain subjects: at most once.
    Core {
        /// Which subjects.
        filters: Vec<SubjectFilter>,
        /// Hosts of one group share the events; without one every host gets each.
        group: Option<String>,
        /// How much waits in this host, and what happens beyond.
        buffer: CoreBuffer,
    },
    /// What comes back to this plugin alone: parked and redriven events.
    Returned,
}

/// How much of a plain subscription waits in this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreBuffer {
    /// Default 1,024; 1 to 65,536.
    pub messages_max: u32,
    /// Default 16 MiB.
    pub bytes_max: u64,
    /// What is shed beyond.
    pub overflow: Overflow,
}

/// What is shed when a buffer is full. Either way it is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The event that has waited longest.
    #[default]
    DropOldest,
    /// The one that has just come.
    DropNewest,
}

impl Default for CoreBuffer {
    fn default() -> Self {
        Self { messages_max: 1_024, bytes_max: 16 << 20, overflow: Overflow::default() }
    }
}

/// How an event that is done is acknowledged. Terminations are always confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// Sent and not waited for: a lost one only causes a redelivery, which is answered without another run.
    #[default]
    Fast,
    /// Waited for: costs more than half of the throughput.
    Confirmed,
}

impl Binding {
    /// A binding with every default.
    pub fn new(plugin: PluginName, subscription: Subscription) -> Self {
        Self {
            plugin,
            name: None,
            subscription,
            limits: Limits::default(),
            retry: RetryPolicy::default(),
            ack: AckPolicy::default(),
            ordering: Ordering::default(),
            dedup: None,
            breaker: BreakerPolicy::default(),
            park_after: PARK_AFTER,
        }
    }

    /// The durable consumer's name: `busway-<plugin>`, or `busway-<plugin>-<name>`.
    pub fn durable(&self) -> String {
        match &self.name {
            Some(name) => format!("busway-{}-{name}", self.plugin),
            None => format!("busway-{}", self.plugin),
        }
    }
}
