//! What can be seen of an order: who is held up, since when, and how often nothing was released.

use super::lines::Blocked;
use crate::record::PluginLabels;
use busway_core::binding::Ordering;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The metrics of all ordered bindings.
#[derive(Clone, Default)]
pub(crate) struct OrderMetrics {
    blocked_since: Family<PluginLabels, Gauge>,
    blocked_keys: Family<PluginLabels, Gauge>,
    waiting: Family<PluginLabels, Gauge>,
    holds: Family<PluginLabels, Counter>,
}

/// One binding's; none where its events are in no order.
pub(crate) struct OrderGauges(Option<Gauges>);

struct Gauges {
    blocked_since: Gauge,
    blocked_keys: Gauge,
    waiting: Gauge,
    holds: Counter,
}

impl OrderMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "busway_order_blocked_since_seconds",
            "When the event that has held up its key for longest failed first, in seconds since the Unix epoch; 0 where none does",
            self.blocked_since.clone(),
        );
        registry.register(
            "busway_order_blocked_keys",
            "Keys whose events wait behind one that failed and is tried again",
            self.blocked_keys.clone(),
        );
        registry.register(
            "busway_order_waiting",
            "Deliveries that wait for an earlier one of their key",
            self.waiting.clone(),
        );
        registry.register(
            "busway_order_holds",
            "How often nothing was released until every unsettled event was here again",
            self.holds.clone(),
        );
    }

    /// A binding's; bindings without order show nothing.
    pub(crate) fn lane(&self, plugin: &str, ordering: &Ordering) -> OrderGauges {
        let labels = PluginLabels { plugin: plugin.to_owned() };
        OrderGauges(ordering.is_ordered().then(|| Gauges {
            blocked_since: self.blocked_since.get_or_create_owned(&labels),
            blocked_keys: self.blocked_keys.get_or_create_owned(&labels),
            waiting: self.waiting.get_or_create_owned(&labels),
            holds: self.holds.get_or_create_owned(&labels),
        }))
    }
}

impl OrderGauges {
    pub(super) fn show(&self, blocked: Blocked, waiting: usize) {
        let Some(gauges) = &self.0 else { return };
        gauges.blocked_since.set((blocked.since_ms.unwrap_or_default() / 1_000) as i64);
        gauges.blocked_keys.set(blocked.lines as i64);
        gauges.waiting.set(waiting as i64);
    }

    pub(super) fn gate_opened(&self) {
        if let Some(gauges) = &self.0 {
            gauges.holds.inc();
        }
    }
}
