//! What an operator grants to a plugin on the bus, and the decisions that follow.
//!
//! A subject must first be one that can be published to by anybody, then one that this plugin may use. A subject that both
//! publishing grants capture is stored: the stronger guarantee wins.

use crate::bindings::busway::plugin::types::BusError;
use busway_core::{Guarantee, OutputSubject, SubjectFilter, subject::SubjectError};

/// What an operator grants to a plugin. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// What it may publish to; a stream must capture it.
    pub publish: Vec<SubjectFilter>,
    /// What it may publish to at most once, without a stream.
    pub publish_core: Vec<SubjectFilter>,
    /// What it may ask other services on.
    pub request: Vec<SubjectFilter>,
}

impl Grants {
    /// Where a message may go, and what it is worth there.
    ///
    /// # Errors
    /// `invalid-subject` for what can't be published to by anyone, `denied` for what this plugin may not.
    pub(super) fn authorize_publish(&self, subject: &str) -> Result<(OutputSubject, Guarantee), BusError> {
        let subject = well_formed(subject)?;
        if captures(&self.publish, &subject) {
            Ok((subject, Guarantee::Stored))
        } else if captures(&self.publish_core, &subject) {
            Ok((subject, Guarantee::Core))
        } else {
            Err(BusError::Denied)
        }
    }

    /// Whom a plugin may ask.
    ///
    /// # Errors
    /// The same.
    pub(super) fn authorize_request(&self, subject: &str) -> Result<OutputSubject, BusError> {
        let subject = well_formed(subject)?;
        if captures(&self.request, &subject) { Ok(subject) } else { Err(BusError::Denied) }
    }
}

fn captures(grants: &[SubjectFilter], subject: &OutputSubject) -> bool {
    grants.iter().any(|grant| grant.matches(subject.as_str()))
}

fn well_formed(subject: &str) -> Result<OutputSubject, BusError> {
    subject.parse().map_err(|why| match why {
        SubjectError::Reserved => BusError::Denied,
        _ => BusError::InvalidSubject,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(filters: &[&str]) -> Vec<SubjectFilter> {
        filters.iter().map(|filter| filter.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_not_granted_is_denied_and_what_is_malformed_is_invalid() {
        let all = filters(&["orders.*", ">"]);
        let narrow = filters(&["orders.*"]);
        let table = [
            (&narrow, "orders.a", Ok(())),
            (&narrow, "orders", Err(BusError::Denied)),
            (&narrow, "orders.a.b", Err(BusError::Denied)),
            (&narrow, "orders.*", Err(BusError::InvalidSubject)),
            (&all, "$JS.API.STREAM.PURGE.X", Err(BusError::Denied)),
            (&all, "$JS.ACK.S.c.1.1.1.1.0", Err(BusError::Denied)),
            (&all, "$SRV.PING", Err(BusError::Denied)),
            (&all, "busway.dlq.x", Err(BusError::Denied)),
            (&all, "_INBOX.x", Err(BusError::Denied)),
            (&all, "a b", Err(BusError::InvalidSubject)),
            (&Vec::new(), "a", Err(BusError::Denied)),
        ];
        for (granted, subject, expected) in table {
            let one = |grants: Grants| {
                let publish = grants.authorize_publish(subject).map(|_| ());
                let request = grants.authorize_request(subject).map(|_| ());
                (format!("{publish:?}"), format!("{request:?}"))
            };
            let (expected, denied) = (format!("{expected:?}"), |asked: &String| asked.starts_with("Err"));
            let (publish, request) = one(Grants { publish: granted.clone(), ..Grants::default() });
            assert!(publish == expected && denied(&request), "publish: {subject}");
            let (publish, request) = one(Grants { publish_core: granted.clone(), ..Grants::default() });
            assert!(publish == expected && denied(&request), "publish-core: {subject}");
            let (publish, request) = one(Grants { request: granted.clone(), ..Grants::default() });
            assert!(request == expected && denied(&publish), "request: {subject}");
        }
    }

    #[test]
    fn a_subject_that_both_grants_capture_is_stored() {
        let (publish, publish_core) = (filters(&["a.stored"]), filters(&["a.*"]));
        let grants = Grants { publish, publish_core, ..Grants::default() };
        let worth = |subject| grants.authorize_publish(subject).unwrap().1;
        assert_eq!((worth("a.stored"), worth("a.core")), (Guarantee::Stored, Guarantee::Core));
    }
}
