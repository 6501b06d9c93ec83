//! Services that answer by a script: one step per request, the last one repeated.

use busway_core::{
    Message, Request,
    port::{BoxFuture, RequestError},
};
use bytes::Bytes;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a service does with one request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Answers with these bytes.
    Bytes(&'static [u8]),
    /// Answers with this message.
    Message(Message),
    /// Fails so, at once.
    Fail(RequestError),
    /// Never answers.
    Silence,
}

/// The services, and what was asked of them.
#[derive(Debug)]
pub struct ScriptedServices {
    answers: Vec<Answer>,
    asked: Mutex<Vec<(Message, Duration)>>,
}

impl ScriptedServices {
    /// Answers so, in order; the last one repeats.
    pub fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: answers.into_iter().collect(), asked: Mutex::default() }
    }

    /// The requests so far, each with how long its sender would have waited.
    pub fn asked(&self) -> Vec<(Message, Duration)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Message, Duration)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request for ScriptedServices {
    fn request<'a>(
        &'a self,
        message: &'a Message,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Message, RequestError>> {
        Box::pin(async move {
            let index = {
                let mut asked = self.lock();
                asked.push((message.clone(), wait));
                asked.len() - 1
            };
            match self.answers.get(index).or(self.answers.last()).cloned().unwrap_or(Answer::Silence) {
                Answer::Bytes(bytes) => Ok(Message {
                    subject: message.subject.clone(),
                    headers: Default::default(),
                    payload: Bytes::from_static(bytes),
                }),
                Answer::Message(message) => Ok(message),
                Answer::Fail(why) => Err(why),
                Answer::Silence => {
                    tokio::time::sleep(wait).await;
                    Err(RequestError::Timeout)
                }
            }
        })
    }
}
