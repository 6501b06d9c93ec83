//! A seed is a whole run: the same one has the same history, and together they do everything that can go wrong.
#![expect(clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

use busway_sim::{
    history::{Ended, History, What},
    run::run,
    scenario::Scenario,
};
use std::collections::BTreeSet;

fn history(seed: u64) -> History {
    run(Scenario::of(seed), None).unwrap()
}

#[test]
fn the_same_seed_has_the_same_history() {
    for seed in 0..100 {
        let (first, again) = (history(seed), history(seed));
        for (one, other) in first.entries.iter().zip(&again.entries) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first, again, "seed {seed}");
    }
}

#[test]
fn different_seeds_have_different_histories() {
    assert_ne!(history(1).entries, history(2).entries);
}

#[test]
fn the_seeds_reach_everything_that_the_checker_speaks_of() {
    let mut reached = BTreeSet::new();
    for seed in 0..200 {
        for entry in history(seed).entries {
            reached.insert(match entry.what {
                What::Crashed => "a crash",
                What::Drained { abandoned: 0 } => "a clean end",
                What::Drained { .. } => "an end with work abandoned",
                What::Given { delivered: 3.., .. } => "a third delivery",
                What::Ended { how: Ended::Cut, .. } => "a run that was cut off",
                What::Ended { how: Ended::Panicked, .. } => "a fault of the host",
                What::Ended { how: Ended::Refused, .. } => "a run that was refused",
                What::OutputStored { duplicate: true, .. } => "a repeated output",
                What::Parked { .. } => "a parked event",
                What::PassedOn { .. } => "a message of which a copy is the event",
                What::Repeats { .. } => "a repeated input",
                What::OutputRefused { .. } => "an output for nowhere",
                What::LetterStored { duplicate: true, .. } => "a repeated dead letter",
                What::LetterStored { .. } => "a dead letter",
                What::Terminated { .. } => "a termination",
                _ => continue,
            });
        }
    }
    assert_eq!(reached.len(), 15, "{reached:?}");
}
