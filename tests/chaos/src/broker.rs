//! The broker, as a publisher and a reader of streams see it.
//!
//! Everything is asked until it is answered: the broker may be down at any moment, and what a publisher does then is what
//! it has to do in life, publish again under the same message id until the broker says that it is stored.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        self,
        stream::{Config, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::events::Event;

/// How long one answer may take before it is asked again.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(50);
/// How long the broker may not answer at all.
const PATIENCE: Duration = Duration::from_secs(90);
/// Messages that are read at the same time.
const READS: usize = 32;

/// A connection.
#[derive(Debug, Clone)]
pub struct Broker {
    context: jetstream::Context,
}

/// An event that the broker has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The event.
    pub event: Event,
    /// Its sequence.
    pub sequence: u64,
}

/// A message as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its sequence.
    pub sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its bytes.
    pub payload: Bytes,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it has not given yet.
    pub waiting: u64,
    /// What it has given and waits for.
    pub in_flight: u64,
    /// How often it has given anything.
    pub deliveries: u64,
}

impl Stored {
    /// A header's value; empty where it has none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }
}

impl Progress {
    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.in_flight == 0
    }
}

impl Broker {
    /// Connects.
    ///
    /// # Errors
    /// The broker can't be reached.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let options = async_nats::ConnectOptions::new().name("busway chaos");
        let options = options.reconnect_delay_callback(|_| Duration::from_millis(50));
        let client = options.connect(url).await.context("the broker can't be reached")?;
        Ok(Self { context: jetstream::new(client) })
    }

    /// Publishes an event, again and again until a stream has stored it.
    ///
    /// # Errors
    /// The broker does not answer for [`PATIENCE`].
    pub async fn publish(&self, subject: &str, event: Event) -> anyhow::Result<Accepted> {
        let sequence = self
            .until_answered("an event is stored", async || {
                let mut headers = HeaderMap::new();
                headers.insert(NATS_MESSAGE_ID, event.id().as_str());
                let sent = self.context.publish_with_headers(subject.to_owned(), headers, event.payload());
                Ok(sent.await?.await?.sequence)
            })
            .await?;
        Ok(Accepted { event, sequence })
    }

    /// When a stream was made, in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// There is no such stream.
    pub async fn created_ns(&self, stream: &str) -> anyhow::Result<i64> {
        let created = self.stream(stream).await?.cached_info().created;
        Ok(i64::try_from(created.unix_timestamp_nanos())?)
    }

    /// How many messages a stream holds whose subjects fit.
    ///
    /// # Errors
    /// There is no such stream.
    pub async fn count(&self, stream: &str, subjects: &str) -> anyhow::Result<u64> {
        let found = self.stream(stream).await?.info_with_subjects(subjects).await?;
        let counts: Vec<_> = found.try_collect().await?;
        Ok(counts.into_iter().map(|(_, count)| count as u64).sum())
    }

    /// How far a consumer has come.
    ///
    /// # Errors
    /// There is no such consumer.
    pub async fn progress(&self, stream: &str, consumer: &str) -> anyhow::Result<Progress> {
        self.until_answered("a consumer is looked at", async || {
            let info = self.context.get_stream(stream).await?.consumer_info(consumer).await?;
            Ok(Progress {
                waiting: info.num_pending,
                in_flight: info.num_ack_pending as u64,
                deliveries: info.delivered.consumer_sequence,
            })
        })
        .await
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
        self.stream(stream).await?.delete_message(sequence).await?;
        Ok(())
    }

    /// Stores a message once more, although its stream knows its id.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn double(&self, stream: &str, stored: &Stored) -> anyhow::Result<()> {
        let config = self.stream(stream).await?.cached_info().config.clone();
        let window = Duration::from_millis(100);
        self.context.update_stream(&Config { duplicate_window: window, ..config }).await?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let (subject, headers) = (stored.subject.clone(), stored.headers.clone());
            let sent = self.context.publish_with_headers(subject, headers, stored.payload.clone());
            if !sent.await?.await?.duplicate {
                return Ok(());
            }
            sleep(window).await;
        }
        bail!("the stream {stream} still knows the message's id");
    }

    /// Removes a run's streams, and its dead letters.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn clear(&self, streams: &[&str], plugin: &str) -> anyhow::Result<()> {
        for stream in streams {
            self.context.delete_stream(stream).await?;
        }
        self.stream("BUSWAY_DLQ").await?.purge().filter(format!("busway.dlq.{plugin}.>")).await?;
        Ok(())
    }

    async fn stream(&self, name: &str) -> anyhow::Result<Stream> {
        self.until_answered(&format!("the stream {name} is looked at"), async || {
            Ok(self.context.get_stream(name).await?)
        })
        .await
    }

    async fn until_answered<T>(
        &self,
        what: &str,
        ask: impl AsyncFn() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            let why = match timeout(ANSWER_WAIT, ask()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(why)) => why,
                Err(_) => anyhow::anyhow!("no answer within {} s", ANSWER_WAIT.as_secs()),
            };
            if Instant::now() >= until {
                return Err(why.context(format!("it could not be done for {} s: {what}", PATIENCE.as_secs())));
            }
            sleep(AGAIN).await;
        }
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
    }))
}
