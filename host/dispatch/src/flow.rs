//! How much of a binding's events may come at the moment: the intake's view of breaker, pause and quarantine.
//!
//! While nothing may run, the broker is asked for nothing. A quarantined binding has one thing left to do: the event that
//! killed the host must become a dead letter. The broker gives that event again after the acknowledgement wait, before any
//! new one, so the binding waits so long, and then takes one event at a time, a second apart, until it has found it.

use crate::{
    gate::{OpenBreaker, Passed, Pause},
    journal::{Noted, Standing},
    lane::Lane,
};
use busway_core::{Receipt, Refusal, breaker::State};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

/// Between two events that a quarantined binding takes.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// For so many acknowledgement waits a quarantined binding looks for the event that killed the host.
const SEARCH_WAITS: u32 = 10;

/// How much may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// As much as there is room for.
    Free,
    /// One event.
    One,
    /// Nothing more until then; what is held stays.
    Rest(Instant),
    /// Nothing, until then at least; what is held and has not begun is put back.
    Shut(Option<Instant>),
}

/// A view of the flow that knows when to look again.
pub(crate) struct FlowWatch {
    lane: Arc<Lane>,
    breaker: watch::Receiver<State>,
    pause: watch::Receiver<Option<Pause>>,
    began: Instant,
    searched: Option<Instant>,
}

impl FlowWatch {
    pub(crate) fn new(lane: &Arc<Lane>) -> Self {
        Self {
            breaker: lane.gate.watch(),
            pause: lane.pause.subscribe(),
            lane: Arc::clone(lane),
            began: Instant::now(),
            searched: None,
        }
    }

    /// How much may come now.
    pub(crate) fn flow(&mut self) -> Flow {
        // Seen before they are looked at, so that no change in between is missed.
        self.breaker.borrow_and_update();
        let pause = *self.pause.borrow_and_update();
        match pause {
            Some(Pause::ByHand) => Flow::Shut(None),
            Some(Pause::Quarantined) => self.search(),
            None => match self.lane.gate.state() {
                State::Closed => Flow::Free,
                State::HalfOpen { probing: false } => Flow::One,
                State::HalfOpen { probing: true } => Flow::Shut(None),
                State::Open { until, .. } => Flow::Shut(Some(self.lane.gate.at(until))),
            },
        }
    }

    /// Waits until the flow may be another one. Cancel safe.
    pub(crate) async fn changed(&mut self, flow: Flow) {
        let until = match flow {
            Flow::Shut(until) => until,
            Flow::Rest(until) => Some(until),
            Flow::One if self.searched.is_some() => Some(Instant::now() + SEARCH_INTERVAL),
            Flow::One | Flow::Free => None,
        };
        tokio::select! {
            Ok(()) = self.breaker.changed() => {}
            Ok(()) = self.pause.changed() => {}
            () = sleep_until(until.unwrap_or(self.began)), if until.is_some() => {}
        }
    }

    /// What a quarantined binding may take.
    fn search(&mut self) -> Flow {
        let wait = self.lane.leases.ack_wait();
        let from = self.began + wait;
        let now = Instant::now();
        if !self.lane.has_convicted() || now > from + wait * SEARCH_WAITS {
            return Flow::Shut(None);
        }
        let next = self.searched.map_or(from, |last| last + SEARCH_INTERVAL);
        if now < next {
            return Flow::Rest(next);
        }
        self.searched = Some(now);
        Flow::One
    }
}

impl Lane {
    /// Begins a pause, or changes its reason. What is held and has not begun is put back.
    pub fn pause(&self, pause: Pause) {
        self.set_pause(Some(pause));
    }

    /// Ends a pause by hand. A quarantine holds as long as the host runs.
    pub fn resume(&self) {
        self.set_pause(None);
    }

    /// Whether and why nothing runs, apart from the breaker.
    pub fn paused(&self) -> Option<Pause> {
        *self.pause.borrow()
    }

    /// Why and for how long the plugin's breaker is open.
    pub fn open_breaker(&self) -> Option<OpenBreaker> {
        self.gate.open()
    }

    /// Every change of the plugin's breaker.
    pub fn watch_breaker(&self) -> watch::Receiver<State> {
        self.gate.watch()
    }

    /// Another host's breaker keeps this consumer paused for so long: this host holds still too, and then probes.
    pub fn adopt_breaker(&self, remaining: Duration) {
        self.gate.adopt(remaining);
    }

    /// # Errors
    /// [`Refusal::Paused`].
    pub(crate) fn pass(&self) -> Result<Passed<'_>, Refusal> {
        match self.paused() {
            Some(pause) => Err(Refusal::Paused(pause.to_string())),
            None => self.gate.pass(),
        }
    }

    /// What the journal says of an event.
    pub(crate) fn standing(&self, receipt: &Receipt) -> Standing {
        let journal = self.host.journal.as_ref();
        journal.map_or(Standing::Innocent, |journal| journal.standing(&self.suspect(receipt)))
    }

    /// Notes in the journal that the event's guest runs from now on. An event that no stream holds is never given again, so
    /// there is nothing to note.
    pub(crate) fn note(&self, receipt: &Receipt) -> Option<Noted<'_>> {
        receipt.position.as_ref()?;
        self.host.journal.as_ref()?.note(&self.suspect(receipt))
    }

    /// The event has come to an end: it is not suspected any more.
    pub(crate) fn forget(&self, receipt: &Receipt) {
        if let Some(journal) = &self.host.journal {
            journal.forget(&self.suspect(receipt));
        }
    }

    fn has_convicted(&self) -> bool {
        self.host.journal.as_ref().is_some_and(|journal| journal.has_convicted(&self.digest))
    }

    fn set_pause(&self, pause: Option<Pause>) {
        let mut old = None;
        let changed = self.pause.send_if_modified(|current| {
            old = *current;
            let change = *current != pause && *current != Some(Pause::Quarantined);
            if change {
                *current = pause;
            }
            change
        });
        if !changed {
            return;
        }
        let (plugin, consumer) = (&self.binding.plugin, self.binding.durable());
        let by_hand = |pause| i64::from(pause == Some(Pause::ByHand));
        self.gate.record().paused.inc_by(by_hand(pause) - by_hand(old));
        match pause {
            None => info!(%plugin, consumer, "resumed"),
            Some(Pause::ByHand) => {
                warn!(%plugin, consumer, "paused by hand: its events stay in their stream")
            }
            Some(Pause::Quarantined) => {
                self.gate.record().quarantined.inc();
                warn!(%plugin, consumer, digest = %self.digest, "not run on this host: this version killed it");
            }
        }
    }
}
