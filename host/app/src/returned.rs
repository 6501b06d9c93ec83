//! What comes back to one plugin alone: parked and redriven events.
//!
//! Each plugin has a consumer of its own on the stream of copies, made when the first copy for it is due: a thousand plugins
//! to which nothing ever comes back cost one request every two seconds in all. It has a lane of its own too, so that what
//! comes back waits neither behind new events nor before them, and shares the plugin's breaker with the others.

use crate::{config::PluginConfig, health, plugins::Ready};
use busway_core::{
    Binding, PluginName,
    binding::{InputDedup, Subscription},
};
use busway_dispatch::{Host, Intake, Lane, LaneParts, Recorder, SETTLED_MAX, Supervisor};
use busway_engine::Plugin;
use busway_transport::{ConsumerSettings, Nats, OpenBinding, nats::Due};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

/// How often the stream of copies is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The lanes of what comes back; more come as they are needed.
#[derive(Clone, Default)]
pub struct Returned(Arc<Mutex<Vec<Arc<Lane>>>>);

/// How a plugin recognises repeated inputs, where all of its subscriptions do it alike. None where they differ: what comes
/// back would not know which of them it came by, so nothing is parked then.
pub fn one_dedup(plugin: &PluginConfig) -> Option<Option<&InputDedup>> {
    let mut entries = plugin.subscribe.iter().map(|entry| entry.dedup.as_ref());
    let first = entries.next()?;
    entries.all(|other| other == first).then_some(first)
}

/// A plugin to which something may come back.
struct Waiting {
    plugin: Arc<Plugin>,
    binding: Binding,
}

/// Opens plugins' lanes as they are needed.
struct Opener {
    nats: Arc<Nats>,
    host: Host,
    recorder: Recorder,
    supervisor: Supervisor,
    ack_wait: Duration,
    lanes: Vec<Arc<Lane>>,
    returned: Returned,
}

impl Returned {
    /// The lanes that there are by now.
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches the stream of copies for as long as the host runs. `lanes` are the plugins' others.
    pub fn watch(
        &self,
        nats: &Arc<Nats>,
        ready: &[Ready<'_>],
        (lanes, ack_wait): (&[Arc<Lane>], Duration),
        (host, recorder, supervisor): (&Host, &Recorder, &Supervisor),
    ) {
        let waiting = ready.iter().map(|ready| {
            let plugin = ready.config;
            let binding = Binding {
                limits: plugin.limits,
                retry: plugin.retry.clone(),
                ack: plugin.ack,
                breaker: plugin.breaker,
                park_after: plugin.park_after,
                dedup: one_dedup(plugin).flatten().cloned(),
                ..Binding::new(plugin.name.value.clone(), Subscription::Returned)
            };
            (plugin.name.value.clone(), Waiting { plugin: Arc::clone(&ready.plugin), binding })
        });
        let waiting = waiting.collect();
        let opener = Opener {
            nats: Arc::clone(nats),
            host: host.clone(),
            recorder: recorder.clone(),
            supervisor: supervisor.clone(),
            ack_wait,
            lanes: lanes.to_vec(),
            returned: self.clone(),
        };
        let due = nats.due();
        supervisor.control("what comes back".to_owned(), opener.watch(due, waiting));
    }
}

impl Opener {
    async fn watch(self, mut due: Due, mut waiting: BTreeMap<PluginName, Waiting>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanted = Vec::new();
        while !waiting.is_empty() {
            tokio::select! {
                () = self.host.draining.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match due.look().await {
                Ok(Some(plugins)) => wanted = plugins.into_iter().collect(),
                Ok(None) => {}
                Err(why) => debug!(%why, "the stream of what comes back could not be looked at"),
            }
            for plugin in std::mem::take(&mut wanted) {
                let Some(ready) = waiting.get(&plugin) else { continue };
                if !self.is_paused(&plugin) && self.open(ready).await {
                    waiting.remove(&plugin);
                } else {
                    wanted.push(plugin);
                }
            }
        }
    }

    /// A consumer that is made while its plugin is paused would not be paused itself.
    fn is_paused(&self, plugin: &PluginName) -> bool {
        self.lanes.iter().any(|lane| lane.binding().plugin == *plugin && lane.paused().is_some())
    }

    async fn open(&self, waiting: &Waiting) -> bool {
        let Waiting { plugin, binding } = waiting;
        let settings = ConsumerSettings { ack_wait: self.ack_wait };
        let OpenBinding { source, settle, .. } = match self.nats.open(binding, settings).await {
            Ok(opened) => opened,
            Err(why) => {
                warn!(plugin = %binding.plugin, %why, "what comes back to this plugin can't be opened; trying again");
                return false;
            }
        };
        let parts = LaneParts {
            binding: binding.clone(),
            digest: *plugin.digest(),
            handler: Arc::clone(plugin) as _,
            settle,
            publish: Arc::new(self.nats.publisher()),
            ack_wait: self.ack_wait,
            settled_max: SETTLED_MAX,
        };
        #[cfg(feature = "failpoints")]
        let (parts, source) = match crate::failpoints::plant(parts, source) {
            Ok(planted) => planted,
            Err(why) => {
                warn!(%why, "fail points can't be planted");
                return false;
            }
        };
        let lane = Lane::new(parts, self.host.clone(), &self.recorder);
        Intake::start(Arc::clone(&lane), source, &self.supervisor);
        let name = format!("{}: health of what comes back", binding.durable());
        self.supervisor.control(name, health::keep(Arc::clone(&self.nats), Arc::clone(&lane)));
        self.returned.0.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        info!(plugin = %binding.plugin, "events come back to this plugin: parked or redriven");
        true
    }
}
