//! Storing copies that come back to one plugin alone: parked ones, which wait at the broker as message schedules
//! (ADR-51 of NATS), and redriven ones, which are due at once.
//!
//! A schedule is a message on a subject of its own that names another subject of the same stream and a time; when that
//! has come, the broker stores the message there and removes the schedule. It keeps the headers, and recognises the id of
//! a schedule that has been carried out already.

use super::{
    api::{self, Wanted},
    connect::Line,
    fit,
    own_streams::AGAIN_STREAM,
    publish::{self, Ack, MESSAGE_ID, Store, refused},
    wire,
};
use busway_core::{
    Headers,
    again::{Copy, FAILED_RUNS},
    date,
    dead_letter::ROUND,
    port::{ParkError, PublishError, Stored},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SCHEDULE: &str = "Nats-Schedule";
const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// The stream takes no schedules.
const SCHEDULES_DISABLED: u64 = 10188;

/// Where copies are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copies<'a> {
    pub egress: &'a Line,
    pub control: &'a Line,
}

impl Copies<'_> {
    /// Stores a copy that is due after a wait.
    pub(super) async fn park(&self, copy: &Copy, after: Duration) -> Result<(), ParkError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let due = u64::try_from((now + after).as_millis()).unwrap_or(u64::MAX);
        let object = format!("{}-parked", copy.message_id);
        let fitted = fit::fit(self.egress, &copy.headers, &copy.payload, &object).await?;
        let schedule =
            [(SCHEDULE, &*format!("@at {}", date::rfc3339(due))), (SCHEDULE_TARGET, &*copy.subject)];
        let headers = self.headers(&fitted.headers, &copy.message_id, &schedule)?;
        let store = Store { line: self.egress, control: self.control };
        match store.until_answered(&copy.wait_subject, &headers, fitted.payload).await {
            Ack::Refused(refusal) if refusal.err_code == SCHEDULES_DISABLED => Err(ParkError::NotOffered),
            ack => Ok(ours(ack).map(drop)?),
        }
    }

    /// Stores a copy that is due at once. `headers` and payload fit already: an object that they name is there.
    pub(super) async fn redrive(&self, copy: &Copy, fitted: fit::Fitted) -> Result<Stored, PublishError> {
        let headers = self.headers(&fitted.headers, &copy.message_id, &[])?;
        let store = Store { line: self.egress, control: self.control };
        ours(store.until_answered(&copy.subject, &headers, fitted.payload).await)
    }

    /// Whether this very copy is due and not acknowledged yet: then storing it again would make a second one where the
    /// broker does not remember its id any more.
    pub(super) async fn is_due(&self, copy: &Copy) -> bool {
        let found = api::stored(self.control, AGAIN_STREAM, Wanted::last(&copy.subject)).await;
        let Ok(Some(raw)) = found else { return false };
        let there = wire::parse(&raw.header_block).unwrap_or_default();
        [ROUND, FAILED_RUNS].into_iter().all(|name| there.get(name) == copy.headers.get(name))
    }

    fn headers(
        &self,
        copy: &Headers,
        id: &str,
        more: &[(&str, &str)],
    ) -> Result<async_nats::HeaderMap, PublishError> {
        let mut headers = wire::to_library(copy).map_err(refused)?;
        for (name, value) in more.iter().copied().chain([(MESSAGE_ID, id)]) {
            wire::append(&mut headers, name, value).map_err(refused)?;
        }
        Ok(headers)
    }
}

/// The broker's answer, where the stream is the one that brings copies back.
fn ours(ack: Ack) -> Result<Stored, PublishError> {
    let stored = publish::answer(ack)?;
    if stored.stream != AGAIN_STREAM {
        let why = format!("the stream {} captures copies instead of {AGAIN_STREAM}", stored.stream);
        return Err(PublishError::Refused(why));
    }
    Ok(stored)
}
