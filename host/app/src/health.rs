//! What keeps a host from doing harm: the journal of what runs, the quarantine, and the pauses that all hosts share.
//!
//! A pause by hand is kept at the server, on the consumer itself: it holds for all hosts and survives each of them, and
//! needs nobody's admin listener. So every host looks at its consumers every two seconds. What it can do about a breaker that
//! opens is the same: it pauses the consumer for as long as the breaker is open, so that other hosts do not find out at the
//! cost of their own events that the plugin fails; they see the pause, hold still too, and each lets one event through when it
//! ends. Servers before 2.11 can't pause a consumer; there every host has its own breaker and nothing more.

use crate::{config::Config, quarantine::Quarantine};
use anyhow::Context as _;
use busway_core::{
    Binding,
    binding::Subscription,
    breaker::{Cause, State},
};
use busway_dispatch::{Journal, JournalError, Lane, OpenBreaker, Opened, Pause};
use busway_transport::{Nats, PauseError, ServerPause};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::MissedTickBehavior};
use tracing::{debug, error, warn};

/// How often a consumer is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// What is left of another breaker's pause that is not worth holding still for.
const ADOPT_MIN: Duration = Duration::from_secs(1);
/// Where events that come back to one plugin alone are kept.
const RETURNED_STREAM: &str = "BUSWAY_AGAIN";

/// What the host before this one left behind.
pub struct Past {
    /// The journal; none where the state folder can't be written.
    pub journal: Option<Arc<Journal>>,
    /// Versions that are not run.
    pub quarantine: Quarantine,
}

/// Tells the journal, when it is dropped, that the host was stopped and did not die.
pub struct Stopping(Option<Arc<Journal>>);

impl Drop for Stopping {
    fn drop(&mut self) {
        if let Some(journal) = &self.0 {
            journal.stop();
        }
    }
}

impl Past {
    /// Opens the journal, and puts into quarantine whatever killed the host.
    ///
    /// # Errors
    /// Another host runs with this state folder, or the quarantine can't be read.
    pub fn look_into(config: &Config) -> anyhow::Result<(Self, Stopping)> {
        let state = &config.host.state;
        let mut quarantine = Quarantine::read(state)
            .with_context(|| format!("{}: the quarantine can't be read", state.display()))?;
        let Opened { journal, suspects, convicted } = match Journal::open(state, config.host.concurrency) {
            Ok(opened) => opened,
            Err(why @ JournalError::Locked { .. }) => return Err(why.into()),
            Err(why @ JournalError::Unusable { .. }) => {
                warn!(%why, "no in-flight journal; what kills this host will not be recognised");
                return Ok((Self { journal: None, quarantine }, Stopping(None)));
            }
        };
        if suspects > 0 {
            warn!(suspects, "the host died while events ran; each of them runs alone when it is given again");
        }
        for one in &convicted {
            error!(
                plugin = %one.plugin, digest = %one.digest, event = %one.event, stream = one.stream,
                sequence = one.sequence, file = %quarantine.path().display(),
                "the host died again while this event ran alone: it becomes a dead letter, and this version of the plugin is quarantined"
            );
        }
        if let Err(why) = quarantine.add(&convicted) {
            error!(%why, file = %quarantine.path().display(), "the quarantine can't be written; it holds until the next start");
        }
        let journal = Some(Arc::new(journal));
        Ok((Self { journal: journal.clone(), quarantine }, Stopping(journal)))
    }
}

/// The stream of a binding's durable consumer; none where it has no consumer.
pub fn stream_of(binding: &Binding) -> Option<&str> {
    match &binding.subscription {
        Subscription::Stream { stream, .. } => Some(stream),
        Subscription::Returned => Some(RETURNED_STREAM),
        Subscription::Core { .. } => None,
    }
}

/// What a lane's state says to a person; nothing where its events run.
pub fn note(lane: &Lane) -> Option<String> {
    let name = lane.binding().durable();
    if let Some(pause) = lane.paused() {
        return Some(format!("{name}: {pause}"));
    }
    let OpenBreaker { remaining, cause } = lane.open_breaker()?;
    Some(format!("{name}: its breaker is open for another {} s: {cause}", remaining.as_secs()))
}

/// Looks at a binding's consumer, and pauses it while the plugin's breaker is open. Runs as long as the host does.
pub async fn keep(nats: Arc<Nats>, lane: Arc<Lane>) {
    let Some(stream) = stream_of(lane.binding()).map(str::to_owned) else { return };
    let consumer = lane.binding().durable();
    let mut breaker: watch::Receiver<State> = lane.watch_breaker();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => look(&nats, &lane, (&stream, &consumer)).await,
            changed = breaker.changed() => {
                if changed.is_err() {
                    return;
                }
                breaker.borrow_and_update();
                pause_for_breaker(&nats, &lane, (&stream, &consumer)).await;
            }
        }
    }
}

async fn look(nats: &Nats, lane: &Lane, (stream, consumer): (&str, &str)) {
    let state = match nats.consumer_state(stream, consumer).await {
        Ok(Some(state)) => state,
        Ok(None) => return,
        Err(why) => {
            debug!(%why, "the consumer could not be looked at");
            return;
        }
    };
    match state.pause {
        Some(ServerPause::ByHand) => lane.pause(Pause::ByHand),
        Some(ServerPause::Awhile(remaining)) => {
            lane.resume();
            if remaining > ADOPT_MIN {
                lane.adopt_breaker(remaining);
            }
        }
        None => lane.resume(),
    }
}

async fn pause_for_breaker(nats: &Nats, lane: &Lane, (stream, consumer): (&str, &str)) {
    let Some(OpenBreaker { remaining, cause }) = lane.open_breaker() else { return };
    if cause == Cause::OtherHost {
        return;
    }
    match nats.pause_consumer_awhile(stream, consumer, remaining).await {
        Ok(_) | Err(PauseError::NoConsumer { .. }) => {}
        Err(why @ PauseError::ServerTooOld { .. }) => {
            debug!(%why, "other hosts find out by themselves that the plugin fails");
        }
        Err(why) => {
            warn!(%why, "the consumer was not paused for the breaker; other hosts go on with its events")
        }
    }
}
