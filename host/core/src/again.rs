//! What comes back to one plugin alone: a copy that was parked over a long wait, or a dead letter that was redriven.
//!
//! A copy stands on a subject of the host's own, so its headers carry what its position would otherwise tell: which event
//! it is, where that was stored, how far its attempts had come. They are believed only there. The original's headers come
//! along: those of the publisher as they were, those that broker, host or tracing would act on under a name that nobody
//! acts on, see [`wrap`]. They get their own names back before the plugin, or anything that decides, looks at them.
//!
//! A copy says after how many failed runs it was made. Of an event whose later copy is known, the earlier ones and the
//! original are history: [`passed_on`].

use crate::{
    AttemptRecord, EventId, FailedRun, Headers, PluginName, Position,
    dead_letter::{EVENT_ID, PLUGIN, PUBLISHED_AT, ROUND, SEQUENCE, STREAM, STREAM_CREATED, SUBJECT},
    headers,
    port::{Content, Delivery, Receipt, Returned},
};
use bytes::Bytes;

/// The subjects of copies that are due.
pub const DUE_SUBJECTS: &str = "busway.again.>";
/// The subjects of copies that wait.
pub const WAIT_SUBJECTS: &str = "busway.wait.>";
/// How often an event may be redriven.
pub const ROUNDS_MAX: u32 = 3;

/// After how many failed runs of its round the copy was made.
pub const FAILED_RUNS: &str = "Busway-Failed-Runs";
/// The beginning of the hexadecimal digest of the plugin that may run the copy.
pub const TO_VERSION: &str = "Busway-To-Version";
/// Before the name of an original's header that nobody is to act on.
pub const ORIGINAL: &str = "Busway-Original-";

/// A copy, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// `busway.again.<plugin>.<event id>`.
    pub subject: String,
    /// `busway.wait.<plugin>.<event id>.<round>`: one copy waits there at a time, a later one takes its place.
    pub wait_subject: String,
    /// The original's headers, wrapped, then the host's account.
    pub headers: Headers,
    /// The original bytes.
    pub payload: Bytes,
    /// The same for the same event, plugin, round and number of failed runs.
    pub message_id: String,
}

/// Why a dead letter can't be redriven.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRedrivable {
    /// It has been often enough.
    #[error(
        "it has been redriven {ROUNDS_MAX} times and failed each time: mend the plugin, then publish the event anew \
         (`busway dlq show`, `busway publish`), or discard it"
    )]
    Rounds,
    /// The message could not be decoded and never will be.
    #[error("its stored message could not be decoded, so no plugin can handle it: export or discard it")]
    Undecodable,
    /// The letter lacks a part of its account.
    #[error("its header {0} is missing or can't be read")]
    Header(&'static str),
}

/// The filter of everything that is due for a plugin.
pub fn due_filter(plugin: &PluginName) -> String {
    format!("busway.again.{plugin}.>")
}

impl Copy {
    /// The copy of an event that is parked after so many failed runs; none for a message that could not be decoded.
    pub fn parked(plugin: &PluginName, delivery: &Delivery, failed_runs: u32) -> Option<Self> {
        let Content::Message(message) = &delivery.content else { return None };
        let receipt = &delivery.receipt;
        let mut lines = wrap(&message.headers);
        if receipt.returned.is_some()
            && let Some(version) = message.headers.get(TO_VERSION)
        {
            lines.push(TO_VERSION, version);
        }
        lines.push(SUBJECT, &message.subject);
        if let Some(position) = &receipt.position {
            lines.push(STREAM, &position.stream);
            lines.push(STREAM_CREATED, &position.stream_created_ns.to_string());
            lines.push(SEQUENCE, &position.sequence.to_string());
        }
        if let Some(published) = receipt.published_at_ms {
            lines.push(PUBLISHED_AT, &published.to_string());
        }
        let payload = message.payload.clone();
        Some(Self::new(plugin, &receipt.event_id, (receipt.round(), failed_runs), lines, payload))
    }

    /// The copy of a dead letter's event, for the plugin that failed; the letter is whole. With `version` only a plugin
    /// whose digest begins so may run it.
    ///
    /// # Errors
    /// Beyond [`ROUNDS_MAX`], for a message that could not be decoded, or for a letter that lacks a part.
    pub fn redriven(letter: &Headers, payload: Bytes, version: Option<&str>) -> Result<Self, NotRedrivable> {
        let round = round_of(letter)?;
        if round >= ROUNDS_MAX {
            return Err(NotRedrivable::Rounds);
        }
        if letter.get(crate::dead_letter::RAW_HEADERS).is_some() {
            return Err(NotRedrivable::Undecodable);
        }
        let missing = |name| move || NotRedrivable::Header(name);
        let plugin: PluginName =
            letter.get(PLUGIN).and_then(|name| name.parse().ok()).ok_or_else(missing(PLUGIN))?;
        let event: EventId =
            letter.get(EVENT_ID).and_then(|id| id.parse().ok()).ok_or_else(missing(EVENT_ID))?;
        letter.get(SUBJECT).ok_or_else(missing(SUBJECT))?;
        let is_original = |name: &str| !headers::is_reserved(name) || strip(name).is_some();
        let is_origin =
            |name: &str| [SUBJECT, STREAM, STREAM_CREATED, SEQUENCE, PUBLISHED_AT].contains(&name);
        let mut lines: Headers =
            letter.iter().filter(|(name, _)| is_original(name) || is_origin(name)).collect();
        if let Some(version) = version {
            lines.push(TO_VERSION, version);
        }
        Ok(Self::new(&plugin, &event, (round + 1, 0), lines, payload))
    }

    fn new(
        plugin: &PluginName,
        event: &EventId,
        (round, failed_runs): (u32, u32),
        mut headers: Headers,
        payload: Bytes,
    ) -> Self {
        headers.push(EVENT_ID, event.as_str());
        headers.push(ROUND, &round.to_string());
        headers.push(FAILED_RUNS, &failed_runs.to_string());
        Self {
            subject: format!("busway.again.{plugin}.{event}"),
            wait_subject: format!("busway.wait.{plugin}.{event}.{round}"),
            message_id: format!("{event}.{plugin}.{round}.{failed_runs}"),
            headers,
            payload,
        }
    }
}

/// How often a letter's event has been redriven.
///
/// # Errors
/// A count that can't be read.
pub fn round_of(letter: &Headers) -> Result<u32, NotRedrivable> {
    letter.get(ROUND).and_then(|round| round.parse().ok()).ok_or(NotRedrivable::Header(ROUND))
}

/// Gives a copy that came back the original's subject, headers and identity. `held` is the receipt of the copy itself.
/// None where the headers are not those of a copy.
pub fn restored(held: Receipt, stored: &Headers) -> Option<(String, Headers, Receipt)> {
    let number = |name: &str| stored.get(name)?.parse::<u64>().ok();
    let event_id: EventId = stored.get(EVENT_ID)?.parse().ok()?;
    let subject = stored.get(SUBJECT)?.to_owned();
    let returned = Returned {
        round: u32::try_from(number(ROUND)?).ok()?,
        failed_runs: u32::try_from(number(FAILED_RUNS)?).ok()?,
    };
    let position = || {
        Some(Position {
            stream: stored.get(STREAM)?.into(),
            stream_created_ns: stored.get(STREAM_CREATED)?.parse().ok()?,
            sequence: number(SEQUENCE)?,
        })
    };
    let receipt = Receipt {
        // Where an id stands beside a position it is the position's: nobody needs to compare them later.
        position: position().filter(|position| EventId::of(position) == event_id),
        event_id,
        published_at_ms: number(PUBLISHED_AT),
        returned: Some(returned),
        reply_to: None,
        ..held
    };
    let mut lines = unwrap(stored);
    if let Some(version) = stored.get(TO_VERSION) {
        lines.push(TO_VERSION, version);
    }
    Some((subject, lines, receipt))
}

/// An original's headers as they travel with a copy or stand in a dead letter: those of broker, host and tracing under
/// [`ORIGINAL`] names, so that nobody acts on them.
pub fn wrap(original: &Headers) -> Headers {
    let mut lines = Headers::new();
    for (name, value) in original.iter() {
        match headers::is_reserved(name) {
            // Believed on our own subjects only, so it is not taken over from elsewhere.
            true if name.eq_ignore_ascii_case(TO_VERSION) => {}
            true => lines.push(&format!("{ORIGINAL}{name}"), value),
            false => lines.push(name, value),
        }
    }
    lines
}

/// The original's headers in what [`wrap`] made, whatever the host has added.
pub fn unwrap(stored: &Headers) -> Headers {
    let mut lines = Headers::new();
    for (name, value) in stored.iter() {
        match strip(name) {
            Some(original) => lines.push(original, value),
            None if headers::is_reserved(name) => {}
            None => lines.push(name, value),
        }
    }
    lines
}

/// The original's name of a header that was wrapped.
fn strip(name: &str) -> Option<&str> {
    let (prefix, rest) = name.split_at_checked(ORIGINAL.len())?;
    (prefix.eq_ignore_ascii_case(ORIGINAL) && !rest.is_empty()).then_some(rest)
}

/// Who has an event now, where it is not the delivery that was just given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedOn<'a> {
    /// A copy that may not be stored: the host was stopped between recording that it parks the event and acknowledging
    /// this delivery.
    Perhaps {
        /// After how many failed runs the copy is made.
        failed_runs: u32,
        /// The run that it waits after.
        run: &'a FailedRun,
    },
    /// A copy that has come back already.
    Surely,
}

/// Whether a later copy of this event was made than the delivery at hand is.
pub fn passed_on<'a>(receipt: &Receipt, record: &'a AttemptRecord) -> Option<PassedOn<'a>> {
    let made_after = receipt.returned.map_or(0, |returned| returned.failed_runs);
    let at = record.runs.iter().rposition(|run| run.parked)?;
    let failed_runs = record.forgotten.saturating_add(u32::try_from(at).ok()?).saturating_add(1);
    if made_after >= failed_runs {
        return None;
    }
    let run = record.runs.get(at)?;
    if at + 1 == record.runs.len() {
        return Some(PassedOn::Perhaps { failed_runs, run });
    }
    Some(PassedOn::Surely)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeadLetter, Digest, Failure, FailureClass, Message, dead_letter::Writer};

    fn plugin() -> PluginName {
        "enrich".parse().unwrap()
    }

    fn delivery() -> Delivery {
        let headers = [
            ("x-a", "1"),
            ("Nats-Msg-Id", "m"),
            ("x-a", "2"),
            ("traceparent", "t"),
            ("Busway-Hops", "3"),
            ("Nats-Schedule", "@at never"),
            ("busway-to-version", "forged"),
        ];
        Delivery {
            content: Content::Message(Message {
                subject: "orders.created".into(),
                headers: headers.into_iter().collect(),
                payload: Bytes::from_static(b"\xff"),
            }),
            receipt: Receipt { published_at_ms: Some(42), ..Receipt::for_test("ORDERS", 7) },
        }
    }

    fn run(parked: bool) -> FailedRun {
        FailedRun { parked, ..FailedRun::for_test(FailureClass::Retry) }
    }

    fn back(copy: &Copy, sequence: u64) -> (String, Headers, Receipt) {
        restored(Receipt { token: "t".into(), ..Receipt::for_test("AGAIN", sequence) }, &copy.headers)
            .unwrap()
    }

    #[test]
    fn a_parked_copy_comes_back_as_the_event_that_it_was() {
        let copy = Copy::parked(&plugin(), &delivery(), 2).unwrap();
        let acted_on = |name: &str| name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
        assert!(copy.headers.iter().all(|(name, _)| !acted_on(name)), "{:?}", copy.headers);
        let (subject, headers, receipt) = back(&copy, 99);
        assert_eq!(subject, "orders.created");
        let kept: Vec<_> = headers.iter().collect();
        let expected = [
            ("x-a", "1"),
            ("Nats-Msg-Id", "m"),
            ("x-a", "2"),
            ("traceparent", "t"),
            ("Busway-Hops", "3"),
            ("Nats-Schedule", "@at never"),
        ];
        assert_eq!(kept, expected);
        let original = delivery().receipt;
        assert_eq!((&receipt.event_id, &receipt.position), (&original.event_id, &original.position));
        assert_eq!((receipt.published_at_ms, receipt.held_as), (Some(42), Some(99)));
        assert_eq!(receipt.returned, Some(Returned { round: 0, failed_runs: 2 }));
        let again = Delivery {
            content: Content::Message(Message { subject, headers, payload: Bytes::new() }),
            receipt,
        };
        let second = Copy::parked(&plugin(), &again, 3).unwrap();
        assert_eq!(back(&second, 1).1, back(&copy, 1).1, "wrapped once, however often it is parked");
    }

    #[test]
    fn a_copy_whose_id_is_not_that_of_its_place_comes_back_as_an_event_without_a_place() {
        let mut other = delivery();
        other.receipt.event_id = EventId::random([7; 32]);
        let (_, _, receipt) = back(&Copy::parked(&plugin(), &other, 2).unwrap(), 99);
        assert_eq!((receipt.event_id, receipt.position), (other.receipt.event_id, None));
    }

    #[test]
    fn copies_differ_by_plugin_round_and_failed_runs() {
        let copy =
            |plugin: &str, failed| Copy::parked(&plugin.parse().unwrap(), &delivery(), failed).unwrap();
        assert_eq!(copy("a", 1), copy("a", 1));
        assert_ne!(copy("a", 1).message_id, copy("a", 2).message_id);
        assert_eq!(copy("a", 1).wait_subject, copy("a", 2).wait_subject);
        assert_ne!(copy("a", 1).wait_subject, copy("b", 1).wait_subject);
    }

    #[test]
    fn what_is_no_copy_is_not_believed() {
        let copy = Copy::parked(&plugin(), &delivery(), 2).unwrap();
        for name in [EVENT_ID, SUBJECT, ROUND, FAILED_RUNS] {
            let without: Headers = copy.headers.iter().filter(|(known, _)| *known != name).collect();
            assert!(restored(Receipt::for_test("AGAIN", 1), &without).is_none(), "{name}");
        }
    }

    fn letter(round: u32) -> DeadLetter {
        let digest = Digest::of(b"plugin");
        let writer = Writer { plugin: &plugin(), digest: &digest, host: "h", now_ms: 5, behind: None };
        let mut delivery = delivery();
        delivery.receipt.returned = (round > 0).then_some(Returned { round, failed_runs: 0 });
        let failure = Failure::new(FailureClass::Trap, "", "");
        DeadLetter::compose(&writer, &delivery, &failure, &AttemptRecord::default(), "00-of-the-letter")
    }

    #[test]
    fn a_dead_letter_is_redriven_as_the_event_that_it_was_in_the_next_round() {
        let letter = letter(0);
        let copy = Copy::redriven(&letter.headers, letter.payload.clone(), Some("0123")).unwrap();
        assert_eq!(copy.subject, format!("busway.again.enrich.{}", letter.event_id));
        let (subject, headers, receipt) = back(&copy, 1);
        assert_eq!((subject.as_str(), &copy.payload[..]), ("orders.created", &b"\xff"[..]));
        assert_eq!(receipt.position, delivery().receipt.position);
        assert_eq!(receipt.returned, Some(Returned { round: 1, failed_runs: 0 }));
        let kept =
            ["x-a", "traceparent", "Nats-Msg-Id", "Busway-Hops", TO_VERSION].map(|name| headers.get(name));
        assert_eq!(kept, [Some("1"), Some("t"), Some("m"), Some("3"), Some("0123")]);
    }

    #[test]
    fn the_fourth_round_is_refused() {
        for (round, is_allowed) in [(0, true), (1, true), (2, true), (3, false), (4, false)] {
            let letter = letter(round);
            let redriven = Copy::redriven(&letter.headers, Bytes::new(), None);
            assert_eq!(redriven.is_ok(), is_allowed, "{round}");
        }
        assert_eq!(Copy::redriven(&Headers::new(), Bytes::new(), None), Err(NotRedrivable::Header(ROUND)));
    }

    #[test]
    fn an_earlier_delivery_of_a_parked_event_is_history() {
        let record =
            |parked: &[bool]| AttemptRecord { runs: parked.iter().map(|p| run(*p)).collect(), forgotten: 0 };
        let of = |made_after: Option<u32>, record: &AttemptRecord| {
            let returned = made_after.map(|failed_runs| Returned { round: 0, failed_runs });
            let receipt = Receipt { returned, ..Receipt::for_test("S", 1) };
            match passed_on(&receipt, record) {
                None => "at hand".to_owned(),
                Some(PassedOn::Perhaps { failed_runs, .. }) => format!("perhaps {failed_runs}"),
                Some(PassedOn::Surely) => "surely".to_owned(),
            }
        };
        let table = [
            (None, &[][..], "at hand"),
            (None, &[false, false], "at hand"),
            (None, &[false, true], "perhaps 2"),
            (Some(2), &[false, true], "at hand"),
            (None, &[true, false], "surely"),
            (Some(1), &[true, false], "at hand"),
            (Some(1), &[true, true], "perhaps 2"),
            (None, &[true, true], "perhaps 2"),
            (Some(2), &[true, true], "at hand"),
        ];
        for (made_after, runs, expected) in table {
            assert_eq!(of(made_after, &record(runs)), expected, "{made_after:?} {runs:?}");
        }
        let long = AttemptRecord { forgotten: 10, ..record(&[true]) };
        assert_eq!((of(Some(10), &long), of(Some(11), &long)), ("perhaps 11".into(), "at hand".into()));
    }
}
