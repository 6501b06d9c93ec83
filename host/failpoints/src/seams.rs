//! The parts of a lane, each wrapped so that its operations lie between two points.
//!
//! Two seams have no errors to tell. A source that is to fail before `next` has found no message and looks again; after
//! it, the message is lost on its way to the host, and the broker gives it again. A source that is to fail at `close`
//! gives nothing back. A handler that is to fail answers as a host does that could not run it; after the call, what the
//! plugin did is forgotten.

use crate::{FailPoints, Operation, Side, Told};
use busway_core::{
    Attempt, AttemptRecord, DeadLetter, Delivery, Event, EventId, Handler, Publish, Ran, Receipt, Refusal,
    Report, Settle, Source, Used,
    port::{
        BoxFuture, KeyClaim, NotReleased, Opening, Outgoing, ParkError, PublishError, Released, SettleError,
        Stored,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// How long a source that found nothing waits until it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

struct WrappedSource {
    points: FailPoints,
    inner: Box<dyn Source>,
    /// What was taken from the broker while the future that took it could still be dropped.
    taken: Option<Delivery>,
    /// Deliveries that were taken from the broker and not given on.
    dropped: u64,
}

struct WrappedHandler {
    points: FailPoints,
    inner: Arc<dyn Handler>,
}

struct WrappedPublish {
    points: FailPoints,
    inner: Arc<dyn Publish>,
}

struct WrappedSettle {
    points: FailPoints,
    inner: Arc<dyn Settle>,
}

impl FailPoints {
    /// A source with points.
    pub fn source(&self, inner: Box<dyn Source>) -> Box<dyn Source> {
        Box::new(WrappedSource { points: self.clone(), inner, taken: None, dropped: 0 })
    }

    /// A handler with points.
    pub fn handler(&self, inner: Arc<dyn Handler>) -> Arc<dyn Handler> {
        Arc::new(WrappedHandler { points: self.clone(), inner })
    }

    /// A publisher with points.
    pub fn publish(&self, inner: Arc<dyn Publish>) -> Arc<dyn Publish> {
        Arc::new(WrappedPublish { points: self.clone(), inner })
    }

    /// A settler with points.
    pub fn settle(&self, inner: Arc<dyn Settle>) -> Arc<dyn Settle> {
        Arc::new(WrappedSettle { points: self.clone(), inner })
    }
}

impl Source for WrappedSource {
    fn next(&mut self, room: usize) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async move {
            loop {
                if self.taken.is_none() {
                    if self.points.pass(Operation::SourceNext, Side::Before).await.is_err() {
                        sleep(LOOK_AGAIN).await;
                        continue;
                    }
                    self.taken = Some(self.inner.next(room).await?);
                }
                match self.points.pass(Operation::SourceNext, Side::After).await {
                    Ok(()) => return self.taken.take(),
                    Err(Told(_)) => {
                        self.taken = None;
                        self.dropped += 1;
                    }
                }
            }
        })
    }

    fn opening(&self) -> Opening {
        let Opening { number, unsettled } = self.inner.opening();
        // What was dropped here is missing as if it had been lost on its way.
        Opening { number: number + self.dropped, unsettled: unsettled + self.dropped as usize }
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async move {
            if self.points.pass(Operation::SourceClose, Side::Before).await.is_err() {
                return Vec::new();
            }
            let mut left = self.inner.close().await;
            left.extend(self.taken.take());
            match self.points.pass(Operation::SourceClose, Side::After).await {
                Ok(()) => left,
                Err(Told(_)) => Vec::new(),
            }
        })
    }
}

impl Handler for WrappedHandler {
    fn call<'a>(&'a self, event: &'a Event, attempt: Attempt) -> BoxFuture<'a, Report> {
        Box::pin(async move {
            if let Err(told) = self.points.pass(Operation::HandlerCall, Side::Before).await {
                return refused(told);
            }
            let report = self.inner.call(event, attempt).await;
            match self.points.pass(Operation::HandlerCall, Side::After).await {
                Ok(()) => report,
                Err(told) => refused(told),
            }
        })
    }
}

fn refused(Told(what): Told) -> Report {
    Report { ran: Ran::Refused(Refusal::HostFault(what)), used: Used::default(), logs: Vec::new() }
}

impl Publish for WrappedPublish {
    fn publish<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>> {
        let work = self.inner.publish(message);
        Box::pin(self.points.around(Operation::PublishPublish, work, PublishError::Unreachable))
    }

    fn publish_all<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>> {
        let told = |what| NotReleased {
            subject: messages.first().map(|message| message.subject.clone()).unwrap_or_default(),
            why: PublishError::Unreachable(what),
        };
        Box::pin(self.points.around(Operation::PublishAll, self.inner.publish_all(messages), told))
    }

    fn send<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>> {
        let work = self.inner.send(message);
        Box::pin(self.points.around(Operation::PublishSend, work, PublishError::Unreachable))
    }

    fn dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>> {
        let work = self.inner.dead_letter(letter);
        Box::pin(self.points.around(Operation::PublishDeadLetter, work, PublishError::Unreachable))
    }
}

impl WrappedSettle {
    fn around<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        work: BoxFuture<'a, Result<T, SettleError>>,
    ) -> BoxFuture<'a, Result<T, SettleError>> {
        Box::pin(self.points.around(operation, work, SettleError::Unreachable))
    }
}

impl Settle for WrappedSettle {
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.around(Operation::SettleAck, self.inner.ack(receipt))
    }

    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        self.around(Operation::SettlePutBack, self.inner.put_back(receipt, after))
    }

    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        self.around(Operation::SettleTerminate, self.inner.terminate(receipt, reason))
    }

    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.around(Operation::SettleProgress, self.inner.progress(receipt))
    }

    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.around(Operation::SettleAckConfirmed, self.inner.ack_confirmed(receipt))
    }

    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        self.around(Operation::SettleAttempts, self.inner.attempts(receipt))
    }

    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        self.around(Operation::SettleRecordAttempts, self.inner.record_attempts(receipt, record))
    }

    fn park<'a>(
        &'a self,
        delivery: &'a Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        let told = |what| ParkError::NotStored(PublishError::Unreachable(what));
        let work = self.inner.park(delivery, failed_runs, after);
        Box::pin(self.points.around(Operation::SettlePark, work, told))
    }

    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        self.around(Operation::SettleUnsettled, self.inner.unsettled())
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        self.inner.stay_active()
    }

    fn claim_key<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        self.around(Operation::SettleClaimKey, self.inner.claim_key(key, ttl, event))
    }

    fn release_key<'a>(&'a self, key: &'a str, event: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>> {
        self.around(Operation::SettleReleaseKey, self.inner.release_key(key, event))
    }
}
