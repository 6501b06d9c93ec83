//! The audit: what was accepted against what came of it, by set algebra over event ids.
//!
//! An accepted event is in exactly one of three places: done (its outputs are stored), dead (its letter is), or pending
//! at the broker. Which one is decided here from what was read back, in this order: an event that the broker still has to
//! give is pending, whatever it has left behind; one with a letter is dead; one with all of its outputs is done; one
//! without any of these is pending as far as the broker still waits for acknowledgements, and lost otherwise. Reading
//! things back is for others: the same rules hold for a running broker and for a recorded history.

use crate::{Digest, EventId};
use std::collections::{BTreeMap, HashMap};

/// The most outputs of one event that are looked for.
const OUTPUTS_MAX: usize = 256;
/// Violations of which an account keeps more than their number.
pub const TOLD_MAX: usize = 1_000;

/// What is known of one plugin's handling of one stream.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The plugin.
    pub plugin: String,
    /// The fewest outputs that a handled event leaves. 0: an event that the broker counts as settled is taken for done.
    pub outputs_min: u32,
    /// What a stream has confirmed to its publisher.
    pub accepted: Vec<Accepted>,
    /// What was stored for these events, by this plugin or another.
    pub outputs: Vec<OutputSeen>,
    /// The plugin's dead letters.
    pub letters: Vec<LetterSeen>,
    /// How many given events the broker waits for. They are among those of unclear custody.
    pub ack_pending: u64,
}

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub event: EventId,
    /// Its sequence in its stream.
    pub sequence: u64,
    /// The bytes as published.
    pub payload: Digest,
    /// What the broker says of it.
    pub custody: Custody,
    /// What its outputs must hold, where that is known: whatever is stored for it has one of these payloads.
    pub output_payloads: Option<Vec<Digest>>,
}

/// What the broker says of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Custody {
    /// It will be given: not given yet, parked, or on its way back.
    Pending,
    /// It was given; whether it is settled can't be told of a single event.
    Unclear,
    /// A copy waits outside of the consumer, or has waited there.
    Parked,
    /// It is acknowledged or terminated.
    Settled,
}

/// A stored output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSeen {
    /// The event that it was published for.
    pub event: EventId,
    /// Its id at the broker.
    pub message_id: String,
    /// Where it is stored.
    pub stored_in: String,
    /// The bytes.
    pub payload: Digest,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterSeen {
    /// The event.
    pub event: EventId,
    /// How often it had been redriven.
    pub round: u32,
    /// The bytes that it keeps.
    pub payload: Digest,
}

/// What is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What kind.
    pub kind: ViolationKind,
    /// Which event.
    pub event: EventId,
    /// The event's sequence in its stream.
    pub sequence: u64,
    /// More about it, for people.
    pub what: String,
}

/// The kinds of violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViolationKind {
    /// It was accepted and is nowhere.
    Lost,
    /// Some of its outputs are there and some are not.
    OutputMissing,
    /// The same output is stored more than once.
    DuplicateOutput,
    /// It has more than one letter of the same round.
    DuplicateLetter,
    /// It is done and dead.
    DoneAndDead,
    /// Bytes have changed on the way.
    PayloadChanged,
}

impl ViolationKind {
    /// The stable name in listings.
    pub fn code(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::OutputMissing => "output-missing",
            Self::DuplicateOutput => "duplicate-output",
            Self::DuplicateLetter => "duplicate-letter",
            Self::DoneAndDead => "done-and-dead",
            Self::PayloadChanged => "payload-changed",
        }
    }
}

/// What came of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Events that were accepted.
    pub accepted: u64,
    /// Whose outputs are stored.
    pub done: u64,
    /// Whose letter is stored.
    pub dead: u64,
    /// Which the broker will give again.
    pub pending: u64,
    /// Which are nowhere, or not whole.
    pub lost: u64,
    /// Outputs that are stored once too often.
    pub duplicate_outputs: u64,
    /// Outputs of this plugin.
    pub outputs: u64,
    /// Outputs and letters of events that are not among the accepted: of another plugin or stream, or of events that
    /// their stream has forgotten.
    pub strangers: u64,
    /// What is not as it must be, in the order of the events; the first [`TOLD_MAX`].
    pub violations: Vec<Violation>,
    /// How many violations there are.
    pub violated: u64,
}

impl Account {
    /// Makes the account.
    pub fn of(history: &History) -> Self {
        let mut evidence = Evidence::gather(history);
        let mut account = Self::default();
        for accepted in &history.accepted {
            let found = evidence.of_events.remove(&accepted.event).unwrap_or_default();
            account.enter(history, accepted, &found, &mut evidence.ack_pending);
        }
        let strangers = evidence.of_events.values();
        account.strangers =
            strangers.map(|found| (found.outputs.len() + found.letters.len()) as u64).sum::<u64>();
        account
    }

    /// Whether every event is accounted for, once and unchanged.
    pub fn is_balanced(&self) -> bool {
        self.violated == 0 && self.accepted == self.done + self.dead + self.pending
    }

    fn enter(&mut self, history: &History, accepted: &Accepted, found: &Found<'_>, ack_pending: &mut u64) {
        self.accepted += 1;
        let places = found.places(&history.plugin);
        self.outputs += places.values().map(|copies| *copies as u64).sum::<u64>();
        self.check_copies(accepted, found, &places);
        self.check_bytes(accepted, found, &history.plugin);
        let is_whole = places.keys().copied().eq(0..places.len());
        let is_done = is_whole && places.len() >= history.outputs_min as usize;
        match (accepted.custody, found.letters.is_empty(), places.is_empty()) {
            (Custody::Pending, _, _) => self.pending += 1,
            (_, false, true) => self.dead += 1,
            (_, false, false) => {
                self.dead += 1;
                self.violate(ViolationKind::DoneAndDead, accepted, format!("{} outputs", places.len()));
            }
            (_, true, false) if is_done => self.done += 1,
            (Custody::Settled, true, true) if is_done => self.done += 1,
            (Custody::Parked, true, true) => self.pending += 1,
            (Custody::Unclear, true, _) if *ack_pending > 0 => {
                *ack_pending -= 1;
                self.pending += 1;
            }
            (Custody::Unclear, true, true) if is_done => self.done += 1,
            (_, true, true) => {
                self.lost += 1;
                self.violate(ViolationKind::Lost, accepted, "neither outputs nor a dead letter".into());
            }
            (_, true, false) => {
                self.lost += 1;
                let there: Vec<_> = places.keys().map(ToString::to_string).collect();
                let what = format!("only its outputs {} are there, from 0", there.join(", "));
                self.violate(ViolationKind::OutputMissing, accepted, what);
            }
        }
    }

    fn check_copies(&mut self, accepted: &Accepted, found: &Found<'_>, places: &BTreeMap<usize, usize>) {
        for (place, copies) in places.iter().filter(|(_, copies)| **copies > 1) {
            self.duplicate_outputs += *copies as u64 - 1;
            let what = format!("its output {place} is stored {copies} times");
            self.violate(ViolationKind::DuplicateOutput, accepted, what);
        }
        let mut rounds: BTreeMap<u32, usize> = BTreeMap::new();
        for letter in &found.letters {
            *rounds.entry(letter.round).or_default() += 1;
        }
        for (round, letters) in rounds.into_iter().filter(|(_, letters)| *letters > 1) {
            let what = format!("{letters} letters of round {round}");
            self.violate(ViolationKind::DuplicateLetter, accepted, what);
        }
    }

    fn check_bytes(&mut self, accepted: &Accepted, found: &Found<'_>, plugin: &str) {
        if found.letters.iter().any(|letter| letter.payload != accepted.payload) {
            let what = "its dead letter does not hold the bytes that were published".into();
            self.violate(ViolationKind::PayloadChanged, accepted, what);
        }
        let Some(expected) = &accepted.output_payloads else { return };
        let is_strange =
            |seen: &&&OutputSeen| place_of(seen, plugin).is_some() && !expected.contains(&seen.payload);
        if let Some(seen) = found.outputs.iter().find(is_strange) {
            let what = format!("its output in {} holds other bytes than it must", seen.stored_in);
            self.violate(ViolationKind::PayloadChanged, accepted, what);
        }
    }

    fn violate(&mut self, kind: ViolationKind, accepted: &Accepted, what: String) {
        self.violated += 1;
        if self.violations.len() < TOLD_MAX {
            let Accepted { event, sequence, .. } = accepted;
            self.violations.push(Violation { kind, event: event.clone(), sequence: *sequence, what });
        }
    }
}

/// What was read back, by event.
struct Evidence<'a> {
    of_events: HashMap<&'a EventId, Found<'a>>,
    ack_pending: u64,
}

/// What was read back of one event.
#[derive(Default)]
struct Found<'a> {
    outputs: Vec<&'a OutputSeen>,
    letters: Vec<&'a LetterSeen>,
}

impl<'a> Evidence<'a> {
    fn gather(history: &'a History) -> Self {
        let mut of_events: HashMap<_, Found<'_>> = HashMap::new();
        for output in &history.outputs {
            of_events.entry(&output.event).or_default().outputs.push(output);
        }
        for letter in &history.letters {
            of_events.entry(&letter.event).or_default().letters.push(letter);
        }
        Self { of_events, ack_pending: history.ack_pending }
    }
}

impl Found<'_> {
    /// How often each of the plugin's outputs is there, by its place among them.
    fn places(&self, plugin: &str) -> BTreeMap<usize, usize> {
        let mut places = BTreeMap::new();
        for place in self.outputs.iter().filter_map(|output| place_of(output, plugin)) {
            *places.entry(place).or_default() += 1;
        }
        places
    }
}

/// Which of the event's outputs this is; none where another plugin published it.
fn place_of(output: &OutputSeen, plugin: &str) -> Option<usize> {
    (0..OUTPUTS_MAX).find(|place| output.event.output_id(plugin, *place) == output.message_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;

    const PLUGIN: &str = "enrich";

    fn id(sequence: u64) -> EventId {
        EventId::of(&Position { stream: "ORDERS".into(), stream_created_ns: 7, sequence })
    }

    fn payload(sequence: u64) -> Digest {
        Digest::of(&sequence.to_be_bytes())
    }

    fn accepted(sequence: u64, custody: Custody) -> Accepted {
        let payload = payload(sequence);
        Accepted { event: id(sequence), sequence, payload, custody, output_payloads: Some(vec![payload]) }
    }

    fn output(sequence: u64, place: usize) -> OutputSeen {
        let (event, payload) = (id(sequence), payload(sequence));
        OutputSeen { message_id: event.output_id(PLUGIN, place), event, stored_in: "OUT".into(), payload }
    }

    fn letter(sequence: u64) -> LetterSeen {
        LetterSeen { event: id(sequence), round: 0, payload: payload(sequence) }
    }

    /// 1 is done with two outputs, 2 is dead, 3 is not given yet, 4 is given and the broker waits for it.
    fn history() -> History {
        History {
            plugin: PLUGIN.into(),
            outputs_min: 1,
            accepted: vec![
                accepted(1, Custody::Settled),
                accepted(2, Custody::Settled),
                accepted(3, Custody::Pending),
                accepted(4, Custody::Unclear),
            ],
            outputs: vec![output(1, 0), output(1, 1)],
            letters: vec![letter(2)],
            ack_pending: 1,
        }
    }

    fn kinds(history: &History) -> Vec<(ViolationKind, u64)> {
        let account = Account::of(history);
        assert_eq!(account.is_balanced(), account.violated == 0, "{account:?}");
        account.violations.iter().map(|violation| (violation.kind, violation.sequence)).collect()
    }

    #[test]
    fn events_that_are_each_in_one_place_balance() {
        let account = Account::of(&history());
        assert!(account.is_balanced(), "{account:?}");
        let Account { accepted, done, dead, pending, lost, outputs, .. } = account;
        assert_eq!((accepted, done, dead, pending, lost, outputs), (4, 1, 1, 2, 0, 2));
    }

    #[test]
    fn an_event_that_is_nowhere_is_lost() {
        let mut history = history();
        history.letters.clear();
        assert_eq!(kinds(&history), [(ViolationKind::Lost, 2)]);
        history.ack_pending = 0;
        assert_eq!(kinds(&history), [(ViolationKind::Lost, 2), (ViolationKind::Lost, 4)]);
        assert_eq!(Account::of(&history).lost, 2);
    }

    #[test]
    fn the_broker_waits_for_no_more_events_than_it_says() {
        let mut history = history();
        history.accepted.push(accepted(5, Custody::Unclear));
        assert_eq!(kinds(&history), [(ViolationKind::Lost, 5)]);
    }

    #[test]
    fn a_missing_output_before_one_that_is_there_is_a_loss() {
        let mut history = history();
        history.outputs.remove(0);
        assert_eq!(kinds(&history), [(ViolationKind::OutputMissing, 1)]);
    }

    #[test]
    fn fewer_outputs_than_every_event_leaves_are_a_loss() {
        let history = History { outputs_min: 3, ..history() };
        assert_eq!(kinds(&history), [(ViolationKind::OutputMissing, 1)]);
    }

    #[test]
    fn the_same_output_twice_is_a_duplicate_whatever_stream_it_is_in() {
        let mut history = history();
        history.outputs.push(OutputSeen { stored_in: "ELSEWHERE".into(), ..output(1, 1) });
        assert_eq!(kinds(&history), [(ViolationKind::DuplicateOutput, 1)]);
        assert_eq!(Account::of(&history).duplicate_outputs, 1);
    }

    #[test]
    fn two_letters_of_one_round_are_a_violation_and_two_rounds_are_not() {
        let mut history = history();
        history.letters.push(LetterSeen { round: 1, ..letter(2) });
        assert_eq!(kinds(&history), []);
        history.letters.push(letter(2));
        assert_eq!(kinds(&history), [(ViolationKind::DuplicateLetter, 2)]);
    }

    #[test]
    fn an_event_that_is_done_and_dead_is_a_violation() {
        let mut history = history();
        history.letters.push(letter(1));
        assert_eq!(kinds(&history), [(ViolationKind::DoneAndDead, 1)]);
    }

    #[test]
    fn bytes_that_changed_are_a_violation_in_letters_and_outputs() {
        let mut history = history();
        history.letters = vec![LetterSeen { payload: payload(9), ..letter(2) }];
        history.outputs = vec![OutputSeen { payload: payload(9), ..output(1, 0) }];
        assert_eq!(kinds(&history), [(ViolationKind::PayloadChanged, 1), (ViolationKind::PayloadChanged, 2)]);
    }

    #[test]
    fn without_outputs_the_brokers_word_counts() {
        let history = History { outputs_min: 0, outputs: Vec::new(), ..history() };
        let account = Account::of(&history);
        assert!(account.is_balanced(), "{account:?}");
        assert_eq!((account.done, account.dead, account.pending), (1, 1, 2));
    }

    #[test]
    fn a_parked_event_is_pending_until_something_came_of_it() {
        let mut history = history();
        history.accepted.push(accepted(5, Custody::Parked));
        assert_eq!(Account::of(&history).pending, 3);
        history.outputs.push(output(5, 0));
        assert_eq!((Account::of(&history).pending, Account::of(&history).done), (2, 2));
    }

    #[test]
    fn what_other_plugins_or_forgotten_events_left_is_told_apart() {
        let mut history = history();
        let event = id(1);
        history.outputs.push(OutputSeen { message_id: event.output_id("route", 0), ..output(1, 0) });
        history.outputs.push(output(99, 0));
        let account = Account::of(&history);
        assert!(account.is_balanced(), "{account:?}");
        assert_eq!((account.outputs, account.strangers), (2, 1));
    }
}
