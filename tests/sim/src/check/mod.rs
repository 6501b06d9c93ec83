//! Whether a history kept its promises: sets of events, compared. Pure; knows nothing of how the history was made.
//!
//! The names are those of the invariants of the design: `I1` every accepted event is done, dead or pending, and only one
//! of these; `I2` nothing is acknowledged before the outputs of its successful run are stored; `I3` each output at most
//! once within the duplicate window; `I4` a letter with the original's payload before every termination; `I11` dead after
//! exactly so many recorded failed runs; `I12` no event overtakes one that it has to wait for; `I15` the counters tell what
//! happened, each thing once; `I16` everything is settled soon after the last fault; and the rule `R3`, that a host does not
//! run again what it has settled. `I5`, that crashes break none of these, is that histories with crashes are checked too.

mod attempts;
mod counters;
mod custody;
mod order;
mod outputs;

use crate::history::History;
use std::fmt;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What happened, for people.
    pub what: String,
}

/// Every broken promise.
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    custody::check(history, &mut found);
    outputs::check(history, &mut found);
    attempts::check(history, &mut found);
    order::check(history, &mut found);
    counters::check(history, &mut found);
    found
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

fn violation(found: &mut Vec<Violation>, invariant: &'static str, what: String) {
    found.push(Violation { invariant, what });
}
