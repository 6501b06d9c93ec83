//! The metrics of breakers, pauses and alarms.

use crate::record::PluginLabels;
use busway_core::{PluginName, breaker::State};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

/// Registered once, with those of the path.
#[derive(Debug, Clone, Default)]
pub(crate) struct GateMetrics {
    breakers: Family<PluginLabels, Gauge>,
    paused: Family<PluginLabels, Gauge>,
    quarantined: Family<PluginLabels, Gauge>,
    alarms: Family<AlarmLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlarmLabels {
    alarm: &'static str,
}

/// A plugin's handles.
#[derive(Debug, Clone)]
pub(crate) struct GateRecorder {
    breaker: Gauge,
    /// How many of its bindings.
    pub(crate) paused: Gauge,
    pub(crate) quarantined: Gauge,
    letters: Gauge,
}

impl GateMetrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "busway_breaker_state",
            "A plugin's breaker on this host: 0 closed, 1 half-open, 2 open",
            this.breakers.clone(),
        );
        registry.register(
            "busway_plugin_paused",
            "Bindings of a plugin that an operator paused",
            this.paused.clone(),
        );
        registry.register(
            "busway_plugin_quarantined",
            "Bindings of a plugin that this host does not run because its version killed the host",
            this.quarantined.clone(),
        );
        registry.register("busway_alarm", "Plugins for which the alarm is on", this.alarms.clone());
        this
    }

    pub(crate) fn plugin(&self, plugin: &PluginName) -> GateRecorder {
        let labels = PluginLabels { plugin: plugin.as_str().to_owned() };
        GateRecorder {
            breaker: self.breakers.get_or_create_owned(&labels),
            paused: self.paused.get_or_create_owned(&labels),
            quarantined: self.quarantined.get_or_create_owned(&labels),
            letters: self.alarms.get_or_create_owned(&AlarmLabels { alarm: "dead-letters-unavailable" }),
        }
    }
}

impl GateRecorder {
    pub(crate) fn breaker(&self, state: State) {
        self.breaker.set(match state {
            State::Closed => 0,
            State::HalfOpen { .. } => 1,
            State::Open { .. } => 2,
        });
    }

    pub(crate) fn alarm_on(&self) {
        self.letters.inc();
    }

    pub(crate) fn alarm_off(&self) {
        self.letters.dec();
    }
}
