//! I2 and I3: outputs before the acknowledgement, and each of them once.

use super::{Violation, violation};
use crate::history::{Ended, History, What};
use std::collections::{BTreeMap, BTreeSet};

/// Checks both.
pub fn check(history: &History, found: &mut Vec<Violation>) {
    before_the_acknowledgement(history, found);
    once(history, found);
    inputs_once(history, found);
}

/// When the broker takes an event as done, a run of the host that said so had returned ok, and the stream holds every
/// output of that run.
fn before_the_acknowledgement(history: &History, found: &mut Vec<Violation>) {
    let mut successes: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut stored: BTreeSet<(u64, u64)> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.what {
            What::Ended { event, how: Ended::Ok { outputs } } => {
                successes.insert((entry.life, *event), *outputs);
            }
            // It has no outputs of its own.
            What::Repeats { event, .. } => {
                successes.insert((entry.life, *event), 0);
            }
            What::OutputStored { event, index, .. } => {
                stored.insert((*event, *index));
            }
            What::Acked { event } => match successes.get(&(entry.life, *event)) {
                None => {
                    let what = format!("event {event} was acknowledged without a run that returned ok");
                    violation(found, "I2", what);
                }
                Some(outputs) => {
                    for index in (0..*outputs).filter(|index| !stored.contains(&(*event, *index))) {
                        let what = format!("event {event} was acknowledged before output {index} was stored");
                        violation(found, "I2", what);
                    }
                }
            },
            _ => {}
        }
    }
}

/// The same place of the same event is stored anew only after the broker has forgotten its id.
fn once(history: &History, found: &mut Vec<Violation>) {
    let mut stored: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for entry in &history.entries {
        let What::OutputStored { event, index, duplicate: false, .. } = &entry.what else { continue };
        if let Some(before) = stored.insert((*event, *index), entry.at_ms)
            && entry.at_ms - before < history.rules.dedupe_window_ms
        {
            let what = format!(
                "output {index} of event {event} is stored twice, at {before} and {} ms",
                entry.at_ms
            );
            violation(found, "I3", what);
        }
    }
}

/// Of the events with the same input one has outputs, unless it is dead or the input was forgotten.
fn inputs_once(history: &History, found: &mut Vec<Violation>) {
    let Some(ttl) = history.rules.input_ttl_ms else { return };
    let (mut input_of, mut dead) = (BTreeMap::new(), BTreeSet::new());
    let mut handled: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.what {
            What::Accepted { event, input: Some(input), .. } => {
                input_of.insert(*event, input.as_str());
            }
            What::Repeats { event, of } if event == of || input_of.get(event) != input_of.get(of) => {
                violation(found, "I3", format!("event {event} was taken for a repetition of event {of}"));
            }
            What::LetterStored { event, .. } => {
                dead.insert(*event);
            }
            What::OutputStored { event, duplicate: false, .. } => {
                let Some(input) = input_of.get(event) else { continue };
                let (first, at) = *handled.entry(input).or_insert((*event, entry.at_ms));
                if first != *event && !dead.contains(&first) && entry.at_ms - at < ttl {
                    violation(
                        found,
                        "I3",
                        format!("events {first} and {event} have the same input and were both handled"),
                    );
                }
            }
            _ => {}
        }
    }
}
