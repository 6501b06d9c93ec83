//! What lies between one host and the broker in memory: it can be cut, as when the host is killed, it can lose deliveries,
//! and it knows which of the hosts is the active one. With it, several hosts work on one broker.

use crate::memory::MemoryBroker;
use busway_core::{
    AttemptRecord, DeadLetter, Delivery, EventId, Publish, Receipt, Settle, Source,
    dead_letter::SEQUENCE,
    port::{
        BoxFuture, KeyClaim, NotReleased, Opening, Outgoing, ParkError, PublishError, Released, SettleError,
        Stored,
    },
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How often a host looks at what nobody tells it.
const LOOK: Duration = Duration::from_millis(100);

/// A broker and the hosts that share it.
pub struct Cluster {
    broker: MemoryBroker,
    shared: Arc<Shared>,
    links: AtomicUsize,
}

#[derive(Default)]
struct Shared {
    /// Which host is the active one, and since when nobody has heard of it.
    active: Mutex<Option<(usize, Instant)>>,
    ended: Mutex<BTreeSet<u64>>,
}

/// One host's way to the broker.
#[derive(Clone)]
pub struct HostLink {
    broker: MemoryBroker,
    shared: Arc<Shared>,
    own: Arc<Own>,
}

struct Own {
    number: usize,
    patience: Duration,
    cut: AtomicBool,
    deaf: AtomicBool,
    to_lose: AtomicUsize,
    /// Until when this host may believe that it is the active one.
    active_until: Mutex<Option<Instant>>,
}

impl Cluster {
    /// Hosts on this broker; one of which nothing was heard for so long is not the active one any more.
    pub fn new(broker: &MemoryBroker) -> Self {
        Self { broker: broker.clone(), shared: Arc::default(), links: AtomicUsize::new(0) }
    }

    /// Another host's link.
    pub fn link(&self, patience: Duration) -> HostLink {
        let own = Own {
            number: self.links.fetch_add(1, Ordering::Relaxed),
            patience,
            cut: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            to_lose: AtomicUsize::new(0),
            active_until: Mutex::new(None),
        };
        HostLink { broker: self.broker.clone(), shared: Arc::clone(&self.shared), own: Arc::new(own) }
    }

    /// The sequences of the events whose output or dead letter is stored. An output's payload is its event's sequence.
    pub fn ended(&self) -> BTreeSet<u64> {
        lock(&self.shared.ended).clone()
    }
}

impl HostLink {
    /// From now on nothing comes and nothing goes, as when the host is killed.
    pub fn cut(&self) {
        self.own.cut.store(true, Ordering::Relaxed);
    }

    /// Whether it was cut.
    pub fn is_cut(&self) -> bool {
        self.own.cut.load(Ordering::Relaxed)
    }

    /// This host can't stay the active one any more; everything else still works.
    pub fn deafen(&self) {
        self.own.deaf.store(true, Ordering::Relaxed);
    }

    /// The next deliveries are lost on their way; then the source is opened again.
    pub fn lose(&self, deliveries: usize) {
        self.own.to_lose.store(deliveries, Ordering::Relaxed);
    }

    /// Gives up being the active one, as a host that has ended well.
    pub fn step_down(&self) {
        let mut active = lock(&self.shared.active);
        if active.is_some_and(|(number, _)| number == self.own.number) {
            *active = None;
        }
        *lock(&self.own.active_until) = None;
    }

    /// Whether any of the events up to here has not ended.
    pub fn not_ended(&self, sequences: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let ended = lock(&self.shared.ended);
        sequences.into_iter().filter(|sequence| !ended.contains(sequence)).collect()
    }

    /// Where its deliveries come from.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(LinkSource {
            link: self.clone(),
            inner: self.broker.source(),
            opening: Opening::default(),
            is_open: false,
        })
    }

    fn renew(&self) {
        let now = Instant::now();
        let mut active = lock(&self.shared.active);
        let mine = active
            .is_none_or(|(number, heard)| number == self.own.number || now - heard >= self.own.patience);
        if mine && !self.is_cut() && !self.own.deaf.load(Ordering::Relaxed) {
            *active = Some((self.own.number, now));
            *lock(&self.own.active_until) = Some(now + self.own.patience.mul_f64(0.66));
        }
    }

    async fn through<T>(&self, answer: BoxFuture<'_, Result<T, SettleError>>) -> Result<T, SettleError> {
        if self.is_cut() {
            return Err(SettleError::Unreachable("cut".into()));
        }
        answer.await
    }

    async fn stored<T>(&self, answer: BoxFuture<'_, Result<T, PublishError>>) -> Result<T, PublishError> {
        if self.is_cut() {
            return Err(PublishError::Unreachable("cut".into()));
        }
        answer.await
    }
}

struct LinkSource {
    link: HostLink,
    inner: Box<dyn Source>,
    opening: Opening,
    is_open: bool,
}

impl LinkSource {
    fn open(&mut self) {
        self.is_open = true;
        self.opening =
            Opening { number: self.opening.number + 1, unsettled: self.link.broker.given_and_unsettled() };
    }

    async fn advance(&mut self, room: usize) -> Option<Delivery> {
        loop {
            if self.link.is_cut() {
                std::future::pending::<()>().await;
            }
            if !self.link.is_active() {
                self.is_open = false;
                self.link.renew();
            }
            if !self.link.is_active() {
                sleep(LOOK).await;
                continue;
            }
            if !self.is_open {
                self.open();
            }
            tokio::select! {
                delivery = self.inner.next(room) => {
                    let left = self.link.own.to_lose.load(Ordering::Relaxed);
                    if left == 0 {
                        return delivery;
                    }
                    self.link.own.to_lose.store(left - 1, Ordering::Relaxed);
                    if left == 1 {
                        self.open();
                    }
                }
                () = sleep(LOOK) => {}
            }
        }
    }
}

impl Source for LinkSource {
    fn next(&mut self, room: usize) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.advance(room))
    }

    fn opening(&self) -> Opening {
        self.opening
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async { Vec::new() })
    }
}

impl Settle for HostLink {
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.through(self.broker.ack(receipt)))
    }

    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.through(self.broker.put_back(receipt, after)))
    }

    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.through(self.broker.terminate(receipt, reason)))
    }

    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        if !self.is_active() {
            return Box::pin(async { Err(SettleError::Refused("another host is active".into())) });
        }
        Box::pin(self.through(self.broker.progress(receipt)))
    }

    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.through(self.broker.ack_confirmed(receipt)))
    }

    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        Box::pin(self.through(self.broker.attempts(receipt)))
    }

    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.through(self.broker.record_attempts(receipt, record)))
    }

    fn park<'a>(
        &'a self,
        delivery: &'a Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        self.broker.park(delivery, failed_runs, after)
    }

    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        Box::pin(self.through(self.broker.unsettled()))
    }

    fn is_active(&self) -> bool {
        lock(&self.own.active_until).is_some_and(|until| Instant::now() < until)
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.is_active() {
                self.renew();
            }
        })
    }

    fn claim_key<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        Box::pin(self.through(self.broker.claim_key(key, ttl, event)))
    }

    fn release_key<'a>(&'a self, key: &'a str, event: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.through(self.broker.release_key(key, event)))
    }
}

impl Publish for HostLink {
    fn publish<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>> {
        Box::pin(async {
            let stored = self.stored(Publish::publish(&self.broker, message)).await?;
            let text = String::from_utf8_lossy(&message.payload);
            lock(&self.shared.ended).extend(text.parse::<u64>());
            Ok(stored)
        })
    }

    fn publish_all<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>> {
        Box::pin(async move {
            let mut stored = Vec::new();
            for message in messages {
                let answer = Publish::publish(self, message).await;
                stored.push(answer.map_err(|why| NotReleased { subject: message.subject.clone(), why })?);
            }
            Ok(Released { stored, atomic: false })
        })
    }

    fn send<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(self.stored(self.broker.send(message)))
    }

    fn dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>> {
        Box::pin(async {
            let stored = self.stored(self.broker.dead_letter(letter)).await?;
            let sequence = letter.headers.get(SEQUENCE).and_then(|text| text.parse::<u64>().ok());
            lock(&self.shared.ended).extend(sequence);
            Ok(stored)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
