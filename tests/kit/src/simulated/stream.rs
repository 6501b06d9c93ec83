//! A stream: messages in a row, each message id once within the duplicate window.

use std::collections::HashMap;

/// A stream of `M`.
#[derive(Debug, Clone)]
pub struct Stream<M> {
    messages: Vec<M>,
    window_ms: u64,
    messages_max: usize,
    ids: HashMap<String, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    sequence: u64,
    at_ms: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its sequence, or that of the message that had its id before.
    pub sequence: u64,
    /// Whether its id was known.
    pub duplicate: bool,
}

/// Why a message was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The stream holds all that it may, and takes nothing new.
    Full,
}

impl<M> Stream<M> {
    /// An empty stream that knows an id for so long, and holds so many messages.
    pub fn new(window_ms: u64, messages_max: usize) -> Self {
        Self { messages: Vec::new(), window_ms, messages_max, ids: HashMap::new() }
    }

    /// Stores a message, unless its id is known. A repetition does not make the broker remember the id for longer.
    ///
    /// # Errors
    /// When the stream is full.
    pub fn publish(&mut self, message: M, id: Option<&str>, now_ms: u64) -> Result<Taken, Refused> {
        let known = id.and_then(|id| self.ids.get(id));
        if let Some(known) = known.filter(|known| now_ms.saturating_sub(known.at_ms) < self.window_ms) {
            return Ok(Taken { sequence: known.sequence, duplicate: true });
        }
        if self.messages.len() >= self.messages_max {
            return Err(Refused::Full);
        }
        self.messages.push(message);
        let sequence = self.messages.len() as u64;
        if let Some(id) = id {
            self.ids.insert(id.to_owned(), Known { sequence, at_ms: now_ms });
        }
        Ok(Taken { sequence, duplicate: false })
    }

    /// The message with this sequence.
    pub fn get(&self, sequence: u64) -> Option<&M> {
        self.messages.get(usize::try_from(sequence).ok()?.checked_sub(1)?)
    }

    /// The sequence of the newest message; 0 where there is none.
    pub fn last(&self) -> u64 {
        self.messages.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_within_the_window_and_new_after_it() {
        let mut stream = Stream::new(1_000, 10);
        let first = stream.publish('a', Some("x"), 0).unwrap();
        let again = stream.publish('b', Some("x"), 999).unwrap();
        let later = stream.publish('c', Some("x"), 1_000).unwrap();
        assert_eq!((first.sequence, first.duplicate), (1, false));
        assert_eq!((again.sequence, again.duplicate), (1, true));
        assert_eq!((later.sequence, later.duplicate), (2, false));
        assert_eq!((stream.get(1), stream.get(2), stream.get(3)), (Some(&'a'), Some(&'c'), None));
    }

    #[test]
    fn a_full_stream_takes_nothing_new_and_still_knows_what_it_has() {
        let mut stream = Stream::new(1_000, 1);
        stream.publish('a', Some("x"), 0).unwrap();
        assert_eq!(stream.publish('b', Some("y"), 1), Err(Refused::Full));
        assert!(stream.publish('b', Some("x"), 1).unwrap().duplicate);
    }
}
