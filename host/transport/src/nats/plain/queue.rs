//! What waits in this host: events that came and no worker has taken, and those that are tried again later.
//!
//! Nobody else keeps these events, so both have a bound in messages and bytes, and what does not fit is handed back to be
//! counted. What is due again goes before what has just come: it has waited longer. A failed event that does not fit among
//! the waiting ones is shed itself, because each of those was promised its next attempt before it.

use busway_core::{
    AttemptRecord, Delivery,
    binding::{CoreBuffer, Overflow},
    port::Content,
};
use std::collections::{BTreeMap, VecDeque};
use tokio::time::Instant;

/// One event, and what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub delivery: Delivery,
    pub attempts: AttemptRecord,
    /// Which of the binding's subscriptions brought it.
    pub endpoint: usize,
}

/// The waiting events of one binding.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: CoreBuffer,
    ready: VecDeque<Entry>,
    ready_bytes: u64,
    /// By the time at which each is due, and a number that keeps those of one time in order.
    delayed: BTreeMap<(Instant, u64), Entry>,
    delayed_bytes: u64,
    delays: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let headers = match &self.delivery.content {
            Content::Message(message) => message.headers.text_bytes(),
            Content::Malformed(malformed) => malformed.header_block.len(),
        };
        let content = &self.delivery.content;
        (content.payload().len() + content.subject().len() + headers) as u64
    }
}

impl Queue {
    pub(super) fn new(bounds: CoreBuffer) -> Self {
        Self {
            bounds,
            ready: VecDeque::new(),
            ready_bytes: 0,
            delayed: BTreeMap::new(),
            delayed_bytes: 0,
            delays: 0,
        }
    }

    /// Adds an event that came; gives what is shed for it, or itself.
    pub(super) fn push(&mut self, entry: Entry) -> Vec<Entry> {
        let bytes = entry.bytes();
        if bytes > self.bounds.bytes_max {
            return vec![entry];
        }
        let mut shed = Vec::new();
        while !self.has_room(bytes) {
            let oldest = match self.bounds.overflow {
                Overflow::DropNewest => None,
                Overflow::DropOldest => self.pop_ready(),
            };
            match oldest {
                Some(oldest) => shed.push(oldest),
                None => {
                    shed.push(entry);
                    return shed;
                }
            }
        }
        self.ready_bytes += bytes;
        self.ready.push_back(entry);
        shed
    }

    /// Adds an event that is due later; gives it back where there is no room.
    pub(super) fn delay(&mut self, entry: Entry, due: Instant) -> Result<(), Box<Entry>> {
        let bytes = entry.bytes();
        let is_full = self.delayed.len() >= self.bounds.messages_max as usize
            || self.delayed_bytes + bytes > self.bounds.bytes_max;
        if is_full {
            return Err(Box::new(entry));
        }
        self.delays += 1;
        self.delayed_bytes += bytes;
        self.delayed.insert((due, self.delays), entry);
        Ok(())
    }

    /// The next event, or when one will be due.
    pub(super) fn pop(&mut self, now: Instant) -> Result<Entry, Option<Instant>> {
        if let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now) {
            let entry = first.remove();
            self.delayed_bytes = self.delayed_bytes.saturating_sub(entry.bytes());
            return Ok(entry);
        }
        self.pop_ready().ok_or_else(|| self.delayed.first_key_value().map(|((due, _), _)| *due))
    }

    /// Everything that waits.
    pub(super) fn take_all(&mut self) -> Vec<Entry> {
        (self.ready_bytes, self.delayed_bytes) = (0, 0);
        let delayed = std::mem::take(&mut self.delayed).into_values();
        self.ready.drain(..).chain(delayed).collect()
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.ready.len() < self.bounds.messages_max as usize
            && self.ready_bytes + bytes <= self.bounds.bytes_max
    }

    fn pop_ready(&mut self) -> Option<Entry> {
        let entry = self.ready.pop_front()?;
        self.ready_bytes = self.ready_bytes.saturating_sub(entry.bytes());
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busway_core::{Headers, Message, Receipt};
    use bytes::Bytes;
    use std::time::Duration;

    fn entry(n: u64, payload_bytes: usize) -> Entry {
        let content = Content::Message(Message {
            subject: "s".into(),
            headers: Headers::new(),
            payload: Bytes::from(vec![0; payload_bytes]),
        });
        let delivery = Delivery { content, receipt: Receipt::for_test("S", n) };
        Entry { delivery, attempts: AttemptRecord::default(), endpoint: 0 }
    }

    fn queue(messages_max: u32, bytes_max: u64, overflow: Overflow) -> Queue {
        Queue::new(CoreBuffer { messages_max, bytes_max, overflow })
    }

    fn numbers(entries: impl IntoIterator<Item = Entry>) -> Vec<u64> {
        entries.into_iter().filter_map(|entry| entry.delivery.receipt.held_as).collect()
    }

    fn all(queue: &mut Queue) -> Vec<u64> {
        let now = Instant::now();
        numbers(std::iter::from_fn(|| queue.pop(now).ok()))
    }

    #[test]
    fn a_full_queue_sheds_what_the_policy_names() {
        let table =
            [(Overflow::DropOldest, vec![1], vec![2, 3]), (Overflow::DropNewest, vec![3], vec![1, 2])];
        for (overflow, shed, kept) in table {
            let mut queue = queue(2, 1_000, overflow);
            let found: Vec<_> = (1..=3).flat_map(|n| numbers(queue.push(entry(n, 1)))).collect();
            assert_eq!((found, all(&mut queue)), (shed, kept), "{overflow:?}");
        }
    }

    #[test]
    fn bytes_are_bounded_too_and_one_large_event_may_displace_several_small_ones() {
        let mut queue = queue(100, 30, Overflow::DropOldest);
        for n in 1..=3 {
            assert_eq!(numbers(queue.push(entry(n, 9))), [0; 0]);
        }
        assert_eq!(numbers(queue.push(entry(4, 19))), [1, 2]);
        assert_eq!(numbers(queue.push(entry(5, 30))), [5], "larger than everything that may wait");
        assert_eq!(all(&mut queue), [3, 4]);
        assert_eq!(queue.ready_bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_again_goes_before_what_has_just_come_and_not_before_its_time() {
        let mut queue = queue(100, 1_000, Overflow::DropOldest);
        let due = Instant::now() + Duration::from_secs(1);
        assert!(queue.delay(entry(1, 1), due).is_ok());
        assert_eq!(queue.pop(Instant::now()).err(), Some(Some(due)));
        queue.push(entry(2, 1));
        queue.push(entry(3, 1));
        assert_eq!(numbers(queue.pop(Instant::now()).ok()), [2]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(all(&mut queue), [1, 3]);
        assert_eq!(queue.delayed_bytes, 0);
    }

    #[test]
    fn an_event_that_does_not_fit_among_the_delayed_ones_comes_back() {
        let mut queue = queue(2, 20, Overflow::DropOldest);
        let due = Instant::now();
        assert!(queue.delay(entry(1, 9), due).is_ok());
        assert!(queue.delay(entry(2, 10), due).is_err(), "too many bytes");
        assert!(queue.delay(entry(2, 1), due).is_ok());
        assert!(queue.delay(entry(3, 1), due).is_err(), "too many");
        assert_eq!(numbers(queue.take_all()), [1, 2]);
        assert!(queue.delay(entry(4, 9), due).is_ok());
    }
}
