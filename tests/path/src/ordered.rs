//! Several hosts with an ordered binding on one broker in memory, and a handler that notices when an event is overtaken.

use crate::ACK_WAIT;
use busway_core::{
    Attempt, Backoff, Binding, Digest, Event, Failure, FailureClass, Guarantee, Handler, Headers, KeySource,
    Limits, Output, Outputs, Ran, Refusal, Report, RetryPolicy, Used,
    binding::{Behind, Ordering, Subscription},
    port::BoxFuture,
};
use busway_dispatch::{Drained, Host, Intake, Lane, LaneParts, Recorder, SETTLED_MAX, Supervisor};
use busway_testkit::{
    link::{Cluster, HostLink},
    memory::{MemoryBroker, STREAM},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, time::sleep};

/// What the handler does with one run.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// Publishes the event's sequence after this time.
    Done(Duration),
    /// Fails after this time.
    Fail(Duration),
    /// Fails in a way that no retry helps.
    Reject,
    /// Is not able to run.
    Refuse,
}

/// What is done with an event, by its sequence and its attempt.
pub type Plan = Arc<dyn Fn(u64, u32) -> Act + Send + Sync>;

/// A broker with events that have keys, and what its hosts' handlers saw.
pub struct World {
    /// The broker.
    pub broker: MemoryBroker,
    cluster: Cluster,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    keys: Mutex<BTreeMap<String, Vec<u64>>>,
    started: Mutex<Vec<u64>>,
    overtaken: Mutex<Vec<String>>,
}

/// One host of a world.
pub struct OrderedHost {
    /// Its way to the broker.
    pub link: HostLink,
    lane: Arc<Lane>,
    supervisor: Supervisor,
    registry: Registry,
}

struct Watcher {
    link: HostLink,
    seen: Arc<Seen>,
    plan: Plan,
    strict: bool,
}

impl World {
    /// An empty broker.
    pub fn new() -> Self {
        let broker = MemoryBroker::new(ACK_WAIT);
        Self { cluster: Cluster::new(&broker), broker, seen: Arc::default() }
    }

    /// Stores an event with this key.
    pub fn publish(&self, key: &str) -> u64 {
        let sequence = self.broker.publish("orders.created", &[("x-customer", key)], "{}");
        lock(&self.seen.keys).entry(key.to_owned()).or_default().push(sequence);
        sequence
    }

    /// Stores so many events with this key.
    pub fn publish_many(&self, events: usize, key: &str) {
        for _ in 0..events {
            self.publish(key);
        }
    }

    /// A host whose handler follows a plan.
    pub fn host(&self, ordering: Ordering, plan: Plan) -> OrderedHost {
        let link = self.cluster.link(ACK_WAIT);
        let strict = matches!(ordering, Ordering::Strict { .. });
        let handler = Watcher { link: link.clone(), seen: Arc::clone(&self.seen), plan, strict };
        let parts = LaneParts {
            settled_max: SETTLED_MAX,
            binding: Binding { ordering, ..binding() },
            digest: Digest::of(b"plugin"),
            handler: Arc::new(handler),
            settle: Arc::new(link.clone()),
            publish: Arc::new(link.clone()),
            ack_wait: ACK_WAIT,
        };
        let mut registry = Registry::default();
        let lane = Lane::new(parts, Host::new("h", 64), &Recorder::new(&mut registry));
        let supervisor = Supervisor::new(Handle::current(), Handle::current());
        Intake::start(Arc::clone(&lane), link.source(), &supervisor);
        OrderedHost { link, lane, supervisor, registry }
    }

    /// What was overtaken: empty, or the test has found a fault.
    pub fn overtaken(&self) -> Vec<String> {
        lock(&self.seen.overtaken).clone()
    }

    /// The sequences whose runs began, in the order in which they did.
    pub fn started(&self) -> Vec<u64> {
        lock(&self.seen.started).clone()
    }

    /// The outputs' sequences in the order in which they were stored.
    pub fn outputs(&self) -> Vec<u64> {
        let outputs = self.broker.outputs();
        outputs.iter().filter_map(|output| String::from_utf8_lossy(&output.payload).parse().ok()).collect()
    }

    /// Waits until this event's output or dead letter is stored.
    pub async fn ended(&self, sequence: u64) {
        while !self.cluster.ended().contains(&sequence) {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl OrderedHost {
    /// Ends it as a crash would.
    pub fn crash(&self) {
        self.link.cut();
    }

    /// Stops it and makes room for another one.
    pub async fn drain(&self, patience: Duration) -> Drained {
        let drained = self.supervisor.drain(std::slice::from_ref(&self.lane), patience).await;
        self.link.step_down();
        drained
    }

    /// How many deliveries it holds.
    pub fn held(&self) -> usize {
        self.lane.unsettled()
    }

    /// The value of one of the plugin's metrics, with more labels if need be; 0 where there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels = format!("{{plugin=\"p\"{labels}}} ");
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into a string does not fail");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(&*labels));
        value.map_or(0.0, |value| value.parse().expect("a metric is a number"))
    }
}

impl Watcher {
    /// Whatever came before with the same key must have ended.
    fn look(&self, event: &Event) -> u64 {
        let sequence = event.position.as_ref().map_or(0, |position| position.sequence);
        let key = event.headers.get("x-customer").unwrap_or_default();
        let keys = lock(&self.seen.keys);
        let of_key = keys.iter().filter(|(name, _)| self.strict || *name == key).flat_map(|(_, all)| all);
        let before: Vec<_> = of_key.copied().filter(|other| *other < sequence).collect();
        let missing = self.link.not_ended(before);
        if !missing.is_empty() && !self.link.is_cut() {
            lock(&self.seen.overtaken).push(format!("{sequence} of {key} began before {missing:?} ended"));
        }
        lock(&self.seen.started).push(sequence);
        sequence
    }
}

impl Handler for Watcher {
    fn call<'a>(&'a self, event: &'a Event, attempt: Attempt) -> BoxFuture<'a, Report> {
        Box::pin(async move {
            let sequence = self.look(event);
            let ran = match (self.plan)(sequence, attempt.0) {
                Act::Done(time) => {
                    sleep(time).await;
                    Ran::Ok(output(sequence))
                }
                Act::Fail(time) => {
                    sleep(time).await;
                    Ran::Failed(Failure::new(FailureClass::Trap, "planned", "as planned"))
                }
                Act::Reject => Ran::Failed(Failure::new(FailureClass::Reject, "planned", "as planned")),
                Act::Refuse => Ran::Refused(Refusal::NoSandbox("as planned".into())),
            };
            Report { ran, used: Used::default(), logs: Vec::new() }
        })
    }
}

/// One line per customer.
pub fn per_customer(behind: Behind) -> Ordering {
    Ordering::PerKey { key: KeySource::Header("x-customer".into()), behind }
}

/// Every event is done at once.
pub fn all_well() -> Plan {
    Arc::new(|_, _| Act::Done(Duration::ZERO))
}

fn output(sequence: u64) -> Outputs {
    let output = Output {
        guarantee: Guarantee::Stored,
        subject: "out".parse().expect("a literal subject"),
        headers: Headers::new(),
        payload: sequence.to_string().into(),
    };
    Outputs { messages: vec![output], reply: None }
}

fn binding() -> Binding {
    let subscription = Subscription::Stream { stream: STREAM.to_owned(), filters: Vec::new() };
    let backoff = Backoff::Fixed(Duration::from_secs(1));
    Binding {
        limits: Limits { concurrency: 4, timeout: Duration::from_secs(60), ..Limits::default() },
        retry: RetryPolicy { attempts: 3, backoff, jitter: 0.0, same_trap_max: 0, ..RetryPolicy::default() },
        ..Binding::new("p".parse().expect("a literal plugin name"), subscription)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
