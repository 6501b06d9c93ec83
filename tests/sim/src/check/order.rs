//! I12: where events wait for each other, no event has an effect before those in front of it are done or dead.

use super::{Violation, violation};
use crate::history::{Ended, History, Order, What};
use std::collections::{BTreeMap, BTreeSet};

/// Checks it.
pub fn check(history: &History, found: &mut Vec<Violation>) {
    if history.rules.order == Order::None {
        return;
    }
    let mut lines: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    let mut line_of: BTreeMap<u64, &str> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.what {
            What::Accepted { event, key: Some(key), .. } => {
                let key = if history.rules.order == Order::Strict { "" } else { key.as_str() };
                lines.entry(key).or_default().insert(*event);
                line_of.insert(*event, key);
            }
            // It counts as out of the way once a host knows what became of it, not only when the broker does.
            What::Acked { event } | What::Terminated { event } | What::LetterStored { event, .. } => {
                leave(&mut lines, &line_of, *event);
            }
            What::OutputStored { event, duplicate: false, .. } => {
                behind(&lines, &line_of, *event, found);
            }
            What::Ended { event, how: Ended::Ok { .. } } => {
                behind(&lines, &line_of, *event, found);
            }
            What::Told { event, operation, answer: crate::history::Answer::Ok, .. }
                if *operation == crate::history::Operation::Ack =>
            {
                leave(&mut lines, &line_of, *event);
            }
            _ => {}
        }
    }
}

fn leave<'a>(lines: &mut BTreeMap<&'a str, BTreeSet<u64>>, line_of: &BTreeMap<u64, &'a str>, event: u64) {
    if let Some(line) = line_of.get(&event).and_then(|key| lines.get_mut(key)) {
        line.remove(&event);
    }
}

fn behind(
    lines: &BTreeMap<&str, BTreeSet<u64>>,
    line_of: &BTreeMap<u64, &str>,
    event: u64,
    found: &mut Vec<Violation>,
) {
    let Some(key) = line_of.get(&event) else { return };
    let first = lines.get(key).and_then(BTreeSet::first).filter(|first| **first < event);
    if let Some(first) = first {
        violation(
            found,
            "I12",
            format!("event {event} took effect before event {first} of the same key {key:?}"),
        );
    }
}
