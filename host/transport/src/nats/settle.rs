//! Settling: acknowledge, put back, terminate, progress; and the record of failed runs.
//!
//! The client library's confirmed acknowledgement takes any reply for a yes, the broker's "nobody listens" included. So
//! the confirmed ones here are requests of our own, and "nobody listens" is looked into: either the consumer is gone, or
//! it has no leader at the moment. What stays unknown is never taken for done: the broker gives the event again.

use super::{
    active::ActiveLease,
    api::{self, ApiError, Wanted},
    attempts,
    connect::Line,
    consumer::Spec,
    copies::Copies,
    malformed::{End, GivenOut},
    publish::{self, Ack},
    returned::Objects,
    seen::Seen,
    version::{SCHEDULES, Version},
};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind, client::PublishErrorKind};
use busway_core::{
    AckPolicy, AttemptRecord, Delivery, EventId, PluginName, Receipt, Settle,
    again::Copy,
    outcome::clean,
    port::{BoxFuture, KeyClaim, ParkError, SettleError},
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use std::{sync::Arc, time::Duration};

/// How long the broker may take to confirm.
const CONFIRM_WAIT: Duration = Duration::from_secs(3);
/// How often a confirmation is asked for.
const CONFIRM_TRIES: usize = 3;
/// Between two tries where nobody listens.
const LEADERLESS_WAIT: Duration = Duration::from_millis(300);
/// Bytes of the reason that goes with a termination; it stands in the broker's advisory.
const REASON_BYTES_MAX: usize = 256;

/// Settles one binding's deliveries.
#[derive(Debug)]
pub struct NatsSettle {
    pub(super) control: Arc<Line>,
    /// The control connection as it was at first: a handle that need not be taken for every event.
    pub(super) client: Client,
    pub(super) spec: Spec,
    pub(super) plugin: PluginName,
    pub(super) policy: AckPolicy,
    pub(super) given_out: Arc<GivenOut>,
    /// Where one host at a time may work.
    pub(super) active: Option<Arc<ActiveLease>>,
    pub(super) egress: Arc<Line>,
    /// Those of copies that came back.
    pub(super) objects: Arc<Objects>,
}

impl NatsSettle {
    async fn acknowledge(&self, receipt: &Receipt) -> Result<(), SettleError> {
        match self.policy {
            // What belongs to a copy must not be deleted while the broker may give it again.
            _ if self.objects.has(receipt) => {
                self.confirm(&receipt.token, Bytes::new()).await?;
                self.objects.delete(&self.egress, receipt).await;
            }
            AckPolicy::Fast => self.send(&receipt.token, Bytes::new()).await?,
            AckPolicy::Confirmed => self.confirm(&receipt.token, Bytes::new()).await?,
        }
        self.given_out.ended(receipt, End::Final);
        Ok(())
    }

    /// Hands it to the connection. While the broker is away the connection keeps some and sends them later.
    async fn send(&self, token: &str, body: Bytes) -> Result<(), SettleError> {
        match self.send_by(&self.client, token, body.clone()).await {
            Err(Unsent::Ended) => {}
            other => return other.map_err(SettleError::from),
        }
        let current = self.control.client();
        let sent = self.send_by(&current, token, body).await;
        if matches!(sent, Err(Unsent::Ended)) {
            self.control.renew_soon(&current).await;
        }
        sent.map_err(SettleError::from)
    }

    async fn send_by(&self, client: &Client, token: &str, body: Bytes) -> Result<(), Unsent> {
        let mut sent = std::pin::pin!(client.publish(token.to_owned(), body));
        // There is nearly always room, and then no timer is needed.
        let sent = match sent.as_mut().now_or_never() {
            Some(sent) => sent,
            None => tokio::time::timeout(CONFIRM_WAIT, sent).await.map_err(|_| Unsent::NoRoom)?,
        };
        sent.map_err(|why| match why.kind() {
            PublishErrorKind::Send => Unsent::Ended,
            PublishErrorKind::InvalidSubject | PublishErrorKind::MaxPayloadExceeded => Unsent::NotASubject,
        })
    }

    /// Sends it and waits until the broker has confirmed it.
    async fn confirm(&self, token: &str, body: Bytes) -> Result<(), SettleError> {
        let mut last = String::new();
        for _ in 0..CONFIRM_TRIES {
            let request = Request::new().payload(body.clone());
            match self.control.request(token.to_owned(), request, CONFIRM_WAIT).await {
                Ok(_) => return Ok(()),
                Err(why) if why.kind() == RequestErrorKind::NoResponders => {
                    if self.is_gone().await {
                        return Err(SettleError::Gone);
                    }
                    last = "the consumer has no leader at the moment".into();
                    tokio::time::sleep(LEADERLESS_WAIT).await;
                }
                Err(why) if why.kind() == RequestErrorKind::InvalidSubject => {
                    return Err(Unsent::NotASubject.into());
                }
                Err(why) => last = why.to_string(),
            }
        }
        Err(SettleError::Unreachable(last))
    }

    fn seen(&self) -> Seen<'_> {
        Seen { control: &self.control, plugin: &self.plugin }
    }

    async fn store_copy(
        &self,
        delivery: &Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> Result<(), ParkError> {
        if Version::of(&self.control) < SCHEDULES {
            return Err(ParkError::NotOffered);
        }
        let copy = Copy::parked(&self.plugin, delivery, failed_runs);
        let copy = copy.ok_or_else(|| publish::refused("a message that could not be decoded has no copy"))?;
        let copies = Copies { egress: &self.egress, control: &self.control };
        if delivery.receipt.delivered > 1 && copies.is_due(&copy).await {
            return Ok(());
        }
        copies.park(&copy, after).await
    }

    async fn is_gone(&self) -> bool {
        matches!(self.spec.info(&self.control).await, Ok(None))
    }

    async fn read_attempts(&self, receipt: &Receipt) -> Result<AttemptRecord, SettleError> {
        let subject = attempts::subject(&self.plugin, &receipt.event_id, receipt.round());
        let stored = api::stored(&self.control, &attempts::stream(), Wanted::last(&subject)).await;
        match stored.map_err(settle_error)? {
            Some(raw) if !raw.payload.is_empty() => {
                attempts::read(&raw.payload).map_err(|why| SettleError::Refused(why.to_string()))
            }
            // Deleted by an operator, or never written.
            _ => Ok(AttemptRecord::default()),
        }
    }

    async fn write_attempts(&self, receipt: &Receipt, record: &AttemptRecord) -> Result<(), SettleError> {
        let body = attempts::write(record).map_err(|why| SettleError::Refused(why.to_string()))?;
        let subject = attempts::subject(&self.plugin, &receipt.event_id, receipt.round());
        let store = publish::Store { line: &self.control, control: &self.control };
        match store.until_answered(&subject, &HeaderMap::new(), body.into()).await {
            Ack::Stored(_) => Ok(()),
            Ack::Refused(refusal) => Err(SettleError::Refused(refusal.description)),
            Ack::NoStream => {
                Err(SettleError::Refused(format!("the stream {} is missing", attempts::stream())))
            }
            Ack::TooLarge(why) => Err(SettleError::Refused(why)),
            Ack::NoAnswer(why) => Err(SettleError::Unreachable(why)),
        }
    }
}

/// Why an acknowledgement could not be handed to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    /// The connection has ended for good.
    Ended,
    /// It keeps as much as it can already.
    NoRoom,
    /// The delivery was not one of this transport's.
    NotASubject,
}

impl From<Unsent> for SettleError {
    fn from(why: Unsent) -> Self {
        match why {
            Unsent::Ended => Self::Unreachable("the connection has ended; a new one is being made".into()),
            Unsent::NoRoom => Self::Unreachable("the connection does not take more".into()),
            Unsent::NotASubject => Self::Refused("the delivery has no acknowledgement subject".into()),
        }
    }
}

impl Settle for NatsSettle {
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.acknowledge(receipt))
    }

    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            let body = format!("-NAK {{\"delay\":{}}}", after.as_nanos().max(1));
            self.confirm(&receipt.token, body.into()).await?;
            self.given_out.ended(receipt, End::PutBack);
            Ok(())
        })
    }

    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            let body = format!("+TERM {}", clean(reason, REASON_BYTES_MAX));
            self.confirm(&receipt.token, body.into()).await?;
            self.given_out.ended(receipt, End::Final);
            self.objects.delete(&self.egress, receipt).await;
            Ok(())
        })
    }

    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            if !self.is_active() {
                // It would keep the event from the host that is.
                return Err(SettleError::Refused("another host is the active one".into()));
            }
            self.confirm(&receipt.token, Bytes::from_static(b"+WPI")).await?;
            self.given_out.progressed(receipt, self.spec.ack_wait);
            Ok(())
        })
    }

    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            self.confirm(&receipt.token, Bytes::new()).await?;
            self.given_out.ended(receipt, End::Final);
            self.objects.delete(&self.egress, receipt).await;
            Ok(())
        })
    }

    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        Box::pin(self.read_attempts(receipt))
    }

    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.write_attempts(receipt, record))
    }

    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        Box::pin(async {
            let info = self.spec.info(&self.control).await.map_err(settle_error)?;
            info.map(|info| info.num_ack_pending).ok_or(SettleError::Gone)
        })
    }

    fn is_active(&self) -> bool {
        self.active.as_ref().is_none_or(|active| active.is_held())
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(active) = &self.active {
                active.renew().await;
            }
        })
    }

    fn park<'a>(
        &'a self,
        delivery: &'a Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        Box::pin(self.store_copy(delivery, failed_runs, after))
    }

    fn claim_key<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        Box::pin(async move { self.seen().claim(key, ttl, event).await })
    }

    fn release_key<'a>(&'a self, key: &'a str, event: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move { self.seen().release(key, event).await })
    }
}

pub(super) fn settle_error(why: ApiError) -> SettleError {
    match why {
        ApiError::NoAnswer(_) | ApiError::NoJetStream => SettleError::Unreachable(why.to_string()),
        ApiError::Refused { .. } | ApiError::Unreadable(_) => SettleError::Refused(why.to_string()),
    }
}
