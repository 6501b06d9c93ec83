//! A host's way to the broker: settling and publishing, through everything that can go wrong.

use crate::{
    active::Active,
    history::{Answer, Operation, What},
    life::Life,
    scenario::Schedules,
    world::{State, Trouble, World, nap},
};
use busway_core::{
    AckPolicy, AttemptRecord, DeadLetter, Delivery, EventId, FailureClass, Publish, Receipt, Settle,
    again::Copy,
    dead_letter::{self, EVENT_ID},
    port::{
        BoxFuture, KeyClaim, NotReleased, Outgoing, ParkError, PublishError, Released, SettleError, Stored,
    },
};
use futures_util::future::join_all;
use std::time::Duration;

/// How long an answer about a delivery is waited for.
const SETTLE_PATIENCE_MS: u64 = 5_000;
/// Tries of a publish and the wait for each, as the real transport makes them, last longer.
const PUBLISH_PATIENCE_MS: u64 = 20_000;
/// Where no stream listens.
pub const NOWHERE: &str = "nowhere.at.all";

/// One life's port.
#[derive(Clone)]
pub struct Port {
    world: World,
    life: Life,
    active: Active,
}

impl Port {
    /// A port.
    pub fn new(world: World, life: Life, active: Active) -> Self {
        Self { world, life, active }
    }

    fn told<T, E>(&self, receipt: &Receipt, operation: Operation, answer: Result<T, E>) -> Result<T, E> {
        self.note_told(receipt, operation, if answer.is_ok() { Answer::Ok } else { Answer::Failed });
        answer
    }

    fn note_told(&self, receipt: &Receipt, operation: Operation, answer: Answer) {
        let event = self.event(receipt);
        let message = if receipt.returned.is_some() { held(receipt) } else { 0 };
        self.world.note(self.life.number(), What::Told { event, message, operation, answer });
    }

    async fn settle(
        &self,
        receipt: &Receipt,
        operation: Operation,
        apply: impl FnOnce(&mut State, u64, u64),
    ) -> Result<(), SettleError> {
        let event = self.event(receipt);
        let done =
            self.world.operate(&self.life, SETTLE_PATIENCE_MS, |state, now| apply(state, event, now)).await;
        self.told(receipt, operation, done.map_err(settle_error))
    }

    /// Sends and does not wait for an answer.
    async fn send(&self, receipt: &Receipt, operation: Operation, apply: impl FnOnce(&mut State, u64, u64)) {
        let event = self.event(receipt);
        // What became of it is not known to the host.
        match self.world.operate(&self.life, 0, |state, now| apply(state, event, now)).await {
            Ok(()) | Err(_) => self.note_told(receipt, operation, Answer::Ok),
        }
    }

    fn event(&self, receipt: &Receipt) -> u64 {
        self.world.with(|state| state.sequence(&receipt.event_id))
    }

    async fn acknowledge(&self, receipt: &Receipt, policy: AckPolicy) -> Result<(), SettleError> {
        let life = self.life.number();
        let apply = move |state: &mut State, event: u64, now: u64| {
            if state.consumer_of(receipt).settle(held(receipt), now) {
                state.write(now, life, What::Acked { event });
            }
        };
        match policy {
            AckPolicy::Confirmed => self.settle(receipt, Operation::Ack, apply).await,
            AckPolicy::Fast => {
                self.send(receipt, Operation::Ack, apply).await;
                Ok(())
            }
        }
    }

    async fn store(&self, message: &Outgoing) -> Result<Stored, PublishError> {
        let life = self.life.number();
        if message.subject == NOWHERE {
            let answer = self.world.operate(&self.life, PUBLISH_PATIENCE_MS, |_, _| ()).await;
            answer.map_err(publish_error)?;
            let event = self.world.with(|state| state.sequence(&origin(message)));
            self.world.note(life, What::OutputRefused { event });
            return Err(PublishError::NoStream);
        }
        let full = self.world.is_within(&self.world.scenario().faults.full);
        let stored = self.world.operate(&self.life, PUBLISH_PATIENCE_MS, |state, now| {
            if full {
                return Err(PublishError::NotNow("the stream is full".into()));
            }
            let stored = state.outputs.publish((), Some(&message.message_id), now);
            let taken = stored.map_err(|_| PublishError::NotNow("the stream is full".into()))?;
            let (event, index) = (state.sequence(&origin(message)), place(message));
            let (id, duplicate) = (message.message_id.clone(), taken.duplicate);
            state.write(now, life, What::OutputStored { event, index, id, duplicate });
            Ok(Stored { stream: "OUTPUTS".into(), sequence: taken.sequence, duplicate })
        });
        stored.await.map_err(publish_error)?
    }
}

impl Settle for Port {
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(self.acknowledge(receipt, self.world.scenario().ack))
    }

    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            let wait = after.as_millis() as u64;
            self.send(receipt, Operation::PutBack, |state, _, now| {
                state.consumer_of(receipt).put_back(held(receipt), wait, now);
            })
            .await;
            Ok(())
        })
    }

    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        _reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        let life = self.life.number();
        Box::pin(self.settle(receipt, Operation::Terminate, move |state, event, now| {
            if state.consumer_of(receipt).settle(held(receipt), now) {
                state.write(now, life, What::Terminated { event });
            }
        }))
    }

    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async {
            if !self.active.is_held() {
                return Err(SettleError::Refused("another host is the active one".into()));
            }
            self.settle(receipt, Operation::Progress, |state, _, now| {
                state.consumer_of(receipt).progress(held(receipt), now);
            })
            .await
        })
    }

    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        Box::pin(async {
            let counted =
                self.world.operate(&self.life, SETTLE_PATIENCE_MS, |state, _| state.consumer.pending().len());
            counted.await.map_err(settle_error)
        })
    }

    fn is_active(&self) -> bool {
        self.active.is_held()
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.world.scenario().is_ordered() && self.active.is_held() && self.active.is_due() {
                self.active.take().await;
            }
        })
    }

    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        let life = self.life.number();
        Box::pin(self.settle(receipt, Operation::PassOn, move |state, event, now| {
            if state.consumer_of(receipt).settle(held(receipt), now) {
                state.write(now, life, What::PassedOn { event });
            }
        }))
    }

    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        Box::pin(async {
            let read = self.world.operate(&self.life, SETTLE_PATIENCE_MS, |state, _| {
                state.attempts.get(&receipt.event_id).cloned().unwrap_or_default()
            });
            read.await.map_err(settle_error)
        })
    }

    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        let life = self.life.number();
        Box::pin(self.settle(receipt, Operation::Record, move |state, event, now| {
            state.attempts.insert(receipt.event_id.clone(), record.clone());
            let (failed_runs, last) = (record.failed_runs(), record.final_run().is_some());
            state.write(now, life, What::Recorded { event, failed_runs, last });
        }))
    }

    fn park<'a>(
        &'a self,
        delivery: &'a Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        let life = self.life.number();
        Box::pin(async move {
            if self.world.scenario().schedules == Schedules::Missing {
                return Err(ParkError::NotOffered);
            }
            let plugin = crate::PLUGIN.parse().ok();
            let copy = plugin.and_then(|plugin| Copy::parked(&plugin, delivery, failed_runs));
            let stored = self.world.operate(&self.life, PUBLISH_PATIENCE_MS, |state, now| {
                let until_ms = now + after.as_millis() as u64;
                let event = state.sequence(&delivery.receipt.event_id);
                state.write(now, life, What::Parked { event, until_ms });
                copy.into_iter().for_each(|copy| state.copies.store(copy, until_ms));
            });
            Ok(stored.await.map_err(publish_error)?)
        })
    }

    fn claim_key<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        Box::pin(async move {
            let claimed = self.world.operate(&self.life, SETTLE_PATIENCE_MS, |state, now| {
                let claim = (event.clone(), now + ttl.as_millis() as u64);
                let held = state.claims.entry(key.to_owned()).or_insert_with(|| claim.clone());
                if held.1 <= now {
                    *held = claim;
                }
                held.0.clone()
            });
            let owner = claimed.await.map_err(settle_error)?;
            if owner == *event {
                return Ok(KeyClaim::Own);
            }
            let (event, of) = self.world.with(|state| (state.sequence(event), state.sequence(&owner)));
            self.world.note(self.life.number(), What::Repeats { event, of });
            Ok(KeyClaim::Taken(owner))
        })
    }

    fn release_key<'a>(&'a self, key: &'a str, event: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            let released = self.world.operate(&self.life, SETTLE_PATIENCE_MS, |state, _| {
                if state.claims.get(key).is_some_and(|(owner, _)| owner == event) {
                    state.claims.remove(key);
                }
            });
            released.await.map_err(settle_error)
        })
    }
}

impl Publish for Port {
    fn publish<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>> {
        Box::pin(self.store(message))
    }

    fn publish_all<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>> {
        Box::pin(async move {
            let answers = join_all(messages.iter().map(|message| self.store(message))).await;
            let each = answers.into_iter().zip(messages).map(|(answer, message)| {
                answer.map_err(|why| NotReleased { subject: message.subject.clone(), why })
            });
            Ok(Released { stored: each.collect::<Result<_, _>>()?, atomic: false })
        })
    }

    fn send<'a>(&'a self, _message: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async {
            nap(1).await;
            self.life.breathe().await;
            Ok(())
        })
    }

    fn dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>> {
        let life = self.life.number();
        Box::pin(async move {
            let full = self.world.is_within(&self.world.scenario().faults.full);
            let stored = self.world.operate(&self.life, PUBLISH_PATIENCE_MS, |state, now| {
                if full {
                    return Err(PublishError::NotNow("the stream is full".into()));
                }
                let duplicate = match state.letters.get(&letter.subject) {
                    Some(stored) if !letter.is_same(&stored.headers) => {
                        return Err(PublishError::Refused("another letter is stored there".into()));
                    }
                    stored => stored.is_some(),
                };
                state.letters.entry(letter.subject.clone()).or_insert_with(|| letter.clone());
                let what = letter_entry(state.sequence(&letter.event_id), letter, duplicate);
                state.write(now, life, what);
                Ok(Stored { stream: "BUSWAY_DLQ".into(), sequence: state.letters.len() as u64, duplicate })
            });
            stored.await.map_err(publish_error)?
        })
    }
}

/// The sequence of the message in the stream that it was given from.
fn held(receipt: &Receipt) -> u64 {
    receipt.held_as.unwrap_or_default()
}

fn letter_entry(event: u64, letter: &DeadLetter, duplicate: bool) -> What {
    let class = dead_letter::class_of(&letter.headers);
    let failed_runs = letter.headers.get(dead_letter::ATTEMPTS).and_then(|text| text.parse().ok());
    What::LetterStored {
        event,
        payload: busway_core::Digest::of(&letter.payload).to_string(),
        class: class.map(FailureClass::code).unwrap_or_default().to_owned(),
        retryable: class.is_some_and(FailureClass::is_retryable),
        failed_runs: failed_runs.unwrap_or_default(),
        duplicate,
    }
}

/// The event that an output came of.
fn origin(message: &Outgoing) -> EventId {
    let id = message.headers.get(EVENT_ID).and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| EventId::random([0; 32]))
}

/// An output's place among those of its run: the handler writes it into the payload.
fn place(message: &Outgoing) -> u64 {
    String::from_utf8_lossy(&message.payload).parse().unwrap_or_default()
}

fn settle_error(trouble: Trouble) -> SettleError {
    match trouble {
        Trouble::Refused => SettleError::Refused("503".into()),
        Trouble::NoAnswer => SettleError::Unreachable("no answer in time".into()),
    }
}

fn publish_error(trouble: Trouble) -> PublishError {
    match trouble {
        Trouble::Refused => PublishError::NotNow("503".into()),
        Trouble::NoAnswer => PublishError::Unreachable("no answer in time".into()),
    }
}
