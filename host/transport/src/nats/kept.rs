//! What a broker keeps, read back for an audit: streams message by message, and how far a consumer has come.
//!
//! No consumer is made for it, so that looking changes nothing; and only digests of payloads are kept in memory, so that
//! an audit takes about 300 bytes a message. What is read is a picture of a moment only where nobody works meanwhile.

use super::{
    api::{self, ApiError, Raw, Wanted, code},
    connect::Line,
    topology, wire,
};
use async_nats::jetstream::{consumer::Info as ConsumerInfo, stream::RetentionPolicy};
use busway_core::{Digest, Headers, Position, SubjectFilter, dead_letter::PAYLOAD_DIGEST};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::sync::Arc;

/// Messages that are read at the same time.
const READS: usize = 64;

/// Reads what a broker keeps.
#[derive(Debug, Clone)]
pub struct KeptReader {
    pub(super) control: Arc<Line>,
}

/// A stream, as far as an audit wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptStream {
    /// Its name.
    pub name: String,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created_ns: i128,
    /// Whether it keeps what is acknowledged: not so for work queues and interest.
    pub keeps_acknowledged: bool,
    /// Messages that are not there any more, from the first sequence on.
    pub deleted: u64,
    /// What it holds, in its order.
    pub messages: Vec<KeptMessage>,
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMessage {
    /// Its sequence.
    pub sequence: u64,
    /// What it was published on.
    pub subject: String,
    /// Its headers; none where they can't be read.
    pub headers: Headers,
    /// The digest of its bytes. Of a dead letter whose bytes are in the object store: the digest that it names.
    pub payload: Digest,
}

/// How far a consumer has come.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptConsumer {
    /// Which subjects it is for; none: all of the stream's.
    pub filters: Vec<SubjectFilter>,
    /// The highest stream sequence that was given.
    pub delivered: u64,
    /// Everything up to this stream sequence is settled.
    pub ack_floor: u64,
    /// How many given events the broker waits for.
    pub ack_pending: u64,
    /// How many of these were given more than once.
    pub redelivered: u64,
}

/// Why something can't be read.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is no such stream.
    #[error("there is no stream {0}")]
    NoStream(String),
    /// There is no such consumer.
    #[error("there is no consumer {consumer} on stream {stream}; has a host with this plugin run here?")]
    NoConsumer {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// JetStream gave no good answer.
    #[error("the stream {stream} can't be read")]
    Api {
        /// The stream.
        stream: String,
        /// Why.
        source: ApiError,
    },
}

impl KeptMessage {
    /// Where it is, which makes its event id.
    pub fn position(&self, stream: &KeptStream) -> Position {
        let KeptStream { name, created_ns, .. } = stream;
        Position { stream: name.as_str().into(), stream_created_ns: *created_ns, sequence: self.sequence }
    }
}

impl KeptReader {
    /// Everything that a stream holds.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub async fn stream(&self, name: &str) -> Result<KeptStream, KeptError> {
        let failed = |source| KeptError::Api { stream: name.to_owned(), source };
        let info = topology::info(&self.control, name).await.map_err(failed)?;
        let info = info.ok_or_else(|| KeptError::NoStream(name.to_owned()))?;
        let state = &info.state;
        let sequences = state.first_sequence.max(1)..=state.last_sequence;
        let read = |sequence| api::stored(&self.control, name, Wanted::sequence(sequence));
        let found = stream::iter(sequences).map(read).buffered(READS);
        let found: Vec<Option<Raw>> = found.try_collect().await.map_err(failed)?;
        let messages: Vec<_> = found.into_iter().flatten().map(kept).collect();
        Ok(KeptStream {
            name: name.to_owned(),
            created_ns: info.created.unix_timestamp_nanos(),
            keeps_acknowledged: info.config.retention == RetentionPolicy::Limits,
            deleted: state.last_sequence.saturating_sub(messages.len() as u64),
            messages,
        })
    }

    /// A consumer as it is.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub async fn consumer(&self, stream: &str, consumer: &str) -> Result<KeptConsumer, KeptError> {
        let subject = format!("CONSUMER.INFO.{stream}.{consumer}");
        let answer = api::call(&self.control, &subject, &serde_json::json!({})).await;
        let info: ConsumerInfo = match answer {
            Ok(info) => info,
            Err(why) if why.is(code::STREAM_NOT_FOUND) => return Err(KeptError::NoStream(stream.to_owned())),
            Err(why) if why.is(code::CONSUMER_NOT_FOUND) => {
                return Err(KeptError::NoConsumer {
                    stream: stream.to_owned(),
                    consumer: consumer.to_owned(),
                });
            }
            Err(source) => return Err(KeptError::Api { stream: stream.to_owned(), source }),
        };
        let one = Some(info.config.filter_subject.clone()).filter(|filter| !filter.is_empty());
        let filters = info.config.filter_subjects.iter().chain(&one);
        Ok(KeptConsumer {
            filters: filters.filter_map(|filter| filter.parse().ok()).collect(),
            delivered: info.delivered.stream_sequence,
            ack_floor: info.ack_floor.stream_sequence,
            ack_pending: info.num_ack_pending as u64,
            redelivered: info.num_redelivered as u64,
        })
    }
}

fn kept(raw: Raw) -> KeptMessage {
    let headers = wire::parse(&raw.header_block).unwrap_or_default();
    let elsewhere = raw.payload.is_empty().then(|| headers.get(PAYLOAD_DIGEST)?.parse().ok()).flatten();
    KeptMessage {
        sequence: raw.sequence,
        payload: elsewhere.unwrap_or_else(|| Digest::of(&raw.payload)),
        subject: raw.subject,
        headers,
    }
}
