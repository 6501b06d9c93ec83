//! The checker finds what it is for: each mistake that is planted is caught by some seed, under the invariant's own name,
//! and without one no seed of the same range complains.
#![expect(clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

use busway_sim::{check::check, plant::Plant, run::run, scenario::Scenario};

/// Seeds that are tried for each mistake.
const SEEDS: u64 = 150;

/// The first seed that catches a mistake under this name.
fn caught(plant: Plant, invariant: &str) -> Option<u64> {
    (0..SEEDS).find(|seed| {
        let history = run(Scenario::of(*seed), Some(plant)).unwrap();
        check(&history).iter().any(|violation| violation.invariant == invariant)
    })
}

fn is_caught(plant: Plant) {
    let (_, name, invariant) = *Plant::ALL.iter().find(|(known, ..)| *known == plant).unwrap();
    let seed = caught(plant, invariant);
    assert!(seed.is_some(), "{name} was not caught as {invariant} by any of {SEEDS} seeds");
}

#[test]
fn an_acknowledgement_before_the_outputs_is_caught() {
    is_caught(Plant::AckBeforeOutputs);
}

#[test]
fn a_termination_before_the_dead_letter_is_caught() {
    is_caught(Plant::TerminateBeforeLetter);
}

#[test]
fn an_attempt_that_is_counted_twice_is_caught() {
    is_caught(Plant::AttemptTwice);
}

#[test]
fn a_host_that_forgets_what_it_settled_is_caught() {
    is_caught(Plant::DoneSetDropped);
}

#[test]
fn an_event_that_overtakes_another_of_its_key_is_caught() {
    is_caught(Plant::LaneOvertaken);
}

#[test]
fn an_output_with_another_id_at_each_run_is_caught() {
    is_caught(Plant::OutputIdByRun);
}

#[test]
fn a_put_back_that_makes_an_end_of_the_event_is_caught() {
    is_caught(Plant::PutBackLost);
}

#[test]
fn a_dead_letter_without_the_whole_payload_is_caught() {
    is_caught(Plant::LetterTrimmed);
}

#[test]
fn an_acknowledgement_that_is_sent_twice_is_caught() {
    is_caught(Plant::AckTwice);
}

#[test]
fn an_event_that_never_comes_back_is_caught() {
    is_caught(Plant::NeverSettled);
}

#[test]
fn a_repeated_input_that_is_handled_again_is_caught() {
    is_caught(Plant::InputForgotten);
}

#[test]
fn every_mistake_has_a_name_of_its_own_and_none_is_found_where_none_is_made() {
    for (plant, name, _) in Plant::ALL {
        assert_eq!(Plant::named(name), Some(plant));
    }
    for seed in 0..SEEDS {
        assert_eq!(check(&run(Scenario::of(seed), None).unwrap()), [], "seed {seed}");
    }
}
