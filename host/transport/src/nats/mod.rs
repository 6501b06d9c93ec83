//! NATS JetStream.
//!
//! Reading order: [`config`], [`connect`] and what they need make the three connections; [`topology`] and
//! [`own_streams`] make the streams,
//! [`consumer`] a binding's durable consumer, from its [`checkpoint`] if need be; [`opening`], [`pull`] and [`source`] bring its events, [`delivery`] turns
//! messages into them, [`malformed`] finds those that can't be received; [`settle`], [`attempts`] and [`seen`] end them,
//! [`publish`], [`batch`], [`captures`] and [`dead_letters`] store what comes of them. [`embedded`] runs a private broker. [`api`], [`version`] and [`wire`] lie
//! under all.

mod config;
mod connect;
mod greeting;
mod options;
mod refusal;

mod checkpoint;
mod consumer;
mod own_streams;
mod topology;

mod opening;
mod pull;
mod source;

mod delivery;
mod malformed;

mod attempts;
mod seen;
mod settle;

mod batch;
mod captures;
mod dead_letters;
mod publish;

mod embedded;
mod survey;

mod api;
mod backoff;
mod version;
mod wire;

pub use api::ApiError;
pub use config::{Auth, ClientCertificate, Handshake, NatsConfig, Secret, Tls};
pub use connect::{LineHealth, Role, check_files};
pub use consumer::{ACK_WAIT, ConsumerSettings, OpenError};
pub use dead_letters::{DeadLetters, HEADERS_OBJECT, LetterError, LetterFilter, LetterPage, StoredLetter};
pub use embedded::{Embedded, EmbeddedError, SYNC_INTERVAL};
pub use opening::{SourceCounters, SourceStatus};
pub use own_streams::{ATTEMPTS_BUCKET, CHECKPOINTS_BUCKET, DEAD_LETTER_STREAM, OwnStreams, PAYLOADS_BUCKET};
pub use publish::{Durability, NatsPublish, OneMessage, Published};
pub use refusal::ConnectError;
pub use seen::SEEN_BUCKET;
pub use settle::NatsSettle;
pub use source::NatsSource;
pub use survey::{ConsumerFinding, StreamFinding};
pub use topology::{
    Batches, Difference, Discard, Ensured, Ownership, Retention, Storage, StreamSpec, TopologyError,
};

use busway_core::{Binding, port::PublishError};
use captures::Captures;
use connect::Line;
use consumer::Spec;
use malformed::GivenOut;
use opening::Shared;
use std::sync::{Arc, atomic::AtomicU64};
use tokio::sync::watch;

/// A broker, reached over three connections.
#[derive(Debug)]
pub struct Nats {
    pulls: Arc<Line>,
    control: Arc<Line>,
    egress: Arc<Line>,
    captures: Arc<Captures>,
}

/// A binding that is open: where its events come from and how they are settled.
pub struct OpenBinding {
    /// The events.
    pub source: NatsSource,
    /// How they are settled.
    pub settle: Arc<NatsSettle>,
    /// Whether the broker has confirmed the subscription, and what is wrong where it has not.
    pub status: watch::Receiver<SourceStatus>,
    /// What the source counts.
    pub counters: Arc<SourceCounters>,
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
        let egress = Line::connect(Role::Egress, config).await?;
        Ok(Self {
            pulls: Arc::new(pulls),
            control: Arc::new(control),
            egress: Arc::new(egress),
            captures: Arc::default(),
        })
    }

    /// Makes a stream, or compares the one that is there.
    ///
    /// # Errors
    /// Differences, line by line: an existing stream is never changed.
    pub async fn ensure_stream(&self, spec: &StreamSpec) -> Result<Ensured, TopologyError> {
        topology::ensure(&self.control, spec).await
    }

    /// Makes the streams that Busway keeps its own records in.
    ///
    /// # Errors
    /// Where one exists and is not what the host relies on.
    pub async fn ensure_own_streams(&self, own: OwnStreams) -> Result<(), TopologyError> {
        own_streams::ensure(&self.control, own).await
    }

    /// Opens a binding: its durable consumer exists and is as wanted when this returns; the subscription is confirmed
    /// when the status says so. Pulling begins when the source is polled.
    ///
    /// # Errors
    /// A missing stream, a filter that captures nothing, a consumer that can't be changed in place.
    pub async fn open(
        &self,
        binding: &Binding,
        settings: ConsumerSettings,
    ) -> Result<OpenBinding, OpenError> {
        if binding.dedup.is_some() {
            seen::check(&self.control, &binding.durable()).await?;
        }
        let spec = Spec::of(binding, settings)?;
        let confirmed = spec.ensure(&self.control, None).await?;
        let (status, watched) = watch::channel(SourceStatus::Opening);
        let given_out = Arc::new(GivenOut::default());
        let counters = Arc::new(SourceCounters::default());
        let settle = NatsSettle {
            control: Arc::clone(&self.control),
            client: self.control.client(),
            spec: spec.clone(),
            plugin: binding.plugin.clone(),
            policy: binding.ack,
            given_out: Arc::clone(&given_out),
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
        }));
        Ok(OpenBinding { source, settle: Arc::new(settle), status: watched, counters })
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
        DeadLetters { control: Arc::clone(&self.control) }
    }

    /// How one of the connections is, and every change of that.
    pub fn health(&self, role: Role) -> watch::Receiver<LineHealth> {
        match role {
            Role::Pulls => self.pulls.health(),
            Role::Control => self.control.health(),
            Role::Egress => self.egress.health(),
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

    /// The most bytes that a message may have, headers included.
    pub fn max_payload(&self) -> usize {
        self.egress.client().max_payload()
    }

    /// Sends what waits to be sent and closes the connections. To be called when the sources are dropped and every
    /// handler is done; takes no longer than about 6 s.
    pub async fn close(&self) {
        for line in [&self.egress, &self.control, &self.pulls] {
            line.close().await;
        }
    }
}
