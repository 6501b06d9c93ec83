//! NATS JetStream.
//!
//! Reading order: [`config`], [`connect`] and what they need make the four connections; [`topology`] and
//! [`own_streams`] make the streams,
//! [`consumer`] a binding's durable consumer, from its [`checkpoint`] if need be; [`active`] which host may pull from an
//! ordered one; [`opening`], [`pull`] and [`source`] bring its events, [`recorded`] tells which of them ran before, [`pause`] holds them back, [`delivery`] turns
//! messages into them, [`malformed`] finds those that can't be received; [`settle`], [`attempts`] and [`seen`] end them,
//! [`publish`], [`batch`], [`captures`] and [`dead_letters`] store what comes of them, [`kept`]
//! reads it back for an audit, [`history`] and [`whereabouts`] tell of one event. [`plain`] is all of that for subjects that no
//! stream holds. [`embedded`] runs a private broker. [`api`], [`patience`], [`version`] and [`wire`] lie
//! under all.

mod config;
mod connect;
mod features;
mod greeting;
mod options;
mod refusal;

mod active;
mod checkpoint;
mod consumer;
mod own_streams;
mod topology;

mod opening;
mod pause;
mod pull;
mod recorded;
mod returned;
mod source;

mod delivery;
mod malformed;

mod attempts;
mod seen;
mod settle;

mod batch;
mod captures;
mod copies;
mod dead_letters;
mod due;
mod fit;
mod kept;
mod publish;

mod history;
mod whereabouts;

mod plain;

mod embedded;
mod survey;

mod api;
mod backoff;
mod patience;
mod version;
mod wire;

pub use api::ApiError;
pub use config::{Auth, ClientCertificate, Handshake, NatsConfig, Secret, Tls};
pub use connect::{LineHealth, Role, check_files};
pub use consumer::{ACK_WAIT, ConsumerSettings, OpenError};
pub use dead_letters::{
    DeadLetters, Imported, LetterError, LetterFilter, LetterPage, RedriveError, StoredLetter,
};
pub use due::Due;
pub use embedded::{Embedded, EmbeddedError, SYNC_INTERVAL};
pub use features::Features;
pub use fit::HEADERS_OBJECT;
pub use history::{Account, HistoryError, HistoryReader, HistoryWriter};
pub use kept::{KeptConsumer, KeptError, KeptMessage, KeptReader, KeptStream};
pub use opening::{SourceCounters, SourceStatus};
pub use own_streams::{
    ADVISORIES_STREAM, AGAIN_STREAM, ATTEMPTS_BUCKET, CHECKPOINTS_BUCKET, DEAD_LETTER_STREAM, HISTORY_STREAM,
    HistorySettings, LEASES_BUCKET, OwnStreams, PAYLOADS_BUCKET,
};
pub use pause::{ConsumerState, PauseError, ServerPause};
pub use plain::NatsRequest;
pub use publish::{Durability, NatsPublish, OneMessage, Published};
pub use refusal::ConnectError;
pub use returned::ReturnedSource;
pub use seen::SEEN_BUCKET;
pub use settle::NatsSettle;
pub use source::NatsSource;
pub use survey::{BatchCost, ConsumerFinding, StreamFinding};
pub use topology::{
    Batches, Difference, Discard, Ensured, Ownership, Retention, Storage, StreamSpec, TopologyError,
};
pub use whereabouts::{
    ConsumerView, FailedRunsOf, LetterOf, Standing, StoredEvent, Whereabouts, WhereaboutsError,
};

use active::ActiveLease;
use busway_core::{
    Binding, EventId, HistoryEntry, PluginName, Settle, Source, SubjectFilter,
    binding::{CoreBuffer, Subscription},
    port::{BoxFuture, PublishError},
};
use captures::Captures;
use connect::Line;
use consumer::Spec;
use futures_util::future::join_all;
use malformed::GivenOut;
use opening::Shared;
use patience::until_answered;
use plain::{CoreSettle, CoreSource, Inputs, Service, Surroundings};
use recorded::Recorded;
use returned::Objects;
use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};
use tokio::sync::{OnceCell, mpsc, watch};
use tracing::debug;

/// How long giving back the leases of ordered consumers may take.
const GIVE_BACK_WAIT: Duration = Duration::from_secs(2);

/// A broker, reached over three connections, and a fourth one for plain subjects where they are used.
#[derive(Debug)]
pub struct Nats {
    config: Arc<NatsConfig>,
    pulls: Arc<Line>,
    control: Arc<Line>,
    egress: Arc<Line>,
    captures: Arc<Captures>,
    core: OnceCell<Arc<Line>>,
    inputs: Arc<Inputs>,
    /// The plugins that show up as micro services.
    services: Mutex<HashMap<PluginName, Arc<Service>>>,
    /// To be given back at the end.
    leases: Mutex<Vec<Arc<ActiveLease>>>,
}

/// A binding that is open: where its events come from and how they are settled.
pub struct OpenBinding {
    /// The events.
    pub source: Box<dyn Source>,
    /// How they are settled.
    pub settle: Arc<dyn Settle>,
    /// Whether the broker has confirmed the subscription, and what is wrong where it has not.
    pub status: watch::Receiver<SourceStatus>,
    /// What the source counts.
    pub counters: Arc<SourceCounters>,
    /// What has to run beside it, where there is something: without it no event of a plain subscription arrives. It may go
    /// on after the source is closed; dropping it loses what comes from then on.
    pub beside: Option<BoxFuture<'static, ()>>,
}

impl Nats {
    /// Connects. Waits as long as the broker can't be reached, and says so in the log once. Cancel safe.
    ///
    /// # Errors
    /// What a second try would not change: see [`ConnectError`].
    pub async fn connect(config: &NatsConfig) -> Result<Self, ConnectError> {
        let config = Arc::new(config.clone());
        // One first, so that trouble is told once.
        let control = Line::connect(Role::Control, Arc::clone(&config)).await?;
        let pulls = Line::connect(Role::Pulls, Arc::clone(&config)).await?;
        let egress = Line::connect(Role::Egress, Arc::clone(&config)).await?;
        Ok(Self {
            config,
            pulls: Arc::new(pulls),
            control: Arc::new(control),
            egress: Arc::new(egress),
            core: OnceCell::new(),
            captures: Arc::default(),
            inputs: Arc::default(),
            services: Mutex::default(),
            leases: Mutex::default(),
        })
    }

    /// The connection for plain subjects, made when it is first needed.
    async fn core(&self) -> Result<Arc<Line>, ConnectError> {
        let line = self.core.get_or_try_init(async || {
            Line::connect(Role::Core, Arc::clone(&self.config)).await.map(Arc::new)
        });
        line.await.cloned()
    }

    /// Makes a stream, or compares the one that is there. Waits as long as JetStream does not answer, and says so in the
    /// log once. Cancel safe.
    ///
    /// # Errors
    /// Differences, line by line: an existing stream is never changed.
    pub async fn ensure_stream(&self, spec: &StreamSpec) -> Result<Ensured, TopologyError> {
        let what = format!("stream {}", spec.name);
        let ensure = || topology::ensure(&self.control, spec);
        until_answered(&self.control, &what, TopologyError::may_pass, ensure).await
    }

    /// Makes the streams that Busway keeps its own records in. Waits as long as JetStream does not answer, and says so in
    /// the log once. Cancel safe.
    ///
    /// # Errors
    /// Where one exists and is not what the host relies on.
    pub async fn ensure_own_streams(&self, own: OwnStreams) -> Result<(), TopologyError> {
        let ensure = || own_streams::ensure(&self.control, own);
        until_answered(&self.control, "Busway's own streams", TopologyError::may_pass, ensure).await
    }

    /// Opens a binding: its durable consumer, if it has one, exists and is as wanted when this returns; the subscription
    /// is confirmed when the status says so. Pulling begins when the source is polled, a plain subscription when what runs
    /// beside it is. Waits as long as JetStream does not answer, and says so in the log once. Cancel safe.
    ///
    /// # Errors
    /// A missing stream, a filter that captures nothing, a consumer that can't be changed in place; subjects that overlap.
    pub async fn open(
        &self,
        binding: &Binding,
        settings: ConsumerSettings,
    ) -> Result<OpenBinding, OpenError> {
        match &binding.subscription {
            Subscription::Core { filters, group, buffer } => {
                self.inputs.add(filters);
                self.open_core(binding, filters, group.as_deref(), *buffer).await
            }
            Subscription::Stream { filters, .. } => {
                self.inputs.add(filters);
                self.open_stream(binding, settings).await
            }
            Subscription::Returned => self.open_stream(binding, settings).await,
        }
    }

    async fn open_core(
        &self,
        binding: &Binding,
        filters: &[SubjectFilter],
        group: Option<&str>,
        buffer: CoreBuffer,
    ) -> Result<OpenBinding, OpenError> {
        let line = self.core().await?;
        let service = self.service(&binding.plugin);
        let around = Surroundings {
            line: Arc::clone(&line),
            inputs: Arc::clone(&self.inputs),
            service: Arc::clone(&service),
        };
        let shared = plain::open(binding, filters, group, buffer, around)?;
        let (status, counters) = (shared.status(), shared.counters());
        let pump = plain::pump(Arc::clone(&shared));
        // One binding of each plugin answers for all of them.
        let beside: BoxFuture<'static, ()> = if service.is_answered_for() {
            Box::pin(pump)
        } else {
            Box::pin(async {
                tokio::join!(pump, plain::respond(service, line));
            })
        };
        let source = Box::new(CoreSource::new(Arc::clone(&shared)));
        let settle = Arc::new(CoreSettle::new(shared));
        Ok(OpenBinding { source, settle, status, counters, beside: Some(beside) })
    }

    fn service(&self, plugin: &PluginName) -> Arc<Service> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let service = services.entry(plugin.clone()).or_insert_with(|| Arc::new(Service::new(plugin)));
        Arc::clone(service)
    }

    /// Watches for which plugins something has come back.
    pub fn due(&self) -> Due {
        Due { control: Arc::clone(&self.control), seen: 0 }
    }

    /// Tells what version of a plugin runs and more about it, for those who ask the micro service that it is.
    pub fn describe_service(&self, plugin: &PluginName, version: Option<&str>, metadata: &[(&str, String)]) {
        self.service(plugin).describe(version, metadata);
    }

    /// What plugins ask other services through.
    ///
    /// # Errors
    /// See [`Nats::connect`].
    pub async fn requests(&self) -> Result<Arc<NatsRequest>, ConnectError> {
        Ok(Arc::new(NatsRequest::new(self.core().await?, Arc::clone(&self.control))))
    }

    async fn open_stream(
        &self,
        binding: &Binding,
        settings: ConsumerSettings,
    ) -> Result<OpenBinding, OpenError> {
        let spec = Spec::of(binding, settings)?;
        let ensure = async || {
            if binding.dedup.is_some() {
                seen::check(&self.control, &binding.durable()).await?;
            }
            spec.ensure(&self.control, None).await
        };
        let confirmed =
            until_answered(&self.control, &binding.durable(), OpenError::may_pass, ensure).await?;
        let (status, watched) = watch::channel(SourceStatus::Opening);
        let given_out = Arc::new(GivenOut::default());
        let objects = Arc::new(Objects::default());
        let counters = Arc::new(SourceCounters::default());
        let active = spec
            .ordered
            .then(|| Arc::new(ActiveLease::of(Arc::clone(&self.control), &spec, self.control.host())));
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).extend(active.clone());
        let settle = NatsSettle {
            control: Arc::clone(&self.control),
            client: self.control.client(),
            spec: spec.clone(),
            plugin: binding.plugin.clone(),
            policy: binding.ack,
            given_out: Arc::clone(&given_out),
            active: active.clone(),
            egress: Arc::clone(&self.egress),
            objects: Arc::clone(&objects),
        };
        let recorded = match binding.subscription {
            Subscription::Returned => Recorded::always_read(),
            _ => Recorded::of(&binding.plugin),
        };
        let source = NatsSource::new(Arc::new(Shared {
            spec,
            origin: confirmed.origin,
            pulls: Arc::clone(&self.pulls),
            control: Arc::clone(&self.control),
            given_out,
            status,
            counters: Arc::clone(&counters),
            ack_floor: AtomicU64::new(confirmed.info.ack_floor.stream_sequence),
            active,
            recorded: Arc::new(recorded),
        }));
        let source: Box<dyn Source> = match binding.subscription {
            Subscription::Returned => {
                Box::new(ReturnedSource::new(source, Arc::clone(&self.control), objects))
            }
            _ => Box::new(source),
        };
        let settle = Arc::new(settle);
        Ok(OpenBinding { source, settle, status: watched, counters, beside: None })
    }

    /// Where one plugin's outputs and dead letters go; at most 256 of them are under way at once.
    pub fn publisher(&self) -> NatsPublish {
        NatsPublish::new(Arc::clone(&self.egress), Arc::clone(&self.control), Arc::clone(&self.captures))
    }

    /// Publishes one message for an operator.
    ///
    /// # Errors
    /// Among others [`PublishError::NoStream`] for a durable message whose subject no stream captures.
    pub async fn publish_one(
        &self,
        message: &OneMessage,
        durability: Durability,
    ) -> Result<Published, PublishError> {
        publish::one(&self.egress, &self.control, message, durability).await
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters { control: Arc::clone(&self.control), egress: Arc::clone(&self.egress) }
    }

    /// What the broker keeps, for an audit.
    pub fn kept(&self) -> KeptReader {
        KeptReader { control: Arc::clone(&self.control) }
    }

    /// Stores the account of attempts that comes out of a queue; `not_stored` is told how many records were lost.
    pub fn history_writer(
        &self,
        entries: mpsc::Receiver<HistoryEntry>,
        not_stored: impl Fn(u64) + Send + Sync + 'static,
    ) -> HistoryWriter {
        HistoryWriter::new(Arc::clone(&self.egress), Arc::clone(&self.control), entries, not_stored)
    }

    /// The account of attempts.
    pub fn history(&self) -> HistoryReader {
        HistoryReader { control: Arc::clone(&self.control) }
    }

    /// What the broker knows of a sequence in a stream.
    ///
    /// # Errors
    /// No such stream, a sequence that it has not reached.
    pub async fn whereabouts(&self, stream: &str, sequence: u64) -> Result<Whereabouts, WhereaboutsError> {
        whereabouts::look(&self.control, stream, sequence).await
    }

    /// The dead letters of an event, oldest first; none where there is no stream of them.
    ///
    /// # Errors
    /// No good answer of JetStream's.
    pub async fn letters_of(&self, event: &EventId) -> Result<Vec<LetterOf>, ApiError> {
        whereabouts::letters(&self.control, event).await
    }

    /// The failed runs that are recorded of an event.
    ///
    /// # Errors
    /// No good answer of JetStream's.
    pub async fn failed_runs_of(&self, event: &EventId) -> Result<Vec<FailedRunsOf>, ApiError> {
        whereabouts::failed_runs(&self.control, event).await
    }

    /// How one of the connections is, and every change of that.
    pub fn health(&self, role: Role) -> watch::Receiver<LineHealth> {
        match role {
            Role::Pulls => self.pulls.health(),
            Role::Control => self.control.health(),
            Role::Egress => self.egress.health(),
            Role::Core => match self.core.get() {
                Some(line) => line.health(),
                // Nobody needs it, so nobody misses it.
                None => watch::channel(LineHealth { connected: true, ..LineHealth::default() }).1,
            },
        }
    }

    /// Whether all connections are up.
    pub fn is_connected(&self) -> bool {
        Role::ALL.into_iter().all(|role| self.health(role).borrow().connected)
    }

    /// The version that the broker says it is.
    pub fn server_version(&self) -> String {
        self.control.client().server_info().version
    }

    /// What the broker can do beyond what every accepted one can, by its version.
    pub fn offers(&self) -> Features {
        Features::of(&self.server_version())
    }

    /// The most bytes that a message may have, headers included.
    pub fn max_payload(&self) -> usize {
        self.egress.client().max_payload()
    }

    /// Lets the next host take over ordered consumers, sends what waits to be sent and closes the connections. To be called
    /// when the sources are dropped and every handler is done; takes no longer than about 10 s.
    pub async fn close(&self) {
        let leases = mem::take(&mut *self.leases.lock().unwrap_or_else(PoisonError::into_inner));
        let given_back = join_all(leases.iter().map(|lease| lease.give_back()));
        if tokio::time::timeout(GIVE_BACK_WAIT, given_back).await.is_err() {
            debug!("not every lease was given back; the next host waits until they have lapsed");
        }
        for line in [&self.egress, &self.control, &self.pulls].into_iter().chain(self.core.get()) {
            line.close().await;
        }
    }
}
