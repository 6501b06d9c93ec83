//! Settling: acknowledge, put back, terminate, progress; and the record of failed runs.
//!
//! The client library's confirmed acknowledgement takes any reply for a yes, the broker's "nobody listens" included. So
//! the confirmed ones here are requests of our own, and "nobody listens" is looked into: either the consumer is gone, or
//! it has no leader at the moment. What stays unknown is never taken for done: the broker gives the event again.

use super::{
    api::{self, ApiError, Wanted},
    attempts,
    connect::Line,
    consumer::Spec,
    malformed::{End, GivenOut},
    publish::{self, Ack},
};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use busway_core::{
    AckPolicy, AttemptRecord, EventId, PluginName, Receipt, Settle,
    outcome::clean,
    port::{BoxFuture, SettleError},
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
    pub(super) client: Client,
    pub(super) spec: Spec,
    pub(super) plugin: PluginName,
    pub(super) policy: AckPolicy,
    pub(super) given_out: Arc<GivenOut>,
}

impl NatsSettle {
    async fn acknowledge(&self, receipt: &Receipt) -> Result<(), SettleError> {
        match self.policy {
            AckPolicy::Fast => self.send(&receipt.token, Bytes::new()).await?,
            AckPolicy::Confirmed => self.confirm(&receipt.token, Bytes::new()).await?,
        }
        self.given_out.ended(receipt, End::Final);
        Ok(())
    }

    /// Hands it to the connection. While the broker is away the connection keeps some and sends them later.
    async fn send(&self, token: &str, body: Bytes) -> Result<(), SettleError> {
        let mut sent = std::pin::pin!(self.client.publish(token.to_owned(), body));
        // There is nearly always room, and then no timer is needed.
        let sent = match sent.as_mut().now_or_never() {
            Some(sent) => Ok(sent),
            None => tokio::time::timeout(CONFIRM_WAIT, sent).await,
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(SettleError::Unreachable(why.to_string())),
            Err(_) => Err(SettleError::Unreachable("the connection does not take more".into())),
        }
    }

    /// Sends it and waits until the broker has confirmed it.
    async fn confirm(&self, token: &str, body: Bytes) -> Result<(), SettleError> {
        let mut last = String::new();
        for _ in 0..CONFIRM_TRIES {
            let request = Request::new().payload(body.clone()).timeout(Some(CONFIRM_WAIT));
            match self.client.send_request(token.to_owned(), request).await {
                Ok(_) => return Ok(()),
                Err(why) if why.kind() == RequestErrorKind::NoResponders => {
                    if self.is_gone().await {
                        return Err(SettleError::Gone);
                    }
                    last = "the consumer has no leader at the moment".into();
                    tokio::time::sleep(LEADERLESS_WAIT).await;
                }
                Err(why) if why.kind() == RequestErrorKind::InvalidSubject => {
                    return Err(SettleError::Refused("the delivery has no acknowledgement subject".into()));
                }
                Err(why) => last = why.to_string(),
            }
        }
        Err(SettleError::Unreachable(last))
    }

    async fn is_gone(&self) -> bool {
        matches!(self.spec.info(&self.client).await, Ok(None))
    }

    async fn read_attempts(&self, event: &EventId) -> Result<AttemptRecord, SettleError> {
        let subject = attempts::subject(&self.plugin, event);
        let stored = api::stored(&self.client, &attempts::stream(), Wanted::last(&subject)).await;
        match stored.map_err(settle_error)? {
            Some(raw) if !raw.payload.is_empty() => {
                attempts::read(&raw.payload).map_err(|why| SettleError::Refused(why.to_string()))
            }
            // Deleted by an operator, or never written.
            _ => Ok(AttemptRecord::default()),
        }
    }

    async fn write_attempts(&self, event: &EventId, record: &AttemptRecord) -> Result<(), SettleError> {
        let body = attempts::write(record).map_err(|why| SettleError::Refused(why.to_string()))?;
        let subject = attempts::subject(&self.plugin, event);
        let store = publish::Store { client: &self.client, control: &self.control };
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
            Ok(())
        })
    }

    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            self.confirm(&receipt.token, Bytes::from_static(b"+WPI")).await?;
            self.given_out.progressed(receipt, self.spec.ack_wait);
            Ok(())
        })
    }

    fn attempts<'a>(&'a self, event: &'a EventId) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        Box::pin(self.read_attempts(event))
    }

    fn record_attempts<'a>(
        &'a self,
        event: &'a EventId,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.write_attempts(event, record))
    }
}

fn settle_error(why: ApiError) -> SettleError {
    match why {
        ApiError::NoAnswer(_) | ApiError::NoJetStream => SettleError::Unreachable(why.to_string()),
        ApiError::Refused { .. } | ApiError::Unreadable(_) => SettleError::Refused(why.to_string()),
    }
}
