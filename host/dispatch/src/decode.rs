//! Step 2: what was stored becomes an event, or can't.
//!
//! The payload is not looked into: it is the plugin's. The one exception is the key that a binding is ordered by. Headers of the broker and the host are taken out, the hop count is
//! read. Nothing here is retried: the same bytes will not decode tomorrow.

use crate::lane::Lane;
use busway_core::{
    Delivery, Event, Failure, FailureClass, Headers, binding::Ordering, dead_letter::HOPS, headers::is_shown,
    port::Content,
};

/// Most plugins that an event's ancestors may have gone through.
pub(crate) const HOPS_MAX: u32 = 16;

/// The event in a delivery.
///
/// # Errors
/// `undecodable` for a malformed message, `loop` for an event beyond [`HOPS_MAX`].
pub(crate) fn event(delivery: &Delivery) -> Result<Event, Failure> {
    let message = match &delivery.content {
        Content::Message(message) => message,
        Content::Malformed(malformed) => {
            return Err(Failure::new(FailureClass::Undecodable, "malformed-message", &malformed.why));
        }
    };
    let subject = message.subject.parse().map_err(|why| {
        Failure::new(FailureClass::Undecodable, "malformed-subject", format!("{:?}: {why}", message.subject))
    })?;
    let hops = hops(&message.headers);
    if hops > HOPS_MAX {
        let reason = format!(
            "the event came through {hops} plugins, more than {HOPS_MAX}: plugins publish to each other's or their own input"
        );
        return Err(Failure::new(FailureClass::Loop, "too-many-hops", reason));
    }
    Ok(Event {
        id: delivery.receipt.event_id.clone(),
        subject,
        headers: message.headers.iter().filter(|(name, _)| is_shown(name)).collect(),
        payload: message.payload.clone(),
        position: delivery.receipt.position.clone(),
        published_at_ms: delivery.receipt.published_at_ms,
        hops,
        can_reply: delivery.receipt.reply_to.is_some(),
    })
}

/// Whether the event has the key that its binding is ordered by.
///
/// # Errors
/// `undecodable`: without a key it has no place among the others.
pub(crate) fn order_key(lane: &Lane, delivery: &Delivery) -> Result<(), Failure> {
    let (Ordering::PerKey { key, .. }, Content::Message(message)) =
        (&lane.binding.ordering, &delivery.content)
    else {
        return Ok(());
    };
    let found = key.key_of(&message.subject, &message.headers, &message.payload);
    found.map(drop).map_err(|why| Failure::new(FailureClass::Undecodable, "no-key", why.to_string()))
}

/// A count that can't be read counts as one hop too many only when it is a number too large to hold.
pub(crate) fn hops(headers: &Headers) -> u32 {
    let Some(text) = headers.get(HOPS) else { return 0 };
    match text.parse::<u64>() {
        Ok(hops) => u32::try_from(hops).unwrap_or(u32::MAX),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busway_core::{Message, Receipt};
    use bytes::Bytes;

    fn decoded(subject: &str, headers: &[(&str, &str)]) -> Result<Event, Failure> {
        event(&Delivery {
            content: Content::Message(Message {
                subject: subject.into(),
                headers: headers.iter().copied().collect(),
                payload: Bytes::new(),
            }),
            receipt: Receipt::for_test("S", 1),
        })
    }

    #[test]
    fn the_brokers_and_the_hosts_headers_are_taken_out_and_the_trace_stays() {
        let given = [("x-a", "1"), ("Nats-Msg-Id", "x"), ("Busway-Hops", "3"), ("traceparent", "t")];
        let event = decoded("orders.created", &given).unwrap();
        assert_eq!(event.headers.iter().collect::<Vec<_>>(), [("x-a", "1"), ("traceparent", "t")]);
        assert_eq!(event.hops, 3);
    }

    #[test]
    fn an_event_that_plugins_pass_around_in_a_circle_ends() {
        assert!(decoded("a", &[(HOPS, "16")]).is_ok());
        for hops in ["17", "99999999999"] {
            assert_eq!(decoded("a", &[(HOPS, hops)]).unwrap_err().class, FailureClass::Loop);
        }
        assert_eq!(decoded("a", &[(HOPS, "many")]).unwrap().hops, 0);
    }
}
