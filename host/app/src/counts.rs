//! What the subscriptions and connections count, for the metrics: read when somebody asks for them.
//!
//! The transport counts in plain numbers and knows no metrics; the path's own metrics are in the dispatcher.

use busway_core::PluginName;
use busway_transport::{
    Nats,
    nats::{Role, SourceCounters},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};
use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The counters of a host; clones share them. Empty until the host is up.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<OnceLock<Counted>>);

#[derive(Debug)]
struct Counted {
    nats: Arc<Nats>,
    sources: Vec<(PluginName, Arc<SourceCounters>)>,
}

impl Counts {
    /// What is counted from now on. Only the first call counts.
    pub fn begin(&self, nats: Arc<Nats>, sources: Vec<(PluginName, Arc<SourceCounters>)>) {
        self.0.get_or_init(|| Counted { nats, sources });
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(counted) = self.0.get() else { return Ok(()) };
        let by_plugin = |counter: fn(&SourceCounters) -> &AtomicU64| {
            // A plugin with several subscriptions is one line.
            let mut sums = std::collections::BTreeMap::<&str, u64>::new();
            for (plugin, counters) in &counted.sources {
                *sums.entry(plugin.as_str()).or_default() += counter(counters).load(Ordering::Relaxed);
            }
            sums.into_iter().collect::<Vec<_>>()
        };
        family(
            &mut encoder,
            ("busway_events_shed", "Events of plain subjects that were dropped", "plugin"),
            &by_plugin(|counters| &counters.shed),
        )?;
        family(
            &mut encoder,
            ("busway_replies_denied", "Events that ask for an answer where none may go", "plugin"),
            &by_plugin(|counters| &counters.replies_denied),
        )?;
        let health = |role: Role| *counted.nats.health(role).borrow();
        let by_role = |counter: fn(busway_transport::nats::LineHealth) -> u64| {
            Role::ALL.map(|role| (role.name(), counter(health(role))))
        };
        family(
            &mut encoder,
            ("busway_connections_lost", "How often a connection to the broker was lost", "connection"),
            &by_role(|health| health.disconnects),
        )?;
        family(
            &mut encoder,
            (
                "busway_client_drops",
                "Messages that the client library dropped because nobody took them in time",
                "connection",
            ),
            &by_role(|health| health.slow_consumer_drops),
        )
    }
}

/// One counter for each value of one label.
fn family(
    encoder: &mut DescriptorEncoder,
    (name, help, label): (&str, &str, &'static str),
    values: &[(&str, u64)],
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, count) in values {
        ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text::encode, registry::Registry};

    #[test]
    fn a_host_that_is_not_up_counts_nothing() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Counts::default()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert_eq!(text, "# EOF\n");
    }
}
