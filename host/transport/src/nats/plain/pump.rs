//! Keeps the client library's subscriptions empty.
//!
//! The library keeps the subscriptions over a lost connection and makes them again by itself. It ends them only where its
//! own end of the connection is gone for good (a line break inside of a header's value does that): then a new connection
//! is made here. A message that nobody can read costs what was on its way while the connection was down, and nothing
//! else: it is not stored, so it does not come again.

use super::{Shared, queue::Entry};
use crate::nats::{backoff, opening::SourceStatus, refusal, wire};
use async_nats::{Client, Message, SubscribeError, Subscriber};
use busway_core::{AttemptRecord, Delivery, EventId, Receipt, SubjectFilter};
use futures_util::{StreamExt as _, stream::SelectAll};
use std::{
    fs::File,
    io::{self, Read as _},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;
use tracing::{info, warn};

/// Between the first and the second try.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How long the broker may take to confirm the subscriptions.
const CONFIRM_WAIT: Duration = Duration::from_secs(5);
/// How much later than the confirmation a refusal may be heard.
const REFUSAL_WAIT: Duration = Duration::from_millis(50);
/// Random bytes that are drawn at once.
const DRAWN_BYTES: usize = 4096;

/// Subscriptions of the library, each message with the number of its subscription.
type Messages = SelectAll<futures_util::stream::BoxStream<'static, (usize, Message)>>;

/// Subscribes and drains until the source is closed.
pub(in crate::nats) async fn run(shared: Arc<Shared>) {
    let closed = async {
        while !shared.state().closed {
            shared.closing.notified().await;
        }
    };
    tokio::select! {
        () = closed => {}
        () = keep_open(&shared) => {}
    }
}

async fn keep_open(shared: &Shared) {
    let mut source = match Ids::open() {
        Ok(ids) => Receipts { ids, number: 0 },
        Err(why) => {
            let why = format!("no random numbers on this machine: {why}");
            shared.status.send_replace(SourceStatus::Stopped(why));
            return;
        }
    };
    let mut tries = 0;
    loop {
        // From before it is asked, so that no refusal is missed.
        let mut errors = shared.line.errors();
        let ended = match subscribe(shared, &mut errors).await {
            Ok(messages) => {
                tries = 0;
                shared.status.send_replace(SourceStatus::Confirmed);
                info!(subscription = shared.name, "the broker confirms the subscription (at most once)");
                let ended = tokio::select! {
                    () = drain(shared, messages, &mut source) => None,
                    why = refused(shared, &mut errors) => Some(why),
                };
                shared.counters.reopened.fetch_add(1, Ordering::Relaxed);
                ended
            }
            Err(why) => Some(why),
        };
        let Some(why) = ended else {
            shared.status.send_replace(SourceStatus::Opening);
            continue;
        };
        tries += 1;
        if tries == 1 {
            warn!(subscription = shared.name, why, "no events for this subscription; trying again");
        }
        shared.status.send_replace(SourceStatus::Trouble(why));
        tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
    }
}

/// Waits until the broker says no to one of the subscriptions. It does so without ending it, so nothing else would tell.
async fn refused(shared: &Shared, errors: &mut watch::Receiver<String>) -> String {
    let is_ours = |said: &String| {
        let names = |filter: &SubjectFilter| said.contains(&format!("Subscription to \"{filter}\""));
        shared.filters.iter().any(names)
    };
    loop {
        if errors.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let said = errors.borrow_and_update().clone();
        if is_ours(&said) {
            return said;
        }
    }
}

/// Until all subscriptions have ended.
async fn drain(shared: &Shared, mut messages: Messages, receipts: &mut Receipts) {
    while let Some((index, message)) = messages.next().await {
        match receipts.of(shared, &message) {
            Ok(receipt) => {
                let endpoint = shared.first_endpoint + index;
                let delivery = Delivery { content: wire::content(message), receipt };
                shared.came(Entry { delivery, attempts: AttemptRecord::default(), endpoint });
            }
            Err(why) => {
                shared.counters.shed.fetch_add(1, Ordering::Relaxed);
                warn!(subscription = shared.name, %why, "an event was shed: no random numbers for its id");
            }
        }
    }
}

async fn subscribe(shared: &Shared, errors: &mut watch::Receiver<String>) -> Result<Messages, String> {
    let client = shared.line.client();
    let mut messages = Messages::new();
    for (index, filter) in shared.filters.iter().enumerate() {
        let subscribed = match &shared.group {
            Some(group) => client.queue_subscribe(filter.as_str().to_owned(), group.clone()).await,
            None => client.subscribe(filter.as_str().to_owned()).await,
        };
        let subscriber = match subscribed {
            Ok(subscriber) => subscriber,
            Err(why) => return Err(ended(shared, &client, &why).await),
        };
        messages.push(subscriber.map(move |message| (index, message)).boxed());
    }
    confirm(&client).await?;
    // The broker said no before it sent the message that confirms; the library tells of it on another way.
    match tokio::time::timeout(REFUSAL_WAIT, refused(shared, errors)).await {
        Ok(why) => Err(why),
        Err(_) => Ok(messages),
    }
}

async fn ended(shared: &Shared, client: &Client, why: &SubscribeError) -> String {
    // The library's own end of this connection is gone for good, or it refuses the words.
    shared.line.renew_soon(client).await;
    refusal::chain(why)
}

/// A message to ourselves: the broker reads a connection's lines in order, so it has the subscriptions when it comes.
pub(super) async fn confirm(client: &Client) -> Result<(), String> {
    let echo = async {
        let inbox = client.new_inbox();
        let mut subscriber: Subscriber =
            client.subscribe(inbox.clone()).await.map_err(|why| refusal::chain(&why))?;
        client.publish(inbox, bytes::Bytes::new()).await.map_err(|why| refusal::chain(&why))?;
        match subscriber.next().await {
            Some(_) => Ok(()),
            None => Err("the connection ended while subscribing".to_owned()),
        }
    };
    let late = || Err("the broker did not confirm the subscription in time".to_owned());
    tokio::time::timeout(CONFIRM_WAIT, echo).await.unwrap_or_else(|_| late())
}

/// Gives each event an identity of its own and a number for this host.
struct Receipts {
    ids: Ids,
    number: u64,
}

impl Receipts {
    fn of(&mut self, shared: &Shared, message: &Message) -> io::Result<Receipt> {
        self.number += 1;
        Ok(Receipt {
            event_id: EventId::random(self.ids.next()?),
            position: None,
            delivered: 1,
            published_at_ms: None,
            held_as: Some(self.number),
            returned: None,
            reply_to: message.reply.as_ref().and_then(|asked| shared.reply_subject(asked)),
            token: String::new(),
        })
    }
}

/// Random numbers, drawn from the system many at a time.
struct Ids {
    system: File,
    drawn: Vec<u8>,
}

impl Ids {
    fn open() -> io::Result<Self> {
        Ok(Self { system: File::open("/dev/urandom")?, drawn: Vec::new() })
    }

    fn next(&mut self) -> io::Result<[u8; 32]> {
        if self.drawn.len() < 32 {
            self.drawn.resize(DRAWN_BYTES, 0);
            self.system.read_exact(&mut self.drawn)?;
        }
        let rest = self.drawn.len() - 32;
        let bytes = self.drawn.split_off(rest);
        bytes.try_into().map_err(|_| io::Error::other("too few random bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_event_has_an_id_of_its_own() {
        let mut ids = Ids::open().unwrap();
        let drawn: HashSet<_> = (0..1_000).map(|_| ids.next().unwrap()).collect();
        assert_eq!(drawn.len(), 1_000);
    }
}
