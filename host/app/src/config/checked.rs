//! What running code takes: values that have passed every rule that needs no broker and no plugin file.

use super::{
    Mistake,
    reader::{FreeText, Located},
};
use busway_core::{
    AckPolicy, Digest, Limits, PluginName, RetryPolicy, SubjectFilter,
    binding::{BreakerPolicy, CoreBuffer, InputDedup, Ordering, Subscription},
    units::ByteSize,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The whole configuration.
#[derive(Debug)]
pub struct Config {
    /// The folder that relative paths start from: the one of the main file.
    pub folder: PathBuf,
    /// The main file.
    pub main: PathBuf,
    /// The file that was read last; used while reading.
    pub(super) file: PathBuf,
    /// How to reach the broker.
    pub nats: NatsSettings,
    /// Where health and metrics are served.
    pub admin: Admin,
    /// What belongs to the host as a whole.
    pub host: HostConfig,
    /// Streams to be ensured or verified at start.
    pub streams: Vec<StreamConfig>,
    /// The plugins.
    pub plugins: Vec<PluginConfig>,
    /// The account of attempts.
    pub history: History,
    /// How large the dead letters' stream may grow. Default 1 GiB.
    pub dead_letters_max: ByteSize,
}

/// The account of attempts that `busway explain` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Default true.
    pub enabled: bool,
    /// Default 7 days.
    pub max_age: Duration,
    /// Default 256 MiB.
    pub max_bytes: ByteSize,
}

impl Default for History {
    fn default() -> Self {
        Self { enabled: true, max_age: Duration::from_secs(7 * 24 * 60 * 60), max_bytes: ByteSize(256 << 20) }
    }
}

/// How to reach the broker.
#[derive(Debug, Default)]
pub struct NatsSettings {
    /// Its addresses; none means a private server, started and stopped with the host.
    pub urls: Vec<String>,
    /// A user name.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<SecretSource>,
    /// A token.
    pub token: Option<SecretSource>,
    /// A credentials file (JWT and seed).
    pub creds: Option<PathBuf>,
    /// A file with an nkey seed.
    pub nkey: Option<PathBuf>,
    /// Certificates that the server's one must be signed by.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// The client certificate's key.
    pub key: Option<PathBuf>,
    /// Whether TLS begins before the protocol does.
    pub tls_first: bool,
}

/// Where a secret comes from; never from the file itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file, read at start; one newline at its end is not part of the secret.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// The admin listener.
#[derive(Debug)]
pub struct Admin {
    /// Default 127.0.0.1:9321.
    pub listen: SocketAddr,
}

/// The host as a whole.
#[derive(Debug)]
pub struct HostConfig {
    /// In dead letters and attempt records. Default: the machine's name and the process id.
    pub name: Option<String>,
    /// Attempts that run at once, over all plugins. Default 64.
    pub concurrency: u32,
    /// How long what runs may take to finish when the host is told to stop. Default 25 s.
    pub drain: Duration,
    /// How long the broker waits for word of an event. Default 30 s.
    pub ack_wait: Duration,
    /// How many servers of a cluster keep the host's own streams, 1 to 5. Default 1.
    pub replicas: u8,
    /// Where caches and the embedded broker's store are kept. Default `.busway` beside the file.
    pub state: PathBuf,
}

/// A stream to be ensured or verified.
#[derive(Debug)]
pub struct StreamConfig {
    /// Its name.
    pub name: Located<String>,
    /// What it captures.
    pub subjects: Vec<Located<SubjectFilter>>,
    /// How long it keeps messages.
    pub retention: Retention,
    /// Where it keeps them.
    pub storage: Storage,
    /// What happens when it is full.
    pub discard: Discard,
    /// How large it may grow.
    pub max_bytes: Option<ByteSize>,
    /// How many messages it may hold.
    pub max_messages: Option<u32>,
    /// How old a message may become.
    pub max_age: Option<Duration>,
    /// Within which time a repeated message id is recognised. Default 20 min, which is longer than the default retries
    /// take.
    pub duplicate_window: Duration,
    /// How many servers keep it. Default 1.
    pub replicas: u32,
    /// Whether it takes the outputs of an event as one atomic batch.
    pub batches: Batches,
    /// Whether the host may create it; if not it is only verified.
    pub managed: bool,
}

/// How long a stream keeps messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Until a limit is reached.
    Limits,
    /// Until somebody acknowledged them.
    WorkQueue,
    /// Until everybody acknowledged them.
    Interest,
}

/// Where a stream keeps messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In the broker's memory.
    Memory,
}

/// What a full stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// It drops its oldest message.
    Old,
    /// It refuses the new one.
    New,
}

/// Whether a stream takes the outputs of an event as one atomic batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batches {
    /// Where it costs little: in memory, or with more than one copy. The default.
    WhereCheap,
    /// Always, where the server can.
    Always,
    /// Never.
    Never,
}

/// A plugin and its subscriptions.
#[derive(Debug)]
pub struct PluginConfig {
    /// Its name.
    pub name: Located<PluginName>,
    /// The component's file, as it is written.
    pub source: Located<PathBuf>,
    /// The digest that the file must have.
    pub digest: Option<Located<Digest>>,
    /// Where its events come from.
    pub subscribe: Vec<Subscribe>,
    /// What one attempt may use.
    pub limits: Limits,
    /// How often and how late a failed event is tried again.
    pub retry: RetryPolicy,
    /// The wait beyond which an event is parked outside of its consumer. Default 30 s.
    pub park_after: Duration,
    /// When it is left alone for a while.
    pub breaker: BreakerPolicy,
    /// How an event that is done is acknowledged.
    pub ack: AckPolicy,
    /// What it may publish to.
    pub publish: Vec<Located<SubjectFilter>>,
    /// What it may publish to at most once.
    pub publish_core: Vec<Located<SubjectFilter>>,
    /// Whom it may ask.
    pub request: Vec<Located<SubjectFilter>>,
    /// Its own configuration; files are read when the plugin is loaded.
    pub config: BTreeMap<String, Located<FreeText>>,
    /// The file that the plugin stands in.
    pub file: PathBuf,
}

/// One `subscribe` entry.
#[derive(Debug)]
pub struct Subscribe {
    /// Where it stands.
    pub place: Located<()>,
    /// Tells entries on one stream apart.
    pub name: Option<String>,
    /// Where the events come from.
    pub origin: Origin,
    /// Which subjects.
    pub subjects: Vec<SubjectFilter>,
    /// Whether they wait for each other.
    pub ordering: Ordering,
    /// How a repeated one is recognised.
    pub dedup: Option<InputDedup>,
}

/// Where the events of a `subscribe` entry come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A stream.
    Stream(String),
    /// Plain subjects: at most once.
    Core {
        /// Hosts that share the events.
        group: Option<String>,
        /// What waits in the host.
        buffer: CoreBuffer,
    },
}

impl Subscribe {
    /// The stream; none for plain subjects.
    pub fn stream(&self) -> Option<&str> {
        match &self.origin {
            Origin::Stream(stream) => Some(stream),
            Origin::Core { .. } => None,
        }
    }

    /// The subscription as the host opens it.
    pub fn subscription(&self) -> Subscription {
        let filters = self.subjects.clone();
        match self.origin.clone() {
            Origin::Stream(stream) => Subscription::Stream { stream, filters },
            Origin::Core { group, buffer } => Subscription::Core { filters, group, buffer },
        }
    }
}

impl Config {
    pub(super) fn new(folder: &Path, main: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            main: main.to_owned(),
            file: PathBuf::new(),
            nats: NatsSettings::default(),
            admin: Admin { listen: SocketAddr::from(([127, 0, 0, 1], 9321)) },
            host: HostConfig {
                name: None,
                concurrency: 64,
                drain: Duration::from_secs(25),
                ack_wait: Duration::from_secs(30),
                replicas: 1,
                state: folder.join(".busway"),
            },
            streams: Vec::new(),
            plugins: Vec::new(),
            history: History::default(),
            dead_letters_max: ByteSize(1 << 30),
        }
    }

    /// Where compiled plugins are kept.
    pub fn cache(&self) -> PathBuf {
        self.host.state.join("cache")
    }

    /// A path as it is meant: relative ones start at the configuration's folder.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

impl PluginConfig {
    /// Whether some wait of its policy would be spent outside of the consumer.
    pub fn parks(&self) -> bool {
        let longest = (1..self.retry.attempts).map(|n| self.retry.backoff.after(n)).max();
        let unordered = |entry: &Subscribe| entry.stream().is_some() && entry.ordering == Ordering::Unordered;
        longest.unwrap_or(Duration::ZERO) >= self.park_after && self.subscribe.iter().any(unordered)
    }

    /// A mistake at a place of this plugin.
    pub fn mistake<T>(&self, place: &Located<T>, what: impl Into<String>) -> Mistake {
        Mistake { file: self.file.clone(), line: place.line, key: place.key.clone(), what: what.into() }
    }
}
