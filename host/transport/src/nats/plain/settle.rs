//! Settling events that no broker keeps: there is nobody to tell, so it only says what this host does with them.
//!
//! Done and terminated events are forgotten, those that are put back wait in this host's memory, and so do their failed
//! runs. What does not fit there is shed and counted. All of it is gone with the process: such subscriptions are at most
//! once, and say so wherever they are listed.

use super::{Shared, shared::Why};
use busway_core::{
    AttemptRecord, Delivery, EventId, Receipt, Settle,
    port::{BoxFuture, KeyClaim, ParkError, SettleError},
};
use std::{future::ready, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Settles one binding's events.
#[derive(Debug)]
pub(in crate::nats) struct CoreSettle(Arc<Shared>);

fn now<'a, T: Send + 'a>(answer: T) -> BoxFuture<'a, T> {
    Box::pin(ready(answer))
}

impl CoreSettle {
    pub(in crate::nats) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn end(&self, receipt: &Receipt) -> Result<(), SettleError> {
        self.0.give_back(receipt).map(drop).ok_or(SettleError::Gone)
    }

    fn delay(&self, receipt: &Receipt, after: Duration) -> Result<(), SettleError> {
        let mut entry = self.0.give_back(receipt).ok_or(SettleError::Gone)?;
        entry.delivery.receipt.delivered = entry.delivery.receipt.delivered.saturating_add(1);
        let delayed = {
            let mut state = self.0.state();
            if state.closed { Err(Box::new(entry)) } else { state.queue.delay(entry, Instant::now() + after) }
        };
        match delayed {
            Ok(()) => self.0.changed.notify_one(),
            // Nobody gives it again, so this is the end of it.
            Err(entry) => self.0.shed([*entry], Why::NoRoomToWait),
        }
        Ok(())
    }
}

impl Settle for CoreSettle {
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        now(self.end(receipt))
    }

    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        now(self.delay(receipt, after))
    }

    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        _reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        now(self.end(receipt))
    }

    fn progress<'a>(&'a self, _receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        now(Ok(()))
    }

    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.ack(receipt)
    }

    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        now(self.0.attempts(receipt).ok_or(SettleError::Gone))
    }

    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        now(self.0.record(receipt, record).ok_or(SettleError::Gone))
    }

    fn park<'a>(
        &'a self,
        _delivery: &'a Delivery,
        _failed_runs: u32,
        _after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        now(Err(ParkError::NotOffered))
    }

    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        Box::pin(async { Ok(0) })
    }

    fn is_active(&self) -> bool {
        true
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn claim_key<'a>(
        &'a self,
        _key: &'a str,
        _ttl: Duration,
        _event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        now(Ok(KeyClaim::Own))
    }

    fn release_key<'a>(
        &'a self,
        _key: &'a str,
        _event: &'a EventId,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        now(Ok(()))
    }
}
