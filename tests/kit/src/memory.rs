//! A broker in memory, for tests of the event's path: it redelivers, it can be told to fail, and it writes down in order
//! everything that was asked of it.
//!
//! It is a second implementation of the three seams towards a broker, not a stand-in for one: that a real server behaves
//! so is shown by the tests of the transport and end to end.

use busway_core::{
    AttemptRecord, DeadLetter, Delivery, EventId, Headers, Message, Position, Publish, Receipt, ReplySubject,
    Settle, Source,
    port::{
        BoxFuture, Content, KeyClaim, Malformed, NotReleased, Opening, Outgoing, ParkError, PublishError,
        Released, SettleError, Stored,
    },
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

mod returned;

pub use returned::AGAIN_STREAM;

/// The name of the one stream.
pub const STREAM: &str = "EVENTS";

/// The broker; clones share it.
#[derive(Clone, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    ack_wait: Duration,
    events: BTreeMap<u64, StoredEvent>,
    copies: returned::Copies,
    attempts: HashMap<(EventId, u32), AttemptRecord>,
    outputs: Vec<Outgoing>,
    sent: Vec<Outgoing>,
    send_answers: VecDeque<Result<(), PublishError>>,
    letters: BTreeMap<String, DeadLetter>,
    publish_answers: VecDeque<Result<(), PublishError>>,
    letter_answers: VecDeque<Result<(), PublishError>>,
    record_answers: VecDeque<Result<(), SettleError>>,
    ack_answers: VecDeque<Result<(), SettleError>>,
    terminate_answers: VecDeque<Result<(), SettleError>>,
    progress_answers: VecDeque<Result<(), SettleError>>,
    claim_answers: VecDeque<Result<(), SettleError>>,
    release_answers: VecDeque<Result<(), SettleError>>,
    keys: HashMap<String, (EventId, Instant)>,
    copies_at_close: Vec<u64>,
    log: Vec<String>,
}

struct StoredEvent {
    content: Content,
    reply_to: Option<ReplySubject>,
    delivered: u64,
    due: Instant,
    settled: bool,
}

/// Where an event or a copy is.
struct Custody<'a> {
    due: &'a mut Instant,
    settled: &'a mut bool,
}

impl State {
    fn is_settled(&self) -> bool {
        self.events.values().all(|event| event.settled)
            && self.copies.stored.values().all(|copy| copy.settled)
    }
}

/// What the broker can be told to fail at, once per call.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    /// Acknowledging.
    Ack,
    /// Terminating.
    Terminate,
    /// Recording a failed run.
    Record,
    /// Reporting progress.
    Progress,
    /// Claiming an input's key.
    Claim,
    /// Giving an input's key up.
    Release,
}

impl MemoryBroker {
    /// An empty stream whose consumer waits so long for word of an event.
    pub fn new(ack_wait: Duration) -> Self {
        let broker = Self::default();
        broker.lock().ack_wait = ack_wait;
        broker
    }

    /// Stores an event and gives its sequence.
    pub fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &str) -> u64 {
        self.store(Content::Message(Message {
            subject: subject.to_owned(),
            headers: headers.iter().copied().collect(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        }))
    }

    /// Stores a request: an event whose publisher waits for an answer there.
    pub fn ask(&self, subject: &str, headers: &[(&str, &str)], reply_to: &str) -> u64 {
        let content = Content::Message(Message {
            subject: subject.to_owned(),
            headers: headers.iter().copied().collect(),
            payload: Bytes::from_static(b"?"),
        });
        self.store_with(content, Some(reply_to.parse().expect("a test asks for answers where they may go")))
    }

    /// Stores a message with a header block that nobody can read.
    pub fn publish_malformed(&self, subject: &str, payload: &str) -> u64 {
        self.store(Content::Malformed(Malformed {
            subject: subject.to_owned(),
            header_block: Bytes::from_static(b"NATS/1.0\r\nno colon\r\n\r\n"),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            why: "a header line without a colon".to_owned(),
        }))
    }

    /// Makes an event due at once, as after a lost acknowledgement.
    pub fn redeliver(&self, sequence: u64) {
        let mut state = self.lock();
        if let Some(event) = state.events.get_mut(&sequence) {
            event.settled = false;
            event.due = Instant::now();
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// A copy of this event will be on its way when the source is closed.
    pub fn copy_at_close(&self, sequence: u64) {
        self.lock().copies_at_close.push(sequence);
    }

    /// The next publishes answer so; after that they succeed.
    pub fn answer_publishes(&self, answers: impl IntoIterator<Item = Result<(), PublishError>>) {
        self.lock().publish_answers.extend(answers);
    }

    /// The next messages that are sent once are answered so; after that they are sent.
    pub fn answer_sends(&self, answers: impl IntoIterator<Item = Result<(), PublishError>>) {
        self.lock().send_answers.extend(answers);
    }

    /// The next dead letters are answered so; after that they are stored.
    pub fn answer_dead_letters(&self, answers: impl IntoIterator<Item = Result<(), PublishError>>) {
        self.lock().letter_answers.extend(answers);
    }

    /// The next call of this operation fails: nothing is done.
    pub fn fail_next(&self, operation: Operation) {
        let mut state = self.lock();
        let answers = match operation {
            Operation::Ack => &mut state.ack_answers,
            Operation::Terminate => &mut state.terminate_answers,
            Operation::Record => &mut state.record_answers,
            Operation::Progress => &mut state.progress_answers,
            Operation::Claim => &mut state.claim_answers,
            Operation::Release => &mut state.release_answers,
        };
        answers.push_back(Err(SettleError::Unreachable("told to fail".into())));
    }

    /// Everything that was asked, in order.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// What plugins published and the broker stored, without repetitions.
    pub fn outputs(&self) -> Vec<Outgoing> {
        self.lock().outputs.clone()
    }

    /// What was sent once, in order.
    pub fn sent(&self) -> Vec<Outgoing> {
        self.lock().sent.clone()
    }

    /// The stored dead letters by subject.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.lock().letters.values().cloned().collect()
    }

    /// The record of an event's failed runs.
    pub fn attempts_of(&self, sequence: u64) -> AttemptRecord {
        self.lock().attempts.get(&(event_id(sequence), 0)).cloned().unwrap_or_default()
    }

    /// Replaces the record of an event's failed runs, as an earlier host would have left it.
    pub fn set_attempts(&self, sequence: u64, record: AttemptRecord) {
        let mut state = self.lock();
        state.attempts.insert((event_id(sequence), 0), record);
        if let Some(event) = state.events.get_mut(&sequence) {
            event.delivered = event.delivered.max(1);
        }
    }

    /// Waits until every stored event is acknowledged or terminated.
    pub async fn all_settled(&self) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().is_settled() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the log holds a line that begins so.
    pub async fn logged(&self, start: &str) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().log.iter().any(|line| line.starts_with(start)) {
                return;
            }
            changed.await;
        }
    }

    /// How many events were given to anybody and have not ended.
    pub fn given_and_unsettled(&self) -> usize {
        self.lock().events.values().filter(|event| event.delivered > 0 && !event.settled).count()
    }

    /// The source of the one consumer.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(MemorySource(self.clone()))
    }

    fn store(&self, content: Content) -> u64 {
        self.store_with(content, None)
    }

    fn store_with(&self, content: Content, reply_to: Option<ReplySubject>) -> u64 {
        let mut state = self.lock();
        let sequence = state.events.len() as u64 + 1;
        let event = StoredEvent { content, reply_to, delivered: 0, due: Instant::now(), settled: false };
        state.events.insert(sequence, event);
        drop(state);
        self.shared.changed.notify_waiters();
        sequence
    }

    fn write(&self, line: String) {
        self.lock().log.push(line);
        self.shared.changed.notify_waiters();
    }

    fn settle(&self, receipt: &Receipt, change: impl FnOnce(Custody<'_>, Duration)) {
        let mut state = self.lock();
        let (ack_wait, held_as) = (state.ack_wait, receipt.held_as.unwrap_or_default());
        let State { events, copies, .. } = &mut *state;
        let custody = match receipt.returned {
            Some(_) => copies.stored.get_mut(&held_as).map(|copy| (&mut copy.due, &mut copy.settled)),
            None => events.get_mut(&held_as).map(|event| (&mut event.due, &mut event.settled)),
        };
        if let Some((due, settled)) = custody {
            change(Custody { due, settled }, ack_wait);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct MemorySource(MemoryBroker);

impl Source for MemorySource {
    fn next(&mut self, room: usize) -> BoxFuture<'_, Option<Delivery>> {
        if room == 0 {
            // Nothing is ever on its way here.
            return Box::pin(std::future::pending());
        }
        Box::pin(async {
            loop {
                let changed = self.0.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let due = match take_due(&mut self.0.lock()) {
                    Ok(delivery) => return Some(delivery),
                    Err(due) => due,
                };
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                }
            }
        })
    }

    fn opening(&self) -> Opening {
        Opening { number: 1, unsettled: 0 }
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        // Nothing is on its way here, unless a test says so: what is asked for comes at once.
        Box::pin(async {
            let mut state = self.0.lock();
            let late = std::mem::take(&mut state.copies_at_close);
            let copy = |sequence: u64| {
                let content = state.events.get(&sequence)?.content.clone();
                Some(Delivery { content, receipt: Receipt::for_test(STREAM, sequence) })
            };
            late.into_iter().filter_map(copy).collect()
        })
    }
}

/// The first event that is due, or when the next one will be.
fn take_due(state: &mut State) -> Result<Delivery, Option<Instant>> {
    let (now, ack_wait) = (Instant::now(), state.ack_wait);
    let waiting = state.events.iter_mut().filter(|(_, event)| !event.settled);
    let Some((sequence, event)) = waiting.min_by_key(|(_, event)| event.due) else { return Err(None) };
    if event.due > now {
        return Err(Some(event.due));
    }
    event.delivered += 1;
    event.due = now + ack_wait;
    let (delivered, reply_to) = (event.delivered, event.reply_to.clone());
    let receipt = Receipt { delivered, reply_to, ..Receipt::for_test(STREAM, *sequence) };
    Ok(Delivery { content: event.content.clone(), receipt })
}

impl Settle for MemoryBroker {
    fn ack<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async {
            let answer = self.lock().ack_answers.pop_front().unwrap_or(Ok(()));
            if answer.is_ok() {
                self.settle(receipt, |event, _| *event.settled = true);
            }
            self.write(format!("ack {}{}", sequence(receipt), failed(&answer)));
            answer
        })
    }

    fn put_back<'a>(
        &'a self,
        receipt: &'a Receipt,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            self.settle(receipt, |event, _| *event.due = Instant::now() + after);
            self.write(format!("put back {} for {} ms", sequence(receipt), after.as_millis()));
            Ok(())
        })
    }

    fn terminate<'a>(
        &'a self,
        receipt: &'a Receipt,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            let answer = self.lock().terminate_answers.pop_front().unwrap_or(Ok(()));
            if answer.is_ok() {
                self.settle(receipt, |event, _| *event.settled = true);
            }
            self.write(format!("terminate {} {reason}{}", sequence(receipt), failed(&answer)));
            answer
        })
    }

    fn progress<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async {
            let answer = self.lock().progress_answers.pop_front().unwrap_or(Ok(()));
            if answer.is_ok() {
                self.settle(receipt, |event, ack_wait| *event.due = Instant::now() + ack_wait);
            }
            self.write(format!("progress {}{}", sequence(receipt), failed(&answer)));
            answer
        })
    }

    fn ack_confirmed<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.ack(receipt)
    }

    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        Box::pin(async { Ok(self.given_and_unsettled()) })
    }

    // Between one host and this broker nothing is lost, and there is no other host: see `link` for those.
    fn is_active(&self) -> bool {
        true
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn park<'a>(
        &'a self,
        delivery: &'a Delivery,
        failed_runs: u32,
        after: Duration,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        Box::pin(async move { self.store_copy(delivery, failed_runs, after) })
    }

    fn claim_key<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        event: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        Box::pin(async move {
            let answer = self.lock().claim_answers.pop_front().unwrap_or(Ok(()));
            self.write(format!("claim {key}{}", failed(&answer)));
            answer?;
            let (now, mut state) = (Instant::now(), self.lock());
            if let Some((of, until)) = state.keys.get(key)
                && of != event
                && *until > now
            {
                return Ok(KeyClaim::Taken(of.clone()));
            }
            state.keys.insert(key.to_owned(), (event.clone(), now + ttl));
            Ok(KeyClaim::Own)
        })
    }

    fn release_key<'a>(&'a self, key: &'a str, event: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async move {
            let answer = self.lock().release_answers.pop_front().unwrap_or(Ok(()));
            if answer.is_ok() {
                self.lock().keys.retain(|known, (of, _)| known != key || of != event);
            }
            self.write(format!("release {key}{}", failed(&answer)));
            answer
        })
    }

    fn attempts<'a>(&'a self, receipt: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        Box::pin(async {
            Ok(self
                .lock()
                .attempts
                .get(&(receipt.event_id.clone(), receipt.round()))
                .cloned()
                .unwrap_or_default())
        })
    }

    fn record_attempts<'a>(
        &'a self,
        receipt: &'a Receipt,
        record: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        Box::pin(async {
            let answer = self.lock().record_answers.pop_front().unwrap_or(Ok(()));
            if answer.is_ok() {
                let key = (receipt.event_id.clone(), receipt.round());
                self.lock().attempts.insert(key, record.clone());
            }
            self.write(format!("record {} failed{}", record.failed_runs(), failed(&answer)));
            answer
        })
    }
}

impl Publish for MemoryBroker {
    fn publish_all<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>> {
        Box::pin(async move {
            let answers = join_all(messages.iter().map(|message| Publish::publish(self, message))).await;
            let each = answers.into_iter().zip(messages);
            let stored = each.map(|(answer, message)| {
                answer.map_err(|why| NotReleased { subject: message.subject.clone(), why })
            });
            Ok(Released { stored: stored.collect::<Result<_, _>>()?, atomic: false })
        })
    }

    fn send<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async {
            let answer = self.lock().send_answers.pop_front().unwrap_or(Ok(()));
            self.write(format!("send {}{}", message.subject, failed(&answer)));
            answer?;
            self.lock().sent.push(message.clone());
            Ok(())
        })
    }

    fn publish<'a>(&'a self, message: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>> {
        Box::pin(async {
            let answer = self.lock().publish_answers.pop_front().unwrap_or(Ok(()));
            self.write(format!("publish {}{}", message.subject, failed(&answer)));
            answer?;
            let mut state = self.lock();
            let known = state.outputs.iter().position(|stored| stored.message_id == message.message_id);
            if known.is_none() {
                state.outputs.push(message.clone());
            }
            let at = known.unwrap_or(state.outputs.len() - 1);
            Ok(Stored { stream: "OUTPUTS".into(), sequence: at as u64 + 1, duplicate: known.is_some() })
        })
    }

    fn dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>> {
        Box::pin(async {
            let answer = self.lock().letter_answers.pop_front().unwrap_or(Ok(()));
            let class = letter.headers.get(busway_core::dead_letter::CLASS).unwrap_or_default();
            self.write(format!("dead letter {class}{}", failed(&answer)));
            answer?;
            let mut state = self.lock();
            let duplicate = match state.letters.get(&letter.subject) {
                Some(stored) if !letter.is_same(&stored.headers) => {
                    return Err(PublishError::Refused("another letter is stored there".into()));
                }
                stored => stored.is_some(),
            };
            state.letters.entry(letter.subject.clone()).or_insert_with(|| letter.clone());
            Ok(Stored { stream: "BUSWAY_DLQ".into(), sequence: state.letters.len() as u64, duplicate })
        })
    }
}

fn failed<E>(answer: &Result<(), E>) -> &'static str {
    if answer.is_ok() { "" } else { " (refused)" }
}

/// How the log names a delivery: by its sequence, and a copy by that among the copies.
fn sequence(receipt: &Receipt) -> String {
    let held_as = receipt.held_as.unwrap_or_default();
    if receipt.returned.is_some() { format!("copy {held_as}") } else { held_as.to_string() }
}

fn event_id(sequence: u64) -> EventId {
    EventId::of(&Position { stream: STREAM.into(), stream_created_ns: 0, sequence })
}

/// Headers as a map for comparisons.
pub fn pairs(headers: &Headers) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
