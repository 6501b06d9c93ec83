//! `bus.request`: asking other services, at once.
//!
//! What a plugin asks leaves the host before its handler is done and is not undone when it fails. So it has a grant of its
//! own, and the transport refuses subjects that a stream captures: that would be a durable publish that was not held back.
//! The wait counts as wall-clock time of the attempt and never outlasts it; the processor budget stands still meanwhile.

use crate::{
    bindings::busway::plugin::types::{BusError, HeaderResult, Message},
    store::{Phase, State},
};
use busway_core::{
    Message as Asked,
    dead_letter::{EVENT_ID, HOPS},
    headers::is_shown,
    limits::REQUESTS_MAX,
    port::RequestError,
    trace::TRACEPARENT,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tracing::debug;

impl State {
    /// Asks and waits.
    pub(super) async fn ask(&mut self, message: Message, timeout_ms: u32) -> Result<Message, BusError> {
        if self.phase == Phase::Starting {
            return Err(BusError::Unavailable);
        }
        let asked = self.admit_request(message)?;
        let requests = self.shared.requests.get().map(Arc::clone).ok_or(BusError::Unavailable)?;
        let wait = Duration::from_millis(timeout_ms.into()).min(self.remaining());
        let answer = requests.request(&asked, wait).await.map_err(|why| self.refused(&asked, why))?;
        if answer.payload.len() as u64 > self.shared.payload_bytes_max() {
            return Err(BusError::TooLarge);
        }
        let shown = answer.headers.iter().filter(|(name, _)| is_shown(name));
        let header = |(name, value): (&str, &str)| HeaderResult { name: name.into(), value: value.into() };
        // Not the subject it came on: that is the host's own inbox.
        let (subject, headers) = (asked.subject, shown.map(header).collect());
        Ok(Message { subject, headers, payload: answer.payload.into() })
    }

    /// What is sent, once it is granted, well-formed and within the budget.
    fn admit_request(&mut self, message: Message) -> Result<Asked, BusError> {
        let subject = self.shared.grants.authorize_request(&message.subject)?;
        let mut headers = super::bus::checked(&message.headers)?;
        let bytes = (message.payload.len() + headers.text_bytes()) as u64;
        if bytes > self.shared.payload_bytes_max() {
            return Err(BusError::TooLarge);
        }
        let is_spent = self.requests >= REQUESTS_MAX
            || self.used.publish_bytes + bytes > self.shared.limits.publish_bytes.0;
        if is_spent {
            return Err(BusError::Quota);
        }
        self.requests += 1;
        self.used.publish_bytes += bytes;
        if let Some(traceparent) = self.about.traceparent(&self.shared.name) {
            headers.push(TRACEPARENT, &traceparent);
        }
        headers.push(HOPS, &self.about.hops.saturating_add(1).to_string());
        if let Some(cause) = &self.about.cause {
            headers.push(EVENT_ID, cause.id.as_str());
        }
        Ok(Asked { subject: subject.as_str().to_owned(), headers, payload: Bytes::from(message.payload) })
    }

    fn refused(&self, asked: &Asked, why: RequestError) -> BusError {
        debug!(plugin = %self.shared.name, id = self.about.id, subject = asked.subject, %why, "a request has no answer");
        match why {
            RequestError::Timeout => BusError::Timeout,
            RequestError::NoResponders => BusError::NoResponders,
            RequestError::Captured { .. } => BusError::Denied,
            RequestError::TooLarge(_) => BusError::TooLarge,
            RequestError::Unreachable(_) => BusError::Unavailable,
            RequestError::Service { .. } => BusError::Other(why.to_string()),
        }
    }
}
