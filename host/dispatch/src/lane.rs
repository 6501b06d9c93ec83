//! A lane: everything that one binding's events need on their way. Built once, shared by the binding's workers.

use crate::{
    clock::Clock,
    gate::{Gate, Gates, Pause},
    history::History,
    journal::{Journal, Suspect},
    lease::Leases,
    record::{LaneRecorder, Recorder},
    slots::HostSlots,
};
use busway_core::{Binding, Digest, Handler, Publish, Receipt, Settle, history::Runner};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What all lanes of one host share.
#[derive(Debug, Clone)]
pub struct Host {
    /// The host's name in dead letters and attempt records.
    pub name: String,
    /// What time it is.
    pub clock: Clock,
    /// Attempts that run at once on this host, over all plugins. Default 64.
    pub slots: HostSlots,
    /// Cancelled when the host begins to shut down: nothing new is run.
    pub draining: CancellationToken,
    /// Where its attempts are told; none: nowhere.
    pub history: Option<History>,
    /// The breakers of its plugins.
    pub gates: Gates,
    /// Which events were in guests when it died. None: it will not know.
    pub journal: Option<Arc<Journal>>,
}

impl Host {
    /// A host with so many slots.
    pub fn new(name: impl Into<String>, slots: u32) -> Self {
        Self {
            name: name.into(),
            clock: Clock::System,
            slots: HostSlots::new(slots),
            draining: CancellationToken::new(),
            history: None,
            gates: Gates::default(),
            journal: None,
        }
    }
}

/// What a lane is made of.
pub struct LaneParts {
    /// Plugin, subscription and policy.
    pub binding: Binding,
    /// The digest of the plugin's bytes, for the evidence.
    pub digest: Digest,
    /// The sandboxed plugin.
    pub handler: Arc<dyn Handler>,
    /// How its deliveries are settled.
    pub settle: Arc<dyn Settle>,
    /// Where its outputs and dead letters go.
    pub publish: Arc<dyn Publish>,
    /// How long the broker waits for word of a delivery before it gives it to another host.
    pub ack_wait: Duration,
    /// Settled events that are remembered, so that a copy of one is settled without another run. Default [`SETTLED_MAX`].
    ///
    /// [`SETTLED_MAX`]: crate::SETTLED_MAX
    pub settled_max: usize,
}

/// One binding at work.
pub struct Lane {
    pub(crate) binding: Binding,
    pub(crate) digest: Digest,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) settle: Arc<dyn Settle>,
    pub(crate) publish: Arc<dyn Publish>,
    pub(crate) leases: Leases,
    pub(crate) host: Host,
    pub(crate) record: LaneRecorder,
    /// Who runs this lane's attempts.
    pub(crate) runner: Arc<Runner>,
    /// The plugin's breaker, shared by its bindings.
    pub(crate) gate: Arc<Gate>,
    /// Why nothing of this binding runs, whatever the breaker says.
    pub(crate) pause: watch::Sender<Option<Pause>>,
    durable: String,
    /// Cancelled when the intake takes nothing more from the broker.
    pub(crate) intake_ended: CancellationToken,
}

impl Lane {
    /// A lane of this host.
    pub fn new(parts: LaneParts, host: Host, recorder: &Recorder) -> Arc<Self> {
        let LaneParts { binding, digest, handler, settle, publish, ack_wait, settled_max } = parts;
        let record = recorder.lane(&binding);
        let runner = Arc::new(Runner {
            plugin: binding.plugin.clone(),
            consumer: binding.durable(),
            version: version(&digest),
            host: host.name.clone(),
        });
        let gate = host.gates.of(&binding, recorder.gates());
        let (pause, durable) = (watch::Sender::new(None), binding.durable());
        let intake_ended = CancellationToken::new();
        Arc::new(Self {
            leases: Leases::new(ack_wait, settled_max),
            binding,
            digest,
            handler,
            settle,
            publish,
            host,
            record,
            runner,
            gate,
            pause,
            durable,
            intake_ended,
        })
    }

    /// The plugin, subscription and policy.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// An event of this binding, as the journal knows it.
    pub(crate) fn suspect<'a>(&'a self, receipt: &'a Receipt) -> Suspect<'a> {
        let position = receipt.position.as_ref();
        Suspect {
            plugin: &self.binding.plugin,
            digest: &self.digest,
            event: &receipt.event_id,
            durable: &self.durable,
            stream: position.map_or("", |position| &position.stream),
            sequence: position.map_or(0, |position| position.sequence),
        }
    }

    /// Whether the event is still this host's: the broker leaves it here, and no other host has taken over the consumer.
    pub(crate) fn holds(&self, receipt: &Receipt) -> bool {
        self.settle.is_active() && self.leases.is_valid(receipt)
    }

    /// Which version of the plugin runs.
    pub(crate) fn version(&self) -> String {
        self.runner.version.clone()
    }

    /// Deliveries that this host holds for the binding and has not settled yet.
    pub fn unsettled(&self) -> usize {
        self.leases.held()
    }
}

/// The first twelve hexadecimal digits of a digest.
fn version(digest: &Digest) -> String {
    digest.to_string().trim_start_matches("sha256:").chars().take(12).collect()
}
