//! A cluster of three servers that loses one at a time, or changes who leads: the host follows by itself, and what is
//! accepted has its output once, with no attempt counted and nothing given up.
//!
//! Events are published with ids, and each again until a stream has said that it has it, all the while.

use anyhow::{Context as _, Result, ensure};
use busway_e2e_tests::{Folder, Host, bus::Bus, busy, config, eventually};
use busway_testkit::cluster::{Cluster, SERVERS};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// So many at least, however fast the cluster does what it is told.
const EVENTS_MIN: u32 = 300;
/// Between two events.
const PACE: Duration = Duration::from_millis(30);
/// What must get done by those that are left while one is away.
const DONE_WITHOUT: u64 = 5;

/// A cluster, a host on it, and events that keep coming.
struct Work {
    cluster: Cluster,
    host: Host,
    bus: Arc<Bus>,
    enough: watch::Sender<bool>,
    published: JoinHandle<Result<u32>>,
    _folder: Folder,
}

impl Work {
    /// With so many copies of each of the host's own streams; those of the events have three.
    async fn begin(copies: usize) -> Result<Self> {
        let cluster = Cluster::start()?;
        let urls = cluster.urls();
        let head = format!("[nats]\nurl = {urls:?}\n[host]\nack_wait = \"5s\"\nreplicas = {copies}");
        let replicated =
            |name: &str| (format!("name = \"{name}\""), format!("name = \"{name}\"\nreplicas = 3"));
        let ((input, inputs), (output, outputs)) = (replicated("IN"), replicated("OUT"));
        let folder = Folder::new(&config(&head, "").replace(&input, &inputs).replace(&output, &outputs))?;
        folder.guest("p", &busy(1_000_000))?;
        let host = folder.up_and_ready().await?;
        let bus = Arc::new(Bus::connect_to(&urls).await?);
        for stream in bus.streams().await? {
            let wanted = if ["IN", "OUT"].contains(&&*stream) { 3 } else { copies };
            assert_eq!(bus.config_of(&stream).await?.num_replicas, wanted, "{stream}");
        }
        let (enough, told) = watch::channel(false);
        let published = tokio::spawn(publish(Arc::clone(&bus), told));
        bus.wait_for("OUT", DONE_WITHOUT).await?;
        Ok(Self { cluster, host, bus, enough, published, _folder: folder })
    }

    /// Waits until more events are done than are now.
    async fn more_is_done(&self, while_what: &str) -> Result<()> {
        let before = self.done(while_what).await?;
        eventually(&format!("more is done while {while_what}: {}", self.host.log()), async || {
            let now = self.bus.messages("OUT").await;
            Ok(now.is_some_and(|now| now >= before + DONE_WITHOUT).then_some(()))
        })
        .await
    }

    async fn done(&self, while_what: &str) -> Result<u64> {
        eventually(&format!("OUT answers while {while_what}"), async || Ok(self.bus.messages("OUT").await))
            .await
    }

    /// Waits until every copy is there, so that the next server may be taken away.
    async fn is_whole(&self) -> Result<()> {
        for stream in self.streams().await? {
            eventually(&format!("{stream} is whole"), async || {
                Ok(self.bus.is_whole(&stream).await.then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn streams(&self) -> Result<Vec<String>> {
        eventually("the streams", async || Ok(self.bus.streams().await.ok())).await
    }

    /// No more events; each has its output, once, and nothing else has come of any.
    async fn account(mut self) -> Result<()> {
        self.enough.send(true)?;
        let events = (&mut self.published).await??;
        self.host.ready().await?;
        self.is_whole().await?;
        self.bus.idle("IN", "busway-p").await?;
        assert_eq!(self.bus.read("IN").await?.len(), events as usize);
        let mut done: Vec<_> = self.bus.read("OUT").await?.into_iter().map(|stored| stored.payload).collect();
        let mut expected: Vec<_> = (0..events).map(payload).collect();
        done.sort();
        expected.sort();
        let missing: Vec<_> = expected.iter().filter(|one| done.binary_search(one).is_err()).collect();
        assert_eq!(
            (done.len(), missing.len()),
            (expected.len(), 0),
            "missing: {missing:?}\n{}",
            self.host.log()
        );
        assert_eq!(done, expected);
        for nothing in ["BUSWAY_DLQ", "BUSWAY_AGAIN", "KV_BUSWAY_ATTEMPTS"] {
            let found = self.bus.read(nothing).await?;
            ensure!(found.is_empty(), "{nothing}: {found:?}\n{}", self.host.log());
        }
        let failed = self.host.metric("busway_attempts_failed_total").await?;
        assert!(failed.abs() < 0.5, "{failed}: {}", self.host.log());
        self.host.stop().await
    }
}

fn payload(number: u32) -> Bytes {
    format!("o{number}").into()
}

/// Publishes until it is told that it is enough, and gives how many.
async fn publish(bus: Arc<Bus>, enough: watch::Receiver<bool>) -> Result<u32> {
    let mut pace = tokio::time::interval(PACE);
    let mut number = 0;
    while number < EVENTS_MIN || !*enough.borrow() {
        pace.tick().await;
        bus.publish_until_stored("in.a", &format!("id-{number}"), payload(number)).await?;
        number += 1;
    }
    Ok(number)
}

/// Makes somebody else lead, once there is somebody who does.
async fn step_down(bus: &Bus, what: &str) -> Result<()> {
    let subject = format!("$JS.API.{what}");
    eventually(&format!("{what}: done"), async || {
        let told = bus.ask(&subject).await.ok();
        Ok(told.filter(|told| told.get("success").is_some_and(|success| success == true)).map(|_| ()))
    })
    .await
}

async fn leader(bus: &Bus, stream: &str) -> Result<String> {
    eventually(&format!("{stream} has a leader"), async || Ok(bus.leader_of(stream).await)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_servers_leave_one_after_the_other_loses_and_doubles_nothing() -> Result<()> {
    let mut work = Work::begin(3).await?;
    for number in 0..SERVERS {
        work.cluster.send_away(number)?;
        work.more_is_done(&format!("s{number} is away")).await?;
        work.cluster.restart(number)?;
        work.is_whole().await?;
    }
    // Wherever they were, they had to go elsewhere: those for pulls, for control and for outputs.
    let moved = work.host.metric("busway_connections_lost_total").await?;
    ensure!(moved > 2.5, "{moved} connections were sent away\n{}", work.host.log());
    work.account().await
}

/// What can't be looked up or written meanwhile is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_own_streams_have_one_copy_waits_for_the_server_that_has_it() -> Result<()> {
    let mut work = Work::begin(1).await?;
    for number in 0..SERVERS {
        work.cluster.send_away(number)?;
        work.cluster.restart(number)?;
        work.is_whole().await?;
        work.more_is_done(&format!("s{number} is back")).await?;
    }
    work.account().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_and_a_consumer_that_lose_their_leaders_lose_and_double_nothing() -> Result<()> {
    let mut work = Work::begin(3).await?;
    for _ in 0..3 {
        for what in [
            "STREAM.LEADER.STEPDOWN.IN",
            "CONSUMER.LEADER.STEPDOWN.IN.busway-p",
            "STREAM.LEADER.STEPDOWN.OUT",
        ] {
            step_down(&work.bus, what).await?;
            work.more_is_done(what).await?;
        }
    }
    let killed = leader(&work.bus, "IN").await?;
    let number = Cluster::number(&killed)?;
    work.cluster.kill(number)?;
    let next = eventually("another leads", async || {
        Ok(work.bus.leader_of("IN").await.filter(|leader| *leader != killed))
    })
    .await?;
    work.more_is_done(&format!("{killed} is dead and {next} leads")).await?;
    work.cluster.restart(number).context("the killed one comes back")?;
    work.account().await
}
