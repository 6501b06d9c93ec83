//! Faults that are planted to see them found: each is a mistake that a host could make, put in at a seam.

use crate::{
    history::Order,
    life::Life,
    port::Port,
    scenario::Scenario,
    world::{World, nap},
};
use busway_core::{
    AttemptRecord, DeadLetter, Delivery, EventId, Publish, Receipt, Settle,
    port::{
        BoxFuture, KeyClaim, NotReleased, Outgoing, ParkError, PublishError, Released, SettleError, Stored,
    },
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// The input is acknowledged while its outputs are still on their way.
    AckBeforeOutputs,
    /// An event is terminated while its dead letter is still on its way.
    TerminateBeforeLetter,
    /// A failed run is recorded as two.
    AttemptTwice,
    /// No settled event is remembered.
    DoneSetDropped,
    /// Events of one key are handled side by side.
    LaneOvertaken,
    /// An output's id differs from run to run.
    OutputIdByRun,
    /// Putting an event back makes an end of it.
    PutBackLost,
    /// A dead letter carries half of the payload.
    LetterTrimmed,
    /// Done events are acknowledged twice.
    AckTwice,
    /// Nothing that was put back is settled any more.
    NeverSettled,
    /// Every event is told that its input is new.
    InputForgotten,
}

impl Plant {
    /// Every one, with its name and the invariant that it breaks.
    pub const ALL: [(Plant, &'static str, &'static str); 11] = [
        (Self::AckBeforeOutputs, "ack-before-outputs", "I2"),
        (Self::TerminateBeforeLetter, "terminate-before-letter", "I4"),
        (Self::AttemptTwice, "attempt-twice", "I11"),
        (Self::DoneSetDropped, "done-set-dropped", "R3"),
        (Self::LaneOvertaken, "lane-overtaken", "I12"),
        (Self::OutputIdByRun, "output-id-by-run", "I3"),
        (Self::PutBackLost, "put-back-lost", "I1"),
        (Self::LetterTrimmed, "letter-trimmed", "I4"),
        (Self::AckTwice, "ack-twice", "I15"),
        (Self::NeverSettled, "never-settled", "I16"),
        (Self::InputForgotten, "input-forgotten", "I3"),
    ];

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(plant, _, _)| *plant)
    }

    /// The scenario, where the mistake is one of what a lane is made of.
    pub fn sow(self, scenario: Scenario) -> Scenario {
        match self {
            Self::DoneSetDropped => Scenario { settled_max: 0, ..scenario },
            // The checker is told of an order that the lane does not keep.
            Self::LaneOvertaken => {
                Scenario { order: Order::PerKey, lane_is_ordered: Ordered::Unlike, ..scenario }
            }
            _ => scenario,
        }
    }
}

/// Whether the lane keeps the order that the checker is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// It does.
    Alike,
    /// It does not.
    Unlike,
}

/// A port with a mistake.
pub struct Planted {
    port: Port,
    plant: Plant,
    world: World,
    life: Life,
    messages: AtomicU64,
}

impl Planted {
    /// A port that makes this mistake.
    pub fn new(port: Port, plant: Plant, world: World, life: Life) -> Self {
        Self { port, plant, world, life, messages: AtomicU64::new(0) }
    }

    /// Stores after the answer.
    fn later(&self, work: impl Future<Output = ()> + Send + 'static) {
        let life = self.life.clone();
        tokio::spawn(async move {
            nap(100).await;
            life.breathe().await;
            work.await;
        });
    }
}

fn answered() -> Stored {
    Stored { stream: "OUTPUTS".into(), sequence: 1, duplicate: false }
}

impl Publish for Planted {
    fn publish<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>> {
        self.port.publish(message)
    }

    fn publish_all<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>> {
        match self.plant {
            Plant::AckBeforeOutputs => {
                let (port, sent) = (self.port.clone(), messages.to_vec());
                self.later(async move { drop(port.publish_all(&sent).await) });
                let stored = messages.iter().map(|_| answered()).collect();
                Box::pin(async { Ok(Released { stored, atomic: false }) })
            }
            Plant::OutputIdByRun => Box::pin(async {
                let mut messages = messages.to_vec();
                for message in &mut messages {
                    let number = self.messages.fetch_add(1, Ordering::Relaxed);
                    message.message_id.push_str(&format!("-{}-{number}", self.life.number()));
                }
                self.port.publish_all(&messages).await
            }),
            _ => self.port.publish_all(messages),
        }
    }

    fn send<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>> {
        Publish::send(&self.port, message)
    }

    fn dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>> {
        match self.plant {
            Plant::TerminateBeforeLetter => {
                let (port, letter) = (self.port.clone(), letter.clone());
                self.later(async move { drop(port.dead_letter(&letter).await) });
                Box::pin(async { Ok(answered()) })
            }
            Plant::LetterTrimmed => Box::pin(async {
                let half = letter.payload.slice(..letter.payload.len() / 2);
                self.port.dead_letter(&DeadLetter { payload: half, ..letter.clone() }).await
            }),
            _ => self.port.dead_letter(letter),
        }
    }
}

impl Settle for Planted {
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async {
            if self.plant == Plant::AckTwice {
                self.port.ack(receipt).await?;
            }
            self.port.ack(receipt).await
        })
    }

    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        match self.plant {
            Plant::PutBackLost => Box::pin(async {
                let now = self.world.now_ms();
                self.world.with(|state| {
                    let held = receipt.held_as.unwrap_or_default();
                    state.consumer_of(receipt).settle(held, now)
                });
                Ok(())
            }),
            // Nearly for ever.
            Plant::NeverSettled => self.port.put_back(receipt, Duration::from_secs(1 << 30)),
            _ => self.port.put_back(receipt, after),
        }
    }

    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        self.port.terminate(receipt, reason)
    }

    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.port.progress(receipt)
    }

    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        self.port.unsettled()
    }

    fn is_active(&self) -> bool {
        self.port.is_active()
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        self.port.stay_active()
    }

    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.port.ack_confirmed(receipt)
    }

    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        self.port.attempts(receipt)
    }

    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        match (self.plant, record.runs.last()) {
            (Plant::AttemptTwice, Some(run)) => Box::pin(async {
                let mut twice = record.clone();
                twice.push(run.clone());
                self.port.record_attempts(receipt, &twice).await
            }),
            _ => self.port.record_attempts(receipt, record),
        }
    }

    fn park<'a>(
        &'a self,
        delivery: &'a Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        self.port.park(delivery, failed_runs, after)
    }

    fn claim_key<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        match self.plant {
            Plant::InputForgotten => Box::pin(async { Ok(KeyClaim::Own) }),
            _ => self.port.claim_key(key, ttl, event),
        }
    }

    fn release_key<'a>(&'a self, key: &'a str, event: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>> {
        self.port.release_key(key, event)
    }
}
