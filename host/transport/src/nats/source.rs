//! Where a binding's events come from: one durable consumer, one inbox, pull requests of our own.
//!
//! The client library's own stream asks for fixed batches, and its fetch makes an inbox for every call; here a request
//! asks for what the host can hold right now, several may be under way, and nothing but one subscription is needed. Only
//! what comes to that inbox with an acknowledgement subject of our consumer is an event: a message elsewhere that claims
//! to be one can't make the host acknowledge anything.

use super::{
    api::ApiError,
    checkpoint,
    connect::LineHealth,
    delivery::AckSubject,
    opening::{self, Lost, Opened, Reason, Shared, SourceStatus},
    pull::{Account, EXPIRES, HEARTBEAT, Meaning, Pulse},
    recorded::Recorded,
    topology,
};
use async_nats::{Client, Message, Subscriber, jetstream::consumer::Info};
use busway_core::{
    Delivery, Source,
    port::{BoxFuture, Opening},
};
use futures_util::{FutureExt as _, StreamExt as _};
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior},
};
use tracing::{debug, warn};

/// A durable consumer's events.
pub struct NatsSource {
    shared: Arc<Shared>,
    phase: Phase,
    /// Taken from the broker, not given out yet.
    ready: VecDeque<Delivery>,
    /// Openings in a row that brought nothing.
    fruitless: usize,
    opening: Opening,
}

enum Phase {
    Opening(BoxFuture<'static, Opened>),
    Open(Box<Open>),
}

/// A pull under way.
struct Open {
    client: Client,
    subscriber: Subscriber,
    inbox: String,
    lost: Lost,
    health: watch::Receiver<LineHealth>,
    account: Account,
    seconds: Interval,
    /// Seconds since an event came.
    quiet_seconds: u64,
    /// Seconds since the opening.
    age_seconds: u64,
    /// Seconds since the consumer was last looked at.
    unchecked_seconds: u64,
    check: Option<BoxFuture<'static, Checked>>,
    request_subject: String,
    /// The number of the last delivery that is known of.
    consumer_sequence: u64,
}

/// The consumer as the broker sees it; none where it is gone.
type Checked = Result<Option<Box<Info>>, ApiError>;

/// What a step waits for.
enum First {
    Message(Option<Message>),
    Lost,
    Checked(Checked),
    Second,
}

enum Step {
    Came(Delivery),
    /// It came, and another one that was given before did not.
    Gap(Delivery),
    Nothing,
    Reopen(Reason),
}

/// How often the consumer is looked at, whatever comes.
const CHECK_SECONDS: u64 = 5;
/// How long nothing may come although there is something, before the pull is opened again.
const STALL_SECONDS: u64 = 30;
/// How long the broker may take to confirm that a subscription has ended.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// How long an event is put back for that was taken and not given out.
const PUT_BACK: &str = "-NAK {\"delay\":1000000000}";

impl NatsSource {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let opening = opening::open(Arc::clone(&shared), Reason::First, 0).boxed();
        Self {
            shared,
            phase: Phase::Opening(opening),
            ready: VecDeque::new(),
            fruitless: 0,
            opening: Opening::default(),
        }
    }

    async fn advance(&mut self, room: usize) -> Delivery {
        loop {
            // Where order is kept, what has come already waits for what the next opening says of what has not.
            let gives_now = !self.shared.spec.ordered || matches!(self.phase, Phase::Open(_));
            if gives_now && let Some(delivery) = self.ready.pop_front() {
                return delivery;
            }
            let step = match &mut self.phase {
                Phase::Opening(opening) => {
                    let opened = opening.await;
                    self.begin(opened);
                    continue;
                }
                Phase::Open(open) => {
                    if self.shared.given_out.is_any_open() {
                        self.shared.given_out.all_ended().await;
                    }
                    open.step(&self.shared, room).await
                }
            };
            match step {
                Step::Came(delivery) => {
                    self.fruitless = 0;
                    return delivery;
                }
                Step::Nothing => {}
                Step::Gap(delivery) => {
                    self.ready.push_back(delivery);
                    self.reopen(Reason::Gap);
                }
                Step::Reopen(reason) => self.reopen(reason),
            }
        }
    }

    fn begin(&mut self, mut opened: Opened) {
        self.ready.extend(std::mem::take(&mut opened.malformed));
        self.opening = Opening { number: self.opening.number + 1, unsettled: opened.given.unsettled };
        self.phase = Phase::Open(Box::new(Open::new(&self.shared, opened)));
    }

    /// Keeps what has come already and opens the pull again.
    fn reopen(&mut self, reason: Reason) {
        if let Phase::Open(open) = &mut self.phase {
            open.drain_into(&self.shared, &mut self.ready);
        }
        if reason == Reason::NotActive {
            // They are the next host's.
            self.ready.clear();
        }
        self.fruitless = if self.ready.is_empty() { self.fruitless + 1 } else { 0 };
        debug!(consumer = %self.shared.spec.durable, ?reason, "opening the pull again");
        self.shared.counters.reopened.fetch_add(1, Ordering::Relaxed);
        self.shared.status.send_replace(SourceStatus::Opening);
        self.phase = Phase::Opening(opening::open(Arc::clone(&self.shared), reason, self.fruitless).boxed());
    }
}

impl Source for NatsSource {
    fn next(&mut self, room: usize) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async move {
            let mut delivery = self.advance(room).await;
            self.shared.recorded.correct(&mut delivery.receipt);
            Some(delivery)
        })
    }

    fn opening(&self) -> Opening {
        self.opening
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async {
            if let Phase::Open(open) = &mut self.phase {
                open.close_into(&self.shared, &mut self.ready).await;
            }
            self.ready.drain(..).collect()
        })
    }
}

/// What was taken and not given out goes back at once, so that it need not wait until the broker's patience ends.
impl Drop for NatsSource {
    fn drop(&mut self) {
        if let Phase::Open(open) = &mut self.phase {
            open.drain_into(&self.shared, &mut self.ready);
        }
        if self.shared.active.as_ref().is_some_and(|active| !active.is_held()) {
            return;
        }
        let control = self.shared.control.client();
        for delivery in self.ready.drain(..) {
            // Sent if there is room for it; the broker gives the event again anyway.
            drop(control.publish(delivery.receipt.token, PUT_BACK.into()).now_or_never());
        }
    }
}

impl Open {
    fn new(shared: &Shared, opened: Opened) -> Self {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            client: opened.client,
            subscriber: opened.subscriber,
            inbox: opened.inbox,
            lost: opened.lost,
            health: shared.pulls.health(),
            account: Account::new(),
            seconds,
            quiet_seconds: 0,
            age_seconds: 0,
            unchecked_seconds: 0,
            check: None,
            consumer_sequence: opened.given.consumer_sequence,
            request_subject: format!(
                "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
                shared.spec.stream, shared.spec.durable
            ),
        }
    }

    /// Asks for more where there is room, then waits for whatever comes first. Cancel safe: what was taken is in the
    /// answer, and every change of state follows the await that it belongs to.
    async fn step(&mut self, shared: &Shared, room: usize) -> Step {
        if let Some(batch) = self.account.want(room)
            && self.ask(batch).await.is_err()
        {
            return Step::Reopen(Reason::Broke);
        }
        let known = self.lost.pulls;
        let first = tokio::select! {
            biased;
            message = self.subscriber.next() => First::Message(message),
            () = self.health.wait_for(|health| health.disconnects != known).map(drop) => First::Lost,
            checked = pending_or(&mut self.check) => First::Checked(checked),
            _ = self.seconds.tick() => First::Second,
        };
        match first {
            First::Message(Some(message)) => self.receive(shared, message),
            First::Message(None) => Step::Reopen(Reason::Broke),
            First::Lost => Step::Reopen(self.why_lost(shared)),
            First::Checked(checked) => {
                self.check = None;
                self.look_at(shared, checked)
            }
            First::Second => self.second(shared),
        }
    }

    async fn ask(&mut self, batch: usize) -> Result<(), async_nats::client::PublishError> {
        let reply = format!("{}.{}", self.inbox, self.account.next_id());
        let (expires, heartbeat) = (EXPIRES.as_nanos(), HEARTBEAT.as_nanos());
        let body = format!(r#"{{"batch":{batch},"expires":{expires},"idle_heartbeat":{heartbeat}}}"#);
        self.client.publish_with_reply(self.request_subject.clone(), reply, body.into()).await?;
        self.account.asked(batch, Instant::now());
        Ok(())
    }

    fn receive(&mut self, shared: &Shared, message: Message) -> Step {
        let request =
            message.subject.strip_prefix(self.inbox.as_str()).and_then(|rest| rest.strip_prefix('.'));
        match (request, message.status) {
            (Some(id), Some(status)) => {
                let left = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
                let left = left.and_then(|left| left.as_str().parse().ok());
                let description = message.description.as_deref().unwrap_or_default();
                debug!(consumer = %shared.spec.durable, %status, description, "status of a pull request");
                match self.account.status(status.as_u16(), description, id.parse().ok(), left) {
                    Meaning::Noted => Step::Nothing,
                    Meaning::Reopen => Step::Reopen(Reason::Consumer),
                }
            }
            // Events keep the subject that they were published on; what has the inbox's was sent here by somebody.
            (Some(_), None) => self.stranger(shared),
            (None, _) => {
                let follows = !shared.spec.ordered || self.follows(&message);
                match shared.origin.delivery(message) {
                    Some(delivery) => {
                        self.account.came();
                        self.quiet_seconds = 0;
                        if follows { Step::Came(delivery) } else { Step::Gap(delivery) }
                    }
                    None => self.stranger(shared),
                }
            }
        }
    }

    /// Whether this delivery is the next one after the last: the broker numbers whatever it gives to anybody.
    fn follows(&mut self, message: &Message) -> bool {
        let Some(ack) = message.reply.as_deref().and_then(AckSubject::parse) else { return true };
        let expected = self.consumer_sequence + 1;
        self.consumer_sequence = ack.consumer_sequence;
        ack.consumer_sequence == expected
    }

    fn stranger(&self, shared: &Shared) -> Step {
        if shared.counters.strangers.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(consumer = %shared.spec.durable, "somebody else sends messages to this host's inbox; they are ignored");
        }
        Step::Nothing
    }

    fn why_lost(&self, shared: &Shared) -> Reason {
        if shared.lost().control == self.lost.control { Reason::Broke } else { Reason::BrokerLost }
    }

    fn second(&mut self, shared: &Shared) -> Step {
        if shared.active.as_ref().is_some_and(|active| !active.is_held()) {
            return Step::Reopen(Reason::NotActive);
        }
        self.quiet_seconds += 1;
        self.age_seconds += 1;
        self.unchecked_seconds += 1;
        if self.unchecked_seconds >= CHECK_SECONDS && self.check.is_none() {
            self.unchecked_seconds = 0;
            // Who held an event when this was opened has lost it by the end of the broker's patience.
            let until = shared.spec.ack_wait.as_secs() + CHECK_SECONDS;
            let asks = self.age_seconds <= until || shared.recorded.is_unanswered();
            self.check = Some(look(shared, asks.then(|| Arc::clone(&shared.recorded))).boxed());
        }
        match self.account.second(Instant::now()) {
            Pulse::Fine => Step::Nothing,
            Pulse::Missed => {
                shared.counters.heartbeats_missed.fetch_add(1, Ordering::Relaxed);
                Step::Nothing
            }
            Pulse::Lost => Step::Reopen(Reason::Silent),
        }
    }

    /// What the broker says about the consumer, independently of what it sends.
    fn look_at(&mut self, shared: &Shared, checked: Checked) -> Step {
        let info = match checked {
            Ok(Some(info)) => info,
            Ok(None) => return Step::Reopen(Reason::Consumer),
            Err(why) => {
                debug!(consumer = %shared.spec.durable, %why, "the consumer could not be looked at");
                return Step::Nothing;
            }
        };
        shared.ack_floor.fetch_max(info.ack_floor.stream_sequence, Ordering::Relaxed);
        if shared.spec.is_unsafe(&info.config) {
            let changes = topology::lines(&shared.spec.changeable_differences(&info.config));
            warn!(consumer = %shared.spec.durable, %changes, "somebody changed the consumer; changing it back");
            return Step::Reopen(Reason::Consumer);
        }
        // A consumer that is paused gives nothing, and that is as it should be.
        let could_come =
            !info.paused && info.num_pending > 0 && info.num_ack_pending < shared.spec.max_ack_pending();
        if could_come && self.account.is_waiting() && self.quiet_seconds >= STALL_SECONDS {
            shared.counters.stalled.fetch_add(1, Ordering::Relaxed);
            warn!(consumer = %shared.spec.durable, pending = info.num_pending, "nothing comes although there is something");
            return Step::Reopen(Reason::Silent);
        }
        Step::Nothing
    }

    /// Ends the subscription and takes what comes until the broker has confirmed that.
    async fn close_into(&mut self, shared: &Shared, ready: &mut VecDeque<Delivery>) {
        if let Err(why) = self.subscriber.drain().await {
            debug!(consumer = %shared.spec.durable, %why, "closing without the broker");
        }
        let until = tokio::time::Instant::now() + CLOSE_WAIT;
        while let Ok(Some(message)) = tokio::time::timeout_at(until, self.subscriber.next()).await {
            if let Step::Came(delivery) | Step::Gap(delivery) = self.receive(shared, message) {
                ready.push_back(delivery);
            }
        }
    }

    /// Takes what has come and not been looked at.
    fn drain_into(&mut self, shared: &Shared, ready: &mut VecDeque<Delivery>) {
        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
            if let Step::Came(delivery) | Step::Gap(delivery) = self.receive(shared, message) {
                ready.push_back(delivery);
            }
        }
    }
}

/// Asks the broker about the consumer, keeps how far it has come, and asks again which events ran before.
fn look(shared: &Shared, recorded: Option<Arc<Recorded>>) -> impl Future<Output = Checked> + Send + use<> {
    let (spec, origin, control) = (shared.spec.clone(), shared.origin.clone(), Arc::clone(&shared.control));
    let known = shared.ack_floor.load(Ordering::Relaxed);
    async move {
        let info = spec.info(&control).await?.map(Box::new);
        if let Some(info) = info.as_ref().filter(|info| info.ack_floor.stream_sequence > known) {
            checkpoint::write(&control, &origin, info.ack_floor.stream_sequence).await;
        }
        if let Some(recorded) = recorded {
            recorded.ask_again(&control).await;
        }
        Ok(info)
    }
}

/// The future's answer, or never where there is no future.
async fn pending_or<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
