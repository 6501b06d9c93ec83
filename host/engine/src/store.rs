//! What belongs to one run: its budgets, its outputs so far, its log, and what the host told it about the event.

use crate::{
    capability::{Grants, wasi::Wasi},
    cpu::CpuClock,
    limits::Limiter,
};
use busway_core::{
    Attempt, Event, EventId, Headers, Limits, LogLine, Outputs, PluginName, Position, Request, Used, trace,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use wasmtime::component::ResourceTable;

/// What all runs of one plugin share.
pub(crate) struct Shared {
    pub name: PluginName,
    pub limits: Limits,
    pub grants: Grants,
    pub config: BTreeMap<String, String>,
    /// Bytes of the largest message that the broker takes; told by the broker after the plugin was loaded.
    pub payload_bytes_max: AtomicU64,
    /// How it asks other services; not set until a broker is reached.
    pub requests: OnceLock<Arc<dyn Request>>,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Instantiation and `lifecycle.init`: no call with effects is answered.
    Starting,
    /// The handler runs.
    Handling,
}

/// What the host told a run about its event.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub id: String,
    pub attempt: u32,
    pub published_at_ms: Option<u64>,
    pub position: Option<Position>,
    pub hops: u32,
    pub can_reply: bool,
    /// The event's own id and trace, for what it causes.
    pub cause: Option<Cause>,
}

/// What a message that an event causes tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    pub id: EventId,
    /// The `traceparent` as it came.
    traceparent: Option<String>,
}

/// One run.
pub(crate) struct State {
    pub shared: Arc<Shared>,
    pub limiter: Limiter,
    pub cpu: CpuClock,
    pub phase: Phase,
    pub about: About,
    pub outputs: Outputs,
    pub logs: Vec<LogLine>,
    pub log_bytes: usize,
    pub panic: Option<String>,
    pub used: Used,
    /// Calls of the bus beyond their budget.
    pub calls_refused: u32,
    pub requests: u32,
    pub table: ResourceTable,
    pub wasi: Option<Box<Wasi>>,
    began: Instant,
}

/// Handles of host resources that one run may hold.
const RESOURCES_MAX: usize = 1_000;

impl State {
    pub(crate) fn new(shared: Arc<Shared>, about: About) -> Self {
        let limits = &shared.limits;
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            limiter: Limiter::new(limits.memory.0),
            cpu: CpuClock::new(limits.cpu),
            phase: Phase::Starting,
            about,
            outputs: Outputs::default(),
            logs: Vec::new(),
            log_bytes: 0,
            panic: None,
            used: Used::default(),
            calls_refused: 0,
            requests: 0,
            table,
            wasi: None,
            began: Instant::now(),
            shared,
        }
    }

    /// Wall-clock time since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Wall-clock time left.
    pub(crate) fn remaining(&self) -> Duration {
        self.shared.limits.timeout.saturating_sub(self.elapsed())
    }

    /// What the run has used.
    pub(crate) fn used(&self) -> Used {
        let (cpu, memory_bytes) = (self.cpu.used(), self.limiter.memory_peak());
        Used { wall: self.elapsed(), cpu, memory_bytes, ..self.used }
    }
}

impl About {
    pub(crate) fn event(event: &Event, attempt: Attempt) -> Self {
        Self {
            id: event.id.as_str().to_owned(),
            attempt: attempt.0,
            published_at_ms: event.published_at_ms,
            position: event.position.clone(),
            hops: event.hops,
            can_reply: event.can_reply,
            cause: Some(Cause {
                id: event.id.clone(),
                traceparent: event.headers.get(trace::TRACEPARENT).map(str::to_owned),
            }),
        }
    }

    /// The `traceparent` of what the event causes in this attempt.
    pub(crate) fn traceparent(&self, plugin: &PluginName) -> Option<String> {
        let Cause { id, traceparent } = self.cause.as_ref()?;
        let came: Headers = traceparent.iter().map(|value| (trace::TRACEPARENT, value.as_str())).collect();
        Some(trace::traceparent(&came, id, plugin.as_str(), self.attempt))
    }
}

impl Shared {
    pub(crate) fn payload_bytes_max(&self) -> u64 {
        self.payload_bytes_max.load(Ordering::Relaxed)
    }
}
