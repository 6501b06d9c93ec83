//! One binding on the in-memory broker with a scripted handler: what the tests of the path start from.
#![expect(clippy::expect_used, reason = "test code: what can not be set up ends the test")]

pub mod ordered;

use busway_core::{Backoff, Binding, Digest, HistoryEntry, Limits, RetryPolicy, binding::Subscription};
use busway_dispatch::{Drained, Host, Intake, Lane, LaneParts, Recorder, SETTLED_MAX, Supervisor};
use busway_failpoints::{FailPoints, Plan};
use busway_testkit::{
    memory::{MemoryBroker, STREAM},
    scripted::{ScriptedHandler, Step},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc};

/// How long the broker of these tests waits for word of an event.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// A host with one binding.
pub struct TestHost {
    /// Its broker.
    pub broker: MemoryBroker,
    /// Its handler.
    pub handler: Arc<ScriptedHandler>,
    /// Its one binding at work.
    pub lane: Arc<Lane>,
    /// What comes back to it.
    returned: Arc<Lane>,
    supervisor: Supervisor,
    registry: Registry,
    history: Mutex<mpsc::Receiver<HistoryEntry>>,
}

impl TestHost {
    /// A host on a new broker, whose handler follows these steps; 3 attempts, 1 s between them, no jitter.
    pub fn start(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::start_on(MemoryBroker::new(ACK_WAIT), steps)
    }

    /// The same on a broker that has a past.
    pub fn start_on(broker: MemoryBroker, steps: impl IntoIterator<Item = Step>) -> Self {
        Self::start_with(broker, steps, |_| {})
    }

    /// The same with a binding that is a little different.
    pub fn start_with(
        broker: MemoryBroker,
        steps: impl IntoIterator<Item = Step>,
        change: impl FnOnce(&mut Binding),
    ) -> Self {
        let mut binding = binding();
        change(&mut binding);
        Self::start_as(binding, Host::new("h1", 64), broker, steps)
    }

    /// The same with a binding and a host of the test's own.
    pub fn start_as(
        binding: Binding,
        host: Host,
        broker: MemoryBroker,
        steps: impl IntoIterator<Item = Step>,
    ) -> Self {
        Self::start_version(b"plugin", binding, host, broker, steps)
    }

    /// The same with a plugin of these bytes.
    pub fn start_version(
        plugin: &[u8],
        binding: Binding,
        host: Host,
        broker: MemoryBroker,
        steps: impl IntoIterator<Item = Step>,
    ) -> Self {
        let none = FailPoints::new(&Plan::default(), 0);
        Self::assemble(&none, (plugin, binding, host), broker, steps)
    }

    /// The same on a new broker, with faults at the seams: see `busway_failpoints::plan`.
    pub fn start_with_faults(faults: &str, steps: impl IntoIterator<Item = Step>) -> Self {
        let points = FailPoints::new(&Plan::parse(faults).expect("a literal plan"), 0);
        let parts = (&b"plugin"[..], binding(), Host::new("h1", 64));
        Self::assemble(&points, parts, MemoryBroker::new(ACK_WAIT), steps)
    }

    fn assemble(
        points: &FailPoints,
        (plugin, binding, host): (&[u8], Binding, Host),
        broker: MemoryBroker,
        steps: impl IntoIterator<Item = Step>,
    ) -> Self {
        let handler = Arc::new(ScriptedHandler::new(steps));
        let mut registry = Registry::default();
        let parts = |binding| LaneParts {
            binding,
            digest: Digest::of(plugin),
            handler: points.handler(Arc::clone(&handler) as _),
            settle: points.settle(Arc::new(broker.clone())),
            publish: points.publish(Arc::new(broker.clone())),
            ack_wait: ACK_WAIT,
            settled_max: SETTLED_MAX,
        };
        let recorder = Recorder::new(&mut registry);
        let (history, told) = recorder.history();
        let host = Host { history: Some(history), ..host };
        let returned = Binding { subscription: Subscription::Returned, ..binding.clone() };
        let [lane, returned] =
            [binding, returned].map(|binding| Lane::new(parts(binding), host.clone(), &recorder));
        let supervisor = Supervisor::new(Handle::current(), Handle::current());
        Intake::start(Arc::clone(&lane), points.source(broker.source()), &supervisor);
        Intake::start(Arc::clone(&returned), broker.returned_source(), &supervisor);
        Self { broker, handler, lane, returned, supervisor, registry, history: Mutex::new(told) }
    }

    /// Runs one event through a script until it is settled, and gives what was asked of the broker.
    pub async fn one(steps: impl IntoIterator<Item = Step>) -> (Self, Vec<String>) {
        let host = Self::start(steps);
        host.broker.publish("orders.created", &[], "{}");
        host.broker.all_settled().await;
        host.quiet().await;
        let log = host.broker.log();
        (host, log)
    }

    fn lanes(&self) -> [Arc<Lane>; 2] {
        [&self.lane, &self.returned].map(Arc::clone)
    }

    /// Stops the host.
    pub async fn drain(&self, patience: Duration) -> Drained {
        self.supervisor.drain(&self.lanes(), patience).await
    }

    /// Waits until nothing is held any more.
    pub async fn quiet(&self) {
        while self.lanes().iter().any(|lane| lane.unsettled() > 0) {
            tokio::task::yield_now().await;
        }
    }

    /// What the history was told since it was last asked.
    pub fn told(&self) -> Vec<HistoryEntry> {
        let mut told = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| told.try_recv().ok()).collect()
    }

    /// The value of one line of the metrics; 0 where there is none.
    pub fn metric(&self, line: &str) -> f64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into a string does not fail");
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a metric is a number"))
    }
}

/// Plugin `p` on the one stream: 2 events at once, 3 attempts, 1 s between them, no jitter.
pub fn binding() -> Binding {
    let subscription = Subscription::Stream { stream: STREAM.to_owned(), filters: Vec::new() };
    let backoff = Backoff::Fixed(Duration::from_secs(1));
    Binding {
        limits: Limits { concurrency: 2, timeout: Duration::from_secs(60), ..Limits::default() },
        retry: RetryPolicy { attempts: 3, backoff, jitter: 0.0, same_trap_max: 0, ..RetryPolicy::default() },
        ..Binding::new("p".parse().expect("a literal plugin name"), subscription)
    }
}
