//! Puts the host together, in the order of an event's path, and takes it apart again.
//!
//! Plugins are loaded before anything else is touched: a configuration that can't work disturbs no broker and no host
//! that is running. Then what the last host left behind, the admin listener, the broker, the streams, and last the bindings.

use crate::{
    Exit,
    admin::{self, Status},
    broker::Broker,
    config::{
        self, Config, PluginConfig, StreamConfig,
        checked::{Batches, Discard, Retention, Storage},
    },
    counts::Counts,
    health::{self, Past},
    plugins::{self, Ready},
    quarantine::Quarantine,
    returned::{self, Returned},
    shutdown::Signals,
};
use anyhow::Context as _;
use busway_core::{Binding, PluginName, binding::Subscription};
use busway_dispatch::{Drained, Host, Intake, Lane, LaneParts, Pause, Recorder, SETTLED_MAX, Supervisor};
use busway_transport::{
    ConsumerSettings, Ensured, Nats, NatsConfig, OwnStreams, SourceStatus, StreamSpec,
    nats::{
        Batches as NatsBatches, Discard as NatsDiscard, HistorySettings, Ownership,
        Retention as NatsRetention, SourceCounters, Storage as NatsStorage,
    },
};
use prometheus_client::registry::Registry;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch};
use tracing::{info, warn};

/// Bytes of the largest message before the broker has told its own limit: the broker's default.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;
/// How often readiness is looked at.
const READINESS_INTERVAL: Duration = Duration::from_millis(200);

/// How long the last records of the history may take to be stored when the host stops.
const HISTORY_PATIENCE: Duration = Duration::from_secs(2);

/// A host at work.
struct Running {
    nats: Arc<Nats>,
    lanes: Vec<Arc<Lane>>,
    subscriptions: Vec<(String, watch::Receiver<SourceStatus>)>,
    sources: Vec<(PluginName, Arc<SourceCounters>)>,
    quarantine: Quarantine,
    returned: Returned,
}

impl Running {
    /// Those of what comes back included.
    fn all_lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.iter().cloned().chain(self.returned.lanes()).collect()
    }
}

/// Runs a host until it is told to stop.
///
/// # Errors
/// A configuration with mistakes, an address that can't be bound, a broker that refuses.
pub async fn run(file: &Path, guest: Handle) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen().context("signals can't be listened to")?;
    let (config, mistakes) = config::read(file);
    let engine = plugins::engine(&config)?;
    let ready = plugins::load_all(&engine, &config, mistakes, PAYLOAD_BYTES_MAX).await?;
    for plugin in &ready {
        tell(plugin);
    }
    let (past, _stopping) = Past::look_into(&config)?;
    let mut registry = Registry::default();
    let recorder = Recorder::new(&mut registry);
    let counts = Counts::default();
    registry.register_collector(Box::new(counts.clone()));
    let status = Status::starting(registry);
    let listener = admin::bind(config.admin.listen, status.clone());
    let listener =
        listener.await.with_context(|| format!("admin.listen: {} can't be bound", config.admin.listen))?;
    let supervisor = Supervisor::new(Handle::current(), guest);
    supervisor.control("admin listener".to_owned(), async {
        if let Err(why) = listener.await {
            warn!(%why, "the admin listener ended");
        }
    });

    let mut broker = tokio::select! {
        broker = Broker::start(&config) => broker?,
        signal = signals.next() => return Ok(stopped_early(signal)),
    };
    let (history, entries) = recorder.history();
    let mut host = Host::new(host_name(&config), config.host.concurrency);
    host.history = config.history.enabled.then_some(history);
    host.journal.clone_from(&past.journal);
    let settings = broker.settings().clone();
    let started = tokio::select! {
        started = start(&config, &ready, past.quarantine, &settings, (&host, &recorder, &supervisor)) => started,
        signal = signals.next() => {
            broker.stop().await;
            return Ok(stopped_early(signal));
        }
        gone = broker.gone() => Err(gone),
    };
    let running = match started {
        Ok(running) => running,
        Err(why) => {
            broker.stop().await;
            return Err(why);
        }
    };
    let writer = Arc::new(running.nats.history_writer(entries, recorder.history_not_stored()));
    supervisor.control("history".to_owned(), {
        let writer = Arc::clone(&writer);
        async move { writer.run().await }
    });
    counts.begin(Arc::clone(&running.nats), running.sources.clone());
    supervisor.control("readiness".to_owned(), watch_readiness(&running, status.clone()));
    let exit = serve(&config, &running, &supervisor, &status, (&mut signals, &mut broker)).await;
    writer.finish(HISTORY_PATIENCE).await;
    running.nats.close().await;
    broker.stop().await;
    exit
}

fn stopped_early(signal: &str) -> Exit {
    info!(signal, "stopped before the host was up");
    Exit::Ok
}

/// Serves until a signal, then drains; a second signal ends the wait.
async fn serve(
    config: &Config,
    running: &Running,
    supervisor: &Supervisor,
    status: &Status,
    (signals, broker): (&mut Signals, &mut Broker),
) -> anyhow::Result<Exit> {
    let signal = tokio::select! {
        signal = signals.next() => signal,
        gone = broker.gone() => return Err(gone),
    };
    let patience = config.host.drain;
    status.drain();
    info!(
        signal,
        patience_ms = patience.as_millis() as u64,
        "draining: what runs may finish, nothing new begins"
    );
    let lanes = running.all_lanes();
    let drained = tokio::select! {
        drained = supervisor.drain(&lanes, patience) => drained,
        signal = signals.next() => {
            let events: usize = lanes.iter().map(|lane| lane.unsettled()).sum();
            warn!(signal, events, "ended at once; the broker will give the events again");
            return Ok(if events == 0 { Exit::Ok } else { Exit::Abandoned });
        }
    };
    match drained {
        Drained::Clean => {
            info!("stopped; nothing was left running");
            Ok(Exit::Ok)
        }
        Drained::Abandoned(events) => {
            warn!(events, "stopped with events still running; they were given back to the broker");
            Ok(Exit::Abandoned)
        }
    }
}

/// Connects, makes or verifies the streams, and opens every binding.
async fn start(
    config: &Config,
    ready: &[Ready<'_>],
    quarantine: Quarantine,
    settings: &NatsConfig,
    (host, recorder, supervisor): (&Host, &Recorder, &Supervisor),
) -> anyhow::Result<Running> {
    let nats = Arc::new(Nats::connect(settings).await.context("the broker can't be used")?);
    info!(server = nats.server_version(), "connected");
    nats.ensure_own_streams(own_streams(config)).await?;
    for stream in &config.streams {
        if nats.ensure_stream(&spec(stream)).await? == Ensured::Created {
            info!(stream = stream.name.value, "stream made");
        }
    }
    let (lanes, subscriptions, sources) = (Vec::new(), Vec::new(), Vec::new());
    let returned = Returned::default();
    let mut running = Running { nats, lanes, subscriptions, sources, quarantine, returned };
    for plugin in ready {
        plugin.plugin.set_payload_bytes_max(running.nats.max_payload() as u64);
        if plugin.plugin.may_request() {
            plugin.plugin.set_requests(running.nats.requests().await?);
        }
        for mut binding in bindings(plugin.config) {
            if !running.nats.offers().schedules || returned::one_dedup(plugin.config).is_none() {
                binding.park_after = Duration::MAX;
            }
            open(&mut running, plugin, binding, config.host.ack_wait, (host, recorder, supervisor)).await?;
        }
    }
    for lane in &running.lanes {
        let name = format!("{}: health", lane.binding().durable());
        supervisor.control(name, health::keep(Arc::clone(&running.nats), Arc::clone(lane)));
    }
    let others = (&*running.lanes, config.host.ack_wait);
    running.returned.watch(&running.nats, ready, others, (host, recorder, supervisor));
    Ok(running)
}

/// The streams of Busway's own as the configuration wants them.
pub(crate) fn own_streams(config: &Config) -> OwnStreams {
    let config::checked::History { enabled, max_age, max_bytes } = config.history;
    let history = HistorySettings { enabled, max_age, max_bytes };
    OwnStreams { dead_letter_bytes: config.dead_letters_max, replicas: config.host.replicas, history }
}

async fn open(
    running: &mut Running,
    ready: &Ready<'_>,
    binding: Binding,
    ack_wait: Duration,
    (host, recorder, supervisor): (&Host, &Recorder, &Supervisor),
) -> anyhow::Result<()> {
    let name = binding.durable();
    if matches!(binding.subscription, Subscription::Core { .. }) {
        describe(&running.nats, ready, &host.name);
    }
    let opened = running.nats.open(&binding, ConsumerSettings { ack_wait }).await;
    let opened =
        opened.with_context(|| format!("plugin {}: its subscription can't be opened", binding.plugin))?;
    let parts = LaneParts {
        binding,
        digest: *ready.plugin.digest(),
        handler: Arc::clone(&ready.plugin) as _,
        settle: opened.settle,
        publish: Arc::new(running.nats.publisher()),
        ack_wait,
        settled_max: SETTLED_MAX,
    };
    let source = opened.source;
    #[cfg(feature = "failpoints")]
    let (parts, source) = crate::failpoints::plant(parts, source)?;
    let lane = Lane::new(parts, host.clone(), recorder);
    if let Some(beside) = opened.beside {
        supervisor.control(format!("{name}: plain subjects"), beside);
    }
    running.sources.push((lane.binding().plugin.clone(), opened.counters));
    if running.quarantine.holds(ready.plugin.digest()) {
        lane.pause(Pause::Quarantined);
    }
    Intake::start(Arc::clone(&lane), source, supervisor);
    running.lanes.push(lane);
    running.subscriptions.push((name, opened.status));
    Ok(())
}

/// What a plugin on plain subjects says of itself where it shows up as a micro service.
fn describe(nats: &Nats, ready: &Ready<'_>, host: &str) {
    let version = ready.plugin.manifest().map(|manifest| manifest.version.as_str());
    let metadata = [("digest", ready.plugin.digest().to_string()), ("host", host.to_owned())];
    nats.describe_service(&ready.config.name.value, version, &metadata);
}

/// Every binding that has a durable consumer.
pub fn stream_bindings(config: &Config) -> Vec<Binding> {
    let all = config.plugins.iter().flat_map(bindings);
    all.filter(|binding| matches!(binding.subscription, Subscription::Stream { .. })).collect()
}

/// A plugin's bindings, in the order of the file.
pub fn bindings(plugin: &PluginConfig) -> Vec<Binding> {
    let binding = |entry: &config::Subscribe| Binding {
        name: entry.name.clone(),
        limits: plugin.limits,
        retry: plugin.retry.clone(),
        ack: plugin.ack,
        ordering: entry.ordering.clone(),
        dedup: entry.dedup.clone(),
        breaker: plugin.breaker,
        park_after: plugin.park_after,
        ..Binding::new(plugin.name.value.clone(), entry.subscription())
    };
    plugin.subscribe.iter().map(binding).collect()
}

/// A stream as the configuration wants it.
pub fn spec(stream: &StreamConfig) -> StreamSpec {
    StreamSpec {
        name: stream.name.value.clone(),
        subjects: stream.subjects.iter().map(|subject| subject.value.clone()).collect(),
        retention: match stream.retention {
            Retention::Limits => NatsRetention::Limits,
            Retention::WorkQueue => NatsRetention::WorkQueue,
            Retention::Interest => NatsRetention::Interest,
        },
        storage: match stream.storage {
            Storage::File => NatsStorage::File,
            Storage::Memory => NatsStorage::Memory,
        },
        max_bytes: stream.max_bytes,
        max_messages: stream.max_messages.map(u64::from),
        max_age: stream.max_age,
        duplicate_window: stream.duplicate_window,
        replicas: u8::try_from(stream.replicas).unwrap_or(1),
        discard: match stream.discard {
            Discard::Old => NatsDiscard::Old,
            Discard::New => NatsDiscard::New,
        },
        ownership: if stream.managed { Ownership::Managed } else { Ownership::Verified },
        batches: match stream.batches {
            Batches::WhereCheap => NatsBatches::WhereCheap,
            Batches::Always => NatsBatches::Always,
            Batches::Never => NatsBatches::Never,
        },
    }
}

/// Tells the admin listener which subscriptions the server has not confirmed, for as long as the host runs.
fn watch_readiness(running: &Running, status: Status) -> impl Future<Output = ()> + Send + 'static {
    let subscriptions = running.subscriptions.clone();
    let nats = Arc::clone(&running.nats);
    let lanes = running.lanes.clone();
    async move {
        let mut ticks = tokio::time::interval(READINESS_INTERVAL);
        let mut was_ready = false;
        loop {
            ticks.tick().await;
            let mut missing: Vec<_> = subscriptions.iter().filter_map(unconfirmed).collect();
            if !nats.is_connected() {
                missing.push("no connection to the broker".to_owned());
            }
            let is_ready = missing.is_empty();
            if is_ready != was_ready {
                match missing.first() {
                    None => info!(subscriptions = subscriptions.len(), "ready"),
                    Some(first) => warn!(first, "not ready any more"),
                }
                was_ready = is_ready;
            }
            status.set_missing(missing);
            status.set_notes(lanes.iter().filter_map(|lane| health::note(lane)).collect());
        }
    }
}

fn unconfirmed((name, status): &(String, watch::Receiver<SourceStatus>)) -> Option<String> {
    match &*status.borrow() {
        // A host that stands by is as ready as it can be: the one that it waits for may be waiting for it to be.
        SourceStatus::Confirmed | SourceStatus::StandBy(_) => None,
        SourceStatus::Opening => Some(format!("{name}: the server has not confirmed the subscription yet")),
        SourceStatus::Trouble(why) => Some(format!("{name}: {why}")),
        SourceStatus::Stopped(why) => Some(format!("{name}: stopped: {why}")),
    }
}

fn tell(ready: &Ready<'_>) {
    let plugin = &ready.config.name.value;
    info!(%plugin, digest = %ready.plugin.digest(), "plugin loaded");
    for warning in &ready.warnings {
        warn!(%plugin, warning);
    }
}

/// The configured name, else the machine's and the process's.
fn host_name(config: &Config) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = if machine.trim().is_empty() { "host" } else { machine.trim() };
    config.host.name.clone().unwrap_or_else(|| format!("{machine}-{}", std::process::id()))
}
