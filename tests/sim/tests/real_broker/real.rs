//! The same operations on a stream and a durable consumer of a real nats-server.

use crate::{
    Shown,
    sequence::{Operation, PULL_MS, Sequence},
};
use async_nats::{
    Client, HeaderMap, Message,
    jetstream::{
        self, Context,
        consumer::{Consumer, PullConsumer, pull},
        stream::{Config, DiscardPolicy, StorageType},
    },
};
use futures_util::StreamExt as _;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// One stream with one consumer.
pub struct Real {
    client: Client,
    context: Context,
    consumer: PullConsumer,
    name: String,
    /// Where word of each delivery goes.
    tokens: Vec<String>,
}

impl Real {
    /// Makes both.
    pub async fn open(client: &Client, name: &str, sequence: &Sequence) -> Self {
        let context = jetstream::new(client.clone());
        let config = Config {
            name: name.to_owned(),
            subjects: vec![format!("{name}.>")],
            storage: StorageType::Memory,
            discard: DiscardPolicy::New,
            max_messages: sequence.messages_max as i64,
            duplicate_window: Duration::from_millis(crate::WINDOW_MS),
            ..Config::default()
        };
        let stream = context.create_stream(config).await.unwrap();
        let consumer: Consumer<pull::Config> = stream
            .create_consumer(pull::Config {
                durable_name: Some("c".to_owned()),
                ack_wait: Duration::from_millis(sequence.ack_wait_ms),
                max_ack_pending: sequence.pending_max as i64,
                ..pull::Config::default()
            })
            .await
            .unwrap();
        Self { client: client.clone(), context, consumer, name: name.to_owned(), tokens: Vec::new() }
    }

    /// Deletes both.
    pub async fn close(self) {
        self.context.delete_stream(&self.name).await.unwrap();
    }

    /// Does one operation and tells what it shows.
    pub async fn apply(&mut self, operation: &Operation) -> Shown {
        match operation {
            Operation::Publish { id } => self.publish(*id).await,
            Operation::Pull { most } => self.pull(*most).await,
            Operation::Ack { which } => self.tell(*which, "+ACK").await,
            Operation::Terminate { which } => self.tell(*which, "+TERM").await,
            Operation::Progress { which } => self.tell(*which, "+WPI").await,
            Operation::PutBack { which, wait_ms } => {
                let nanoseconds = wait_ms * 1_000_000;
                self.tell(*which, &format!("-NAK {{\"delay\":{nanoseconds}}}")).await
            }
            Operation::Wait { ms } => {
                sleep(Duration::from_millis(*ms)).await;
                Shown::Nothing
            }
            Operation::Count => {
                let info = self.consumer.info().await.unwrap();
                Shown::Counts { never_given: info.num_pending, pending: info.num_ack_pending as u64 }
            }
        }
    }

    async fn publish(&self, id: Option<u64>) -> Shown {
        let mut headers = HeaderMap::new();
        if let Some(id) = id {
            headers.insert("Nats-Msg-Id", format!("id-{id}"));
        }
        let sent = self.context.publish_with_headers(format!("{}.a", self.name), headers, "x".into()).await;
        match sent.unwrap().await {
            Ok(ack) => Shown::Stored { sequence: ack.sequence, duplicate: ack.duplicate },
            Err(why) => {
                let text = format!("{why:?}");
                assert!(text.contains("10077"), "another refusal than that of a full stream: {text}");
                Shown::Full
            }
        }
    }

    /// A pull of our own, so that the broker never keeps a request beyond it.
    async fn pull(&mut self, most: usize) -> Shown {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.unwrap();
        let expires = PULL_MS * 1_000_000;
        let request = format!("{{\"batch\":{most},\"expires\":{expires}}}");
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.c", self.name);
        self.client.publish_with_reply(subject, inbox, request.into()).await.unwrap();
        let mut given = Vec::new();
        while given.len() < most {
            let answer = timeout(Duration::from_secs(5), answers.next()).await;
            let Some(message) = answer.unwrap() else { break };
            match message.status {
                None => given.push(self.given(&message)),
                Some(_) => break,
            }
        }
        Shown::Given(given)
    }

    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.…`
    fn given(&mut self, message: &Message) -> (u64, u64) {
        let token = message.reply.as_ref().unwrap().to_string();
        let number = |at: usize| token.split('.').nth(at).unwrap().parse().unwrap();
        let given = (number(5), number(4));
        self.tokens.push(token);
        given
    }

    /// Says something about a delivery, and waits until the broker has taken it.
    async fn tell(&self, which: usize, what: &str) -> Shown {
        if let Some(token) = self.tokens.get(which % self.tokens.len().max(1)) {
            self.client.request(token.clone(), what.to_owned().into()).await.unwrap();
        }
        Shown::Nothing
    }
}
