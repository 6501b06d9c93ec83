//! `busway:plugin/bus`: publishing, held back until the handler returned ok.
//!
//! A subject must be well-formed, granted and within the budget before a message is staged. Staged messages leave the
//! sandbox only with the handler's ok.

use crate::{
    bindings::busway::plugin::{
        bus::Host,
        types::{self, BusError, HeaderResult as Header, Message},
    },
    store::{Phase, State},
};
use busway_core::{Guarantee, Headers, Output, OutputSubject, SubjectFilter, subject::SubjectError};
use bytes::Bytes;

/// What an operator grants to a plugin. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// What it may publish to.
    pub publish: Vec<SubjectFilter>,
}

/// A run that goes on publishing beyond so many times its budget is ended.
const QUOTA_FACTOR: u32 = 10;

/// The guest went far beyond a budget of host calls.
#[derive(Debug, thiserror::Error)]
#[error("{0} calls of bus.publish beyond the budget of {1} messages")]
pub(crate) struct QuotaSpent(u32, u32);

impl Grants {
    /// The one decision about publishing: a well-formed subject that is not reserved and that a grant captures.
    ///
    /// # Errors
    /// `invalid-subject` for what can't be published to by anyone, `denied` for what this plugin may not.
    fn authorize_publish(&self, subject: &str) -> Result<OutputSubject, BusError> {
        let parsed: OutputSubject = subject.parse().map_err(|why| match why {
            SubjectError::Reserved => BusError::Denied,
            _ => BusError::InvalidSubject,
        })?;
        let is_granted = self.publish.iter().any(|grant| grant.matches(parsed.as_str()));
        if is_granted { Ok(parsed) } else { Err(BusError::Denied) }
    }
}

impl types::Host for State {}

impl Host for State {
    fn publish(&mut self, message: Message) -> wasmtime::Result<Result<(), BusError>> {
        let staged = self.stage(message);
        match &staged {
            Err(BusError::Denied) => self.used.denied += 1,
            Err(BusError::Quota) => {
                self.publishes_refused += 1;
                let budget = self.shared.limits.publishes;
                if self.publishes_refused > QUOTA_FACTOR * budget.max(1) {
                    return Err(wasmtime::Error::new(QuotaSpent(self.publishes_refused, budget)));
                }
            }
            _ => {}
        }
        Ok(staged)
    }

    fn reply(&mut self, _headers: Vec<Header>, _payload: Vec<u8>) -> wasmtime::Result<Result<(), BusError>> {
        Ok(Err(BusError::NoReply))
    }

    fn request(
        &mut self,
        _message: Message,
        _timeout_ms: u32,
    ) -> wasmtime::Result<Result<Message, BusError>> {
        Ok(Err(BusError::Unavailable))
    }
}

impl State {
    fn stage(&mut self, message: Message) -> Result<(), BusError> {
        if self.phase == Phase::Starting {
            return Err(BusError::Unavailable);
        }
        let subject = self.shared.grants.authorize_publish(&message.subject)?;
        let headers = checked(&message.headers)?;
        let bytes = (message.payload.len() + headers.text_bytes()) as u64;
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
        let payload = Bytes::from(message.payload);
        self.outputs.messages.push(Output { guarantee: Guarantee::Stored, subject, headers, payload });
        Ok(())
    }
}

fn checked(lines: &[Header]) -> Result<Headers, BusError> {
    let mut headers = Headers::new();
    for line in lines {
        // One answer for all: the contract says that a header of the host's is a header that can't be sent.
        headers.push_checked(&line.name, &line.value).map_err(|_| BusError::InvalidHeader)?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_granted_is_denied_and_what_is_malformed_is_invalid() {
        let grants = Grants { publish: vec!["orders.*".parse().unwrap(), ">".parse().unwrap()] };
        let narrow = Grants { publish: vec!["orders.*".parse().unwrap()] };
        let table = [
            (&narrow, "orders.a", Ok(())),
            (&narrow, "orders", Err(BusError::Denied)),
            (&narrow, "orders.a.b", Err(BusError::Denied)),
            (&narrow, "orders.*", Err(BusError::InvalidSubject)),
            (&grants, "$JS.API.STREAM.PURGE.X", Err(BusError::Denied)),
            (&grants, "busway.dlq.x", Err(BusError::Denied)),
            (&grants, "_INBOX.x", Err(BusError::Denied)),
            (&grants, "a b", Err(BusError::InvalidSubject)),
            (&Grants::default(), "a", Err(BusError::Denied)),
        ];
        for (grants, subject, expected) in table {
            let decided = grants.authorize_publish(subject).map(|_| ());
            assert_eq!(format!("{decided:?}"), format!("{expected:?}"), "{subject}");
        }
    }
}
