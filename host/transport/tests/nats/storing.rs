//! Outputs, dead letters and streams against a real nats-server.

use crate::support::*;
use anyhow::Result;
use busway_core::units::ByteSize;
use busway_core::{
    AttemptRecord, DeadLetter, Delivery, Digest, Failure, FailureClass, Headers, Publish as _, dead_letter,
    port::{Content, Message, Outgoing, PublishError, Receipt},
};
use busway_transport::{
    Durability, Ensured, LetterFilter, OneMessage, Published, StreamSpec, TopologyError,
    nats::{DEAD_LETTER_STREAM, Discard, HEADERS_OBJECT, LetterError, OwnStreams, Ownership, Retention},
};
use futures_util::StreamExt as _;

fn outgoing(subject: &str, payload: &[u8], id: &str) -> Outgoing {
    Outgoing {
        subject: subject.into(),
        headers: [("x-a", "ü"), ("x-a", "2")].into_iter().collect(),
        payload: payload.to_vec().into(),
        message_id: id.into(),
    }
}

#[expect(clippy::unwrap_used, reason = "a test that can't parse its own literals should stop there")]
fn letter(plugin: &str, sequence: u64, headers: Headers, payload: Vec<u8>) -> DeadLetter {
    let delivery = Delivery {
        content: Content::Message(Message { subject: "in.a".into(), headers, payload: payload.into() }),
        receipt: Receipt::for_test("EVENTS", sequence),
    };
    let (plugin, digest) = (plugin.parse().unwrap(), Digest::of(b"plugin"));
    let writer = dead_letter::Writer { plugin: &plugin, digest: &digest, host: "h", behind: None, now_ms: 1 };
    let failure = Failure::new(FailureClass::Reject, "code", "why");
    DeadLetter::compose(&writer, &delivery, &failure, &AttemptRecord::default(), "00-1-2-00")
}

fn all(limit: usize) -> LetterFilter {
    LetterFilter { plugin: None, before: None, limit }
}

#[tokio::test]
async fn an_output_that_is_repeated_is_stored_once() -> Result<()> {
    let bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    let first = publisher.publish(&outgoing("in.out", b"1", "id-1")).await?;
    let again = publisher.publish(&outgoing("in.out", b"1", "id-1")).await?;
    let other = publisher.publish(&outgoing("in.out", b"2", "id-2")).await?;
    assert_eq!((first.stream.as_str(), first.sequence, first.duplicate), ("EVENTS", 1, false));
    assert_eq!((again.sequence, again.duplicate), (1, true));
    assert_eq!(other.sequence, 2);
    let mut open = bed.open(&binding("p", &["in.>"])).await?;
    let Content::Message(message) = next(&mut open.source, 1).await?.content else { panic!() };
    assert_eq!(message.headers.get("x-a"), Some("ü"));
    Ok(())
}

#[tokio::test]
async fn each_way_of_not_being_stored_has_its_own_answer() -> Result<()> {
    let bed = Bed::new().await?;
    let mut full = StreamSpec::new("FULL", filters(&["full.>"]));
    full.max_messages = Some(1);
    full.discard = Discard::New;
    bed.nats.ensure_stream(&full).await?;
    let publisher = bed.nats.publisher();
    publisher.publish(&outgoing("full.a", b"1", "a")).await?;
    let too_large = vec![0; bed.nats.max_payload() + 1];
    let mut injected = outgoing("in.a", b"", "x");
    injected.headers = [("a", "b\r\nc: d")].into_iter().collect();
    let table = [
        (outgoing("nowhere.a", b"1", "b"), "no-stream"),
        (outgoing("full.a", b"2", "c"), "not-now"),
        (outgoing("in.a", &too_large, "d"), "too-large"),
        (injected, "refused"),
        (outgoing("in a", b"", "e"), "refused"),
    ];
    for (message, expected) in table {
        let error = publisher.publish(&message).await.unwrap_err();
        let found = match &error {
            PublishError::NoStream => "no-stream",
            PublishError::NotNow(_) => "not-now",
            PublishError::TooLarge(_) => "too-large",
            PublishError::Refused(_) => "refused",
            PublishError::Unreachable(_) => "unreachable",
        };
        assert_eq!(found, expected, "{}: {error}", message.subject);
    }
    assert!(bed.nats.is_connected());
    Ok(())
}

#[tokio::test]
async fn an_output_sent_while_the_broker_restarts_is_stored_once() -> Result<()> {
    let mut bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    bed.server.kill()?;
    let message = outgoing("in.out", b"1", "id-1");
    let (stored, restarted) = tokio::join!(publisher.publish(&message), async {
        tokio::task::yield_now().await;
        bed.server.restart()
    });
    restarted?;
    assert_eq!(stored?.sequence, 1);
    assert_eq!(bed.jetstream().get_stream("EVENTS").await?.get_info().await?.state.messages, 1);
    Ok(())
}

#[tokio::test]
async fn a_letter_stored_twice_is_one_letter() -> Result<()> {
    let bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    let letter = letter("p", 1, [("x-a", "1")].into_iter().collect(), b"\xff".to_vec());
    let first = publisher.dead_letter(&letter).await?;
    let again = publisher.dead_letter(&letter).await?;
    assert_eq!((first.stream.as_str(), first.duplicate, again.duplicate), (DEAD_LETTER_STREAM, false, true));
    assert_eq!(first.sequence, again.sequence);
    let read = bed.nats.dead_letters().get(first.sequence).await?;
    assert_eq!((read.subject, &read.payload[..]), (letter.subject, &b"\xff"[..]));
    assert_eq!(read.headers.get("x-a"), Some("1"));
    assert_eq!(read.headers.get(dead_letter::CLASS), Some("reject"));
    Ok(())
}

#[tokio::test]
async fn a_different_letter_under_the_same_subject_is_refused() -> Result<()> {
    let bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    publisher.dead_letter(&letter("p", 1, Headers::new(), b"a".to_vec())).await?;
    let refused = publisher.dead_letter(&letter("p", 1, Headers::new(), b"b".to_vec())).await;
    assert!(matches!(&refused, Err(PublishError::Refused(why)) if why.contains("different")), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_full_stream_of_letters_is_never_taken_for_a_success() -> Result<()> {
    let bed = Bed::new().await?;
    let jetstream = bed.jetstream();
    let mut config = jetstream.get_stream(DEAD_LETTER_STREAM).await?.get_info().await?.config;
    config.max_bytes = 4000;
    jetstream.update_stream(config).await?;
    let publisher = bed.nats.publisher();
    let first = letter("p", 1, Headers::new(), vec![b'a'; 2000]);
    publisher.dead_letter(&first).await?;
    let refused = publisher.dead_letter(&letter("p", 2, Headers::new(), vec![b'b'; 2000])).await;
    assert!(matches!(refused, Err(PublishError::NotNow(_))), "{refused:?}");
    // The one that is there: either answer of the broker's is safe, and this pins that it is no error of another kind.
    let again = publisher.dead_letter(&first).await;
    assert!(
        matches!(&again, Ok(stored) if stored.duplicate) || matches!(again, Err(PublishError::NotNow(_))),
        "{again:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_letter_larger_than_the_broker_takes_keeps_every_byte() -> Result<()> {
    let bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    let payload: Vec<u8> = (0..bed.nats.max_payload()).map(|n| n as u8).collect();
    let letter = letter("p", 1, Headers::new(), payload.clone());
    let stored = publisher.dead_letter(&letter).await?;
    assert!(publisher.dead_letter(&letter).await?.duplicate);
    let letters = bed.nats.dead_letters();
    assert!(letters.list(&all(1)).await?.letters[0].payload.is_empty());
    let read = letters.get(stored.sequence).await?;
    assert_eq!(read.payload, payload);
    assert!(read.headers.get(dead_letter::PAYLOAD_OBJECT).is_some());
    Ok(())
}

#[tokio::test]
async fn a_letter_with_more_headers_than_a_stream_takes_keeps_every_line() -> Result<()> {
    let bed = Bed::new().await?;
    let value = "v".repeat(63 * 1024);
    let letter = letter("p", 1, [("x-long", value.as_str())].into_iter().collect(), b"p".to_vec());
    let stored = bed.nats.publisher().dead_letter(&letter).await?;
    let read = bed.nats.dead_letters().get(stored.sequence).await?;
    assert_eq!(read.headers.get("x-long"), Some(value.as_str()));
    assert_eq!(read.headers.get(dead_letter::CLASS), Some("reject"));
    assert!(read.headers.get(HEADERS_OBJECT).is_some());
    assert_eq!(&read.payload[..], b"p");
    Ok(())
}

#[tokio::test]
async fn letters_are_listed_newest_first_page_by_page_and_by_plugin() -> Result<()> {
    let bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    for n in 1..=7 {
        let plugin = if n % 2 == 0 { "even" } else { "odd" };
        publisher.dead_letter(&letter(plugin, n, Headers::new(), n.to_string().into_bytes())).await?;
    }
    let letters = bed.nats.dead_letters();
    let page = letters.list(&all(3)).await?;
    let sequences = |page: &busway_transport::nats::LetterPage| {
        page.letters.iter().map(|l| l.sequence).collect::<Vec<_>>()
    };
    assert_eq!((sequences(&page), page.before, page.stored), (vec![7, 6, 5], Some(5), 7));
    let page = letters.list(&LetterFilter { before: page.before, ..all(10) }).await?;
    assert_eq!((sequences(&page), page.before), (vec![4, 3, 2, 1], None));
    let page = letters.list(&LetterFilter { plugin: Some("even".parse()?), ..all(10) }).await?;
    assert_eq!(sequences(&page), [6, 4, 2]);
    assert!(matches!(letters.get(99).await, Err(LetterError::None(99))));
    Ok(())
}

#[tokio::test]
async fn an_operators_message_tells_where_it_is_or_that_nobody_keeps_it() -> Result<()> {
    let bed = Bed::new().await?;
    let message =
        |subject: &str| OneMessage { subject: subject.into(), headers: Headers::new(), payload: "x".into() };
    let stored = bed.nats.publish_one(&message("in.a"), Durability::Durable).await?;
    assert!(matches!(stored, Published::Stored(stored) if stored.stream == "EVENTS" && stored.sequence == 1));
    let nobody = bed.nats.publish_one(&message("nowhere"), Durability::Durable).await;
    assert_eq!(nobody, Err(PublishError::NoStream));
    assert_eq!(bed.nats.publish_one(&message("nowhere"), Durability::Core).await, Ok(Published::Sent));
    assert!(matches!(
        bed.nats.publish_one(&message("in.*"), Durability::Core).await,
        Err(PublishError::Refused(_))
    ));
    Ok(())
}

#[tokio::test]
async fn a_stream_is_made_once_and_compared_from_then_on() -> Result<()> {
    let bed = Bed::new().await?;
    let mut spec = StreamSpec::new("OUT", filters(&["out.>"]));
    spec.max_bytes = Some(ByteSize::mib(1));
    spec.max_age = Some(std::time::Duration::from_secs(60));
    spec.retention = Retention::WorkQueue;
    assert_eq!(bed.nats.ensure_stream(&spec).await?, Ensured::Created);
    assert_eq!(bed.nats.ensure_stream(&spec).await?, Ensured::AsWanted);
    spec.max_bytes = None;
    spec.subjects = filters(&["out.>", "more.>"]);
    let differs = bed.nats.ensure_stream(&spec).await.unwrap_err();
    let TopologyError::Differs { differences, .. } = &differs else { panic!("{differs}") };
    assert_eq!(differences.len(), 2, "{differs}");
    assert!(differs.to_string().contains("max_bytes is 1048576, wanted -1"), "{differs}");
    let elsewhere =
        StreamSpec { ownership: Ownership::Verified, ..StreamSpec::new("NONE", filters(&["none"])) };
    assert!(matches!(bed.nats.ensure_stream(&elsewhere).await, Err(TopologyError::Missing { .. })));
    bed.nats.ensure_own_streams(OwnStreams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn nobody_can_end_the_publishing_of_others_by_an_answer_of_their_own() -> Result<()> {
    let bed = Bed::new().await?;
    let publisher = bed.nats.publisher();
    let mut spy = bed.client.subscribe("in.out").await?;
    // A flush is no round trip. An answer is one, and be it that nobody listens: the server has the subscription.
    assert!(bed.client.request("nobody.listens", "".into()).await.is_err());
    publisher.publish(&outgoing("in.out", b"1", "1")).await?;
    let reply =
        within(spy.next()).await?.and_then(|message| message.reply).expect("an inbox for the confirmation");
    // The client library panics over a carriage return in a header's value.
    RawPublisher::connect(bed.server.address())?.publish(
        reply.as_bytes(),
        b"NATS/1.0\r\na: b\rc\r\n\r\n",
        b"",
    )?;
    for n in 2..5 {
        let id = n.to_string();
        assert_eq!(within(publisher.publish(&outgoing("in.out", b"x", &id))).await??.sequence, n);
    }
    Ok(())
}
