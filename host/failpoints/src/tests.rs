//! Names, plans, and what each action does at a seam.

use super::*;
use busway_core::{
    Attempt, AttemptRecord, DeadLetter, Delivery, Event, EventId, Handler, Headers, Message, Outputs,
    Publish, Ran, Receipt, Refusal, Report, Settle, Source, Used,
    port::{
        BoxFuture, Content, KeyClaim, NotReleased, Opening, Outgoing, ParkError, PublishError, Released,
        SettleError, Stored,
    },
};
use futures_util::FutureExt as _;
use std::{
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Every point by its name: a seam that gets an operation gets two points, and its name stays.
const NAMES: &str = "source.next source.close handler.call publish.publish publish.publish-all publish.send \
    publish.dead-letter settle.ack settle.ack-confirmed settle.put-back settle.terminate settle.progress \
    settle.attempts settle.record-attempts settle.park settle.claim-key settle.release-key settle.unsettled";

#[test]
fn there_are_36_points_and_each_is_found_by_its_name() {
    let names: Vec<_> = Point::all().map(|point| point.to_string()).collect();
    let expected: Vec<_> = NAMES
        .split_whitespace()
        .flat_map(|operation| ["before", "after"].map(|side| format!("{operation}.{side}")))
        .collect();
    assert_eq!((names.len(), &names), (36, &expected));
    assert!(Point::all().all(|point| point.to_string().parse() == Ok(point)));
}

#[test]
fn a_plan_says_what_happens_where_and_when() {
    let plan = Plan::parse(
        "settle.ack.after=error:0.05, publish.publish-all.before=abort:once@17,source.next.after=delay(250):every@3,handler.call.before=panic,settle.park.after=delay",
    );
    let all: Vec<_> =
        plan.unwrap().rules().map(|(point, action, when)| format!("{point} {action} {when:?}")).collect();
    let expected = [
        "settle.ack.after error Chance(0.05)",
        "publish.publish-all.before abort Once(17)",
        "source.next.after delay(250) Every(3)",
        "handler.call.before panic Always",
        "settle.park.after delay(2000) Always",
    ];
    assert_eq!(all, expected);
    assert_eq!(Plan::parse(""), Ok(Plan::default()));
}

#[test]
fn a_plan_with_a_mistake_is_refused_with_what_there_is() {
    for (text, told) in [
        ("settle.ack", "write point=action"),
        ("settle.ack=error", "is no fail point; there are source.next.before"),
        ("settle.ack.after=explode", "write panic, error, abort"),
        ("settle.ack.after=delay(soon)", "write panic, error, abort"),
        ("settle.ack.after=error:2", "write a share such as 0.05"),
        ("settle.ack.after=error:once@0", "write a share such as 0.05"),
        ("settle.ack.after=error:twice@3", "write a share such as 0.05"),
    ] {
        let why = Plan::parse(text).unwrap_err().to_string();
        assert!(why.contains(told), "{text}: {why}");
    }
}

#[test]
fn a_share_is_kept_over_many_passes_and_the_same_for_the_same_seed() {
    let draw = |seed| {
        let points = FailPoints::new(&Plan::default(), seed);
        (0..10_000).map(|_| points.0.chance() < 0.05).collect::<Vec<_>>()
    };
    let hits = draw(7).into_iter().filter(|hit| *hit).count();
    assert!((400..600).contains(&hits), "{hits}");
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

/// The world behind the seams: it writes down what was done.
#[derive(Default)]
struct World(Mutex<Vec<&'static str>>);

impl World {
    fn does<T: Send + 'static>(&self, what: &'static str, answer: T) -> BoxFuture<'_, T> {
        Box::pin(async move {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
            answer
        })
    }
    fn done(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn stored() -> Stored {
    Stored { stream: "S".into(), sequence: 1, duplicate: false }
}

impl Settle for World {
    fn ack<'a>(&'a self, _: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.does("settle.ack", Ok(()))
    }
    fn put_back<'a>(&'a self, _: &'a Receipt, _: Duration) -> BoxFuture<'a, Result<(), SettleError>> {
        self.does("settle.put-back", Ok(()))
    }
    fn terminate<'a>(&'a self, _: &'a Receipt, _: &'a str) -> BoxFuture<'a, Result<(), SettleError>> {
        self.does("settle.terminate", Ok(()))
    }
    fn progress<'a>(&'a self, _: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.does("settle.progress", Ok(()))
    }
    fn ack_confirmed<'a>(&'a self, _: &'a Receipt) -> BoxFuture<'a, Result<(), SettleError>> {
        self.does("settle.ack-confirmed", Ok(()))
    }
    fn attempts<'a>(&'a self, _: &'a Receipt) -> BoxFuture<'a, Result<AttemptRecord, SettleError>> {
        self.does("settle.attempts", Ok(AttemptRecord::default()))
    }
    fn record_attempts<'a>(
        &'a self,
        _: &'a Receipt,
        _: &'a AttemptRecord,
    ) -> BoxFuture<'a, Result<(), SettleError>> {
        self.does("settle.record-attempts", Ok(()))
    }
    fn park<'a>(&'a self, _: &'a Delivery, _: u32, _: Duration) -> BoxFuture<'a, Result<(), ParkError>> {
        self.does("settle.park", Ok(()))
    }
    fn unsettled(&self) -> BoxFuture<'_, Result<usize, SettleError>> {
        self.does("settle.unsettled", Ok(0))
    }

    fn is_active(&self) -> bool {
        true
    }

    fn stay_active(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn claim_key<'a>(
        &'a self,
        _: &'a str,
        _: Duration,
        _: &'a EventId,
    ) -> BoxFuture<'a, Result<KeyClaim, SettleError>> {
        self.does("settle.claim-key", Ok(KeyClaim::Own))
    }
    fn release_key<'a>(&'a self, _: &'a str, _: &'a EventId) -> BoxFuture<'a, Result<(), SettleError>> {
        self.does("settle.release-key", Ok(()))
    }
}

impl Publish for World {
    fn publish<'a>(&'a self, _: &'a Outgoing) -> BoxFuture<'a, Result<Stored, PublishError>> {
        self.does("publish.publish", Ok(stored()))
    }
    fn publish_all<'a>(&'a self, _: &'a [Outgoing]) -> BoxFuture<'a, Result<Released, NotReleased>> {
        self.does("publish.publish-all", Ok(Released { stored: vec![stored()], atomic: false }))
    }
    fn send<'a>(&'a self, _: &'a Outgoing) -> BoxFuture<'a, Result<(), PublishError>> {
        self.does("publish.send", Ok(()))
    }
    fn dead_letter<'a>(&'a self, _: &'a DeadLetter) -> BoxFuture<'a, Result<Stored, PublishError>> {
        self.does("publish.dead-letter", Ok(stored()))
    }
}

impl Handler for World {
    fn call<'a>(&'a self, _: &'a Event, _: Attempt) -> BoxFuture<'a, Report> {
        let report = Report { ran: Ran::Ok(Outputs::default()), used: Used::default(), logs: Vec::new() };
        self.does("handler.call", report)
    }
}

/// Gives one message after another.
struct Messages(u64);

impl Source for Messages {
    fn next(&mut self, _: usize) -> BoxFuture<'_, Option<Delivery>> {
        self.0 += 1;
        let delivery = delivery(self.0);
        Box::pin(async move { Some(delivery) })
    }
    fn opening(&self) -> Opening {
        Opening { number: 1, unsettled: 0 }
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async { vec![delivery(99)] })
    }
}

fn delivery(sequence: u64) -> Delivery {
    let message = Message { subject: "a".into(), headers: Headers::new(), payload: bytes::Bytes::new() };
    Delivery { content: Content::Message(message), receipt: Receipt::for_test("S", sequence) }
}

fn points(plan: &str) -> FailPoints {
    FailPoints::new(&Plan::parse(plan).unwrap(), 0)
}

/// Whether an operation of the settle and publish seams told an error.
async fn does_fail(operation: Operation, settle: &dyn Settle, publish: &dyn Publish) -> bool {
    let (receipt, record) = (Receipt::for_test("S", 1), AttemptRecord::default());
    let (given, second) = (delivery(1), Duration::from_secs(1));
    let id = given.receipt.event_id.clone();
    let out = Outgoing {
        subject: "a".into(),
        headers: Headers::new(),
        payload: bytes::Bytes::new(),
        message_id: String::new(),
    };
    let letter = DeadLetter {
        subject: "a".into(),
        event_id: id.clone(),
        headers: Headers::new(),
        payload: bytes::Bytes::new(),
        payload_digest: busway_core::Digest::of(b""),
    };
    match operation {
        Operation::PublishPublish => publish.publish(&out).await.is_err(),
        Operation::PublishAll => publish.publish_all(&[out]).await.is_err(),
        Operation::PublishSend => publish.send(&out).await.is_err(),
        Operation::PublishDeadLetter => publish.dead_letter(&letter).await.is_err(),
        Operation::SettleAck => settle.ack(&receipt).await.is_err(),
        Operation::SettleAckConfirmed => settle.ack_confirmed(&receipt).await.is_err(),
        Operation::SettlePutBack => settle.put_back(&receipt, second).await.is_err(),
        Operation::SettleTerminate => settle.terminate(&receipt, "").await.is_err(),
        Operation::SettleProgress => settle.progress(&receipt).await.is_err(),
        Operation::SettleAttempts => settle.attempts(&receipt).await.is_err(),
        Operation::SettleRecordAttempts => settle.record_attempts(&receipt, &record).await.is_err(),
        Operation::SettlePark => settle.park(&given, 1, second).await.is_err(),
        Operation::SettleClaimKey => settle.claim_key("k", second, &id).await.is_err(),
        Operation::SettleReleaseKey => settle.release_key("k", &id).await.is_err(),
        Operation::SettleUnsettled => settle.unsettled().await.is_err(),
        Operation::SourceNext | Operation::SourceClose | Operation::HandlerCall => false,
    }
}

#[tokio::test]
async fn an_error_before_an_operation_leaves_it_undone_and_one_after_it_done() {
    let of_parts = Operation::ALL.into_iter().skip(3);
    for operation in of_parts {
        for (side, done) in [("before", 0), ("after", 1)] {
            let world = Arc::new(World::default());
            let points = points(&format!("{}.{side}=error", operation.name()));
            let (settle, publish) =
                (points.settle(Arc::clone(&world) as _), points.publish(Arc::clone(&world) as _));
            assert!(does_fail(operation, &*settle, &*publish).await, "{operation:?} {side}");
            assert_eq!(world.done(), done, "{operation:?} {side}");
            let others = Operation::ALL.into_iter().filter(|other| *other != operation);
            for other in others {
                assert!(!does_fail(other, &*settle, &*publish).await, "{operation:?} {side}: {other:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_handler_that_fails_at_a_point_was_not_run_as_far_as_the_path_knows() {
    let event = Event {
        id: EventId::random([0; 32]),
        subject: "a".parse().unwrap(),
        headers: Headers::new(),
        payload: bytes::Bytes::new(),
        position: None,
        published_at_ms: None,
        hops: 0,
        can_reply: false,
    };
    for (side, done) in [("before", 0), ("after", 1)] {
        let world = Arc::new(World::default());
        let handler = points(&format!("handler.call.{side}=error")).handler(Arc::clone(&world) as _);
        let report = handler.call(&event, Attempt(1)).await;
        assert!(matches!(report.ran, Ran::Refused(Refusal::HostFault(_))), "{report:?}");
        assert_eq!(world.done(), done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_lost_on_the_way_or_comes_later_but_never_because_the_wait_was_given_up() {
    let next = async |source: &mut Box<dyn Source>| source.next(1).await.unwrap().receipt.held_as.unwrap();
    let mut lossy = points("source.next.after=error:once@1").source(Box::new(Messages(0)));
    assert_eq!(next(&mut lossy).await, 2);
    let mut idle = points("source.next.before=error:once@1").source(Box::new(Messages(0)));
    assert_eq!(next(&mut idle).await, 1);
    let mut slow = points("source.next.after=delay(1000):once@1").source(Box::new(Messages(0)));
    let impatient = tokio::time::timeout(Duration::from_millis(10), slow.next(1)).await;
    assert!(impatient.is_err());
    assert_eq!(next(&mut slow).await, 1);
}

#[tokio::test]
async fn a_source_that_fails_when_it_is_closed_gives_nothing_back() {
    for (plan, left) in [("", 1), ("source.close.before=error", 0), ("source.close.after=error", 0)] {
        assert_eq!(points(plan).source(Box::new(Messages(0))).close().await.len(), left, "{plan}");
    }
}

#[tokio::test]
async fn a_panic_is_one_at_its_pass_alone() {
    let settle = points("settle.ack.before=panic:once@2").settle(Arc::new(World::default()));
    let receipt = Receipt::for_test("S", 1);
    let mut panicked = Vec::new();
    for _ in 0..3 {
        panicked.push(AssertUnwindSafe(settle.ack(&receipt)).catch_unwind().await.is_err());
    }
    assert_eq!(panicked, [false, true, false]);
}
