//! Which events of a plugin have a record of failed runs, as far as a source needs to know.
//!
//! A broker that is killed can forget how often it gave an event: the newest state of a consumer may not have reached its
//! disk, and a consumer that is deleted and made again has none. Such an event comes as if for the first time, and what is
//! given for the first time is run without a look at its record, although that may say that the event is a dead letter
//! already. So whenever a pull is opened, and before anything is pulled, the bucket of records is asked which events of
//! this plugin are in it: one request for all, because nearly all events have none. It is asked again until every host
//! that held an event at the opening must have given it up, because such a host may write records until then. Where that
//! can't be told, every event may have a record, and reading one too many costs a request and nothing else.

use super::{
    api::{self, ApiError, code},
    attempts,
    connect::Line,
    own_streams::ATTEMPTS_BUCKET,
};
use busway_core::{PluginName, Receipt};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long opening a pull may wait for the answer.
pub(super) const OPENING_WAIT: Duration = Duration::from_secs(1);

/// What is known of a plugin's records.
#[derive(Debug)]
pub(super) struct Recorded {
    /// None for what comes back: its records are always read.
    plugin: Option<PluginName>,
    // Guards the newest answer; never held across an await.
    known: Mutex<Known>,
}

#[derive(Debug)]
enum Known {
    /// Not asked, or not answered.
    Nothing,
    /// More than one answer holds: the broker names at most 100,000.
    TooMany,
    /// These events have one.
    Events(HashSet<Box<str>>),
}

#[derive(Deserialize)]
struct Info {
    state: State,
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

impl Recorded {
    /// Of events that the plugin gets from a stream.
    pub(super) fn of(plugin: &PluginName) -> Self {
        Self { plugin: Some(plugin.clone()), known: Mutex::new(Known::Nothing) }
    }

    /// Of what comes back.
    pub(super) fn always_read() -> Self {
        Self { plugin: None, known: Mutex::new(Known::Nothing) }
    }

    /// Asks which events have a record, before a pull. Takes no longer than [`OPENING_WAIT`]; without an answer every event
    /// may have one.
    pub(super) async fn ask_anew(&self, line: &Line) {
        let Some(plugin) = &self.plugin else { return };
        let known = match timeout(OPENING_WAIT, ask(line, plugin)).await {
            Ok(Ok(known)) => known,
            Ok(Err(why)) => {
                warn!(%plugin, %why, "which events have failed runs can't be told now: each one's record is read before it runs");
                Known::Nothing
            }
            Err(_) => {
                warn!(%plugin, "{ATTEMPTS_BUCKET} does not answer: each event's record is read before it runs, or it waits");
                Known::Nothing
            }
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Asks again. Without an answer all stays as it is.
    pub(super) async fn ask_again(&self, line: &Line) {
        let Some(plugin) = &self.plugin else { return };
        if matches!(*self.known.lock().unwrap_or_else(PoisonError::into_inner), Known::TooMany) {
            return;
        }
        match ask(line, plugin).await {
            Ok(known) => *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known,
            Err(why) => debug!(%plugin, %why, "which events have a record can't be told again"),
        }
    }

    /// Whether the last question was not answered.
    pub(super) fn is_unanswered(&self) -> bool {
        self.plugin.is_some()
            && matches!(*self.known.lock().unwrap_or_else(PoisonError::into_inner), Known::Nothing)
    }

    /// What comes as if for the first time, and may have been given before, comes for the second time at least.
    pub(super) fn correct(&self, receipt: &mut Receipt) {
        if receipt.delivered > 1 || self.plugin.is_none() {
            return;
        }
        let may_have_one = match &*self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            Known::Nothing | Known::TooMany => true,
            Known::Events(events) => events.contains(receipt.event_id.as_str()),
        };
        if may_have_one {
            receipt.delivered = 2;
        }
    }
}

async fn ask(line: &Line, plugin: &PluginName) -> Result<Known, ApiError> {
    let wanted = json!({ "subjects_filter": attempts::filter_of(plugin) });
    let info: Info = match api::call(line, &format!("STREAM.INFO.{}", attempts::stream()), &wanted).await {
        Ok(info) => info,
        // Without a bucket there are no records.
        Err(why) if why.is(code::STREAM_NOT_FOUND) => return Ok(Known::Events(HashSet::new())),
        Err(why) => return Err(why),
    };
    Ok(known(&info))
}

fn known(info: &Info) -> Known {
    if info.state.subjects.len() < info.total {
        return Known::TooMany;
    }
    Known::Events(
        info.state
            .subjects
            .keys()
            .filter_map(|subject| attempts::event_of(subject))
            .map(Into::into)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(recorded: &Recorded) -> u64 {
        let mut receipt = Receipt::for_test("EVENTS", 1);
        recorded.correct(&mut receipt);
        receipt.delivered
    }

    fn answered(total: usize, events: &[&str]) -> Recorded {
        let subjects = events.iter().map(|event| (format!("$KV.BUSWAY_ATTEMPTS.p.{event}"), 1)).collect();
        let known = known(&Info { state: State { subjects }, total });
        Recorded { plugin: "p".parse().ok(), known: Mutex::new(known) }
    }

    #[test]
    fn only_an_event_with_a_record_was_given_before() {
        let event = Receipt::for_test("EVENTS", 1).event_id;
        assert_eq!(delivered(&answered(1, &["other"])), 1);
        assert_eq!(delivered(&answered(2, &["other", event.as_str()])), 2);
        // A record of a later round of redriving.
        assert_eq!(delivered(&answered(1, &[&format!("{event}.3")])), 2);
    }

    #[test]
    fn where_the_broker_does_not_tell_all_every_event_may_have_been_given_before() {
        assert_eq!(delivered(&Recorded::of(&"p".parse().unwrap())), 2);
        assert_eq!(delivered(&answered(100_001, &["other"])), 2);
        assert_eq!(delivered(&Recorded::always_read()), 1);
    }

    #[test]
    fn what_the_broker_counts_is_never_made_less() {
        let mut receipt = Receipt { delivered: 7, ..Receipt::for_test("EVENTS", 1) };
        Recorded::of(&"p".parse().unwrap()).correct(&mut receipt);
        assert_eq!(receipt.delivered, 7);
    }
}
