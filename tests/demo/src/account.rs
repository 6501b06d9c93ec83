//! The account: what was published against what is there.
//!
//! Only what was read back from the broker counts. An event is lost when its id is neither in the last stream nor among
//! the dead letters although nothing is pending. That it is there is not enough: once, unchanged, in the right place, and
//! a dead letter with the right cause.

use std::collections::HashMap;

use crate::{
    broker::Stored,
    damage::Damaged,
    events::{Event, Fate},
};

/// The streams at the end of all ways, as they were read back.
#[derive(Debug)]
pub struct Evidence {
    /// What was routed.
    pub routed: Vec<Stored>,
    /// The dead letters.
    pub dead: Vec<Stored>,
    /// What consumers still have before them.
    pub pending: u64,
}

/// What came of the comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Events that are nowhere.
    pub lost: Vec<String>,
    /// Everything else that is not as it should be, for people.
    pub faults: Vec<String>,
}

impl Account {
    /// Compares.
    pub fn of(events: &[Event], evidence: &Evidence) -> Self {
        let routed = by_id(&evidence.routed);
        let dead = by_id(&evidence.dead);
        let mut account = Self::default();
        if evidence.pending > 0 {
            account.faults.push(format!("{} events are still pending", evidence.pending));
        }
        for event in events {
            let found = (copies(&routed, &event.id), copies(&dead, &event.id));
            match (found, event.fate) {
                (([], []), _) => account.lost.push(event.id.clone()),
                (([one], []), Fate::Routed) => account.check_copy(event, one),
                (([], [one]), Fate::Dead(damaged)) => account.check_letter(event, damaged, one),
                ((here, there), fate) => account.faults.push(format!(
                    "{}: {} times in ROUTED and {} times in BUSWAY_DLQ, wanted once in {}",
                    event.id,
                    here.len(),
                    there.len(),
                    if fate == Fate::Routed { "ROUTED" } else { "BUSWAY_DLQ" },
                )),
            }
        }
        let is_ours = |id: &str| events.iter().any(|event| event.id == id);
        for stored in
            evidence.routed.iter().chain(&evidence.dead).filter(|stored| !is_ours(stored.delivery()))
        {
            let Stored { subject, sequence, .. } = stored;
            account.faults.push(format!("{subject} (message {sequence}): nobody published this"));
        }
        account
    }

    /// Whether every event is where it belongs.
    pub fn is_balanced(&self) -> bool {
        self.lost.is_empty() && self.faults.is_empty()
    }

    fn check_copy(&mut self, event: &Event, stored: &Stored) {
        if stored.payload != event.payload {
            self.faults.push(format!("{}: its bytes have changed on the way", event.id));
        }
    }

    fn check_letter(&mut self, event: &Event, damaged: Damaged, letter: &Stored) {
        let Damaged { how, reason } = damaged;
        let told = (letter.header("Busway-Class"), letter.header("Busway-Code"));
        if told != (how.class(), how.code()) {
            self.faults.push(format!(
                "{}: a dead letter of {}/{}, wanted {}/{}",
                event.id,
                told.0,
                told.1,
                how.class(),
                how.code(),
            ));
        }
        let found = letter.header("Busway-Reason");
        if !found.contains(reason) {
            self.faults.push(format!("{}: the reason is {found:?}, wanted {reason:?} in it", event.id));
        }
        if letter.payload != event.payload {
            self.faults.push(format!("{}: its dead letter does not hold the original bytes", event.id));
        }
    }
}

fn by_id(stored: &[Stored]) -> HashMap<&str, Vec<&Stored>> {
    let mut by_id: HashMap<_, Vec<_>> = HashMap::new();
    for one in stored {
        by_id.entry(one.delivery()).or_default().push(one);
    }
    by_id
}

fn copies<'a>(by_id: &'a HashMap<&str, Vec<&'a Stored>>, id: &str) -> &'a [&'a Stored] {
    by_id.get(id).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;
    use bytes::Bytes;

    use super::*;
    use crate::{damage::Damage, events::DELIVERY};

    fn event(id: &str, fate: Fate) -> Event {
        Event { id: id.into(), kind: "push".into(), payload: Bytes::from_static(b"{}"), fate }
    }

    fn stored(id: &str, headers: &[(&str, &str)]) -> Stored {
        let mut map = HeaderMap::new();
        map.insert(DELIVERY, id);
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let subject = "routed.push".into();
        Stored { sequence: 1, subject, headers: map, payload: Bytes::from_static(b"{}"), at_ns: 0 }
    }

    fn letter(id: &str, code: &str, reason: &str) -> Stored {
        stored(id, &[("Busway-Class", "reject"), ("Busway-Code", code), ("Busway-Reason", reason)])
    }

    fn events() -> [Event; 2] {
        let damaged = Damaged { how: Damage::Empty, reason: "EOF" };
        [event("good", Fate::Routed), event("bad", Fate::Dead(damaged))]
    }

    fn account(routed: Vec<Stored>, dead: Vec<Stored>) -> Account {
        Account::of(&events(), &Evidence { routed, dead, pending: 0 })
    }

    #[test]
    fn events_that_are_all_where_they_belong_are_accounted_for() {
        let account = account(vec![stored("good", &[])], vec![letter("bad", "invalid-json", "EOF here")]);
        assert!(account.is_balanced(), "{account:?}");
    }

    #[test]
    fn an_event_that_is_nowhere_is_lost() {
        let account = account(vec![], vec![letter("bad", "invalid-json", "EOF")]);
        assert_eq!(account, Account { lost: vec!["good".into()], faults: vec![] });
    }

    #[test]
    fn an_event_that_is_there_twice_or_in_the_wrong_place_is_a_fault() {
        let bad = || letter("bad", "invalid-json", "EOF");
        let twice = account(vec![stored("good", &[]), stored("good", &[])], vec![bad()]);
        let both = account(vec![stored("good", &[]), stored("bad", &[])], vec![bad()]);
        let wrong = account(vec![], vec![letter("good", "invalid-json", "EOF"), bad()]);
        let foreign = account(vec![stored("good", &[]), stored("other", &[])], vec![bad()]);
        for account in [twice, both, wrong, foreign] {
            assert_eq!((account.lost.len(), account.faults.len()), (0, 1), "{account:?}");
        }
    }

    #[test]
    fn a_dead_letter_with_the_wrong_cause_is_a_fault() {
        for (code, reason) in [("schema-mismatch", "EOF"), ("invalid-json", "other")] {
            let account = account(vec![stored("good", &[])], vec![letter("bad", code, reason)]);
            assert_eq!(account.faults.len(), 1, "{account:?}");
        }
    }

    #[test]
    fn bytes_that_changed_are_a_fault_wherever_they_are() {
        let changed = |stored: Stored| Stored { payload: Bytes::from_static(b"{ }"), ..stored };
        let account =
            account(vec![changed(stored("good", &[]))], vec![changed(letter("bad", "invalid-json", "EOF"))]);
        assert_eq!(account.faults.len(), 2, "{account:?}");
    }

    #[test]
    fn what_is_pending_is_not_accounted_for() {
        let routed = vec![stored("good", &[])];
        let dead = vec![letter("bad", "invalid-json", "EOF")];
        assert!(!Account::of(&events(), &Evidence { routed, dead, pending: 1 }).is_balanced());
    }
}
