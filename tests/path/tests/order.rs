//! Ordered bindings: who may go when, and what happens when something goes wrong before.

use busway_core::{
    binding::{Behind, Ordering, PER_KEY_WINDOW},
    dead_letter,
};
use busway_dispatch::Drained;
use busway_path_tests::{
    ACK_WAIT,
    ordered::{Act, Plan, World, all_well, per_customer},
};
use busway_testkit::memory::Operation;
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

const NOTHING: [String; 0] = [];
const SHORT: Duration = Duration::from_millis(10);

fn strict(behind: Behind) -> Ordering {
    Ordering::Strict { behind }
}

fn plan(of: impl Fn(u64, u32) -> Act + Send + Sync + 'static) -> Plan {
    Arc::new(of)
}

/// How often the log has a line that begins so.
fn count(log: &[String], start: &str) -> usize {
    log.iter().filter(|line| line.starts_with(start)).count()
}

#[tokio::test(start_paused = true)]
async fn a_failing_event_waits_in_the_host_and_only_those_of_its_key_wait_behind_it() {
    let world = World::new();
    for key in ["a", "b", "a", "b"] {
        world.publish(key);
    }
    let failing = plan(|sequence, attempt| match (sequence, attempt) {
        (1, 1 | 2) => Act::Fail(SHORT),
        _ => Act::Done(SHORT),
    });
    let host = world.host(per_customer(Behind::Block), failing);
    world.broker.all_settled().await;
    assert_eq!(world.overtaken(), NOTHING);
    assert_eq!(world.outputs(), [2, 4, 1, 3], "the other key goes on");
    let log = world.broker.log();
    assert_eq!((count(&log, "record"), count(&log, "put back")), (2, 0), "{log:?}");
    assert_eq!(world.broker.attempts_of(1).failed_runs(), 2);
    assert_eq!(host.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn strict_order_lets_nobody_pass_and_shows_since_when_it_is_blocked() {
    let world = World::new();
    for key in ["a", "b", "c"] {
        world.publish(key);
    }
    let failing = plan(|sequence, attempt| match (sequence, attempt) {
        (1, 1 | 2) => Act::Fail(SHORT),
        _ => Act::Done(SHORT),
    });
    let host = world.host(strict(Behind::Block), failing);
    world.broker.logged("record 1").await;
    sleep(SHORT).await;
    assert!(host.metric("busway_order_blocked_since_seconds") > 1_000_000_000.0);
    assert_eq!(host.metric("busway_order_blocked_keys"), 1.0);
    assert_eq!(host.metric("busway_order_waiting"), 3.0);
    world.broker.all_settled().await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(host.metric("busway_order_blocked_since_seconds"), 0.0);
    assert_eq!((world.overtaken().len(), world.outputs()), (0, vec![1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn those_behind_go_on_when_the_event_before_them_is_dead() {
    let world = World::new();
    world.publish_many(3, "a");
    let failing = plan(|sequence, _| if sequence == 1 { Act::Fail(SHORT) } else { Act::Done(SHORT) });
    world.host(per_customer(Behind::Block), failing);
    world.broker.all_settled().await;
    assert_eq!((world.overtaken().len(), world.outputs()), (0, vec![2, 3]));
    assert_eq!(world.started(), [1, 1, 1, 2, 3], "all of its attempts come before those behind it");
    let letters = world.broker.dead_letters();
    assert_eq!(letters[0].headers.get(dead_letter::BEHIND), Some("block"));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_behind_it_a_failing_event_is_dead_after_one_run_and_its_letter_says_so() {
    for ordering in [strict(Behind::SkipToDlq), per_customer(Behind::SkipToDlq)] {
        let world = World::new();
        world.publish_many(3, "a");
        let failing = plan(|sequence, _| if sequence == 1 { Act::Fail(SHORT) } else { Act::Done(SHORT) });
        let began = Instant::now();
        world.host(ordering, failing);
        world.broker.all_settled().await;
        assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for a retry");
        assert_eq!((world.started(), world.outputs()), (vec![1, 2, 3], vec![2, 3]));
        let letter = &world.broker.dead_letters()[0];
        assert_eq!(letter.headers.get(dead_letter::BEHIND), Some("skip-to-dlq"));
        assert_eq!(letter.headers.get(dead_letter::ATTEMPTS), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_the_hosts_fault_is_waited_for_in_the_host_and_counts_no_attempt() {
    let world = World::new();
    world.publish_many(3, "a");
    let refused = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let refusing = plan(move |sequence, _| {
        let times = refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if sequence == 1 && times < 3 { Act::Refuse } else { Act::Done(SHORT) }
    });
    world.host(per_customer(Behind::SkipToDlq), refusing);
    world.broker.all_settled().await;
    assert_eq!((world.overtaken().len(), world.outputs()), (0, vec![1, 2, 3]));
    let log = world.broker.log();
    assert_eq!((count(&log, "put back"), count(&log, "record")), (0, 0), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_waits_longer_than_the_brokers_patience_keeps_its_lease_and_so_do_those_behind_it() {
    let world = World::new();
    world.publish_many(4, "a");
    let slow = plan(|sequence, attempt| match (sequence, attempt) {
        (1, 1) => Act::Fail(Duration::from_secs(50)),
        (2, 1) => Act::Done(Duration::from_secs(50)),
        _ => Act::Done(SHORT),
    });
    world.host(per_customer(Behind::Block), slow);
    world.broker.all_settled().await;
    assert_eq!((world.overtaken().len(), world.outputs()), (0, vec![1, 2, 3, 4]));
    assert_eq!(world.started(), [1, 1, 2, 3, 4], "nothing was given a second time");
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_nothing_new_runs_before_what_the_dead_host_had() {
    let world = World::new();
    world.publish_many(4, "a");
    let hanging = plan(|_, _| Act::Done(Duration::from_secs(50)));
    let dead = world.host(per_customer(Behind::Block), hanging);
    while world.started().is_empty() {
        sleep(SHORT).await;
    }
    dead.crash();
    world.publish_many(4, "a");
    world.publish("b");
    let began = Instant::now();
    world.host(per_customer(Behind::Block), all_well());
    world.broker.all_settled().await;
    assert_eq!(world.overtaken(), NOTHING);
    let of_a: Vec<_> = world.outputs().into_iter().filter(|sequence| *sequence != 9).collect();
    assert_eq!(of_a, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(began.elapsed() < ACK_WAIT + Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn deliveries_that_are_lost_on_their_way_are_waited_for() {
    let world = World::new();
    world.publish_many(8, "a");
    let host = world.host(per_customer(Behind::Block), all_well());
    host.link.lose(3);
    world.broker.all_settled().await;
    assert_eq!((world.overtaken().len(), world.outputs()), (0, vec![1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(host.metric("busway_order_holds_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_nobody_confirms_holds_back_those_behind_until_it_is_repeated() {
    let world = World::new();
    world.publish_many(4, "a");
    world.broker.fail_next(Operation::Ack);
    world.host(per_customer(Behind::Block), all_well());
    world.broker.all_settled().await;
    assert_eq!(world.overtaken(), NOTHING);
    assert_eq!(world.started(), [1, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_lease_was_lost_is_not_overtaken_when_it_comes_again() {
    let world = World::new();
    world.publish_many(6, "a");
    let once_slow = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let slow = plan(move |sequence, _| {
        let slow = sequence == 1 && once_slow.swap(false, std::sync::atomic::Ordering::Relaxed);
        Act::Done(if slow { Duration::from_secs(29) } else { SHORT })
    });
    (0..24).for_each(|_| world.broker.fail_next(Operation::Progress));
    world.host(per_customer(Behind::Block), slow);
    world.broker.all_settled().await;
    assert_eq!((world.overtaken().len(), world.outputs()), (0, vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(world.started().iter().filter(|sequence| **sequence == 1).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_the_broker_was_away_for_longer_than_its_patience_what_waits_goes_on_at_once() {
    let world = World::new();
    world.publish_many(100, "a");
    let slow = plan(|sequence, _| Act::Done(if sequence == 1 { Duration::from_secs(59) } else { SHORT }));
    (0..300).for_each(|_| world.broker.fail_next(Operation::Progress));
    let began = Instant::now();
    world.host(per_customer(Behind::Block), slow);
    world.broker.all_settled().await;
    assert_eq!(world.overtaken(), NOTHING);
    assert!(began.elapsed() < Duration::from_secs(59) + ACK_WAIT + ACK_WAIT, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_neither_stops_the_others_nor_fills_the_memory() {
    const EVENTS: u64 = 2_000;
    let world = World::new();
    for n in 0..EVENTS {
        let key = if n % 10 == 0 { (n % 70).to_string() } else { "hot".to_owned() };
        world.publish(&key);
    }
    let slow = plan(|sequence, _| Act::Done(if sequence % 10 == 1 { SHORT } else { SHORT * 10 }));
    let host = world.host(per_customer(Behind::Block), slow);
    let mut most = 0;
    while world.outputs().len() < EVENTS as usize {
        most = most.max(host.held());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.overtaken(), NOTHING);
    assert!(most <= PER_KEY_WINDOW as usize, "{most} were held");
    let outputs = world.outputs();
    let at = |sequence: u64| outputs.iter().position(|found| *found == sequence).unwrap();
    for cold in (1..EVENTS).step_by(10).filter(|cold| cold + 20 < EVENTS) {
        assert!(at(cold) < at(cold + 11), "{cold} waited for the hot key");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_that_fails_for_long_does_not_stop_the_others_within_the_window() {
    let world = World::new();
    for n in 0..200 {
        world.publish(if n % 10 == 9 { "cold" } else { "hot" });
    }
    let failing = plan(|sequence, attempt| match (sequence, attempt) {
        (1, 1) => Act::Fail(SHORT),
        _ => Act::Done(SHORT),
    });
    let host = world.host(per_customer(Behind::Block), failing);
    world.ended(200).await;
    let outputs = world.outputs();
    assert_eq!(outputs.len(), 20, "{outputs:?}");
    assert_eq!(host.held(), 180);
    world.broker.all_settled().await;
    assert_eq!(world.overtaken(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_drains_gives_back_those_behind_and_the_next_goes_on_in_order() {
    let world = World::new();
    for n in 0..20 {
        world.publish(if n % 2 == 0 { "a" } else { "b" });
    }
    let slow = plan(|sequence, attempt| match (sequence, attempt) {
        (1, 1) => Act::Fail(SHORT),
        _ => Act::Done(Duration::from_millis(700)),
    });
    let first = world.host(per_customer(Behind::Block), slow.clone());
    while world.outputs().len() < 2 {
        sleep(SHORT).await;
    }
    assert_eq!(first.drain(Duration::from_secs(25)).await, Drained::Clean);
    assert_eq!(first.held(), 0);
    let began = Instant::now();
    world.host(per_customer(Behind::Block), slow);
    world.broker.all_settled().await;
    assert_eq!(world.overtaken(), NOTHING);
    assert_eq!(world.outputs().len(), 20);
    assert!(began.elapsed() < Duration::from_secs(20), "what was given back is there at once");
}

#[tokio::test(start_paused = true)]
async fn of_two_hosts_one_works_and_the_other_takes_over_when_it_is_killed() {
    let world = World::new();
    let slow = plan(|_, _| Act::Done(Duration::from_millis(500)));
    let first = world.host(per_customer(Behind::Block), slow.clone());
    for n in 0..40 {
        world.publish(if n % 3 == 0 { "a" } else { "b" });
    }
    world.ended(2).await;
    let second = world.host(per_customer(Behind::Block), slow);
    world.ended(8).await;
    assert_eq!(second.held(), 0, "it stands by");
    first.crash();
    world.broker.all_settled().await;
    assert_eq!(world.overtaken(), NOTHING);
    assert_eq!(world.outputs().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_not_the_active_one_any_more_publishes_nothing_and_forgets_what_waits() {
    let world = World::new();
    world.publish_many(10, "a");
    let once_slow = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let slow = plan(move |_, _| {
        let slow = once_slow.swap(false, std::sync::atomic::Ordering::Relaxed);
        Act::Done(if slow { Duration::from_secs(24) } else { SHORT })
    });
    let stale = world.host(per_customer(Behind::Block), slow.clone());
    while world.started().is_empty() {
        sleep(SHORT).await;
    }
    world.host(per_customer(Behind::Block), slow);
    stale.link.deafen();
    sleep(Duration::from_secs(21)).await;
    assert_eq!(stale.held(), 0, "what ran is cancelled, and what waited is forgotten");
    world.broker.all_settled().await;
    assert_eq!((world.overtaken().len(), world.outputs()), (0, (1..=10).collect()));
    sleep(Duration::from_secs(25)).await;
    let refused = stale.metric("busway_attempts_refused_total{,class=\"lease-lost\"");
    assert_eq!((refused, stale.metric("busway_outputs_released_total{,how=\"single\"")), (1.0, 0.0));
    assert_eq!(world.started()[..2], [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_event_without_its_key_is_dead_and_holds_up_nobody() {
    let world = World::new();
    world.broker.publish("orders.created", &[], "{}");
    world.broker.publish_malformed("orders.created", "raw");
    world.publish("a");
    world.host(per_customer(Behind::Block), all_well());
    world.broker.all_settled().await;
    let letters = world.broker.dead_letters();
    let classes: Vec<_> = letters.iter().filter_map(|it| it.headers.get(dead_letter::CLASS)).collect();
    assert_eq!((classes, world.outputs()), (vec!["undecodable"; 2], vec![3]));
}

/// What happens to the hosts while they work.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Crash,
    Drain,
    Deafen,
    Lose(usize),
    LoseAck,
    LoseProgress(usize),
}

fn blow() -> impl Strategy<Value = (u64, Blow)> {
    let blow = prop_oneof![
        Just(Blow::Crash),
        Just(Blow::Drain),
        Just(Blow::Deafen),
        (1usize..6).prop_map(Blow::Lose),
        Just(Blow::LoseAck),
        (1usize..40).prop_map(Blow::LoseProgress),
    ];
    (0u64..20_000, blow)
}

/// What the handler does with an event: nothing but a hash, so that every host does the same.
fn mixed(salt: u64) -> Plan {
    plan(move |sequence, attempt| {
        let hash = (sequence ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let time = Duration::from_millis(hash % 700);
        match hash % 11 {
            0 => Act::Reject,
            1 => Act::Fail(time),
            2 | 3 if attempt == 1 => Act::Fail(time),
            4 if attempt < 3 && hash.is_multiple_of(2) => Act::Fail(time),
            _ => Act::Done(time),
        }
    })
}

async fn storm(
    ordering: Ordering,
    keys: Vec<u8>,
    salt: u64,
    blows: Vec<(u64, Blow)>,
) -> Result<(), TestCaseError> {
    let world = World::new();
    for key in &keys {
        world.publish(&key.to_string());
    }
    let mut hosts = vec![world.host(ordering.clone(), mixed(salt))];
    for (after_ms, blow) in blows {
        sleep(Duration::from_millis(after_ms)).await;
        let Some(host) = hosts.last() else { break };
        match blow {
            Blow::Lose(deliveries) => host.link.lose(deliveries),
            Blow::LoseAck => world.broker.fail_next(Operation::Ack),
            Blow::LoseProgress(times) => (0..times).for_each(|_| world.broker.fail_next(Operation::Progress)),
            Blow::Crash => host.crash(),
            Blow::Deafen => host.link.deafen(),
            Blow::Drain => drop(host.drain(Duration::from_secs(1)).await),
        }
        if matches!(blow, Blow::Crash | Blow::Deafen | Blow::Drain) {
            hosts.push(world.host(ordering.clone(), mixed(salt)));
        }
    }
    let settled = tokio::time::timeout(Duration::from_secs(3_600), world.broker.all_settled()).await;
    prop_assert!(settled.is_ok(), "it never ends: {:?}", world.broker.log());
    prop_assert_eq!(world.overtaken(), NOTHING);
    prop_assert_eq!(world.outputs().len() + world.broker.dead_letters().len(), keys.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_fails_and_whoever_dies_no_event_is_overtaken(
        is_strict in any::<bool>(),
        keys in prop::collection::vec(0u8..6, 1..60),
        salt in any::<u64>(),
        blows in prop::collection::vec(blow(), 0..6),
    ) {
        let ordering = if is_strict { strict(Behind::Block) } else { per_customer(Behind::Block) };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(storm(ordering, keys, salt, blows))?;
    }
}
