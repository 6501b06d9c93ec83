//! The events: each says in its first word how the guest ends with it, so that everybody knows what must become of it.

use bytes::Bytes;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, from 0.
    pub number: u64,
    /// How the guest ends with it.
    pub word: &'static str,
}

/// How out of a hundred events the guest ends: 80 well, 20 not at once.
const WORDS: [(&str, u64); 7] =
    [("one", 60), ("two", 20), ("later", 6), ("shaky", 4), ("never", 3), ("reject", 4), ("trap", 3)];

impl Event {
    /// The event of a number.
    pub fn of(number: u64) -> Self {
        // Spread over the hundred, so that every few events hold one of each.
        let mut place = number * 37 % 100;
        for (word, share) in WORDS {
            if place < share {
                return Self { number, word };
            }
            place -= share;
        }
        Self { number, word: "one" }
    }

    /// What is published.
    pub fn payload(&self) -> Bytes {
        format!("{} {:06} {}", self.word, self.number, "x".repeat((self.number % 300) as usize)).into()
    }

    /// The publisher's message id.
    pub fn id(&self) -> String {
        format!("chaos-{:06}", self.number)
    }

    /// Whether it must become a dead letter, and after how many failed runs of three.
    pub fn failed_runs(&self) -> Option<u64> {
        match self.word {
            "reject" => Some(1),
            "never" | "trap" => Some(3),
            _ => None,
        }
    }

    /// How many outputs must be there of it.
    pub fn outputs(&self) -> u64 {
        match (self.failed_runs(), self.word) {
            (Some(_), _) => 0,
            (None, "two") => 2,
            (None, _) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_events_twenty_fail_and_ten_die() {
        let events: Vec<_> = (0..100).map(Event::of).collect();
        let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
        assert_eq!(count(|event| !["one", "two"].contains(&event.word)), 20);
        assert_eq!(count(|event| event.failed_runs().is_some()), 10);
        assert_eq!(events.iter().map(Event::outputs).sum::<u64>(), 110);
    }
}
