//! I15: a host that ended in order has counted every delivery once, and as what it was.

use super::{Violation, violation};
use crate::history::{Answer, Counter, History, Operation, Order, What};
use std::collections::{BTreeMap, BTreeSet};

/// What one life did, by the history.
#[derive(Default)]
struct Life {
    given: u64,
    /// Events, and which message of each.
    finished: BTreeSet<(u64, u64)>,
    acknowledged: u64,
    copies_done: u64,
    dead_lettered: u64,
    put_back: u64,
    abandoned: u64,
    crashed: bool,
    counted: BTreeMap<Counter, u64>,
}

/// Checks every life that did not crash.
pub fn check(history: &History, found: &mut Vec<Violation>) {
    let mut lives: BTreeMap<u32, Life> = BTreeMap::new();
    for entry in &history.entries {
        lives.entry(entry.life).or_default().note(&entry.what);
    }
    for (number, life) in lives {
        if !life.crashed && !life.counted.is_empty() {
            life.check(number, history.rules.order, found);
        }
    }
}

impl Life {
    fn note(&mut self, what: &What) {
        match what {
            What::Given { .. } => self.given += 1,
            What::Drained { abandoned } => self.abandoned = *abandoned,
            What::Crashed => self.crashed = true,
            What::Counted { counter, value } => {
                self.counted.insert(*counter, *value);
            }
            What::Told { event, message, operation, answer } => {
                self.told((*event, *message), *operation, *answer);
            }
            _ => {}
        }
    }

    fn told(&mut self, event: (u64, u64), operation: Operation, answer: Answer) {
        match (operation, answer) {
            // An acknowledgement of what this life had finished before is that of a copy.
            (Operation::Ack, _) if self.finished.contains(&event) => self.copies_done += 1,
            (Operation::Ack, Answer::Ok) => {
                self.acknowledged += 1;
                self.finished.insert(event);
            }
            (Operation::PassOn, Answer::Ok) => {
                self.finished.insert(event);
            }
            (Operation::Terminate, Answer::Ok) => {
                self.dead_lettered += 1;
                self.finished.insert(event);
            }
            (Operation::PutBack, Answer::Ok) => self.put_back += 1,
            _ => {}
        }
    }

    fn check(&self, number: u32, order: Order, found: &mut Vec<Violation>) {
        let counted = |counters: &[Counter]| -> u64 {
            counters.iter().map(|counter| self.counted.get(counter).copied().unwrap_or_default()).sum()
        };
        let put_back = [Counter::Retried, Counter::PutBack];
        let ends = [
            Counter::Acknowledged,
            Counter::Retried,
            Counter::Parked,
            Counter::PassedOn,
            Counter::DeadLettered,
            Counter::PutBack,
            Counter::LeftToBroker,
        ];
        let every = [&ends[..], &[Counter::GivenBack, Counter::CopiesHeld, Counter::CopiesDone]].concat();
        // Events that met a fault of the host or its end are put back too, unless their lease was lost.
        let faults = counted(&[Counter::HostFaults]);
        let maybe = faults + counted(&[Counter::GivenBack, Counter::PassedOn]);
        let rows = [
            ("acknowledgements", counted(&[Counter::Acknowledged]), self.acknowledged, 0),
            ("copies of settled events", counted(&[Counter::CopiesDone]), self.copies_done, 0),
            ("dead letters", counted(&[Counter::DeadLettered]), self.dead_lettered, 0),
            // What was cut off at the end of a shutdown began its path and is counted as given back.
            ("paths by their end", counted(&ends) + faults, counted(&[Counter::Received]), self.abandoned),
        ];
        // Where order is kept a failed event waits in the host and begins its path anew, without a delivery or a put-back.
        let unordered = [
            ("put-backs", counted(&put_back), self.put_back, maybe),
            ("deliveries by their end", counted(&every) + faults, self.given, 0),
        ];
        let unordered = unordered.into_iter().filter(|_| order == Order::None);
        for (what, counters, happened, more) in rows.into_iter().chain(unordered) {
            if counters > happened || counters + more < happened {
                let what =
                    format!("{what}: life {number} counted {counters}, and the history tells of {happened}");
                violation(found, "I15", what);
            }
        }
    }
}
