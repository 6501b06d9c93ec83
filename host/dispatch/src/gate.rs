//! Whether a plugin's events run at the moment: its breaker, and what pauses a binding.
//!
//! All bindings of a plugin on this host share one breaker, since they share its code and mostly what it depends on. A
//! pause belongs to one binding, because it is kept at the broker, consumer by consumer. Both are asked in one place, just
//! before a run; an event that may not run is put back and counts no attempt.

use crate::gate_metrics::{GateMetrics, GateRecorder};
use busway_core::{
    Binding, Breaker, Outcome, PluginName, Refusal,
    breaker::{Cause, Pass, Sign, State},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};

/// Why no event of a binding runs, whatever its breaker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// An operator paused the consumer.
    ByHand,
    /// This version of the plugin killed the host, and is not run here any more.
    Quarantined,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByHand => "paused by hand",
            Self::Quarantined => "this version killed the host and is quarantined",
        })
    }
}

/// The gates of a host's plugins, made as they are first asked for.
#[derive(Debug, Clone, Default)]
pub struct Gates(Arc<Mutex<HashMap<PluginName, Arc<Gate>>>>);

/// One plugin's breaker on this host.
#[derive(Debug)]
pub(crate) struct Gate {
    plugin: PluginName,
    /// The breaker's zero.
    began: Instant,
    // Guards plain data; never held across an await.
    breaker: Mutex<Breaker>,
    state: watch::Sender<State>,
    record: GateRecorder,
}

/// The right to run one event. Dropped without [`Passed::ended`], it says nothing of the plugin.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    gate: &'a Gate,
    pass: Pass,
    sign: Sign,
}

impl Gates {
    /// The gate of this binding's plugin.
    pub(crate) fn of(&self, binding: &Binding, metrics: &GateMetrics) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(binding.plugin.clone()).or_insert_with(|| {
            Arc::new(Gate {
                plugin: binding.plugin.clone(),
                began: Instant::now(),
                breaker: Mutex::new(Breaker::new(binding.breaker)),
                state: watch::Sender::new(State::Closed),
                record: metrics.plugin(&binding.plugin),
            })
        });
        Arc::clone(gate)
    }
}

impl Gate {
    /// How the breaker is now. A change is logged and counted by whoever sees it first.
    pub(crate) fn state(&self) -> State {
        self.with(|_, _| ())
    }

    /// When the gate's clock will show this.
    pub(crate) fn at(&self, time: Duration) -> Instant {
        self.began + time
    }

    /// The plugin's metrics.
    pub(crate) fn record(&self) -> &GateRecorder {
        &self.record
    }

    /// Every change of the breaker.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// # Errors
    /// [`Refusal::Paused`] while the breaker is open, or half-open with a probe under way.
    pub(crate) fn pass(&self) -> Result<Passed<'_>, Refusal> {
        let mut pass = Pass::Refused;
        self.with(|breaker, now| pass = breaker.pass(now));
        match pass {
            Pass::Refused => Err(Refusal::Paused("its breaker is open".into())),
            pass => Ok(Passed { gate: self, pass, sign: Sign::Neither }),
        }
    }

    /// The broker refused a dead letter of this plugin.
    pub(crate) fn letter_refused(&self) {
        let mut edge = false;
        self.with(|breaker, now| {
            let before = breaker.are_letters_refused();
            breaker.letter_refused(now);
            edge = breaker.are_letters_refused() && !before;
        });
        if edge {
            self.record.alarm_on();
            error!(plugin = %self.plugin, alarm = "dead-letters-unavailable", "the broker refuses dead letters; nothing is terminated, the plugin waits: look at BUSWAY_DLQ");
        }
    }

    /// The broker stored a dead letter of this plugin.
    pub(crate) fn letter_stored(&self) {
        let mut edge = false;
        self.with(|breaker, _| {
            edge = breaker.are_letters_refused();
            breaker.letter_stored();
        });
        if edge {
            self.record.alarm_off();
            info!(plugin = %self.plugin, alarm = "dead-letters-unavailable", "dead letters are stored again");
        }
    }

    /// Another host's breaker keeps the consumer paused for so long.
    pub(crate) fn adopt(&self, remaining: Duration) {
        self.with(|breaker, now| breaker.adopt(now, now + remaining));
    }

    /// Does something to the breaker and tells of the change, where there is one.
    fn with(&self, change: impl FnOnce(&mut Breaker, Duration)) -> State {
        let now = self.began.elapsed();
        let mut breaker = self.lock();
        change(&mut breaker, now);
        let state = breaker.state(now);
        // Under the lock, so that changes are told in their order.
        let changed = self.state.send_if_modified(|old| {
            let is_other = *old != state;
            *old = state;
            is_other
        });
        drop(breaker);
        if changed {
            self.tell(state, now);
        }
        state
    }

    fn tell(&self, state: State, now: Duration) {
        let plugin = &self.plugin;
        self.record.breaker(state);
        match state {
            State::Closed => info!(%plugin, "the breaker closes: its events run again"),
            State::HalfOpen { probing: false } => {
                info!(%plugin, "the breaker is half-open: one event is let through");
            }
            State::HalfOpen { probing: true } => {}
            State::Open { until, cause } => {
                let for_ms = until.saturating_sub(now).as_millis() as u64;
                warn!(%plugin, %cause, for_ms, "the breaker opens: its events stay in their stream");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        // Every change under the lock is a whole one, so a panic elsewhere leaves nothing half-done.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passed<'_> {
    /// The run ended so.
    pub(crate) fn ended(mut self, outcome: &Outcome) {
        self.sign = Sign::of(outcome);
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        self.gate.with(|breaker, now| breaker.ended(now, self.pass, self.sign));
    }
}

/// What an open breaker says of itself, for the admin listener and for those who pause the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenBreaker {
    /// How much longer.
    pub remaining: Duration,
    /// Why.
    pub cause: Cause,
}

impl Gate {
    /// Why and for how long the breaker is open; none where it is not.
    pub(crate) fn open(&self) -> Option<OpenBreaker> {
        match self.state() {
            State::Open { until, cause } => {
                Some(OpenBreaker { remaining: until.saturating_sub(self.began.elapsed()), cause })
            }
            _ => None,
        }
    }
}
