//! A binding: one plugin, one subscription, one policy. Each has a consumer, a queue and permits of its own.

use crate::{Limits, PluginName, RetryPolicy, SubjectFilter};

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
    },
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
    /// The durable consumer's name: `busway-<plugin>`, or `busway-<plugin>-<name>`.
    pub fn durable(&self) -> String {
        match &self.name {
            Some(name) => format!("busway-{}-{name}", self.plugin),
            None => format!("busway-{}", self.plugin),
        }
    }
}
