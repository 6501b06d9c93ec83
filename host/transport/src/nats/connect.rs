//! One connection to the broker: made, told apart by what it is for, watched, and replaced where it can't go on.
//!
//! There are four, because one connection is one blast radius (the broker drops a connection for a single line that it
//! can't read, and the client library drops it for a single message that *it* can't read):
//!
//! * **pulls** carries the events. A malformed stored message takes it down, so nothing else is on it.
//! * **control** carries acknowledgements, attempt records and requests to JetStream. Its answers come from the broker
//!   alone, so no publisher can hurt it; and an acknowledgement does not sit in a buffer that a malformed message
//!   discards.
//! * **egress** carries what plugins publish, and dead letters.
//! * **core** carries the events of plain subjects, and what plugins ask other services: whoever may publish to such a
//!   subject, or answer, can take it down. It is made when the first plugin needs it.
//!
//! A broker that can't be reached is tried again for ever. One that was reached and said no (credentials, certificates,
//! an old version) is not: a second try would end the same way, and somebody waits for the reason.

use super::{
    backoff,
    config::{Auth, NatsConfig},
    greeting::Greeting,
    options,
    refusal::{self, ConnectError},
};
use async_nats::{Client, Event, Message, Request, RequestError, RequestErrorKind};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, watch};
use tracing::{debug, error, info, warn};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Events.
    Pulls,
    /// Acknowledgements and requests to JetStream.
    Control,
    /// Outputs and dead letters.
    Egress,
    /// Events of plain subjects, and requests of plugins.
    Core,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Self::Pulls, Self::Control, Self::Egress, Self::Core];

    /// The name in logs, metrics and the broker's list of connections.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pulls => "pulls",
            Self::Control => "control",
            Self::Egress => "egress",
            Self::Core => "core",
        }
    }
}

/// How a connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineHealth {
    /// Whether it is up.
    pub connected: bool,
    /// How often it was lost since the start.
    pub disconnects: u64,
    /// How often the client library dropped a message because nobody took it in time.
    pub slow_consumer_drops: u64,
}

/// One connection, and what is needed to make it again.
#[derive(Debug)]
pub(crate) struct Line {
    role: Role,
    config: Arc<NatsConfig>,
    client: watch::Sender<Client>,
    health: watch::Sender<LineHealth>,
    /// What the broker last said no to, in its own words.
    errors: watch::Sender<String>,
    renewing: Mutex<()>,
    closed: AtomicBool,
}

/// Between the first and the second try.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How long somebody who waits for an answer waits for a new connection.
const RENEW_WAIT: Duration = Duration::from_secs(5);
/// How long what was sent may take to leave this host when it closes.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
/// How often a broker that greets may break off a handshake before that is taken for its answer.
const BREAK_OFFS_MAX: usize = 4;

impl Line {
    /// Connects; waits as long as the broker can't be reached. Cancel safe.
    pub(crate) async fn connect(role: Role, config: Arc<NatsConfig>) -> Result<Self, ConnectError> {
        let health = watch::Sender::new(LineHealth::default());
        let errors = watch::Sender::new(String::new());
        let client = dial(role, &config, &health, &errors).await?;
        refusal::check_version(&client.server_info().version)?;
        Ok(Self {
            role,
            config,
            client: watch::Sender::new(client),
            health,
            errors,
            renewing: Mutex::new(()),
            closed: AtomicBool::new(false),
        })
    }

    /// The connection as it is now.
    pub(crate) fn client(&self) -> Client {
        self.client.borrow().clone()
    }

    /// The name under which the broker lists this host.
    pub(crate) fn host(&self) -> &str {
        &self.config.name
    }

    /// How the connection is, and every change of that.
    pub(crate) fn health(&self) -> watch::Receiver<LineHealth> {
        self.health.subscribe()
    }

    /// What the broker says no to, in its own words: among others, to subscriptions that are not permitted.
    pub(crate) fn errors(&self) -> watch::Receiver<String> {
        self.errors.subscribe()
    }

    /// Sends a request and waits for the answer. The wait counts from here: without a broker the connection takes a
    /// limited number of requests to send later, and more than that would wait in line. Where the connection has ended
    /// for good, a new one is made for the next request.
    pub(crate) async fn request(
        &self,
        subject: String,
        request: Request,
        wait: Duration,
    ) -> Result<Message, RequestError> {
        let client = self.client();
        let answered = tokio::time::timeout(wait, client.send_request(subject, request.timeout(None))).await;
        let answer =
            answered.unwrap_or_else(|late| Err(RequestError::with_source(RequestErrorKind::TimedOut, late)));
        // The library's only other failure is that its own end of the connection is gone.
        if answer.as_ref().is_err_and(|why| why.kind() == RequestErrorKind::Other) {
            self.renew_soon(&client).await;
        }
        answer
    }

    /// [`Line::renew`], but not for ever.
    pub(crate) async fn renew_soon(&self, dead: &Client) {
        if tokio::time::timeout(RENEW_WAIT, self.renew(dead)).await.is_err() {
            debug!(connection = self.role.name(), "no new connection yet");
        }
    }

    /// A connection that works: `dead`'s replacement where somebody has made one already, otherwise a new one. The
    /// client library ends its own connection for good where a message makes it panic (a carriage return in a header's
    /// value does).
    pub(crate) async fn renew(&self, dead: &Client) -> Client {
        let _one_at_a_time = self.renewing.lock().await;
        let current = self.client();
        if self.closed.load(Ordering::Relaxed) || !is_same(&current, dead) {
            return current;
        }
        warn!(connection = self.role.name(), "the connection ended for good; making a new one");
        self.health.send_modify(|health| {
            health.connected = false;
            health.disconnects += 1;
        });
        let mut tries = 0;
        loop {
            match dial(self.role, &self.config, &self.health, &self.errors).await {
                Ok(client) => {
                    self.client.send_replace(client.clone());
                    return client;
                }
                Err(why) => {
                    tries += 1;
                    error!(connection = self.role.name(), %why, "the broker refuses this host");
                    tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
                }
            }
        }
    }
}

impl Line {
    /// Sends what waits to be sent, and closes. Takes no longer than [`FLUSH_WAIT`].
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let client = self.client();
        // Without a broker there is nothing to wait for.
        if let Err(why) = tokio::time::timeout(FLUSH_WAIT, client.flush()).await {
            debug!(connection = self.role.name(), %why, "closing without the broker");
        }
        if let Err(why) = client.drain().await {
            debug!(connection = self.role.name(), %why, "already closed");
        }
    }
}

/// Whether two handles are of one connection.
fn is_same(one: &Client, other: &Client) -> bool {
    Arc::ptr_eq(&one.statistics(), &other.statistics())
}

/// Tries until the broker is reached.
async fn dial(
    role: Role,
    config: &NatsConfig,
    health: &watch::Sender<LineHealth>,
    errors: &watch::Sender<String>,
) -> Result<Client, ConnectError> {
    let servers = options::servers(config)?;
    let began = Instant::now();
    let (mut tries, mut break_offs) = (0, 0);
    loop {
        let options = options::build(role, config)
            .await?
            .event_callback({
                let (health, errors) = (health.clone(), errors.clone());
                move |event| {
                    note(role, &health, &errors, event);
                    std::future::ready(())
                }
            })
            .reconnect_delay_callback(|tries| match tries {
                0 | 1 => Duration::ZERO,
                more => backoff::wait(FIRST_WAIT, more - 1),
            });
        let failure = match options.connect(servers.as_slice()).await {
            Ok(client) => {
                health.send_modify(|health| health.connected = true);
                if tries > 0 {
                    info!(
                        connection = role.name(),
                        waited_ms = began.elapsed().as_millis(),
                        "the broker answers now"
                    );
                }
                return Ok(client);
            }
            Err(failure) => failure,
        };
        if let Some(fatal) = refusal::classify(&failure) {
            return Err(fatal);
        }
        if let Some(greeting) = Greeting::of_any(&servers).await {
            greeting.check(config)?;
            break_offs += 1;
            if break_offs == BREAK_OFFS_MAX && config.tls.is_some() {
                return Err(ConnectError::BrokenOff { why: refusal::chain(&failure) });
            }
        }
        tries += 1;
        tell(role, config, tries, &failure);
        tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
    }
}

/// The first failure is told aloud, the others are for who looks closer.
fn tell(role: Role, config: &NatsConfig, tries: usize, failure: &async_nats::ConnectError) {
    let why = refusal::chain(failure);
    if tries == 1 {
        warn!(connection = role.name(), servers = ?config.servers, %why, "the broker can't be reached; trying again");
    } else {
        debug!(connection = role.name(), tries, %why, "the broker can't be reached yet");
    }
}

fn note(role: Role, health: &watch::Sender<LineHealth>, errors: &watch::Sender<String>, event: Event) {
    let connection = role.name();
    match event {
        Event::Connected => {
            if !health.borrow().connected {
                info!(connection, "connected");
            }
            health.send_modify(|health| health.connected = true);
        }
        Event::Disconnected => {
            warn!(connection, "the connection to the broker was lost; connecting again");
            health.send_modify(|health| {
                health.connected = false;
                health.disconnects += 1;
            });
        }
        Event::SlowConsumer(_) => health.send_modify(|health| health.slow_consumer_drops += 1),
        Event::ServerError(why) => {
            warn!(connection, %why, "the broker reports an error");
            errors.send_replace(why.to_string());
        }
        Event::ClientError(why) => warn!(connection, %why, "the connection could not be made again yet"),
        Event::LameDuckMode => info!(connection, "the broker will stop soon; moving to another one"),
        Event::Draining => debug!(connection, "draining"),
        Event::Closed => {
            debug!(connection, "closed");
            health.send_modify(|health| health.connected = false);
        }
    }
}

/// Whether a person must mend something before this configuration can work; the app's `check` may ask without a broker.
pub fn check_files(config: &NatsConfig) -> Result<(), ConnectError> {
    options::servers(config)?;
    if let Auth::CredsFile(path) | Auth::NkeySeedFile(path) = &config.auth {
        options::read_secret(path)?;
    }
    options::check_tls_files(config)
}
