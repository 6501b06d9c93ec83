//! `busway:plugin/bus`: publishing and replying, held back until the handler returned ok; requests, which are not.
//!
//! A subject must be well-formed, granted and within the budget before a message is staged. Staged messages leave the
//! sandbox only with the handler's ok. A reply needs no grant: the requester named its subject, and the host has looked at
//! it before it said that the event can be replied to.

use crate::{
    bindings::busway::plugin::{
        bus::Host,
        types::{self, BusError, HeaderResult as Header, Message},
    },
    store::{Phase, State},
};
use busway_core::{Headers, Output, Reply, limits::REQUESTS_MAX};
use bytes::Bytes;

/// A run that goes on calling beyond so many times its budget is ended.
const QUOTA_FACTOR: u32 = 10;

/// The guest went far beyond a budget of host calls.
#[derive(Debug, thiserror::Error)]
#[error("{calls} calls of bus.{call} beyond the budget of {budget}")]
pub(crate) struct QuotaSpent {
    call: &'static str,
    calls: u32,
    budget: u32,
}

impl QuotaSpent {
    /// Which budget it was.
    pub(crate) fn code(&self) -> &'static str {
        match self.call {
            "request" => "requests",
            _ => "publishes",
        }
    }
}

impl types::Host for State {}

impl Host for State {
    fn publish(&mut self, message: Message) -> wasmtime::Result<Result<(), BusError>> {
        let staged = self.stage(message);
        self.account("publish", self.shared.limits.publishes, staged)
    }

    fn reply(&mut self, headers: Vec<Header>, payload: Vec<u8>) -> wasmtime::Result<Result<(), BusError>> {
        let staged = self.stage_reply(&headers, payload);
        self.account("reply", self.shared.limits.publishes, staged)
    }

    async fn request(
        &mut self,
        message: Message,
        timeout_ms: u32,
    ) -> wasmtime::Result<Result<Message, BusError>> {
        let answer = self.ask(message, timeout_ms).await;
        self.account("request", REQUESTS_MAX, answer)
    }
}

impl State {
    /// Counts what was refused, and ends a guest that goes on calling far beyond its budget.
    fn account<T>(
        &mut self,
        call: &'static str,
        budget: u32,
        answer: Result<T, BusError>,
    ) -> wasmtime::Result<Result<T, BusError>> {
        match &answer {
            Err(BusError::Denied) => self.used.denied += 1,
            Err(BusError::Quota) => {
                self.calls_refused += 1;
                let calls = self.calls_refused;
                if calls > QUOTA_FACTOR * budget.max(1) {
                    return Err(wasmtime::Error::new(QuotaSpent { call, calls, budget }));
                }
            }
            _ => {}
        }
        Ok(answer)
    }

    fn stage(&mut self, message: Message) -> Result<(), BusError> {
        if self.phase == Phase::Starting {
            return Err(BusError::Unavailable);
        }
        let (subject, guarantee) = self.shared.grants.authorize_publish(&message.subject)?;
        let headers = checked(&message.headers)?;
        self.charge(&headers, &message.payload)?;
        let payload = Bytes::from(message.payload);
        self.outputs.messages.push(Output { guarantee, subject, headers, payload });
        Ok(())
    }

    fn stage_reply(&mut self, headers: &[Header], payload: Vec<u8>) -> Result<(), BusError> {
        if self.phase == Phase::Starting {
            return Err(BusError::Unavailable);
        }
        if !self.about.can_reply {
            return Err(BusError::NoReply);
        }
        if self.outputs.reply.is_some() {
            return Err(BusError::AlreadyReplied);
        }
        let headers = checked(headers)?;
        self.charge(&headers, &payload)?;
        self.outputs.reply = Some(Reply { headers, payload: Bytes::from(payload) });
        Ok(())
    }

    /// Takes a message from the budgets of messages and bytes.
    fn charge(&mut self, headers: &Headers, payload: &[u8]) -> Result<(), BusError> {
        let bytes = (payload.len() + headers.text_bytes()) as u64;
        if bytes > self.shared.payload_bytes_max() {
            return Err(BusError::TooLarge);
        }
        let limits = &self.shared.limits;
        if self.used.publishes >= limits.publishes || self.used.publish_bytes + bytes > limits.publish_bytes.0
        {
            return Err(BusError::Quota);
        }
        self.used.publishes += 1;
        self.used.publish_bytes += bytes;
        Ok(())
    }
}

pub(super) fn checked(lines: &[Header]) -> Result<Headers, BusError> {
    let mut headers = Headers::new();
    for line in lines {
        // One answer for all: the contract says that a header of the host's is a header that can't be sent.
        headers.push_checked(&line.name, &line.value).map_err(|_| BusError::InvalidHeader)?;
    }
    Ok(headers)
}
