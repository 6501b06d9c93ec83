//! The events go in, the last stream is full for a while, and then nothing is pending any more.
//!
//! The stream is made full as it happens in life: it holds as much as it may. `ROUTED` takes the first events, then
//! refuses for five seconds from the host's first refused output on, and then takes the rest. Meanwhile events keep
//! coming.

use std::{cell::Cell, net::SocketAddr, time::Duration};

use anyhow::{bail, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{broker::Broker, events::Event, metrics::Metrics, progress::Progress};

/// The streams in the order in which events go through them, those that plugins read.
const READ: [&str; 2] = ["GITHUB", "VALID"];
/// The stream at the end.
pub const LAST: &str = "ROUTED";
/// Messages that the last stream takes before it is full.
pub const ROOM: u64 = 150;
/// How long it is full.
const FULL_FOR: Duration = Duration::from_secs(5);
/// From one event to the next: a hundred in a second.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
/// Between two looks at the streams.
const LOOK: Duration = Duration::from_millis(100);
/// How long nothing may move before the demo gives up.
const STILL_MAX: Duration = Duration::from_secs(45);

/// How long it took.
#[derive(Debug)]
pub struct Times {
    /// From the first event published to nothing pending.
    pub all: Duration,
    /// How long the last stream refused what was new.
    pub full: Duration,
}

/// Publishes all events, fills the last stream meanwhile, and waits until nothing is pending.
///
/// # Errors
/// The broker or the host does not answer; nothing moves any more; the stream was never full.
pub async fn run(broker: &Broker, admin: SocketAddr, events: &[Event]) -> anyhow::Result<Times> {
    let start = Instant::now();
    let mut settings = broker.settings(LAST).await?;
    let room = std::mem::replace(&mut settings.max_messages, ROOM.try_into()?);
    broker.set(&settings).await?;
    settings.max_messages = room;

    let scene = Scene { published: Cell::new(0), last: Cell::new(Last::Takes) };
    let filled = async {
        let since = first_refusal(admin).await?;
        scene.last.set(Last::Refuses);
        sleep(FULL_FOR).await;
        broker.set(&settings).await?;
        scene.last.set(Last::TakesAgain);
        anyhow::Ok(since.elapsed())
    };
    let (_, full, ()) = tokio::try_join!(
        publish(broker, events, &scene.published),
        filled,
        watch(broker, &scene, events.len()),
    )?;
    Ok(Times { all: start.elapsed(), full })
}

/// What the three parts of the run know of each other.
struct Scene {
    published: Cell<usize>,
    last: Cell<Last>,
}

/// What the last stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Takes,
    Refuses,
    TakesAgain,
}

impl Last {
    /// For people.
    fn news(self) -> &'static str {
        match self {
            Self::Takes => "it will be full soon",
            Self::Refuses => "it is full: the host puts back what can't be stored",
            Self::TakesAgain => "it takes events again: those that were put back come in their time",
        }
    }
}

async fn publish(broker: &Broker, events: &[Event], published: &Cell<usize>) -> anyhow::Result<()> {
    let mut tick = interval(PUBLISH_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for event in events {
        tick.tick().await;
        broker.publish(event).await?;
        published.set(published.get() + 1);
    }
    Ok(())
}

/// When the host had put an event back because of the full stream.
async fn first_refusal(admin: SocketAddr) -> anyhow::Result<Instant> {
    let until = Instant::now() + STILL_MAX;
    while Instant::now() < until {
        let metrics = Metrics::read(admin).await?;
        let labels = [("plugin", "route"), ("class", "broker-trouble")];
        if metrics.sum("busway_attempts_refused_total", &labels) > 0 {
            return Ok(Instant::now());
        }
        sleep(LOOK).await;
    }
    bail!("the host put no event back although {LAST} takes no more than {ROOM}");
}

/// Shows how far it is, until everything is published, the last stream takes again and nothing is pending.
async fn watch(broker: &Broker, scene: &Scene, events: usize) -> anyhow::Result<()> {
    let mut progress = Progress::begin();
    progress.tell(&format!("publishing {events} events; {LAST} has room for {ROOM}"));
    let mut told = Last::Takes;
    let mut moved = (Instant::now(), String::new());
    loop {
        let counts =
            [broker.count("VALID").await?, broker.count(LAST).await?, broker.count("BUSWAY_DLQ").await?];
        let pending = pending(broker).await?;
        let published = scene.published.get();
        let [valid, routed, dead] = counts;
        let now = format!(
            "published {published:3} of {events}   valid {valid:3}   routed {routed:3}   dead-lettered {dead:2}   pending {pending:3}"
        );
        let last = scene.last.get();
        if last != told {
            told = last;
            progress.tell(&format!("{LAST}: {}", last.news()));
        }
        if pending == 0 && published == events && last == Last::TakesAgain {
            progress.tell(&now);
            return Ok(());
        }
        progress.show(&now);
        if now != moved.1 {
            moved = (Instant::now(), now);
        }
        ensure!(
            moved.0.elapsed() < STILL_MAX,
            "nothing has moved for {} s: {}",
            STILL_MAX.as_secs(),
            moved.1
        );
        sleep(LOOK).await;
    }
}

/// What any consumer still has before it. In the order of the events' way: an event is in the next stream before it is
/// settled in the one before, so what is counted in neither is nowhere.
pub async fn pending(broker: &Broker) -> anyhow::Result<u64> {
    let mut pending = 0;
    for stream in READ {
        pending += broker.pending(stream).await?;
    }
    Ok(pending)
}
