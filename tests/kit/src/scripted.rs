//! A handler that follows a script: one step per call, the last one repeated.

use busway_core::{
    Attempt, Event, Failure, FailureClass, Guarantee, Handler, Headers, Output, Outputs, Ran, Refusal, Reply,
    Report, Used, port::BoxFuture,
};
use bytes::Bytes;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What the handler does at one call.
#[derive(Debug, Clone)]
pub enum Step {
    /// Returns ok.
    Ok,
    /// Publishes to these subjects and returns ok.
    Publish(Vec<&'static str>),
    /// Publishes to the first at most once, to the second as stored, replies with the third, and returns ok.
    Speak(&'static str, &'static str, &'static str),
    /// Fails with this class.
    Fail(FailureClass),
    /// Asks for a retry after this time.
    RetryAfter(Duration),
    /// Is not able to run.
    Refuse(Refusal),
    /// Takes so long, then returns ok.
    Take(Duration),
    /// Takes so long, publishes to this subject, then returns ok.
    TakeAndPublish(Duration, &'static str),
    /// Never returns.
    Hang,
    /// A fault in the host's own code.
    Panic,
}

/// The handler, and what it was called with.
#[derive(Debug)]
pub struct ScriptedHandler {
    steps: Vec<Step>,
    calls: Mutex<Vec<Call>>,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The event as it arrived.
    pub event: Event,
    /// The attempt as it was told.
    pub attempt: Attempt,
}

impl ScriptedHandler {
    /// Follows these steps; the last one repeats.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), calls: Mutex::default() }
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// The attempts that were told, in order.
    pub fn attempts(&self) -> Vec<u32> {
        self.lock().iter().map(|call| call.attempt.0).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for ScriptedHandler {
    fn call<'a>(&'a self, event: &'a Event, attempt: Attempt) -> BoxFuture<'a, Report> {
        Box::pin(async move {
            let index = {
                let mut calls = self.lock();
                calls.push(Call { event: event.clone(), attempt });
                calls.len() - 1
            };
            let step = self.steps.get(index).or(self.steps.last()).cloned().unwrap_or(Step::Ok);
            Report { ran: run(step).await, used: Used::default(), logs: Vec::new() }
        })
    }
}

async fn run(step: Step) -> Ran {
    match step {
        Step::Ok => Ran::Ok(Outputs::default()),
        Step::Publish(subjects) => Ran::Ok(outputs(&subjects)),
        Step::Speak(core, stored, reply) => {
            let core = Output { guarantee: Guarantee::Core, ..output(core) };
            let payload = Bytes::from_static(reply.as_bytes());
            let reply = Some(Reply { headers: Headers::new(), payload });
            Ran::Ok(Outputs { messages: vec![core, output(stored)], reply })
        }
        Step::Fail(class) => Ran::Failed(Failure::new(class, "scripted", "as the script says")),
        Step::RetryAfter(after) => {
            let mut failure = Failure::new(FailureClass::Retry, "", "later");
            failure.after = Some(after);
            Ran::Failed(failure)
        }
        Step::Refuse(refusal) => Ran::Refused(refusal),
        Step::Take(time) => {
            tokio::time::sleep(time).await;
            Ran::Ok(Outputs::default())
        }
        Step::TakeAndPublish(time, subject) => {
            tokio::time::sleep(time).await;
            Ran::Ok(outputs(&[subject]))
        }
        Step::Hang => std::future::pending().await,
        Step::Panic => panic!("as the script says"),
    }
}

fn outputs(subjects: &[&'static str]) -> Outputs {
    Outputs { messages: subjects.iter().map(|subject| output(subject)).collect(), reply: None }
}

fn output(subject: &'static str) -> Output {
    Output {
        guarantee: Guarantee::Stored,
        subject: subject.parse().expect("a script publishes to subjects that a plugin may"),
        headers: Headers::new(),
        payload: Bytes::from_static(b"out"),
    }
}
