//! Asking other services at once, for plugins.
//!
//! A request on a subject that a stream captures would be stored: a durable publish that is not held back until the
//! handler's ok. So the broker is asked first whether one does, and its answer is believed for a few seconds. Where it
//! can't be asked nothing is sent.

use crate::nats::{
    api::{self, ApiError},
    connect::Line,
    wire,
};
use async_nats::{Request as Ask, RequestErrorKind};
use busway_core::{
    Headers, Message, Request,
    port::{BoxFuture, RequestError},
    reply::{SERVICE_ERROR, SERVICE_ERROR_CODE},
};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// How long the broker's word about a subject is believed.
const BELIEVED: Duration = Duration::from_secs(5);
/// Subjects whose answer is remembered.
const REMEMBERED_MAX: usize = 1024;

/// Asks other services for this host's plugins.
#[derive(Debug)]
pub struct NatsRequest {
    line: Arc<Line>,
    control: Arc<Line>,
    /// Which stream captures a subject, if any, and until when that is believed.
    // Never held across an await.
    known: Mutex<HashMap<String, (Option<String>, Instant)>>,
}

impl NatsRequest {
    pub(in crate::nats) fn new(line: Arc<Line>, control: Arc<Line>) -> Self {
        Self { line, control, known: Mutex::default() }
    }

    async fn ask(&self, message: &Message, wait: Duration) -> Result<Message, RequestError> {
        let until = Instant::now() + wait;
        let captured = timeout_at(until, self.captured(&message.subject)).await;
        if let Some(stream) = captured.map_err(|_| RequestError::Timeout)?? {
            return Err(RequestError::Captured { stream });
        }
        let headers = wire::to_library(&message.headers);
        let headers = headers.map_err(|why| RequestError::Unreachable(why.to_string()))?;
        let ask = Ask::new().payload(message.payload.clone()).headers(headers);
        let left = until.saturating_duration_since(Instant::now());
        // Where the connection has ended for good a new one is made before this returns, which may take longer.
        let answer = timeout_at(until, self.line.request(message.subject.clone(), ask, left)).await;
        let answer = answer.map_err(|_| RequestError::Timeout)?.map_err(|why| match why.kind() {
            RequestErrorKind::TimedOut => RequestError::Timeout,
            RequestErrorKind::NoResponders => RequestError::NoResponders,
            RequestErrorKind::MaxPayloadExceeded => RequestError::TooLarge(why.to_string()),
            RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                RequestError::Unreachable(why.to_string())
            }
        })?;
        let headers = answer.headers.as_ref().map(wire::from_library).unwrap_or_default();
        match service_error(&headers) {
            Some(error) => Err(error),
            None => Ok(Message { subject: message.subject.clone(), headers, payload: answer.payload }),
        }
    }

    /// The stream that captures a subject, if any.
    async fn captured(&self, subject: &str) -> Result<Option<String>, RequestError> {
        #[derive(Deserialize)]
        struct Names {
            streams: Option<Vec<String>>,
        }
        if let Some(known) = self.remembered(subject) {
            return Ok(known);
        }
        let names = api::call::<Names>(&self.control, "STREAM.NAMES", &json!({ "subject": subject })).await;
        let stream = match names {
            Ok(names) => names.streams.unwrap_or_default().into_iter().next(),
            // Without JetStream there are no streams. It answers the same while it has no leader, so that is not remembered.
            Err(ApiError::NoJetStream) => return Ok(None),
            Err(why) => {
                let why = format!("whether a stream captures {subject} could not be found out: {why}");
                return Err(RequestError::Unreachable(why));
            }
        };
        self.remember(subject, stream.clone());
        Ok(stream)
    }

    fn remembered(&self, subject: &str) -> Option<Option<String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(subject).filter(|(_, until)| *until > Instant::now()).map(|(stream, _)| stream.clone())
    }

    fn remember(&self, subject: &str, stream: Option<String>) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < REMEMBERED_MAX {
            known.insert(subject.to_owned(), (stream, now + BELIEVED));
        }
    }
}

impl Request for NatsRequest {
    fn request<'a>(
        &'a self,
        message: &'a Message,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Message, RequestError>> {
        Box::pin(self.ask(message, wait))
    }
}

/// A service that failed says so in headers, which plugins do not see.
fn service_error(headers: &Headers) -> Option<RequestError> {
    let (code, words) = (headers.get(SERVICE_ERROR_CODE), headers.get(SERVICE_ERROR));
    if code.is_none() && words.is_none() {
        return None;
    }
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Some(RequestError::Service { code: text(code), words: text(words) })
}
