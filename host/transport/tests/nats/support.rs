//! What the tests of this crate share: a server with a stream, a binding on it, and a plain client beside them.

#![expect(clippy::unwrap_used, reason = "a test that can't parse its own literals should stop there")]

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use busway_core::{
    AckPolicy, Binding, Delivery, EventId, Source, SubjectFilter,
    binding::Subscription,
    port::{Content, Receipt},
};
use busway_testkit::nats::NatsServer;
use busway_transport::{ConsumerSettings, Nats, NatsConfig, OpenBinding, SourceStatus, StreamSpec};
use std::{
    future::Future,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use tokio::sync::watch;

/// How long anything here may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server, the stream EVENTS on `in.>`, and a host's connections.
pub struct Bed {
    pub server: NatsServer,
    pub nats: Nats,
    pub client: async_nats::Client,
}

impl Bed {
    pub async fn new() -> Result<Self> {
        let server = NatsServer::start()?;
        let nats = Nats::connect(&NatsConfig::new(server.url())).await?;
        nats.ensure_own_streams(busway_transport::OwnStreams::default()).await?;
        nats.ensure_stream(&StreamSpec::new("EVENTS", filters(&["in.>"]))).await?;
        let client = async_nats::connect(server.url()).await?;
        Ok(Self { server, nats, client })
    }

    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// Stores events with these payloads.
    pub async fn store(&self, subject: &str, payloads: impl Iterator<Item = String>) -> Result<()> {
        let jetstream = self.jetstream();
        let mut acks = Vec::new();
        for payload in payloads {
            acks.push(jetstream.publish(subject.to_owned(), payload.into()).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }

    pub async fn open(&self, binding: &Binding) -> Result<OpenBinding> {
        Ok(self.nats.open(binding, ConsumerSettings { ack_wait: Duration::from_secs(5) }).await?)
    }

    pub async fn consumer(&self, name: &str) -> Result<jetstream::consumer::Info> {
        Ok(self.jetstream().get_stream("EVENTS").await?.consumer_info(name).await?)
    }
}

/// Stores messages as no client library would: header blocks and subjects as they are given.
pub struct RawPublisher {
    stream: BufReader<TcpStream>,
}

impl RawPublisher {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let mut stream = BufReader::new(TcpStream::connect(address)?);
        stream.read_line(&mut String::new())?;
        stream.get_mut().write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n")?;
        Ok(Self { stream })
    }

    pub fn publish(&mut self, subject: &[u8], header_block: &[u8], payload: &[u8]) -> Result<()> {
        let mut line = b"HPUB ".to_vec();
        line.extend_from_slice(subject);
        let (header, total) = (header_block.len(), header_block.len() + payload.len());
        line.extend_from_slice(format!(" {header} {total}\r\n").as_bytes());
        line.extend_from_slice(header_block);
        line.extend_from_slice(payload);
        line.extend_from_slice(b"\r\nPING\r\n");
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        ensure!(answer == "PONG\r\n", "the broker answers {answer}");
        Ok(())
    }
}

pub fn filters(filters: &[&str]) -> Vec<SubjectFilter> {
    filters.iter().map(|filter| filter.parse().unwrap()).collect()
}

pub fn binding(plugin: &str, subjects: &[&str]) -> Binding {
    let subscription = Subscription::Stream { stream: "EVENTS".into(), filters: filters(subjects) };
    Binding { ack: AckPolicy::Confirmed, ..Binding::new(plugin.parse().unwrap(), subscription) }
}

/// Fails the test where a future takes for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.context("nothing happened for a minute")
}

pub async fn next(source: &mut Box<dyn Source>, room: usize) -> Result<Delivery> {
    within(source.next(room)).await?.context("the source was closed")
}

pub fn payload(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.content.payload()).into_owned()
}

pub fn sequence(delivery: &Delivery) -> u64 {
    delivery.receipt.position.as_ref().unwrap().sequence
}

pub fn is_malformed(delivery: &Delivery) -> bool {
    matches!(delivery.content, Content::Malformed(_))
}

pub async fn status(
    watched: &mut watch::Receiver<SourceStatus>,
    wanted: impl FnMut(&SourceStatus) -> bool,
) -> Result<SourceStatus> {
    Ok(within(watched.wait_for(wanted)).await??.clone())
}

pub fn receipt_without_consumer() -> Receipt {
    Receipt::for_test("EVENTS", 1)
}

/// A receipt of an event that no stream holds.
pub fn event(n: u8) -> Receipt {
    Receipt { event_id: EventId::random([n; 32]), ..Receipt::for_test("EVENTS", u64::from(n)) }
}
