//! The host's broker, as any publisher and reader sees it.
//!
//! Access is what a running host leaves beside its configuration for commands of the same user. Everything is read from
//! the streams themselves, message by message and without a consumer, so that looking changes nothing.

use std::{fs, path::Path};

use anyhow::{Context as _, bail, ensure};
use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        stream::{Config, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;

use crate::events::{DELIVERY, Event, KIND};

/// Messages that are read at the same time.
const READS: usize = 32;

/// A connection.
#[derive(Debug)]
pub struct Broker {
    jetstream: jetstream::Context,
}

/// A message as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its place in the stream.
    pub sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its bytes.
    pub payload: Bytes,
    /// When the broker stored it, in nanoseconds since the Unix epoch.
    pub at_ns: i128,
}

impl Stored {
    /// A header's value; empty where it has none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }

    /// The id of the event that it came from.
    pub fn delivery(&self) -> &str {
        self.header(DELIVERY)
    }
}

impl Broker {
    /// Connects to the broker that an access file describes.
    ///
    /// # Errors
    /// A file that can't be read; a broker that can't be reached.
    pub async fn connect(access: &Path) -> anyhow::Result<Self> {
        let failed = || format!("{} can't be used", access.display());
        let text = fs::read_to_string(access).with_context(failed)?;
        let fields: Value = serde_json::from_str(&text).with_context(failed)?;
        let field = |name: &str| fields.get(name).and_then(Value::as_str).with_context(failed);
        let client = async_nats::ConnectOptions::with_user_and_password(
            field("user")?.to_owned(),
            field("password")?.to_owned(),
        )
        .name("busway demo")
        .connect(field("url")?)
        .await
        .context("the host's broker can't be reached")?;
        Ok(Self { jetstream: jetstream::new(client) })
    }

    /// Publishes an event and waits until a stream has stored it.
    ///
    /// # Errors
    /// No stream did, or it knew the event already.
    pub async fn publish(&self, event: &Event) -> anyhow::Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert(KIND, event.kind.as_str());
        headers.insert(DELIVERY, event.id.as_str());
        headers.insert(async_nats::header::NATS_MESSAGE_ID, event.id.as_str());
        let failed = || format!("{} was not stored", event.id);
        let sent = self.jetstream.publish_with_headers(event.subject(), headers, event.payload.clone()).await;
        let stored = sent.with_context(failed)?.await.with_context(failed)?;
        ensure!(!stored.duplicate, "{} was there before", event.id);
        Ok(())
    }

    /// How many messages a stream holds.
    ///
    /// # Errors
    /// There is no such stream.
    pub async fn count(&self, stream: &str) -> anyhow::Result<u64> {
        Ok(self.stream(stream).await?.cached_info().state.messages)
    }

    /// What a stream's settings are.
    ///
    /// # Errors
    /// There is no such stream.
    pub async fn settings(&self, stream: &str) -> anyhow::Result<Config> {
        Ok(self.stream(stream).await?.cached_info().config.clone())
    }

    /// Changes a stream's settings.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn set(&self, settings: &Config) -> anyhow::Result<()> {
        let failed = || format!("the stream {} can't be changed", settings.name);
        self.jetstream.update_stream(settings).await.with_context(failed)?;
        Ok(())
    }

    /// How many events a stream's consumers have not been given, or have been given and not settled.
    ///
    /// # Errors
    /// There is no such stream, or it has no consumer.
    pub async fn pending(&self, stream: &str) -> anyhow::Result<u64> {
        let consumers: Vec<_> = self.stream(stream).await?.consumers().try_collect().await?;
        ensure!(!consumers.is_empty(), "nobody reads the stream {stream}");
        Ok(consumers.iter().map(|consumer| consumer.num_pending + consumer.num_ack_pending as u64).sum())
    }

    /// Everything that a stream holds, in its order.
    ///
    /// # Errors
    /// There is no such stream, or a message that can't be read.
    pub async fn read(&self, stream: &str) -> anyhow::Result<Vec<Stored>> {
        let stream = self.stream(stream).await?;
        let state = &stream.cached_info().state;
        let sequences = state.first_sequence.max(1)..=state.last_sequence;
        let found = futures_util::stream::iter(sequences).map(|sequence| read_one(&stream, sequence));
        let found: Vec<_> = found.buffered(READS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Deletes one message.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn delete(&self, stream: &str, sequence: u64) -> anyhow::Result<()> {
        let is_deleted = self.stream(stream).await?.delete_message(sequence).await?;
        ensure!(is_deleted, "message {sequence} of {stream} was not deleted");
        Ok(())
    }

    async fn stream(&self, name: &str) -> anyhow::Result<Stream> {
        self.jetstream.get_stream(name).await.with_context(|| format!("the stream {name} can't be looked at"))
    }
}

/// One message; none where it was deleted.
async fn read_one(stream: &Stream, sequence: u64) -> anyhow::Result<Option<Stored>> {
    let message = match stream.get_raw_message(sequence).await {
        Ok(message) => message,
        Err(why) if why.kind() == RawMessageErrorKind::NoMessageFound => return Ok(None),
        Err(why) => bail!("message {sequence} of {} can't be read: {why}", stream.cached_info().config.name),
    };
    Ok(Some(Stored {
        sequence: message.sequence,
        subject: message.subject.to_string(),
        headers: message.headers,
        payload: message.payload,
        at_ns: message.time.unix_timestamp_nanos(),
    }))
}
