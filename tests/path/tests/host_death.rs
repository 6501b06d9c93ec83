//! What a host that died leaves behind: suspects, and after a second death a convict. A death is a copy of the journal as it
//! is while events run, opened by the next host.
#![expect(clippy::expect_used, reason = "test code: what can not be set up ends the test")]

use busway_core::{Digest, FailureClass, dead_letter};
use busway_dispatch::{Convicted, Drained, Host, Journal, JournalError, Opened, Pause};
use busway_path_tests::{ACK_WAIT, TestHost, binding};
use busway_testkit::{memory::MemoryBroker, scripted::Step};
use std::{fs, path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;

/// Longer than any test, and well within the handler's limit.
const LONG: Step = Step::Take(Duration::from_secs(50));

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

/// Opens the journal in a folder, for a host of 4 slots.
fn open(folder: &Path) -> (Host, Found) {
    let Opened { journal, suspects, convicted } = Journal::open(folder, 4).expect("the journal opens");
    (Host { journal: Some(Arc::new(journal)), ..Host::new("h1", 4) }, Found { suspects, convicted })
}

/// What the journal told.
struct Found {
    suspects: usize,
    convicted: Vec<Convicted>,
}

/// The folder as it was left by a host that died just now.
fn as_left(old: &TempDir) -> TempDir {
    let new = folder();
    fs::copy(old.path().join("inflight"), new.path().join("inflight")).expect("the journal is there");
    new
}

fn start(host: Host, broker: MemoryBroker, steps: impl IntoIterator<Item = Step>) -> TestHost {
    TestHost::start_as(binding(), host, broker, steps)
}

async fn called(host: &TestHost, times: usize) {
    while host.handler.calls().len() < times {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A broker with these events whose host has just died while the first two ran (or the only one), and the folder that it left.
async fn after_one_death(events: usize) -> (MemoryBroker, TempDir) {
    let broker = MemoryBroker::new(ACK_WAIT);
    for _ in 0..events {
        broker.publish("orders.created", &[], "{}");
    }
    let folder = folder();
    let (host, opened) = open(folder.path());
    assert_eq!(opened.suspects, 0);
    let host = start(host, broker.clone(), [LONG]);
    called(&host, events.min(2)).await;
    let left = as_left(&folder);
    host.drain(Duration::ZERO).await;
    (broker, left)
}

#[tokio::test(start_paused = true)]
async fn events_that_ran_when_the_host_died_run_alone_once_and_are_innocent_when_they_end() {
    let (broker, left) = after_one_death(6).await;
    let (host, opened) = open(left.path());
    assert_eq!((opened.suspects, opened.convicted.len()), (2, 0));
    let took = Duration::from_secs(3);
    let host = start(host, broker.clone(), [Step::Take(took)]);
    let most = async {
        let mut most = 0;
        loop {
            let running = host.handler.calls().len() as u64 - acks(&broker);
            most = most.max(running);
            tokio::time::sleep(Duration::from_millis(100)).await;
            if acks(&broker) == 6 {
                return most;
            }
        }
    };
    assert_eq!(most.await, 2, "innocents run beside each other");
    assert!(broker.dead_letters().is_empty());
    assert!(host.handler.attempts().iter().all(|attempt| *attempt == 1), "a first death counts no attempt");
    let left = as_left(&left);
    assert_eq!(open(left.path()).1.suspects, 0);
}

fn acks(broker: &MemoryBroker) -> u64 {
    broker.log().iter().filter(|line| line.starts_with("ack ")).count() as u64
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_beside_a_suspect() {
    let (broker, left) = after_one_death(6).await;
    let (host, _) = open(left.path());
    let host = start(host, broker.clone(), [LONG]);
    let suspects = ["1", "2"].map(|sequence| format!("put back {sequence} for 1000 ms"));
    assert!(suspects.iter().all(|line| broker.log().contains(line)), "both come back in a second");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Innocents that began before it end first; then it runs, and only it.
    let mut alone = 0;
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let calls = host.handler.calls();
        let running = calls.len() as u64 - acks(&broker);
        let last =
            calls.last().and_then(|call| call.event.position.clone()).map(|position| position.sequence);
        if running > 0 && last.is_some_and(|sequence| sequence <= 2) {
            assert_eq!(running, 1, "beside suspect {last:?}");
            alone += 1;
        }
    }
    assert!(alone > 50, "both were seen to run: {alone}");
    assert_eq!(acks(&broker), 6);
}

#[tokio::test(start_paused = true)]
async fn a_second_death_while_it_ran_alone_makes_a_dead_letter_without_another_run() {
    let (broker, left) = after_one_death(1).await;
    let (host, opened) = open(left.path());
    assert_eq!((opened.suspects, opened.convicted.len()), (1, 0));
    let second = start(host, broker.clone(), [LONG]);
    called(&second, 1).await;
    let left = as_left(&left);
    second.drain(Duration::ZERO).await;

    let (host, opened) = open(left.path());
    let convicted: Vec<_> = opened.convicted.iter().map(|one| (one.digest, one.sequence)).collect();
    assert_eq!(convicted, [(Digest::of(b"plugin"), 1)]);
    let third = start(host, broker.clone(), [Step::Ok]);
    broker.all_settled().await;
    assert!(third.handler.calls().is_empty());
    let letters = broker.dead_letters();
    let classes: Vec<_> = letters.iter().map(|letter| letter.headers.get(dead_letter::CLASS)).collect();
    assert_eq!(classes, [Some("host-crash")]);
    assert_eq!(letters.first().and_then(|letter| letter.headers.get(dead_letter::ATTEMPTS)), Some("1"));
    third.quiet().await;
    let left = as_left(&left);
    assert_eq!(open(left.path()).1.suspects, 0, "it is forgotten when it has ended");
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_binding_finds_the_event_that_killed_the_host_and_runs_nothing() {
    let (broker, left) = after_one_death(1).await;
    let (host, _) = open(left.path());
    let second = start(host, broker.clone(), [LONG]);
    called(&second, 1).await;
    let left = as_left(&left);
    second.drain(Duration::ZERO).await;
    for _ in 0..20 {
        broker.publish("orders.created", &[], "{}");
    }
    let (host, _) = open(left.path());
    let third = start(host, broker.clone(), [Step::Ok]);
    third.lane.pause(Pause::Quarantined);
    third.lane.resume();
    broker.logged("terminate 1 dead-lettered:host-crash").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(third.handler.calls().is_empty(), "a quarantine is not ended by a resume");
    assert_eq!((acks(&broker), broker.dead_letters().len()), (0, 1));
    let before = broker.log().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(broker.log().len(), before, "nothing is taken any more");
    assert_eq!(third.metric("busway_plugin_quarantined{plugin=\"p\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_death_from_outside_with_many_in_flight_convicts_nobody_however_often() {
    let (broker, mut left) = after_one_death(4).await;
    for _ in 0..5 {
        let (host, opened) = open(left.path());
        assert!(opened.convicted.is_empty());
        // Killed before a suspect was given to it.
        let host = start(host, broker.clone(), [LONG]);
        left = as_left(&left);
        host.drain(Duration::ZERO).await;
    }
    let (host, _) = open(left.path());
    start(host, broker.clone(), [Step::Ok]);
    broker.all_settled().await;
    assert!(broker.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_known_to_be_killed_from_outside_wants_two_deaths_alone() {
    // A first death, after which all that ran has run alone and ended.
    let (broker, left) = after_one_death(2).await;
    let (host, opened) = open(left.path());
    assert_eq!(opened.suspects, 2);
    let cleared = start(host, broker.clone(), [Step::Ok]);
    broker.all_settled().await;
    cleared.quiet().await;
    // A second one, with another event.
    broker.publish("orders.created", &[], "{}");
    let mut left = as_left(&left);
    cleared.drain(Duration::from_secs(1)).await;
    for (death, suspects, convicted) in [(2, 0, 0), (3, 1, 0), (4, 1, 0), (5, 1, 1)] {
        let (host, opened) = open(left.path());
        assert_eq!((opened.suspects, opened.convicted.len()), (suspects, convicted), "after death {death}");
        let next = start(host, broker.clone(), [LONG]);
        if convicted == 0 {
            called(&next, 1).await;
        } else {
            broker.all_settled().await;
        }
        left = as_left(&left);
        next.drain(Duration::ZERO).await;
    }
    assert_eq!(broker.dead_letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_whose_run_is_given_up_stays_one() {
    let (broker, left) = after_one_death(1).await;
    let (host, _) = open(left.path());
    let stopped = start(host, broker.clone(), [LONG]);
    called(&stopped, 1).await;
    stopped.drain(Duration::ZERO).await;
    let found = open(as_left(&left).path()).1;
    assert_eq!((found.suspects, found.convicted.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_new_version_of_the_plugin_is_not_convicted_by_what_the_old_one_did() {
    let (broker, left) = after_one_death(1).await;
    let (host, _) = open(left.path());
    let second = start(host, broker.clone(), [LONG]);
    called(&second, 1).await;
    let left = as_left(&left);
    second.drain(Duration::ZERO).await;
    let (host, _) = open(left.path());
    let third = TestHost::start_version(b"another version", binding(), host, broker.clone(), [Step::Ok]);
    broker.all_settled().await;
    assert_eq!((third.handler.calls().len(), broker.dead_letters().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_stopped_leaves_no_suspects_even_with_events_that_still_run() {
    let folder = folder();
    let (host, _) = open(folder.path());
    let journal = host.journal.clone().expect("it has one");
    let host = start(host, MemoryBroker::new(ACK_WAIT), [LONG]);
    host.broker.publish("orders.created", &[], "{}");
    called(&host, 1).await;
    let killed = as_left(&folder);
    assert_eq!(open(killed.path()).1.suspects, 1);
    // Ended at once, as by a second signal: nothing is waited for.
    journal.stop();
    let stopped = as_left(&folder);
    assert_eq!(open(stopped.path()).1.suspects, 0);
    assert_eq!(host.drain(Duration::from_secs(1)).await, Drained::Abandoned(1));
    let drained = as_left(&folder);
    assert_eq!(open(drained.path()).1.suspects, 0);
}

#[tokio::test(start_paused = true)]
async fn two_hosts_never_share_a_state_folder() {
    let folder = folder();
    let first = Journal::open(folder.path(), 4).expect("the journal opens");
    let second = Journal::open(folder.path(), 4).expect_err("it is locked");
    assert!(matches!(second, JournalError::Locked { .. }));
    assert!(second.to_string().contains("host.state"), "{second}");
    drop(first);
    Journal::open(folder.path(), 4).expect("it is free again");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_foreign_journal_is_set_aside_and_what_can_be_read_is_kept() {
    let (_, left) = after_one_death(4).await;
    let path = left.path().join("inflight");
    let mut bytes = fs::read(&path).expect("the journal is there");
    let slot = bytes.chunks(256).skip(1).position(|slot| slot.first() == Some(&1)).expect("one ran") + 1;
    for byte in bytes.iter_mut().skip(slot * 256 + 30).take(10) {
        *byte ^= 0xff;
    }
    bytes.truncate(bytes.len() - 100);
    fs::write(&path, &bytes).expect("it is ours");
    let (host, opened) = open(left.path());
    assert_eq!(opened.suspects, 1, "the other one is kept");
    drop(host);
    assert_eq!(set_aside(left.path()), 1);

    fs::write(&path, "something else entirely").expect("it is ours");
    let (host, opened) = open(left.path());
    assert_eq!(opened.suspects, 0);
    drop(host);
    assert!(set_aside(left.path()) >= 1);
    assert!(fs::read(&path).expect("a new one").starts_with(b"busway in-flight journal 1\n"));
    assert_eq!(open(left.path()).1.suspects, 0, "and the new one is whole");
}

fn set_aside(folder: &Path) -> usize {
    let files = fs::read_dir(folder).expect("the folder is there").filter_map(Result::ok);
    files.filter(|file| file.file_name().to_string_lossy().starts_with("inflight.damaged")).count()
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_of_a_suspect_counts_as_any_other() {
    let (broker, left) = after_one_death(1).await;
    let (host, _) = open(left.path());
    let host = start(host, broker.clone(), [Step::Fail(FailureClass::Trap), Step::Ok]);
    broker.all_settled().await;
    assert_eq!(host.handler.attempts(), [1, 2]);
}
