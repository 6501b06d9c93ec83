//! A handler that does what the seed says for this event and this run of it: the same on every host.

use crate::{
    history::{Ended, What},
    life::Life,
    port::NOWHERE,
    scenario::{ACK_WAIT_MS, Handlers, OUTPUTS_MAX, TIMEOUT_MS},
    world::{World, nap},
};
use busway_core::{
    Attempt, Event, Failure, FailureClass, Guarantee, Handler, Headers, Output, Outputs, Ran, Refusal,
    Report, Used, port::BoxFuture,
};
use busway_testkit::simulated::Random;
use std::{panic::resume_unwind, time::Duration};

/// The classes that a handler can fail with.
const CLASSES: [FailureClass; 9] = [
    FailureClass::Reject,
    FailureClass::Retry,
    FailureClass::Timeout,
    FailureClass::Cpu,
    FailureClass::Trap,
    FailureClass::Memory,
    FailureClass::Quota,
    FailureClass::Denied,
    FailureClass::Retry,
];

/// One life's handler.
pub struct SimHandler {
    world: World,
    life: Life,
}

/// What one run does.
enum Act {
    Publish(u64),
    PublishNowhere,
    Fail(FailureClass),
    FailAndWish(Duration),
    Refuse,
    Panic,
}

/// Notes the end of a call that is dropped before it ends.
struct Call<'a> {
    handler: &'a SimHandler,
    event: u64,
    is_open: bool,
}

impl SimHandler {
    /// A handler.
    pub fn new(world: World, life: Life) -> Self {
        Self { world, life }
    }

    fn plan(&self, event: u64, run: u64) -> (u64, Act) {
        let scenario = self.world.scenario();
        let mut chance = Random::new(scenario.seed ^ (event << 32) ^ (run << 16)).fork(2);
        let Handlers { failing, refused, slow, panicking, unroutable } = scenario.handlers;
        let takes = match chance.permille(slow) {
            true => chance.between(ACK_WAIT_MS / 2, TIMEOUT_MS + 5_000),
            false => chance.pick(&[0, 1, 20, 200, 2_000], 1),
        };
        let drawn = chance.below(1_000);
        let act = if drawn < failing {
            match chance.permille(100) {
                true => Act::FailAndWish(Duration::from_millis(chance.below(20_000))),
                false => Act::Fail(chance.pick(&CLASSES, FailureClass::Retry)),
            }
        } else if drawn < failing + refused {
            Act::Refuse
        } else if drawn < failing + refused + panicking {
            Act::Panic
        } else if drawn < failing + refused + panicking + unroutable {
            Act::PublishNowhere
        } else {
            Act::Publish(chance.below(OUTPUTS_MAX + 1))
        };
        (takes, act)
    }
}

impl Handler for SimHandler {
    fn call<'a>(&'a self, event: &'a Event, attempt: Attempt) -> BoxFuture<'a, Report> {
        Box::pin(async move {
            self.life.breathe().await;
            let sequence = event.position.as_ref().map_or(0, |position| position.sequence);
            let run = self.world.with(|state| state.run_of(sequence));
            self.world.note(self.life.number(), What::Ran { event: sequence, attempt: attempt.0 });
            let call = Call { handler: self, event: sequence, is_open: true };
            let (takes, act) = self.plan(sequence, run);
            nap(takes).await;
            self.life.breathe().await;
            Report { ran: call.end(act), used: Used::default(), logs: Vec::new() }
        })
    }
}

impl Call<'_> {
    fn end(mut self, act: Act) -> Ran {
        let failed = |class| Failure::new(class, "simulated", "as the seed says");
        let (how, ran) = match act {
            Act::Publish(outputs) => (Ended::Ok { outputs }, Ran::Ok(publish(outputs, "out"))),
            Act::PublishNowhere => (Ended::Ok { outputs: 1 }, Ran::Ok(publish(1, NOWHERE))),
            Act::Fail(class) => (Ended::Failed, Ran::Failed(failed(class))),
            Act::FailAndWish(after) => {
                let failure = Failure { after: Some(after), ..failed(FailureClass::Retry) };
                (Ended::Failed, Ran::Failed(failure))
            }
            Act::Refuse => (Ended::Refused, Ran::Refused(Refusal::NoSandbox("as the seed says".into()))),
            Act::Panic => {
                self.note(Ended::Panicked);
                // Without the message that a panic prints.
                resume_unwind(Box::new("as the seed says"));
            }
        };
        self.note(how);
        ran
    }

    fn note(&mut self, how: Ended) {
        self.is_open = false;
        self.handler.world.note(self.handler.life.number(), What::Ended { event: self.event, how });
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.is_open && !self.handler.life.is_dead() && !self.handler.world.is_over() {
            self.note(Ended::Cut);
        }
    }
}

/// So many outputs; each carries its place, by which the broker's side tells them apart.
fn publish(outputs: u64, subject: &str) -> Outputs {
    let output = |place: u64| {
        Some(Output {
            guarantee: Guarantee::Stored,
            subject: subject.parse().ok()?,
            headers: Headers::new(),
            payload: place.to_string().into(),
        })
    };
    Outputs { messages: (0..outputs).filter_map(output).collect(), reply: None }
}
