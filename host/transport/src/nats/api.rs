//! Requests to JetStream: one call, one answer, errors by code. Bodies and answers are JSON made by the broker, so none
//! of this breaks on what publishers stored.

use super::connect::Line;
use async_nats::{Request, RequestErrorKind};
use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::Duration;

/// How long JetStream may take to answer.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// JetStream's codes that something is decided on.
pub(super) mod code {
    pub const NO_CLUSTER: u64 = 10008;
    pub const NOT_LEADER: u64 = 10009;
    pub const CONSUMER_NOT_FOUND: u64 = 10014;
    pub const INSUFFICIENT_RESOURCES: u64 = 10023;
    pub const ACCOUNT_RESOURCES_EXCEEDED: u64 = 10002;
    pub const MEMORY_RESOURCES_EXCEEDED: u64 = 10028;
    pub const STORAGE_RESOURCES_EXCEEDED: u64 = 10047;
    pub const MESSAGE_DELETE_FAILED: u64 = 10057;
    pub const NO_MESSAGE_FOUND: u64 = 10037;
    pub const MESSAGE_EXCEEDS_MAXIMUM: u64 = 10054;
    pub const STREAM_NAME_EXISTS: u64 = 10058;
    pub const STREAM_NOT_FOUND: u64 = 10059;
    pub const WRONG_LAST_SEQUENCE: u64 = 10071;
    pub const STREAM_STORE_FAILED: u64 = 10077;
    pub const HEADER_EXCEEDS_MAXIMUM: u64 = 10097;
    pub const CONSUMER_ALREADY_EXISTS: u64 = 10148;
    pub const WRONG_LAST_SEQUENCE_IN_PROCESS: u64 = 10164;
    pub const DUPLICATE_IN_PROCESS: u64 = 10158;
    pub const BATCH_DISABLED: u64 = 10174;
    pub const BATCH_WITHOUT_SEQUENCE: u64 = 10175;
    pub const BATCH_INCOMPLETE: u64 = 10176;
    pub const BATCH_HEADER_UNSUPPORTED: u64 = 10177;
    pub const BATCH_ID_INVALID: u64 = 10179;
    pub const BATCH_TOO_LARGE: u64 = 10199;
    pub const BATCH_COMMIT_INVALID: u64 = 10200;
    pub const BATCH_HAS_DUPLICATE: u64 = 10201;
    pub const BATCHES_IN_FLIGHT: u64 = 10210;
}

/// Why JetStream gave no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No answer in time, or no connection.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Nobody listens: JetStream is off, has no leader at the moment, or the account may not use it.
    #[error("JetStream does not answer on this broker or for this account")]
    NoJetStream,
    /// An answer that says no.
    #[error("{description} (JetStream code {code})")]
    Refused {
        /// JetStream's own code.
        code: u64,
        /// In words.
        description: String,
    },
    /// An answer that can't be read.
    #[error("an answer that can't be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// Whether the answer is a refusal with this code.
    pub(super) fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// The error part of an answer.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Refusal {
    /// The class of error, as in HTTP.
    pub code: u64,
    #[serde(default)]
    pub err_code: u64,
    #[serde(default)]
    pub description: String,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

/// Sends a request to `$JS.API.<subject>` and waits for the answer, at most [`ANSWER_WAIT`].
pub(super) async fn call<T: DeserializeOwned>(
    line: &Line,
    subject: &str,
    body: &impl Serialize,
) -> Result<T, ApiError> {
    let body = serde_json::to_vec(body).map_err(|why| ApiError::Unreadable(why.to_string()))?;
    let request = Request::new().payload(body.into());
    let answer = line.request(format!("$JS.API.{subject}"), request, ANSWER_WAIT).await.map_err(|why| {
        match why.kind() {
            RequestErrorKind::NoResponders => ApiError::NoJetStream,
            _ => ApiError::NoAnswer(why.to_string()),
        }
    })?;
    let unreadable = |why: serde_json::Error| ApiError::Unreadable(why.to_string());
    let refusal: Answer = serde_json::from_slice(&answer.payload).map_err(unreadable)?;
    if let Some(Refusal { err_code, description, .. }) = refusal.error {
        return Err(ApiError::Refused { code: err_code, description });
    }
    serde_json::from_slice(&answer.payload).map_err(unreadable)
}

/// Which stored message is wanted.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Wanted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_by_subj: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// The one with this sequence.
    pub(super) fn sequence(seq: u64) -> Self {
        Self { seq: Some(seq), next_by_subj: None, last_by_subj: None }
    }

    /// The first from this sequence on whose subject fits.
    pub(super) fn next(seq: u64, filter: &'a str) -> Self {
        Self { seq: Some(seq), next_by_subj: Some(filter), last_by_subj: None }
    }

    /// The last under this subject.
    pub(super) fn last(subject: &'a str) -> Self {
        Self { seq: None, next_by_subj: None, last_by_subj: Some(subject) }
    }
}

/// A stored message as it is, whatever is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    /// Bytes that are no UTF-8 were replaced by the broker.
    pub subject: String,
    pub sequence: u64,
    /// Empty where the message has no headers.
    pub header_block: Bytes,
    pub payload: Bytes,
    /// Nanoseconds since the Unix epoch.
    pub stored_at_ns: i128,
}

#[derive(Deserialize)]
struct RawAnswer {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

/// Reads a stored message from the stream's leader, so that what was confirmed before is seen. None where there is none.
pub(super) async fn stored(line: &Line, stream: &str, wanted: Wanted<'_>) -> Result<Option<Raw>, ApiError> {
    let subject = format!("STREAM.MSG.GET.{stream}");
    let message = match call::<RawAnswer>(line, &subject, &wanted).await {
        Ok(answer) => answer.message,
        Err(why) if why.is(code::NO_MESSAGE_FOUND) => return Ok(None),
        Err(why) => return Err(why),
    };
    let decode = |text: &str| BASE64.decode(text.as_bytes()).map(Bytes::from);
    let unreadable = |why: data_encoding::DecodeError| ApiError::Unreadable(why.to_string());
    Ok(Some(Raw {
        header_block: decode(&message.hdrs).map_err(unreadable)?,
        payload: decode(&message.data).map_err(unreadable)?,
        stored_at_ns: time(&message.time)?,
        subject: message.subject,
        sequence: message.seq,
    }))
}

/// Nanoseconds since the Unix epoch of a time as the broker writes it.
pub(super) fn time(text: &str) -> Result<i128, ApiError> {
    async_nats::datetime::parse_rfc3339(text)
        .map(|time| time.unix_timestamp_nanos())
        .map_err(|why| ApiError::Unreadable(why.to_string()))
}
