//! What comes back to one plugin: the deliveries of its consumer on the stream of copies, as the events that they were.
//!
//! A copy whose payload or headers are in the object store is made whole here, and its objects are deleted when it is
//! settled for good: each copy has objects of its own. A message on these subjects that is no copy of ours becomes a
//! malformed delivery, so that it ends as a dead letter and not as an event that somebody made up.

use super::{
    connect::Line,
    fit::{self, NoObject},
    source::NatsSource,
};
use busway_core::{
    Delivery, Headers, Message, Receipt, Source, again,
    port::{BoxFuture, Content, Malformed, Opening},
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tracing::warn;

/// How long a copy is put back whose objects can't be read.
const PUT_BACK: &str = "-NAK {\"delay\":30000000000}";

/// The objects of copies that were given out, by the copies' sequence.
#[derive(Debug, Default)]
pub(super) struct Objects(Mutex<HashMap<u64, Vec<String>>>);

impl Objects {
    fn note(&self, sequence: u64, objects: Vec<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(sequence, objects);
    }

    /// Whether the copy has any.
    pub(super) fn has(&self, receipt: &Receipt) -> bool {
        let Some(held_as) = receipt.held_as else { return false };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&held_as)
    }

    /// Deletes the objects of a copy that was settled for good.
    pub(super) async fn delete(&self, line: &Line, receipt: &Receipt) {
        let taken = receipt
            .held_as
            .and_then(|held_as| self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&held_as));
        for object in taken.into_iter().flatten() {
            if let Err(why) = fit::delete(line, &object).await {
                warn!(object, %why, "the payload of a copy that is done was left behind");
            }
        }
    }
}

/// The deliveries of what comes back to one plugin.
pub struct ReturnedSource {
    inner: NatsSource,
    control: Arc<Line>,
    objects: Arc<Objects>,
    /// A copy whose objects are being read.
    reading: Option<BoxFuture<'static, Option<Delivery>>>,
}

impl ReturnedSource {
    pub(super) fn new(inner: NatsSource, control: Arc<Line>, objects: Arc<Objects>) -> Self {
        Self { inner, control, objects, reading: None }
    }

    async fn advance(&mut self, room: usize) -> Option<Delivery> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = reading.await;
                self.reading = None;
                if read.is_some() {
                    return read;
                }
            }
            let held = self.inner.next(room).await?;
            let message = match held.content {
                Content::Message(message) => message,
                malformed @ Content::Malformed(_) => {
                    return Some(Delivery { content: malformed, receipt: held.receipt });
                }
            };
            let objects = fit::objects_of(&message.headers);
            if objects.is_empty() {
                return Some(restored(message, held.receipt));
            }
            if let Some(sequence) = held.receipt.held_as {
                self.objects.note(sequence, objects);
            }
            self.reading = Some(read_whole(Arc::clone(&self.control), message, held.receipt).boxed());
        }
    }
}

impl Source for ReturnedSource {
    fn next(&mut self, room: usize) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.advance(room))
    }

    fn opening(&self) -> Opening {
        self.inner.opening()
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async {
            let mut ready = self.inner.close().await;
            if let Some(reading) = self.reading.take() {
                ready.extend(reading.await);
            }
            ready
        })
    }
}

/// The copy with what is in the object store; none where that can't be had now, and the copy is put back.
async fn read_whole(control: Arc<Line>, message: Message, receipt: Receipt) -> Option<Delivery> {
    let Message { subject, mut headers, mut payload } = message;
    match fit::whole(&control, &mut headers, &mut payload).await {
        Ok(()) => Some(restored(Message { subject, headers, payload }, receipt)),
        Err(NoObject::Gone(object) | NoObject::NotNow(object)) => {
            warn!(%object, event = %receipt.event_id, "the payload of an event that comes back can't be read; put back");
            // The broker gives it again anyway.
            drop(control.client().publish(receipt.token, PUT_BACK.into()).await);
            None
        }
    }
}

fn restored(message: Message, held: Receipt) -> Delivery {
    let Message { subject, headers, payload } = message;
    match again::restored(held.clone(), &headers) {
        Some((subject, headers, receipt)) => {
            Delivery { content: Content::Message(Message { subject, headers, payload }), receipt }
        }
        None => strange(subject, &headers, payload, held),
    }
}

fn strange(subject: String, headers: &Headers, payload: Bytes, receipt: Receipt) -> Delivery {
    let why = "a message on a subject of Busway's own that is no copy of an event".to_owned();
    let header_block = super::wire::to_block(headers).into();
    Delivery { content: Content::Malformed(Malformed { subject, header_block, payload, why }), receipt }
}
