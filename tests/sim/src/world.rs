//! The broker of a run, the chance that it plays with, and the history that it writes.
//!
//! Every operation of a host goes through [`World::operate`]: chance decides whether the request arrives, whether the
//! answer does, how long both take, and whether the host dies before or after. The state machines of
//! `busway_testkit::simulated` say what the broker does with a request that arrives.

use crate::{
    copies::Copies,
    history::{Entry, History, What},
    life::Life,
    scenario::{ACK_WAIT_MS, Scenario},
};
use busway_core::{
    AttemptRecord, DeadLetter, Digest, EventId, Position, Receipt, dead_letter::EVENT_ID, port::Content,
};
use busway_testkit::simulated::{Consumer, Random, Stream};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// The name of the one stream of events.
pub const STREAM: &str = "EVENTS";

/// The world of one run; clones share it.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    scenario: Scenario,
    began: Instant,
    state: Mutex<State>,
    changed: Notify,
}

/// What the broker holds.
pub struct State {
    /// What is drawn during the run.
    pub chance: Random,
    /// The events.
    pub events: Stream<Stored>,
    /// Who was given which.
    pub consumer: Consumer,
    /// What plugins published.
    pub outputs: Stream<()>,
    /// Failed runs by event.
    pub attempts: HashMap<EventId, AttemptRecord>,
    /// Whose each input is, and until when.
    pub claims: HashMap<String, (EventId, u64)>,
    /// What is parked.
    pub copies: Copies,
    /// Which life is the active one of an ordered consumer, and when it was heard of.
    pub active: Option<(u32, u64)>,
    /// Dead letters by subject.
    pub letters: BTreeMap<String, DeadLetter>,
    calm: bool,
    ending: bool,
    over: bool,
    lives: u32,
    runs: HashMap<u64, u64>,
    sequences: HashMap<EventId, u64>,
    entries: Vec<Entry>,
}

/// A stored event.
pub struct Stored {
    /// As it was published.
    pub content: Content,
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
}

/// How an operation went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The broker said no.
    Refused,
    /// Nobody answered in time.
    NoAnswer,
}

/// What chance decided about an operation.
struct Plan {
    before_ms: u64,
    after_ms: u64,
    fate: Fate,
    crash: Crash,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    Refused,
    LostRequest,
    LostAnswer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Crash {
    None,
    Before,
    After,
}

impl World {
    /// An empty broker.
    pub fn new(scenario: Scenario) -> Self {
        let state = State {
            chance: Random::new(scenario.seed).fork(1),
            events: Stream::new(0, usize::MAX),
            consumer: Consumer::new(ACK_WAIT_MS, scenario.window()),
            outputs: Stream::new(scenario.dedupe_window_ms, usize::MAX),
            attempts: HashMap::new(),
            claims: HashMap::new(),
            copies: Copies::default(),
            active: None,
            letters: BTreeMap::new(),
            calm: false,
            ending: false,
            over: false,
            lives: 0,
            runs: HashMap::new(),
            sequences: HashMap::new(),
            entries: Vec::new(),
        };
        Self(Arc::new(Inner {
            scenario,
            began: Instant::now(),
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// What the run is made of.
    pub fn scenario(&self) -> &Scenario {
        &self.0.scenario
    }

    /// The beginning.
    pub fn began(&self) -> Instant {
        self.0.began
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.0.began.elapsed().as_millis() as u64
    }

    /// Looks at the broker, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.lock())
    }

    /// Writes down what happened.
    pub fn note(&self, life: u32, what: What) {
        let at_ms = self.now_ms();
        self.lock().entries.push(Entry { at_ms, life, what });
        self.0.changed.notify_waiters();
    }

    /// Stores an event.
    pub fn accept(&self, content: Content, key: Option<String>, input: Option<String>) {
        let at_ms = self.now_ms();
        let payload = Digest::of(content.payload()).to_string();
        let sequence = self.with(|state| {
            let stored = state.events.publish(Stored { content, at_ms }, None, at_ms);
            let sequence = stored.map_or(0, |taken| taken.sequence);
            state.sequences.insert(event_id(sequence), sequence);
            sequence
        });
        self.note(0, What::Accepted { event: sequence, key, input, payload });
    }

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.with(|state| state.calm = true);
        self.note(0, What::Calm);
    }

    /// Whether nothing goes wrong any more.
    pub fn is_calm(&self) -> bool {
        self.lock().calm
    }

    /// Whether the history was read: nothing is written any more.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }

    /// The next life.
    pub fn new_life(&self) -> Life {
        let mut state = self.lock();
        state.lives += 1;
        let most = self.0.scenario.faults.operations_of_a_life;
        let operations = Some(state.chance.between(1, most)).filter(|_| most > 0);
        Life::new(state.lives, operations)
    }

    /// Whether it is one of the times at which this goes wrong.
    pub fn is_within(&self, spans: &[std::ops::Range<u64>]) -> bool {
        let now = self.now_ms();
        !self.lock().calm && spans.iter().any(|span| span.contains(&now))
    }

    /// Waits until something happens. Enable it before looking.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.changed.notified()
    }

    /// Waits until the broker is so.
    pub async fn until(&self, so: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if so(self) {
                return;
            }
            changed.await;
        }
    }

    /// From now on hosts end.
    pub fn end(&self) {
        self.with(|state| state.ending = true);
        self.0.changed.notify_waiters();
    }

    /// Waits until hosts are to end.
    pub async fn ending(&self) {
        self.until(|world| world.with(|state| state.ending)).await;
    }

    /// Whether nothing is pending and nothing is new.
    pub fn is_settled(&self) -> bool {
        self.with(|state| {
            let given = state.consumer.never_given(state.events.last()) == 0;
            given && state.consumer.pending().is_empty() && state.copies.pending().is_empty()
        })
    }

    /// One operation of a host at the broker. What `apply` does is done when the request arrives, if it does. Never
    /// returns once the host is dead. `patience_ms` is how long an answer is waited for.
    ///
    /// # Errors
    /// What the host is told where it is not told of success; the operation may have been done all the same.
    pub async fn operate<T>(
        &self,
        life: &Life,
        patience_ms: u64,
        apply: impl FnOnce(&mut State, u64) -> T,
    ) -> Result<T, Trouble> {
        life.breathe().await;
        let plan = self.plan(life);
        if plan.crash == Crash::Before {
            return self.die(life).await;
        }
        nap(plan.before_ms).await;
        life.breathe().await;
        let done = match plan.fate {
            Fate::Fine | Fate::LostAnswer => {
                let now_ms = self.now_ms();
                let done = self.with(|state| apply(state, now_ms));
                self.0.changed.notify_waiters();
                Some(done)
            }
            Fate::Refused | Fate::LostRequest => None,
        };
        if plan.crash == Crash::After {
            return self.die(life).await;
        }
        nap(if matches!(plan.fate, Fate::LostAnswer | Fate::LostRequest) {
            patience_ms
        } else {
            plan.after_ms
        })
        .await;
        life.breathe().await;
        match (plan.fate, done) {
            (Fate::Fine, Some(done)) => Ok(done),
            (Fate::Refused, _) => Err(Trouble::Refused),
            _ => Err(Trouble::NoAnswer),
        }
    }

    async fn die<T>(&self, life: &Life) -> T {
        life.crash();
        pending().await
    }

    fn plan(&self, life: &Life) -> Plan {
        let leaderless = self.is_within(&self.0.scenario.faults.leaderless);
        let faults = &self.0.scenario.faults;
        let mut state = self.lock();
        if state.calm {
            return Plan { before_ms: 1, after_ms: 1, fate: Fate::Fine, crash: Crash::None };
        }
        let chance = &mut state.chance;
        let most = if chance.permille(faults.slow) { 800 } else { 5 };
        let fate = match chance.below(1_000) {
            _ if leaderless => Fate::LostRequest,
            drawn if drawn < faults.lost_requests => Fate::LostRequest,
            drawn if drawn < faults.lost_requests + faults.lost_answers => Fate::LostAnswer,
            drawn if drawn < faults.lost_requests + faults.lost_answers + faults.refusals => Fate::Refused,
            _ => Fate::Fine,
        };
        let (before_ms, after_ms) = (chance.below(most), chance.below(most));
        let crash = match life.is_spent() {
            true if chance.permille(500) => Crash::Before,
            true => Crash::After,
            false => Crash::None,
        };
        Plan { before_ms, after_ms, fate, crash }
    }

    /// The history, with what is pending now.
    pub fn history(&self) -> History {
        let at_ms = self.now_ms();
        let mut state = self.lock();
        state.over = true;
        let last = state.events.last();
        let new = last - state.consumer.never_given(last) + 1..=last;
        let mut pending: BTreeSet<u64> = state.consumer.pending().into_iter().chain(new).collect();
        let state = &mut *state;
        for copy in state.copies.pending() {
            let id = copy.headers.get(EVENT_ID).and_then(|id| id.parse().ok());
            pending.extend(id.and_then(|id: EventId| state.sequences.get(&id)));
        }
        let pending =
            pending.into_iter().map(|event| Entry { at_ms, life: 0, what: What::Pending { event } });
        state.entries.extend(pending);
        History { rules: self.0.scenario.rules(), entries: std::mem::take(&mut state.entries) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The consumer that a message was given from.
    pub fn consumer_of(&mut self, receipt: &Receipt) -> &mut Consumer {
        if receipt.returned.is_some() { &mut self.copies.consumer } else { &mut self.consumer }
    }

    /// The sequence of the event with this id; 0 where there is none.
    pub fn sequence(&self, id: &EventId) -> u64 {
        self.sequences.get(id).copied().unwrap_or_default()
    }

    /// How often this event has been run, this time included.
    pub fn run_of(&mut self, event: u64) -> u64 {
        let runs = self.runs.entry(event).or_default();
        *runs += 1;
        *runs
    }

    /// Writes down what happened, while the state is held.
    pub fn write(&mut self, at_ms: u64, life: u32, what: What) {
        self.entries.push(Entry { at_ms, life, what });
    }
}

/// Where an event is stored.
pub fn position(sequence: u64) -> Position {
    Position { stream: STREAM.into(), stream_created_ns: 0, sequence }
}

/// The id of the event with this sequence.
pub fn event_id(sequence: u64) -> EventId {
    EventId::of(&position(sequence))
}

/// A wait; none for no time.
pub async fn nap(ms: u64) {
    if ms > 0 {
        sleep(Duration::from_millis(ms)).await;
    }
}
