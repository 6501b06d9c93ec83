//! Opening a pull, and opening it again: wait for the broker, look at the consumer, look for what broke the connection,
//! subscribe, have the broker confirm it, ask which events ran before. Trouble is waited out here and told through the status; only a stream that was
//! made anew ends in a halt, because its sequences mean other events.

use super::{
    active::{ActiveLease, Taken},
    backoff,
    connect::Line,
    consumer::{Before, OpenError, Spec},
    delivery::Origin,
    malformed::{self, GivenOut},
    recorded::Recorded,
    refusal,
};
use async_nats::{Client, Subscriber};
use busway_core::Delivery;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tracing::{info, warn};

/// How a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceStatus {
    /// The broker has not confirmed the subscription yet.
    Opening,
    /// The broker has confirmed it.
    Confirmed,
    /// Another host is the active one of this ordered consumer; this one takes over when that one ends.
    StandBy(String),
    /// It has not, for this reason; it is tried again.
    Trouble(String),
    /// It never will, for this reason; somebody has to decide.
    Stopped(String),
}

/// What a source counts.
#[derive(Debug, Default)]
pub struct SourceCounters {
    /// How often the subscription was opened again.
    pub reopened: AtomicU64,
    /// How often it was opened again because nothing came although there was something.
    pub stalled: AtomicU64,
    /// Signs of life that did not come in time.
    pub heartbeats_missed: AtomicU64,
    /// Messages that somebody else sent to the inbox.
    pub strangers: AtomicU64,
    /// Stored messages that could not be received.
    pub malformed: AtomicU64,
    /// Events of plain subjects that were dropped: more came than the buffer holds, there was no room to let one wait for
    /// its next attempt, or the host stopped.
    pub shed: AtomicU64,
    /// Events of plain subjects that ask for an answer to a subject that may not be answered to.
    pub replies_denied: AtomicU64,
}

/// What belongs to a binding's consumer and outlives each opening.
#[derive(Debug)]
pub(super) struct Shared {
    pub spec: Spec,
    pub origin: Origin,
    pub pulls: Arc<Line>,
    pub control: Arc<Line>,
    pub given_out: Arc<GivenOut>,
    pub status: watch::Sender<SourceStatus>,
    pub counters: Arc<SourceCounters>,
    /// Everything up to here was acknowledged when somebody last looked.
    pub ack_floor: AtomicU64,
    /// Where one host at a time may pull.
    pub active: Option<Arc<ActiveLease>>,
    /// Which events ran before.
    pub recorded: Arc<Recorded>,
}

/// Why a pull is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// For the first time.
    First,
    /// The connection was lost while the broker was well.
    Broke,
    /// The connection was lost, and so were others.
    BrokerLost,
    /// The consumer has to be looked at.
    Consumer,
    /// Deliveries are missing: somebody else was given some, or they were lost on their way.
    Gap,
    /// This host is not the active one of its ordered consumer any more.
    NotActive,
    /// No sign of life, or nothing came although there was something.
    Silent,
}

/// A pull that the broker has confirmed.
pub(super) struct Opened {
    pub client: Client,
    pub subscriber: Subscriber,
    pub inbox: String,
    /// How often the pulls' and the control connection had been lost by then.
    pub lost: Lost,
    /// To be settled before anything is pulled.
    pub malformed: Vec<Delivery>,
    /// What the consumer had given to anybody by then.
    pub given: Given,
}

/// What a consumer had given to anybody at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    /// The number of its last delivery.
    pub consumer_sequence: u64,
    /// How many deliveries have not ended.
    pub unsettled: usize,
}

/// How often the connections were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    pub pulls: u64,
    pub control: u64,
}

/// Between the first and the second try.
const FIRST_WAIT: Duration = Duration::from_millis(200);

enum Halt {
    Trouble(String),
    Stopped(String),
}

impl Shared {
    pub(super) fn lost(&self) -> Lost {
        Lost {
            pulls: self.pulls.health().borrow().disconnects,
            control: self.control.health().borrow().disconnects,
        }
    }
}

/// Opens the pull, however long it takes. `fruitless` is how often in a row it was opened and nothing came.
pub(super) async fn open(shared: Arc<Shared>, reason: Reason, fruitless: usize) -> Opened {
    let mut tries = fruitless.saturating_sub(1);
    loop {
        if tries > 0 {
            tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
        }
        if let Some(active) = &shared.active {
            stand_by(&shared, active).await;
        }
        match attempt(&shared, reason, fruitless).await {
            Ok(opened) => {
                shared.status.send_replace(SourceStatus::Confirmed);
                return opened;
            }
            Err(Halt::Trouble(why)) => {
                tries += 1;
                tell(&shared, SourceStatus::Trouble(why));
            }
            Err(Halt::Stopped(why)) => {
                tell(&shared, SourceStatus::Stopped(why));
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Waits until this host is the active one.
async fn stand_by(shared: &Shared, active: &ActiveLease) {
    loop {
        match active.take().await {
            Ok(Taken::Own) => return,
            Ok(Taken::Other(host)) => tell(shared, SourceStatus::StandBy(host)),
            Err(why) => tell(shared, SourceStatus::Trouble(format!("its lease: {why}"))),
        }
        tokio::time::sleep(active.look_interval()).await;
    }
}

/// Logs a change of the status, once.
fn tell(shared: &Shared, status: SourceStatus) {
    let consumer = &shared.spec.durable;
    let changed = shared.status.send_if_modified(|old| {
        let changed = *old != status;
        old.clone_from(&status);
        changed
    });
    match &status {
        SourceStatus::Trouble(why) if changed => {
            warn!(%consumer, %why, "no events for this consumer; trying again")
        }
        SourceStatus::StandBy(host) if changed => {
            info!(%consumer, host, "another host is the active one; standing by")
        }
        SourceStatus::Stopped(why) => warn!(%consumer, %why, "no more events for this consumer"),
        _ => {}
    }
}

async fn attempt(shared: &Shared, reason: Reason, fruitless: usize) -> Result<Opened, Halt> {
    let control = &*shared.control;
    let before = Before { origin: &shared.origin, ack_floor: shared.ack_floor.load(Ordering::Relaxed) };
    let confirmed = shared.spec.ensure(control, Some(before)).await.map_err(halt)?;
    shared.ack_floor.fetch_max(confirmed.info.ack_floor.stream_sequence, Ordering::Relaxed);
    let suspicious = matches!(reason, Reason::Broke) || (reason == Reason::BrokerLost && fruitless > 1);
    let malformed = if suspicious {
        let found = malformed::search(control, &shared.spec, &shared.origin, &shared.given_out).await;
        found.map_err(|why| Halt::Trouble(format!("searching for a malformed message: {why}")))?
    } else {
        Vec::new()
    };
    shared.counters.malformed.fetch_add(malformed.len() as u64, Ordering::Relaxed);
    // Before anything is pulled.
    let (opened, ()) = tokio::join!(subscribe(shared, malformed), shared.recorded.ask_anew(control));
    opened
}

async fn subscribe(shared: &Shared, malformed: Vec<Delivery>) -> Result<Opened, Halt> {
    let lost = shared.lost();
    let client = shared.pulls.client();
    let inbox = client.new_inbox();
    let Ok(subscriber) = client.subscribe(format!("{inbox}.*")).await else {
        // The library's own end of this connection is gone for good.
        shared.pulls.renew(&client).await;
        return Err(Halt::Trouble("the pulls' connection was made anew".into()));
    };
    // The answer comes on the same connection, so the broker has the subscription by then.
    match shared.spec.info(&shared.pulls).await {
        Ok(Some(info)) if shared.lost().pulls == lost.pulls => {
            info!(consumer = %shared.spec.durable, stream = %shared.spec.stream, "the broker confirms the subscription");
            let given = Given {
                consumer_sequence: info.delivered.consumer_sequence,
                unsettled: info.num_ack_pending,
            };
            Ok(Opened { client, subscriber, inbox, lost, malformed, given })
        }
        Ok(Some(_)) => Err(Halt::Trouble("the connection was lost while subscribing".into())),
        Ok(None) => Err(Halt::Trouble("the consumer was deleted while subscribing".into())),
        Err(why) => Err(Halt::Trouble(why.to_string())),
    }
}

fn halt(why: OpenError) -> Halt {
    match why {
        OpenError::MadeAnew { .. } => Halt::Stopped(why.to_string()),
        _ => Halt::Trouble(refusal::chain(&why)),
    }
}
