//! What a seed stands for: how many events, which host, which policy, and what goes wrong when.
//!
//! Everything that chance decides before the run is decided here; what it decides during the run is drawn from the
//! generator that the world keeps. Times are in milliseconds of the paused clock.

use crate::{
    history::{Hosts, Order, Rules},
    plant::Ordered,
};
use busway_core::{
    AckPolicy, KeySource,
    binding::{Behind, InputDedup, Ordering},
};
use busway_testkit::simulated::Random;
use std::{ops::Range, time::Duration};

/// How long the broker waits for word of a delivery.
pub const ACK_WAIT_MS: u64 = 30_000;
/// The wall-clock limit of a handler.
pub const TIMEOUT_MS: u64 = 60_000;
/// Most outputs of one run.
pub const OUTPUTS_MAX: u64 = 3;
/// For how long an input is remembered; longer than any run.
pub const INPUT_TTL_MS: u64 = 24 * 60 * 60 * 1_000;
/// The header that an input is recognised by.
pub const INPUT: &str = "x-input";
/// How long a publisher and faults go on, at the most.
const HORIZON_MS: u64 = 240_000;

/// One run, before it begins.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is made of.
    pub seed: u64,
    /// How many events are published.
    pub events: u64,
    /// Over how many keys they are spread.
    pub keys: u64,
    /// How many hosts share the subscription.
    pub hosts: u64,
    /// Events that one host handles at once.
    pub concurrency: u32,
    /// Runs in all.
    pub attempts: u32,
    /// The wait between two runs.
    pub backoff_ms: u64,
    /// How done events are acknowledged.
    pub ack: AckPolicy,
    /// Deliveries that the broker lets be pending.
    pub pending_max: usize,
    /// Settled events that a host remembers.
    pub settled_max: usize,
    /// For how long the broker knows an output's id.
    pub dedupe_window_ms: u64,
    /// Until when there are faults and new events.
    pub horizon_ms: u64,
    /// Which events wait for each other, by what the checker is told.
    pub order: Order,
    /// How many events repeat the input of an earlier one, in thousandths; none where nobody looks.
    pub repeated_inputs: Option<u64>,
    /// Whether the broker has message schedules, so that long waits are parked.
    pub schedules: Schedules,
    /// Whether the lane is told the same.
    pub lane_is_ordered: Ordered,
    /// What the events behind a failing one do.
    pub behind: Behind,
    /// What goes wrong.
    pub faults: Faults,
    /// What handlers do, in thousandths.
    pub handlers: Handlers,
}

/// Whether the broker has message schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedules {
    /// It has.
    Offered,
    /// It is too old.
    Missing,
}

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Requests that never arrive, in thousandths of the operations.
    pub lost_requests: u64,
    /// Operations that are done and whose answer never arrives.
    pub lost_answers: u64,
    /// Operations that are answered with a refusal.
    pub refusals: u64,
    /// Operations and deliveries that take up to a second.
    pub slow: u64,
    /// Deliveries that never arrive.
    pub lost_deliveries: u64,
    /// Deliveries that arrive twice.
    pub duplicates: u64,
    /// A life ends without a word after at most so many operations; 0: never.
    pub operations_of_a_life: u64,
    /// When a life ends without a word, whatever it does then.
    pub crashes_at: Vec<u64>,
    /// When a host is asked to end.
    pub drains_at: Vec<u64>,
    /// When nothing is answered.
    pub leaderless: Vec<Range<u64>>,
    /// When the streams of outputs and dead letters are full.
    pub full: Vec<Range<u64>>,
}

/// What handlers do, in thousandths of their runs; the rest returns ok at once.
#[derive(Debug, Clone, Copy)]
pub struct Handlers {
    /// Fail, with any class.
    pub failing: u64,
    /// Are not able to run.
    pub refused: u64,
    /// Take longer than the broker's patience, and may be cut off.
    pub slow: u64,
    /// A fault in the host.
    pub panicking: u64,
    /// Publish to where no stream listens.
    pub unroutable: u64,
}

impl Scenario {
    /// What this seed stands for.
    pub fn of(seed: u64) -> Self {
        let mut chance = Random::new(seed);
        let severity = chance.pick(&[0, 1, 1, 2, 2, 4], 1);
        let horizon_ms = chance.between(HORIZON_MS / 4, HORIZON_MS);
        let hosts = chance.pick(&[1, 1, 1, 2], 1);
        let mut faults = Faults::drawn(&mut chance, severity, horizon_ms);
        let order = chance.pick(&[Order::None, Order::None, Order::PerKey, Order::Strict], Order::None);
        if hosts > 1 || order != Order::None {
            // A copy that arrives after its event was put back looks like custody of it. One connection gives no such
            // copy, and only a host alone is safe from it: another may have the event by then.
            faults.duplicates = 0;
        }
        Self {
            seed,
            events: chance.between(3, 24),
            keys: chance.between(1, 5),
            hosts,
            concurrency: chance.pick(&[1, 2, 4, 8], 2),
            attempts: chance.between(1, 4) as u32,
            backoff_ms: chance.pick(&[10, 1_000, 5_000, 45_000], 1_000),
            ack: chance.pick(&[AckPolicy::Fast, AckPolicy::Confirmed], AckPolicy::Fast),
            pending_max: chance.pick(&[1, 4, 32, 1_024], 32),
            settled_max: 16_384,
            dedupe_window_ms: 600_000,
            horizon_ms,
            order,
            schedules: chance
                .pick(&[Schedules::Offered, Schedules::Offered, Schedules::Missing], Schedules::Missing),
            repeated_inputs: chance.pick(&[None, None, Some(300)], None),
            behind: chance.pick(&[Behind::Block, Behind::Block, Behind::SkipToDlq], Behind::Block),
            lane_is_ordered: Ordered::Alike,
            handlers: Handlers::drawn(&mut chance),
            faults,
        }
    }

    /// Whether the lane keeps an order.
    pub fn is_ordered(&self) -> bool {
        self.order != Order::None && self.lane_is_ordered == Ordered::Alike
    }

    /// How many deliveries the broker lets be pending.
    pub fn window(&self) -> usize {
        let window = self.ordering().window().map_or(usize::MAX, |window| window as usize);
        self.pending_max.min(window)
    }

    /// What the lane is told of the order.
    pub fn ordering(&self) -> Ordering {
        let behind = self.behind;
        match (self.order, KeySource::subject_token(2)) {
            (Order::PerKey, Ok(key)) if self.is_ordered() => Ordering::PerKey { key, behind },
            (Order::Strict, _) if self.is_ordered() => Ordering::Strict { behind },
            _ => Ordering::Unordered,
        }
    }

    /// How repeated inputs are recognised.
    pub fn dedup(&self) -> Option<InputDedup> {
        let key = KeySource::header(INPUT).ok()?;
        self.repeated_inputs.map(|_| InputDedup { key, ttl: Duration::from_millis(INPUT_TTL_MS) })
    }

    /// Failed runs after which an event is dead.
    fn runs_max(&self) -> u32 {
        let skips = self.is_ordered() && self.behind == Behind::SkipToDlq;
        if skips { 1 } else { self.attempts }
    }

    /// What the checker is told.
    pub fn rules(&self) -> Rules {
        let run_ms = TIMEOUT_MS + ACK_WAIT_MS + 2 * self.backoff_ms + 60_000;
        Rules {
            attempts: self.runs_max(),
            dedupe_window_ms: self.dedupe_window_ms,
            input_ttl_ms: self.repeated_inputs.map(|_| INPUT_TTL_MS),
            order: self.order,
            hosts: if self.hosts == 1 { Hosts::One } else { Hosts::Several },
            settled_within_ms: 600_000 + (self.events + 2) * u64::from(self.attempts) * run_ms,
        }
    }
}

impl Handlers {
    fn drawn(chance: &mut Random) -> Self {
        Self {
            failing: chance.pick(&[0, 200, 500], 200),
            refused: chance.pick(&[0, 50], 50),
            slow: chance.pick(&[0, 50, 200], 50),
            panicking: chance.pick(&[0, 30], 0),
            unroutable: chance.pick(&[0, 30], 0),
        }
    }
}

impl Faults {
    fn drawn(chance: &mut Random, severity: u64, horizon_ms: u64) -> Self {
        if severity == 0 {
            return Self::default();
        }
        let mut some = |most: u64| chance.below(most * severity + 1);
        let (lost_requests, lost_answers, refusals) = (some(40), some(40), some(40));
        let (slow, lost_deliveries, duplicates) = (some(100), some(40), some(60));
        let (crashes, drains, outages, fills) = (some(2), some(1), some(1), some(1));
        let mut moments = |many: u64| {
            let mut moments: Vec<u64> = (0..many).map(|_| chance.below(horizon_ms)).collect();
            moments.sort_unstable();
            moments
        };
        let (crashes_at, drains_at) = (moments(crashes), moments(drains));
        let (outages, fills) = (moments(outages), moments(fills));
        let mut spans = |starts: Vec<u64>, most: u64| -> Vec<Range<u64>> {
            starts
                .into_iter()
                .map(|start| start..(start + chance.between(100, most)).min(horizon_ms))
                .collect()
        };
        let (leaderless, full) = (spans(outages, 50_000), spans(fills, 90_000));
        let operations_of_a_life = chance.pick(&[0, 15, 60, 200], 0);
        Self {
            lost_requests,
            lost_answers,
            refusals,
            slow,
            lost_deliveries,
            duplicates,
            operations_of_a_life,
            crashes_at,
            drains_at,
            leaderless,
            full,
        }
    }
}
