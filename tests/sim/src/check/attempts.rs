//! I11: an event is dead after exactly so many recorded failed runs, whatever was put back and whoever crashed.

use super::{Violation, violation};
use crate::history::{Ended, History, Hosts, What};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the runs of one event.
#[derive(Default)]
struct Runs {
    /// The newest run of each life: its number, and whether it failed.
    newest: BTreeMap<u32, (u64, Fate)>,
    begun: u64,
    failed: BTreeSet<u64>,
    recorded: BTreeSet<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Ok,
    Failed,
}

/// Checks it.
pub fn check(history: &History, found: &mut Vec<Violation>) {
    let mut events: BTreeMap<u64, Runs> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.what {
            What::Ran { event, .. } => events.entry(*event).or_default().begin(entry.life),
            What::Ended { event, how } => events.entry(*event).or_default().end(entry.life, *how),
            What::OutputRefused { event } => events.entry(*event).or_default().fail(entry.life),
            What::Recorded { event, failed_runs, .. } => {
                let runs = events.entry(*event).or_default();
                runs.record(entry.life);
                if runs.begun > 0 && u64::from(*failed_runs) > runs.failed.len() as u64 {
                    let what = format!(
                        "event {event} has {failed_runs} recorded failed runs, and only {} of its runs failed",
                        runs.failed.len()
                    );
                    violation(found, "I11", what);
                }
            }
            What::LetterStored { event, retryable, failed_runs, duplicate: false, .. } => {
                let runs = events.entry(*event).or_default();
                runs.letter(&history.rules, (*event, *retryable, *failed_runs), found);
            }
            _ => {}
        }
    }
}

impl Runs {
    fn begin(&mut self, life: u32) {
        self.begun += 1;
        self.newest.insert(life, (self.begun, Fate::Open));
    }

    fn end(&mut self, life: u32, how: Ended) {
        let Some((run, fate)) = self.newest.get_mut(&life) else { return };
        match how {
            Ended::Ok { .. } => *fate = Fate::Ok,
            Ended::Failed | Ended::Cut => {
                *fate = Fate::Failed;
                self.failed.insert(*run);
            }
            Ended::Refused | Ended::Panicked => {}
        }
    }

    /// A run that returned ok fails all the same when an output is refused for good.
    fn fail(&mut self, life: u32) {
        if let Some((run, fate)) = self.newest.get_mut(&life)
            && *fate == Fate::Ok
        {
            *fate = Fate::Failed;
            self.failed.insert(*run);
        }
    }

    fn record(&mut self, life: u32) {
        if let Some((run, Fate::Failed)) = self.newest.get(&life) {
            self.recorded.insert(*run);
        }
    }

    fn letter(
        &self,
        rules: &crate::history::Rules,
        (event, retryable, failed_runs): (u64, bool, u32),
        found: &mut Vec<Violation>,
    ) {
        if retryable && failed_runs != rules.attempts {
            let what = format!(
                "event {event} is dead after {failed_runs} recorded failed runs instead of {}",
                rules.attempts
            );
            violation(found, "I11", what);
        }
        // An event that can't be decoded is dead without a run.
        if self.begun == 0 {
            return;
        }
        let recorded = self.recorded.len() as u64;
        if recorded < u64::from(failed_runs) {
            let what = format!(
                "the letter of event {event} tells of {failed_runs} failed runs; {recorded} were recorded"
            );
            violation(found, "I11", what);
        }
        if rules.hosts == Hosts::One && recorded > u64::from(failed_runs) {
            let what = format!(
                "{recorded} failed runs of event {event} were recorded; its letter tells of {failed_runs}"
            );
            violation(found, "I11", what);
        }
    }
}
