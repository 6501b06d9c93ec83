//! The broker as the tests see it: what was published, what is stored, what is pending.

use crate::{LOOK, PATIENCE, eventually};
use anyhow::{Context as _, Result, ensure};
use async_nats::{
    Client, ConnectOptions, HeaderMap,
    jetstream::{self, consumer, stream},
};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::FuturesUnordered};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a cluster may take to answer before it is asked again: who has no leader does not answer at all.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// A connection of the test's own.
pub struct Bus {
    client: Client,
    context: jetstream::Context,
}

/// A stored message.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it was published on.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its bytes.
    pub payload: Bytes,
}

impl Stored {
    /// The first value of a header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.as_str()).unwrap_or_default()
    }
}

impl Bus {
    /// Connects to a server that asks for nothing.
    pub async fn connect(server: &NatsServer) -> Result<Self> {
        Self::connect_with(ConnectOptions::new(), &server.url()).await
    }

    /// Connects with these options.
    pub async fn connect_with(options: ConnectOptions, url: &str) -> Result<Self> {
        let client = options.connect(url).await.with_context(|| url.to_owned())?;
        Ok(Self { context: jetstream::new(client.clone()), client })
    }

    /// Connects to a cluster, by the addresses of all of its servers.
    pub async fn connect_to(urls: &[String]) -> Result<Self> {
        let options = ConnectOptions::new().request_timeout(Some(ANSWER_WAIT));
        let client = options.connect(urls).await.with_context(|| urls.join(", "))?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER_WAIT);
        Ok(Self { context, client })
    }

    /// Publishes one message with an id, again and again until a stream has said that it has it.
    pub async fn publish_until_stored(&self, subject: &str, id: &str, payload: Bytes) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let message = jetstream::message::PublishMessage::build().message_id(id).payload(payload.clone());
            let why = match self.context.send_publish(subject.to_owned(), message).await {
                Ok(sent) => match sent.await {
                    Ok(_) => return Ok(()),
                    Err(why) => why,
                },
                Err(why) => why,
            };
            ensure!(Instant::now() < until, "{id} is never stored: {why}");
            sleep(LOOK).await;
        }
    }

    /// The server that leads a stream; none while there is none, or none that answers.
    pub async fn leader_of(&self, stream: &str) -> Option<String> {
        let stream = self.context.get_stream(stream).await.ok()?;
        stream.cached_info().cluster.as_ref()?.leader.clone()
    }

    /// Whether each copy of a stream is there and has everything.
    pub async fn is_whole(&self, stream: &str) -> bool {
        let Ok(stream) = self.context.get_stream(stream).await else { return false };
        let Some(cluster) = &stream.cached_info().cluster else { return false };
        cluster.leader.is_some()
            && cluster.replicas.len() + 1 == stream.cached_info().config.num_replicas
            && cluster.replicas.iter().all(|copy| copy.current && !copy.offline)
    }

    /// Asks JetStream's interface something, and gives its answer.
    pub async fn ask(&self, subject: &str) -> Result<serde_json::Value> {
        let answer = self.client.request(subject.to_owned(), Bytes::new()).await?;
        Ok(serde_json::from_slice(&answer.payload)?)
    }

    /// The server's largest message.
    pub fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Publishes messages and waits until each is stored.
    pub async fn publish(&self, subject: &str, payloads: impl IntoIterator<Item = Bytes>) -> Result<()> {
        let mut acks = FuturesUnordered::new();
        for payload in payloads {
            acks.push(self.context.publish(subject.to_owned(), payload).await?.into_future());
            if acks.len() >= 500 {
                acks.next().await.context("an acknowledgement")??;
            }
        }
        while let Some(ack) = acks.next().await {
            ack?;
        }
        Ok(())
    }

    /// Publishes one message with headers.
    pub async fn publish_with(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<()> {
        self.context.publish_with_headers(subject.to_owned(), headers, payload).await?.await?;
        Ok(())
    }

    /// Makes a stream.
    pub async fn stream(&self, config: stream::Config) -> Result<()> {
        self.context.create_stream(config).await?;
        Ok(())
    }

    /// Changes a stream.
    pub async fn change_stream(&self, config: stream::Config) -> Result<()> {
        self.context.update_stream(config).await?;
        Ok(())
    }

    /// Removes a stream.
    pub async fn remove_stream(&self, name: &str) -> Result<()> {
        self.context.delete_stream(name).await?;
        Ok(())
    }

    /// Removes every message of a stream.
    pub async fn purge(&self, name: &str) -> Result<()> {
        self.context.get_stream(name).await?.purge().await?;
        Ok(())
    }

    /// Removes one message.
    pub async fn delete(&self, name: &str, sequence: u64) -> Result<()> {
        self.context.get_stream(name).await?.delete_message(sequence).await?;
        Ok(())
    }

    /// How a stream is set up.
    pub async fn config_of(&self, name: &str) -> Result<stream::Config> {
        Ok(self.context.get_stream(name).await?.cached_info().config.clone())
    }

    /// How many messages a stream holds; none where there is no such stream.
    pub async fn count(&self, name: &str) -> Result<u64> {
        Ok(match self.context.get_stream(name).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        })
    }

    /// How many messages a stream holds; none where the broker does not say.
    pub async fn messages(&self, name: &str) -> Option<u64> {
        self.context.get_stream(name).await.ok().map(|stream| stream.cached_info().state.messages)
    }

    /// Waits until a stream holds so many messages, then gives them.
    pub async fn wait_for(&self, name: &str, messages: u64) -> Result<Vec<Stored>> {
        eventually(&format!("{messages} messages in {name}"), async || {
            Ok((self.count(name).await? >= messages).then_some(()))
        })
        .await?;
        self.read(name).await
    }

    /// Everything that a stream holds, in order.
    pub async fn read(&self, name: &str) -> Result<Vec<Stored>> {
        let stream = self.context.get_stream(name).await?;
        let wanted = stream.cached_info().state.messages as usize;
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let config = consumer::pull::OrderedConfig::default();
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        let mut read = Vec::with_capacity(wanted);
        while read.len() < wanted {
            let message = messages.next().await.context("the stream ends early")??.message;
            read.push(Stored {
                subject: message.subject.to_string(),
                headers: message.headers.unwrap_or_default(),
                payload: message.payload,
            });
        }
        Ok(read)
    }

    /// The streams there are.
    pub async fn streams(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.context.stream_names().try_collect().await?;
        names.sort();
        Ok(names)
    }

    /// How a durable is set up.
    pub async fn consumer(&self, stream: &str, durable: &str) -> Result<consumer::Config> {
        Ok(self.context.get_stream(stream).await?.consumer_info(durable).await?.config)
    }

    /// What a durable has not been given, and what it has been given and not settled.
    pub async fn pending(&self, stream: &str, durable: &str) -> Result<(u64, usize)> {
        let stream = self.context.get_stream(stream).await?;
        let info = stream.consumer_info(durable).await?;
        Ok((info.num_pending, info.num_ack_pending))
    }

    /// Removes a durable: how far it came, and how often it gave what, is forgotten.
    pub async fn remove_consumer(&self, stream: &str, durable: &str) -> Result<()> {
        self.context.get_stream(stream).await?.delete_consumer(durable).await?;
        Ok(())
    }

    /// Waits until nothing is left to do for a durable.
    pub async fn idle(&self, stream: &str, durable: &str) -> Result<()> {
        eventually(&format!("{durable} has nothing left to do"), async || {
            // A consumer whose broker is coming up again does not answer at once.
            Ok(self.pending(stream, durable).await.is_ok_and(|pending| pending == (0, 0)).then_some(()))
        })
        .await
    }

    /// Whether the server answers.
    pub async fn answers(&self) -> bool {
        tokio::time::timeout(Duration::from_secs(1), self.client.flush())
            .await
            .is_ok_and(|flushed| flushed.is_ok())
    }
}
