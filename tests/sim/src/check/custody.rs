//! I1, I4, I16 and R3: where every event is at the end, and how it got there.

use super::{Violation, violation};
use crate::history::{Answer, History, Operation, What};
use std::collections::{BTreeMap, BTreeSet};

/// Checks the four.
pub fn check(history: &History, found: &mut Vec<Violation>) {
    accounted_for(history, found);
    letters(history, found);
    settled_soon(history, found);
    not_run_again(history, found);
}

/// accepted = done ∪ dead ∪ pending, and no event in two of them.
fn accounted_for(history: &History, found: &mut Vec<Violation>) {
    let mut accepted = BTreeSet::new();
    let (mut done, mut dead, mut pending) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for entry in &history.entries {
        match &entry.what {
            What::Accepted { event, .. } => accepted.insert(*event),
            What::Acked { event } => done.insert(*event),
            What::Terminated { event } => dead.insert(*event),
            What::Pending { event } => pending.insert(*event),
            _ => false,
        };
    }
    for event in &accepted {
        let places = [("done", &done), ("dead", &dead), ("pending", &pending)];
        let at: Vec<_> =
            places.iter().filter(|(_, set)| set.contains(event)).map(|(name, _)| *name).collect();
        match at.as_slice() {
            [_] => {}
            [] => violation(found, "I1", format!("event {event} is lost: neither done nor dead nor pending")),
            several => violation(found, "I1", format!("event {event} is {}", several.join(" and "))),
        }
    }
    for event in done.union(&dead).filter(|event| !accepted.contains(event)) {
        violation(found, "I1", format!("event {event} was settled and never accepted"));
    }
}

/// A letter, with the original's payload, before every termination; none for what is done.
fn letters(history: &History, found: &mut Vec<Violation>) {
    let (mut originals, mut letters) = (BTreeMap::new(), BTreeSet::new());
    let mut done = BTreeSet::new();
    for entry in &history.entries {
        match &entry.what {
            What::Accepted { event, payload, .. } => {
                originals.insert(*event, payload);
            }
            What::LetterStored { event, payload, .. } => {
                if originals.get(event).is_none_or(|original| *original != payload) {
                    let what = format!("the letter of event {event} carries another payload than the event");
                    violation(found, "I4", what);
                }
                letters.insert(*event);
            }
            What::Terminated { event } if !letters.contains(event) => {
                violation(found, "I4", format!("event {event} was terminated before its letter was stored"));
            }
            What::Acked { event } => {
                done.insert(*event);
            }
            _ => {}
        }
    }
    for event in letters.intersection(&done) {
        violation(found, "I1", format!("event {event} has a dead letter and is acknowledged as done"));
    }
}

/// Nothing is pending at the end, and the end came in time.
fn settled_soon(history: &History, found: &mut Vec<Violation>) {
    let calm = history.entries.iter().find(|entry| entry.what == What::Calm);
    let Some(calm) = calm else { return };
    let pending = history.entries.iter().filter(|entry| matches!(entry.what, What::Pending { .. })).count();
    if pending > 0 {
        let within = history.rules.settled_within_ms / 1_000;
        let what = format!("{pending} events are still pending {within} s after the last fault");
        violation(found, "I16", what);
    }
    let settled = |what: &What| matches!(what, What::Acked { .. } | What::Terminated { .. });
    let last = history.entries.iter().rev().find(|entry| settled(&entry.what));
    if let Some(last) = last.filter(|last| last.at_ms > calm.at_ms + history.rules.settled_within_ms) {
        violation(found, "I16", format!("the last event was settled at {} ms, too late", last.at_ms));
    }
}

/// A host does not run what it was told to be settled. A message that was parked is settled, and its event is not: that
/// comes back.
fn not_run_again(history: &History, found: &mut Vec<Violation>) {
    let (mut messages, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for entry in &history.entries {
        match &entry.what {
            What::Told { event, message, operation, answer: Answer::Ok } => {
                let ends = matches!(operation, Operation::Ack | Operation::Terminate);
                // Said again of a message, it is word of a copy.
                let is_first = (ends || *operation == Operation::PassOn)
                    && messages.insert((entry.life, *event, *message));
                if ends && is_first {
                    settled.insert((entry.life, *event));
                }
            }
            What::Ran { event, .. } if settled.contains(&(entry.life, *event)) => {
                violation(
                    found,
                    "R3",
                    format!("event {event} was run again by the host that had settled it"),
                );
            }
            _ => {}
        }
    }
}
