//! The account of one pull: what was asked for, what came, what each status message means. No I/O, so that it can be
//! read and tested as tables.
//!
//! The broker serves the waiting requests in turn and says nothing when one is fulfilled, so requests can't be told apart
//! by what comes; the sum can. A request that ends unfulfilled says how much of it was left.

use super::consumer::BATCH_MAX;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a request waits at the broker.
pub(super) const EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker gives a sign of life while a request waits.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silent seconds that count as a missed sign of life: twice the heartbeat.
const MISS_SECONDS: u32 = 10;
/// Missed signs of life in a row after which the pull is opened again.
const MISSES_MAX: u32 = 3;
/// Requests that are remembered. Only the latest can still be refused.
const REMEMBERED_MAX: usize = 64;
/// What a request may be late.
const GRACE: Duration = Duration::from_secs(5);

/// What was asked for and has not come.
#[derive(Debug)]
pub(super) struct Account {
    next_id: u64,
    outstanding: usize,
    asked: VecDeque<Asked>,
    paused: bool,
    heard: bool,
    silent_seconds: u32,
}

#[derive(Debug)]
struct Asked {
    id: u64,
    batch: usize,
    until: Instant,
}

/// What a status message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing beyond the account.
    Noted,
    /// The consumer has to be looked at: it is gone, has no leader, or is not as it was.
    Reopen,
}

/// What a second of time changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Signs of life, or nothing to wait for.
    Fine,
    /// A sign of life is missing.
    Missed,
    /// Too many in a row.
    Lost,
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            next_id: 0,
            outstanding: 0,
            asked: VecDeque::new(),
            paused: false,
            heard: true,
            silent_seconds: 0,
        }
    }

    /// How many events to ask for now. Asks only when less than half of the room is on its way, so that a request brings
    /// many.
    pub(super) fn want(&self, room: usize) -> Option<usize> {
        if self.paused || self.outstanding * 2 >= room {
            return None;
        }
        Some((room - self.outstanding).min(BATCH_MAX))
    }

    /// The id for the next request.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The request was sent.
    pub(super) fn asked(&mut self, batch: usize, now: Instant) {
        if self.asked.len() == REMEMBERED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { id: self.next_id, batch, until: now + EXPIRES + GRACE });
        self.next_id += 1;
        self.outstanding += batch;
        // The clock starts anew: there was nothing to hear before.
        self.heard = true;
    }

    /// An event came.
    pub(super) fn came(&mut self) {
        self.heard = true;
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Whether anything is on its way.
    pub(super) fn is_waiting(&self) -> bool {
        self.outstanding > 0
    }

    /// A status message came for request `id`. `left` is what the broker says was left of the request.
    pub(super) fn status(
        &mut self,
        code: u16,
        description: &str,
        id: Option<u64>,
        left: Option<usize>,
    ) -> Meaning {
        self.heard = true;
        let is = |text: &str| description.get(..text.len()).is_some_and(|d| d.eq_ignore_ascii_case(text));
        match code {
            100 => Meaning::Noted,
            404 | 408 => {
                self.ended(id, left);
                Meaning::Noted
            }
            409 if is("Exceeded MaxWaiting") => {
                self.ended(id, left);
                self.paused = true;
                Meaning::Noted
            }
            409 if is("Batch Completed") || is("Server Shutdown") || is("Message Size Exceeds MaxBytes") => {
                self.ended(id, left);
                Meaning::Noted
            }
            // Consumer deleted, push based, leadership change, limits that are not ours; and whatever comes to be.
            _ => Meaning::Reopen,
        }
    }

    fn ended(&mut self, id: Option<u64>, left: Option<usize>) {
        let asked = id.and_then(|id| self.asked.iter().find(|asked| asked.id == id)).map(|asked| asked.batch);
        self.outstanding = self.outstanding.saturating_sub(left.or(asked).unwrap_or_default());
    }

    /// A second has passed.
    pub(super) fn second(&mut self, now: Instant) -> Pulse {
        self.paused = false;
        while self.asked.front().is_some_and(|asked| asked.until < now) {
            self.asked.pop_front();
        }
        // What is on its way can't be more than what was asked for and has not expired.
        self.outstanding = self.outstanding.min(self.asked.iter().map(|asked| asked.batch).sum());
        if std::mem::take(&mut self.heard) || !self.is_waiting() {
            self.silent_seconds = 0;
            return Pulse::Fine;
        }
        self.silent_seconds += 1;
        match (self.silent_seconds % MISS_SECONDS, self.silent_seconds / MISS_SECONDS) {
            (0, misses) if misses >= MISSES_MAX => Pulse::Lost,
            (0, _) => Pulse::Missed,
            _ => Pulse::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(batches: &[usize]) -> Account {
        let mut account = Account::new();
        for batch in batches {
            account.asked(*batch, Instant::now());
        }
        account
    }

    #[test]
    fn it_asks_for_what_fits_and_again_below_half() {
        let mut account = Account::new();
        assert_eq!(account.want(0), None);
        assert_eq!(account.want(1), Some(1));
        assert_eq!(account.want(1000), Some(BATCH_MAX));
        account.asked(16, Instant::now());
        assert_eq!(account.want(16), None);
        for _ in 0..9 {
            account.came();
        }
        assert_eq!(account.want(16), Some(9));
    }

    #[test]
    fn what_a_status_says_was_left_is_no_longer_on_its_way() {
        let table = [
            (100, "Idle Heartbeat", Some(0), None, 30),
            (408, "Request Timeout", Some(0), Some(4), 26),
            (404, "No Messages", Some(1), None, 10),
            (409, "Exceeded MaxWaiting", Some(1), None, 10),
            (409, "Server Shutdown", Some(0), Some(10), 20),
            (409, "Batch Completed", Some(7), None, 30),
            (408, "Request Timeout", None, Some(99), 0),
        ];
        for (code, description, id, left, expected) in table {
            let mut account = asked(&[10, 20]);
            assert_eq!(account.status(code, description, id, left), Meaning::Noted, "{code} {description}");
            assert_eq!(account.outstanding, expected, "{code} {description}");
        }
    }

    #[test]
    fn a_status_that_tells_of_the_consumer_has_it_looked_at() {
        for (code, description) in [
            (409, "Consumer Deleted"),
            (409, "Consumer is push based"),
            (409, "Leadership Change"),
            (409, "Exceeded MaxRequestBatch of 1"),
            (400, "Bad Request"),
            (503, ""),
            (999, "unheard of"),
        ] {
            assert_eq!(
                asked(&[1]).status(code, description, Some(0), None),
                Meaning::Reopen,
                "{code} {description}"
            );
        }
    }

    #[test]
    fn too_many_waiting_requests_pause_the_asking_for_a_second() {
        let mut account = asked(&[1]);
        account.status(409, "exceeded maxwaiting", Some(0), None);
        assert_eq!(account.want(10), None);
        account.second(Instant::now());
        assert_eq!(account.want(10), Some(10));
    }

    #[test]
    fn silence_is_counted_and_then_the_pull_is_lost() {
        let mut account = asked(&[1]);
        let now = Instant::now();
        let pulses: Vec<_> = (0..31).map(|_| account.second(now)).collect();
        assert_eq!(pulses.iter().filter(|pulse| **pulse == Pulse::Missed).count(), 2);
        assert_eq!(pulses.last(), Some(&Pulse::Lost));
        let mut idle = Account::new();
        assert!(
            (0..100).all(|_| idle.second(now) == Pulse::Fine),
            "nobody is to answer when nothing was asked"
        );
    }

    #[test]
    fn a_request_that_vanished_stops_counting_after_it_expired() {
        let mut account = asked(&[16]);
        account.second(Instant::now() + EXPIRES + GRACE + GRACE);
        assert_eq!(account.want(16), Some(16));
    }
}
