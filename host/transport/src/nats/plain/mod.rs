//! Plain subjects: events that no stream holds, at most once.
//!
//! The [`pump`] keeps draining the client library's subscriptions, which would drop what they can't hold without a word,
//! into a [`queue`] of our own that is bounded in messages and bytes and counts what it sheds. The [`source`] takes from
//! it, [`settle`] puts back into it, [`shared`] is what they have in common. [`service`] shows the plugin as a micro
//! service, [`request`] asks other services for plugins.
//!
//! All of it is on a connection of its own: whoever may publish to such a subject, or answer a request, can send a message
//! over which the client library drops its connection. It comes back by itself, the bad message is gone with it, and
//! nothing durable was on that connection.

mod pump;
mod queue;
mod request;
mod service;
mod settle;
mod shared;
mod source;

pub(super) use pump::run as pump;
pub use request::NatsRequest;
pub(super) use service::{Service, respond};
pub(super) use settle::CoreSettle;
pub(super) use shared::{Inputs, Shared};
pub(super) use source::CoreSource;

use super::{
    connect::Line,
    consumer::OpenError,
    opening::{SourceCounters, SourceStatus},
};
use busway_core::{Binding, SubjectFilter, binding::CoreBuffer};
use queue::Queue;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};

/// What a plain subscription needs of the broker's side.
pub(super) struct Surroundings {
    pub line: Arc<Line>,
    pub inputs: Arc<Inputs>,
    pub service: Arc<Service>,
}

/// Opens a binding on plain subjects: the subscriptions are made by [`pump`].
pub(super) fn open(
    binding: &Binding,
    filters: &[SubjectFilter],
    group: Option<&str>,
    buffer: CoreBuffer,
    around: Surroundings,
) -> Result<Arc<Shared>, OpenError> {
    check_group(binding, group)?;
    let filters = outermost(binding, filters)?;
    let Surroundings { line, inputs, service } = around;
    let first_endpoint = service.add(&filters, group);
    Ok(Arc::new(Shared {
        name: binding.durable(),
        plugin: binding.plugin.clone(),
        filters,
        group: group.map(str::to_owned),
        line,
        inputs,
        service,
        first_endpoint,
        counters: Arc::new(SourceCounters::default()),
        status: watch::Sender::new(SourceStatus::Opening),
        state: Mutex::new(shared::State::new(Queue::new(buffer))),
        changed: Notify::new(),
        closing: Notify::new(),
    }))
}

fn check_group(binding: &Binding, group: Option<&str>) -> Result<(), OpenError> {
    let Some(group) = group else { return Ok(()) };
    let is_name = !group.is_empty()
        && group.len() <= 128
        && group.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if is_name {
        return Ok(());
    }
    Err(OpenError::Group { plugin: binding.plugin.to_string(), group: group.to_owned() })
}

/// Without those that others contain: each message would come once for every subscription that lets it through.
fn outermost(binding: &Binding, filters: &[SubjectFilter]) -> Result<Vec<SubjectFilter>, OpenError> {
    let mut kept: Vec<SubjectFilter> = Vec::new();
    for filter in filters {
        if kept.iter().any(|other| other.contains(filter)) {
            continue;
        }
        kept.retain(|other| !filter.contains(other));
        if let Some(other) = kept.iter().find(|other| other.overlaps(filter)) {
            return Err(OpenError::Overlap {
                plugin: binding.plugin.to_string(),
                one: other.to_string(),
                other: filter.to_string(),
            });
        }
        kept.push(filter.clone());
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use busway_core::binding::Subscription;

    fn binding() -> Binding {
        Binding::new("p".parse().unwrap(), Subscription::Returned)
    }

    fn kept(filters: &[&str]) -> Option<Vec<String>> {
        let filters: Vec<_> = filters.iter().map(|filter| filter.parse().unwrap()).collect();
        let kept = outermost(&binding(), &filters).ok()?;
        Some(kept.iter().map(SubjectFilter::to_string).collect())
    }

    #[test]
    fn no_message_comes_twice_because_two_subjects_let_it_through() {
        assert_eq!(kept(&["a.b", "a.>", "a.*", "c"]), Some(vec!["a.>".into(), "c".into()]));
        assert_eq!(kept(&["a.>", "a.b"]), Some(vec!["a.>".into()]));
        assert_eq!(kept(&["a.*", "*.b"]), None);
    }

    #[test]
    fn a_group_has_a_name_that_the_protocol_can_carry() {
        for fine in ["g", "orders-v2", "a.b_c"] {
            assert!(check_group(&binding(), Some(fine)).is_ok(), "{fine}");
        }
        for bad in ["", "a b", "a\r\nSUB > 1", "*", ">", &"g".repeat(129)] {
            assert!(check_group(&binding(), Some(bad)).is_err(), "{bad:?}");
        }
        assert!(check_group(&binding(), None).is_ok());
    }
}
