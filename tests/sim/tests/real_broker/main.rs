//! The simulated broker against a real nats-server: random sequences of operations on both, and every answer compared.
//!
//! Real time runs here, so nothing is compared while a redelivery is about to be due: before each operation a sequence
//! waits until every due time is well behind or well ahead. A sequence in which an operation took longer than that margin
//! says nothing about the broker and is played again; so is one that differs, because the broker's own timers are late on a
//! busy machine and what is due apart is queued together then. What differs twice differs. `BUSWAY_SEQUENCES` is how many are played; 200 by default.
#![expect(clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

mod real;
mod sequence;

use busway_testkit::{
    nats::NatsServer,
    simulated::{Consumer, Stream},
};
use futures_util::{StreamExt as _, stream};
use real::Real;
use sequence::{Operation, Sequence};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Sequences that are played at a time.
const AT_A_TIME: usize = 64;
/// How far from a due time an operation has to be, and how long it may take.
const MARGIN_MS: u64 = 300;
/// How far from each other the due times of two operations have to be.
const APART_MS: u64 = 200;
/// How often a sequence is played again because the machine was busy.
const TRIES: usize = 10;
/// The duplicate window; longer than any sequence.
const WINDOW_MS: u64 = 120_000;

/// What an operation showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A message was stored here, or had been.
    Stored {
        /// Where.
        sequence: u64,
        /// Whether it had been.
        duplicate: bool,
    },
    /// A message was not stored: the stream is full.
    Full,
    /// These were given, in this order: sequence and count.
    Given(Vec<(u64, u64)>),
    /// So many were never given, so many are given and not settled.
    Counts {
        /// The former.
        never_given: u64,
        /// The latter.
        pending: u64,
    },
    /// Nothing to compare.
    Nothing,
}

/// Why a try says nothing, or that it says something.
enum Played {
    Alike,
    Differs(String),
    TooSlow,
}

#[test]
fn the_simulated_broker_answers_as_the_real_one_does() {
    let sequences = std::env::var("BUSWAY_SEQUENCES").map_or(200, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = NatsServer::start().unwrap();
        let client = async_nats::connect(server.url()).await.unwrap();
        let played = stream::iter(0..sequences)
            .map(|seed| compare(client.clone(), seed))
            .buffer_unordered(AT_A_TIME)
            .collect::<Vec<_>>()
            .await;
        let differences: Vec<String> = played.into_iter().flatten().collect();
        assert!(
            differences.is_empty(),
            "{} of {sequences} differ:\n{}",
            differences.len(),
            differences.join("\n")
        );
    });
}

/// What differs in the sequence of this seed, if anything.
async fn compare(client: async_nats::Client, seed: u64) -> Option<String> {
    let sequence = Sequence::of(seed);
    let mut differed = false;
    for attempt in 0..TRIES {
        let mut real = Real::open(&client, &format!("S{seed}x{attempt}"), &sequence).await;
        let played = play(&sequence, &mut real).await;
        real.close().await;
        match played {
            Played::Alike => return None,
            Played::Differs(how) if differed => return Some(format!("sequence {seed}: {how}\n{sequence}")),
            Played::Differs(_) => differed = true,
            Played::TooSlow => {}
        }
    }
    Some(format!("sequence {seed}: the machine was too busy {TRIES} times over"))
}

/// The broker's model and what it gave.
struct Model {
    stream: Stream<()>,
    consumer: Consumer,
    given: Vec<u64>,
}

async fn play(sequence: &Sequence, real: &mut Real) -> Played {
    let mut model = Model {
        stream: Stream::new(WINDOW_MS, sequence.messages_max),
        consumer: Consumer::new(sequence.ack_wait_ms, sequence.pending_max),
        given: Vec::new(),
    };
    let began = Instant::now();
    for (step, operation) in sequence.operations.iter().enumerate() {
        let now = clear_of_due_times(sequence, &model.consumer, operation, began).await;
        let expected = model.apply(operation, now);
        let mut shown = real.apply(operation).await;
        // The broker counts a moment after it has answered.
        while matches!(shown, Shown::Counts { .. }) && shown != expected && !is_late(began, now, operation) {
            sleep(Duration::from_millis(20)).await;
            shown = real.apply(operation).await;
        }
        if shown != expected {
            let how =
                format!("step {step}, {operation:?}: the real one shows {shown:?}, the model {expected:?}");
            return if is_late(began, now, operation) { Played::TooSlow } else { Played::Differs(how) };
        }
        if is_late(began, now, operation) {
            return Played::TooSlow;
        }
    }
    Played::Alike
}

/// Whether an operation took longer than it may.
fn is_late(began: Instant, since_ms: u64, operation: &Operation) -> bool {
    began.elapsed().as_millis() as u64 > since_ms + MARGIN_MS + operation.takes_ms()
}

/// Waits until no due time is near the operation, and gives the time then. The due time that the operation itself makes
/// is kept apart from the others too: which of two messages the broker queues first shows in the order of a later pull.
async fn clear_of_due_times(
    sequence: &Sequence,
    consumer: &Consumer,
    operation: &Operation,
    began: Instant,
) -> u64 {
    loop {
        let now = began.elapsed().as_millis() as u64;
        let until = now + operation.takes_ms() + MARGIN_MS;
        let near = consumer.dues().filter(|due| *due + MARGIN_MS > now && *due < until).max();
        let made = operation.makes_due_in_ms(sequence.ack_wait_ms).map(|wait| now + wait);
        let beside = made.is_some_and(|made| consumer.dues().any(|due| due.abs_diff(made) < APART_MS));
        match near {
            Some(due) => sleep(Duration::from_millis(due + MARGIN_MS - now)).await,
            None if beside => sleep(Duration::from_millis(APART_MS)).await,
            None => return now,
        }
    }
}

impl Model {
    fn apply(&mut self, operation: &Operation, now: u64) -> Shown {
        match operation {
            Operation::Publish { id } => {
                let id = id.map(|id| format!("id-{id}"));
                match self.stream.publish((), id.as_deref(), now) {
                    Ok(taken) => Shown::Stored { sequence: taken.sequence, duplicate: taken.duplicate },
                    Err(_) => Shown::Full,
                }
            }
            Operation::Pull { most } => {
                let last = self.stream.last();
                let given: Vec<_> = (0..*most).map_while(|_| self.consumer.next(last, now)).collect();
                self.given.extend(given.iter().map(|given| given.sequence));
                Shown::Given(given.iter().map(|given| (given.sequence, given.delivered)).collect())
            }
            Operation::Ack { which } | Operation::Terminate { which } => {
                if let Some(sequence) = self.which(*which) {
                    self.consumer.settle(sequence, now);
                }
                Shown::Nothing
            }
            Operation::PutBack { which, wait_ms } => {
                if let Some(sequence) = self.which(*which) {
                    self.consumer.put_back(sequence, *wait_ms, now);
                }
                Shown::Nothing
            }
            Operation::Progress { which } => {
                if let Some(sequence) = self.which(*which) {
                    self.consumer.progress(sequence, now);
                }
                Shown::Nothing
            }
            Operation::Wait { .. } => Shown::Nothing,
            Operation::Count => Shown::Counts {
                never_given: self.consumer.never_given(self.stream.last()),
                pending: self.consumer.pending().len() as u64,
            },
        }
    }

    fn which(&self, which: usize) -> Option<u64> {
        self.given.get(which % self.given.len().max(1)).copied()
    }
}
