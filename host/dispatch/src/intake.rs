//! Step 1: hold what can run soon, and hand it to workers.
//!
//! Deliveries are held in a queue of the binding's own, so that a pull brings many at once. The queue holds no more than
//! about a tenth of a second of work, at most [`HELD_MAX`] events and about [`HELD_BYTES_MAX`] bytes, because what is
//! held here can't run on another host. The queue has one reader per permit of the binding: a worker takes a delivery,
//! takes a slot of the host, walks the path, and only then takes the next.

use crate::{
    flow::{Flow, FlowWatch},
    guard::survive,
    history,
    lane::Lane,
    lease::Claim,
    order::{Order, RELEASED_MAX},
    pipeline, record,
    settle::{self, SHUTDOWN_WAIT, Settled},
    supervise::Supervisor,
};
use busway_core::{
    Delivery, Receipt, Refusal, Source,
    binding::{Ordering as EventOrder, Subscription},
};
use futures_util::future::join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, sleep},
};
use tracing::{debug, error, warn};

/// Most events that a binding holds.
const HELD_MAX: u64 = 256;
/// About so many payload bytes are held by a binding.
const HELD_BYTES_MAX: u64 = 16 << 20;
/// How much work is held.
const HELD_WORK: Duration = Duration::from_millis(100);
/// How long the intake waits after a fault of the host before it looks for events again.
const AFTER_FAULT: Duration = Duration::from_secs(1);
/// Progress reports that are under way at once.
const PROGRESS_BATCH: usize = 64;

/// A binding's intake: its source, its queue, its workers.
pub struct Intake {
    lane: Arc<Lane>,
    queue: async_channel::Receiver<Delivery>,
    /// Says when a delivery goes into the queue, where events wait for each other.
    order: Option<Order>,
    pace: Arc<Pace>,
}

/// How fast events are handled and how large they are, as moving averages.
struct Pace {
    workers: u64,
    run_us: AtomicU64,
    payload_bytes: AtomicU64,
    queued_bytes: AtomicU64,
    taken: Notify,
}

impl Intake {
    /// Starts the binding: one reader of the source and one reporter of progress on `supervisor`'s control runtime, and
    /// a worker per permit on its guest runtime. They end when the host drains.
    pub fn start(lane: Arc<Lane>, source: Box<dyn Source>, supervisor: &Supervisor) {
        let ordering = &lane.binding.ordering;
        let held_max = if ordering.is_ordered() { RELEASED_MAX } else { HELD_MAX as usize };
        let workers = match ordering {
            EventOrder::Strict { .. } => 1,
            EventOrder::PerKey { .. } | EventOrder::Unordered => lane.binding.limits.concurrency,
        };
        let (sender, queue) = async_channel::bounded(held_max);
        let order = Order::of(ordering, sender.clone());
        let intake = Arc::new(Self { lane, queue, order, pace: Arc::new(Pace::new(workers)) });
        let name = intake.lane.binding.durable();
        supervisor.control(format!("{name}: intake"), Arc::clone(&intake).read(source, sender));
        supervisor.control(format!("{name}: progress"), Arc::clone(&intake).report_progress());
        if intake.order.is_some() {
            supervisor.control(format!("{name}: order"), Arc::clone(&intake).keep_order());
        }
        for worker in 0..workers {
            supervisor.guest(format!("{name}: worker {worker}"), Arc::clone(&intake).work());
        }
    }

    /// Reads the source until the host drains, then puts back what no worker has begun.
    async fn read(self: Arc<Self>, mut source: Box<dyn Source>, queue: async_channel::Sender<Delivery>) {
        let draining = self.lane.host.draining.clone();
        let _ended = self.lane.intake_ended.clone().drop_guard();
        let mut watch = FlowWatch::new(&self.lane);
        loop {
            let flow = watch.flow();
            if matches!(flow, Flow::Shut(_)) && self.order.is_none() {
                self.put_back_queued().await;
            }
            let room = self.room(flow, queue.len());
            let delivery = tokio::select! {
                biased;
                () = draining.cancelled() => break,
                () = watch.changed(flow) => continue,
                // A worker that takes one before this waits is not missed: the notification is kept.
                () = self.pace.taken.notified(), if room == 0 => continue,
                delivery = survive(&self.lane, "looking for events", source.next(room)), if room > 0 || self.hears(flow) => delivery,
            };
            let Some(delivery) = delivery else {
                sleep(AFTER_FAULT).await;
                continue;
            };
            let Some(delivery) = delivery else {
                error!(plugin = %self.lane.binding.plugin, "the subscription ended; no more events arrive for this binding");
                break;
            };
            if let Some(order) = &self.order {
                order.opened(source.opening());
            }
            survive(&self.lane, "taking an event", self.take(delivery, flow, &queue)).await;
        }
        // Those behind first: nothing is released any more when the first of them goes back.
        let waiting = self.order.as_ref().map(Order::end).unwrap_or_default();
        queue.close();
        for delivery in waiting {
            self.give_back(&delivery.receipt).await;
        }
        // What was on its way may be a copy of what still runs or is settled: only what is neither is given back.
        let on_its_way = survive(&self.lane, "closing the source", source.close()).await;
        for delivery in on_its_way.unwrap_or_default() {
            let flow = watch.flow();
            survive(&self.lane, "taking an event", self.take(delivery, flow, &queue)).await;
        }
        while let Ok(delivery) = self.queue.recv().await {
            self.give_back(&delivery.receipt).await;
        }
    }

    /// How many more events may come.
    fn room(&self, flow: Flow, queued: usize) -> usize {
        match (flow, &self.order) {
            (Flow::Free, Some(order)) => order.room(self.lane.leases.held()),
            (Flow::One, Some(order)) => order.room(self.lane.leases.held()).min(1),
            (Flow::Free, None) => self.pace.room(queued as u64),
            (Flow::One, None) => usize::from(queued == 0),
            (Flow::Rest(_) | Flow::Shut(_), _) => 0,
        }
    }

    /// Whether the source is listened to although nothing is asked for: what a stream has on its way would only wait here
    /// until the broker's patience ends. Plain subjects have a buffer of their own, and where order is kept nothing is given
    /// back but at the end.
    fn hears(&self, flow: Flow) -> bool {
        let listens = matches!(flow, Flow::Shut(_)) && self.order.is_none();
        listens && !matches!(self.lane.binding.subscription, Subscription::Core { .. })
    }

    /// Gives back what is held and has not begun, uncounted.
    async fn put_back_queued(&self) {
        let queued: Vec<_> = std::iter::from_fn(|| self.queue.try_recv().ok()).collect();
        for batch in queued.chunks(PROGRESS_BATCH) {
            join_all(batch.iter().map(|delivery| {
                self.pace.dequeued(delivery.content.payload().len() as u64);
                self.put_back_paused(&delivery.receipt)
            }))
            .await;
        }
    }

    async fn put_back_paused(&self, receipt: &Receipt) {
        self.lane.record.refused(&Refusal::Paused(String::new()));
        self.give_back(receipt).await;
    }

    async fn take(&self, delivery: Delivery, flow: Flow, queue: &async_channel::Sender<Delivery>) {
        match self.lane.leases.claim(&delivery.receipt) {
            Claim::Held if self.order.is_some() => {
                self.lane.record.held(self.lane.leases.held());
                let refused = self.order.as_ref().and_then(|order| order.arrive(delivery));
                if let Some(delivery) = refused {
                    self.give_back(&delivery.receipt).await;
                }
            }
            Claim::Held if matches!(flow, Flow::Shut(_)) => self.put_back_paused(&delivery.receipt).await,
            Claim::Held => {
                self.pace.queued(delivery.content.payload().len() as u64);
                self.lane.record.held(self.lane.leases.held());
                if let Err(async_channel::SendError(delivery)) = queue.send(delivery).await {
                    self.give_back(&delivery.receipt).await;
                }
            }
            Claim::AlreadyHeld => {
                self.lane.record.copy_dropped();
                if self.order.is_some() {
                    self.lane.leases.given_again(&delivery.receipt);
                }
            }
            Claim::AlreadyDone => {
                self.lane.record.acknowledged_again();
                if let Err(why) = self.lane.settle.ack(&delivery.receipt).await {
                    debug!(plugin = %self.lane.binding.plugin, %why, "a settled event could not be acknowledged again");
                }
            }
        }
    }

    async fn work(self: Arc<Self>) {
        while let Ok(delivery) = self.queue.recv().await {
            if self.order.is_none() {
                self.pace.dequeued(delivery.content.payload().len() as u64);
            }
            if self.lane.host.draining.is_cancelled() {
                self.give_back(&delivery.receipt).await;
                continue;
            }
            let slot = self.lane.host.slots.acquire(self.lane.standing(&delivery.receipt)).await;
            let started = Instant::now();
            let path = pipeline::process(&self.lane, &delivery, slot);
            let settled = match survive(&self.lane, "an event; it is put back", path).await {
                Some(settled) => settled,
                None => self.put_back_faulty(&delivery, started).await,
            };
            self.pace.ran(started.elapsed());
            self.ended(delivery, settled).await;
        }
    }

    /// Puts an event back that met a fault in the host.
    async fn put_back_faulty(&self, delivery: &Delivery, started: Instant) -> Settled {
        let put_back = settle::wait(&self.lane, &delivery.receipt, SHUTDOWN_WAIT);
        let settled = survive(&self.lane, "putting an event back", put_back).await.unwrap_or_else(|| {
            // As long as it counts as held, progress is told of it and the broker never gives it again.
            self.lane.leases.release(&delivery.receipt);
            Settled::LeftToBroker
        });
        history::host_fault(&self.lane, delivery, started.elapsed(), SHUTDOWN_WAIT);
        settled
    }

    /// Lets those behind an event go, where somebody waits for it.
    async fn ended(&self, delivery: Delivery, settled: Settled) {
        let Some(order) = &self.order else { return };
        if let Some(delivery) = order.ended(delivery, settled) {
            self.give_back(&delivery.receipt).await;
        }
        self.pace.taken.notify_one();
    }

    async fn keep_order(self: Arc<Self>) {
        if let Some(order) = &self.order {
            while survive(&self.lane, "keeping order", order.keep(&self.lane)).await.is_none() {
                sleep(AFTER_FAULT).await;
            }
        }
    }

    /// Gives back what was not begun.
    async fn give_back(&self, receipt: &Receipt) {
        let put_back = settle::put_back(&self.lane, receipt, SHUTDOWN_WAIT);
        if survive(&self.lane, "giving an event back", put_back).await.is_none() {
            self.lane.leases.release(receipt);
        }
        record::given_back(&self.lane);
    }

    /// Tells the broker of everything held, queued and running alike, well before its patience ends. Goes on while the
    /// host drains, until the supervisor stops it.
    async fn report_progress(self: Arc<Self>) {
        let lane = &self.lane;
        let mut ticks = tokio::time::interval(lane.leases.interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for batch in lane.leases.due().chunks(PROGRESS_BATCH) {
                join_all(batch.iter().map(|receipt| self.progress(receipt))).await;
            }
        }
    }

    async fn progress(&self, receipt: &Receipt) {
        let asked = Instant::now();
        match survive(&self.lane, "telling progress", self.lane.settle.progress(receipt)).await {
            None => {}
            Some(Ok(())) => self.lane.leases.confirm(receipt, asked),
            Some(Err(why)) => {
                warn!(plugin = %self.lane.binding.plugin, event = %receipt.event_id, %why, "progress could not be reported");
            }
        }
    }
}

impl Pace {
    fn new(workers: u32) -> Self {
        Self {
            workers: u64::from(workers.max(1)),
            // Until the first event has run, as if one took so long that a worker's share is all that is held.
            run_us: AtomicU64::new(HELD_WORK.as_micros() as u64),
            payload_bytes: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            taken: Notify::new(),
        }
    }

    /// How many more deliveries may be held.
    fn room(&self, queued: u64) -> usize {
        let run_us = self.run_us.load(Ordering::Relaxed).max(1);
        let soon = (self.workers * HELD_WORK.as_micros() as u64 / run_us).clamp(self.workers, HELD_MAX);
        let bytes = HELD_BYTES_MAX.saturating_sub(self.queued_bytes.load(Ordering::Relaxed));
        let by_bytes = bytes / self.payload_bytes.load(Ordering::Relaxed).max(1);
        soon.saturating_sub(queued).min(by_bytes) as usize
    }

    fn queued(&self, payload_bytes: u64) {
        self.queued_bytes.fetch_add(payload_bytes, Ordering::Relaxed);
        average(&self.payload_bytes, payload_bytes);
    }

    fn dequeued(&self, payload_bytes: u64) {
        self.queued_bytes.fetch_sub(payload_bytes, Ordering::Relaxed);
        self.taken.notify_one();
    }

    fn ran(&self, elapsed: Duration) {
        average(&self.run_us, elapsed.as_micros() as u64);
    }
}

/// Moves an average an eighth of the way to a new value. Two writers at once lose one value, which is harmless.
fn average(average: &AtomicU64, value: u64) {
    let old = average.load(Ordering::Relaxed);
    average.store(old - old / 8 + value / 8, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_handlers_hold_one_event_per_worker_and_fast_ones_a_tenth_of_a_second_of_work() {
        let pace = Pace::new(4);
        assert_eq!(pace.room(0), 4);
        pace.run_us.store(10_000, Ordering::Relaxed);
        assert_eq!(pace.room(0), 40);
        pace.run_us.store(10, Ordering::Relaxed);
        assert_eq!((pace.room(0), pace.room(255), pace.room(256)), (256, 1, 0));
    }

    #[test]
    fn large_payloads_are_held_by_their_bytes() {
        let pace = Pace::new(4);
        pace.run_us.store(10, Ordering::Relaxed);
        pace.payload_bytes.store(4 << 20, Ordering::Relaxed);
        assert_eq!(pace.room(0), 4);
        pace.queued_bytes.store(16 << 20, Ordering::Relaxed);
        assert_eq!(pace.room(4), 0);
    }
}
