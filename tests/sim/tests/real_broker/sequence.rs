//! A sequence of operations, drawn from a seed.

use busway_testkit::simulated::Random;
use std::fmt;

/// How long a pull waits for more.
pub const PULL_MS: u64 = 200;

/// One sequence, and the stream and consumer that it is played on.
#[derive(Debug)]
pub struct Sequence {
    /// The broker's patience.
    pub ack_wait_ms: u64,
    /// Deliveries that may be pending.
    pub pending_max: usize,
    /// Messages that the stream takes.
    pub messages_max: usize,
    /// What is done.
    pub operations: Vec<Operation>,
}

/// One operation. `which` names a delivery by its place among all that were given so far, so old ones are named too.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Stores a message, with or without an id.
    Publish { id: Option<u64> },
    /// Asks for at most so many.
    Pull { most: usize },
    /// Takes one as done.
    Ack { which: usize },
    /// Gives one again after a wait.
    PutBack { which: usize, wait_ms: u64 },
    /// Never gives one again.
    Terminate { which: usize },
    /// Starts the patience anew.
    Progress { which: usize },
    /// Lets time pass.
    Wait { ms: u64 },
    /// Asks the broker how many there are.
    Count,
}

impl Operation {
    /// How long it takes where everything is as it should be.
    pub fn takes_ms(&self) -> u64 {
        match self {
            Self::Pull { .. } => PULL_MS,
            Self::Wait { ms } => *ms,
            _ => 0,
        }
    }
}

impl Operation {
    /// How long after it a message will be due because of it.
    pub fn makes_due_in_ms(&self, ack_wait_ms: u64) -> Option<u64> {
        match self {
            Self::Pull { .. } | Self::Progress { .. } => Some(ack_wait_ms),
            Self::PutBack { wait_ms, .. } => Some(*wait_ms),
            _ => None,
        }
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ack_wait_ms, pending_max, messages_max, operations } = self;
        writeln!(f, "ack wait {ack_wait_ms} ms, {pending_max} pending, {messages_max} messages")?;
        for (step, operation) in operations.iter().enumerate() {
            writeln!(f, "  {step:>2}  {operation:?}")?;
        }
        Ok(())
    }
}

impl Sequence {
    /// The sequence of this seed.
    pub fn of(seed: u64) -> Self {
        let mut chance = Random::new(seed).fork(4);
        let many = chance.between(12, 30);
        let mut operations: Vec<_> = (0..3).map(|_| Operation::Publish { id: None }).collect();
        operations.push(Operation::Pull { most: 2 });
        operations.extend((0..many).map(|_| operation(&mut chance)));
        operations.extend([Operation::Count, Operation::Pull { most: 20 }, Operation::Count]);
        Self {
            ack_wait_ms: 1_500,
            pending_max: chance.pick(&[1, 2, 4, 1_000], 1_000),
            messages_max: chance.pick(&[6, 1_000, 1_000], 1_000),
            operations,
        }
    }
}

fn operation(chance: &mut Random) -> Operation {
    let which = chance.below(64) as usize;
    match chance.below(100) {
        0..18 => Operation::Publish { id: None },
        18..30 => Operation::Publish { id: Some(chance.below(4)) },
        30..55 => Operation::Pull { most: chance.between(1, 5) as usize },
        55..65 => Operation::Ack { which },
        65..77 => Operation::PutBack { which, wait_ms: chance.pick(&[50, 50, 60_000], 50) },
        77..81 => Operation::Terminate { which },
        81..87 => Operation::Progress { which },
        87..93 => Operation::Wait { ms: chance.pick(&[100, 1_600], 100) },
        _ => Operation::Count,
    }
}
