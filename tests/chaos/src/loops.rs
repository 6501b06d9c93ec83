//! Kill loops: hosts and brokers are hit at random moments while events are published and handled.
//!
//! Step by step: a handful of events is published, and some time between 20 and 400 ms later something is hit; the next
//! step begins when the broker has confirmed them all. So every hit meets work, and what is hit, when and in which order
//! follows from the seed. At the end the last host works on until nothing is pending.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use busway_testkit::nats::NatsServer;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    broker::{Accepted, Broker, Progress},
    events::Event,
    history::{self, Evidence},
    host::{Folder, Host, Names, signal},
    points::Lead,
    random::Random,
    report,
    settings::{Plan, Settings},
};

/// Between the first event of a step and the hit.
const HIT_AFTER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(400));
/// How long a killed broker is away, at least and at most.
const AWAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1_500));
/// How long nothing may move at the end: the longest put-back is half a minute.
const STILL_MAX: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Events that are published at the same time.
const PUBLISHING: usize = 32;

/// What the table tells, in its order.
const FIELDS: [&str; 16] = [
    "accepted",
    "done",
    "dead",
    "pending",
    "lost",
    "duplicate_outputs",
    "outputs",
    "deliveries",
    "redeliveries",
    "host_kills",
    "of_these_amid_work",
    "hosts_gave_up",
    "broker_kills",
    "broker_pauses",
    "duration_s",
    "seed",
];

/// What is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hit {
    KillHost,
    KillBroker,
    PauseBroker,
}

/// Everything that is at work.
struct Scene {
    server: NatsServer,
    broker: Broker,
    folder: Folder,
    host: Option<Host>,
    accepted: Vec<Accepted>,
    notes: Vec<Value>,
    /// Host kills that met events in flight.
    amid_work: u64,
    /// Hosts that gave up by themselves because their broker was hit while they were starting.
    gave_up: u64,
}

/// Runs a plan. Whether every event is accounted for.
///
/// # Errors
/// Something else went wrong.
pub async fn run(settings: &Settings, plan: &Plan) -> anyhow::Result<bool> {
    let Settings { seed, .. } = settings;
    report::say(&format!(
        "chaos: seed {seed}: {} events, {} host kills, {} broker kills, {} pauses of {} s",
        plan.events,
        plan.host_kills,
        plan.broker_kills,
        plan.pauses,
        plan.pause.as_secs()
    ))?;
    let began = Instant::now();
    let mut scene = Scene::set(settings).await?;
    let outcome = scene.play(plan, &mut Random::new(*seed)).await;
    let deliveries = outcome.with_context(|| format!("seed {seed}; {}", scene.last_words()))?;
    let account = scene.account(settings).await?;
    let wrong = history::check(&account, &scene.accepted)?;
    let number = |name: &str| account.get(name).cloned().unwrap_or_default();
    let report = json!({
        "seed": seed,
        "accepted": number("accepted"),
        "done": number("done"),
        "dead": number("dead"),
        "pending": number("pending"),
        "lost": number("lost"),
        "duplicate_outputs": number("duplicate_outputs"),
        "outputs": number("outputs"),
        "deliveries": deliveries,
        "redeliveries": deliveries.saturating_sub(scene.accepted.len() as u64),
        "host_kills": plan.host_kills,
        "of_these_amid_work": scene.amid_work,
        "hosts_gave_up": scene.gave_up,
        "broker_kills": plan.broker_kills,
        "broker_pauses": plan.pauses,
        "duration_s": began.elapsed().as_secs(),
        "balanced": wrong.is_empty(),
        "wrong": wrong,
    });
    report::table(&report, &FIELDS)?;
    report::write(&report, settings.json.as_deref())?;
    for line in wrong.iter().take(20) {
        report::say(&format!("  {line}"))?;
    }
    if wrong.is_empty() {
        report::say(
            "every event is accounted for: once, unchanged, each dead letter after the right number of runs",
        )?;
    } else {
        report::say(&format!("NOT every event is accounted for; again with --seed {seed}"))?;
    }
    Ok(wrong.is_empty())
}

impl Scene {
    async fn set(settings: &Settings) -> anyhow::Result<Self> {
        if settings.folder.exists() {
            fs::remove_dir_all(&settings.folder)?;
        }
        let server = tokio::task::block_in_place(NatsServer::start)?;
        let broker = Broker::connect(&server.url()).await?;
        let folder = Folder::make(settings, "loops", (Names::of(0), Lead::Plain), &server.url())?;
        let mut scene = Self {
            host: Some(folder.up(&folder.log("host"), &[])?),
            accepted: Vec::new(),
            notes: Vec::new(),
            amid_work: 0,
            gave_up: 0,
            server,
            broker,
            folder,
        };
        // The first start makes the streams and compiles the plugin.
        scene.progress().await?;
        Ok(scene)
    }

    async fn progress(&mut self) -> anyhow::Result<Progress> {
        let Names { source, .. } = &self.folder.names;
        self.broker.progress(source, &self.folder.names.consumer()).await
    }

    fn last_words(&self) -> String {
        let words = self.host.as_ref().map(Host::last_words).unwrap_or_default();
        format!("the host's log is {}:\n{words}", self.folder.log("host").display())
    }

    /// The whole play; gives how often the broker has given anything.
    async fn play(&mut self, plan: &Plan, random: &mut Random) -> anyhow::Result<u64> {
        let hits = [
            vec![Hit::KillHost; plan.host_kills as usize],
            vec![Hit::KillBroker; plan.broker_kills as usize],
            vec![Hit::PauseBroker; plan.pauses as usize],
        ];
        let mut hits = hits.concat();
        random.shuffle(&mut hits);
        let steps = hits.len() as u64 + 1;
        let (mut next, began) = (0, Instant::now());
        for (step, hit) in (1..).zip(&hits) {
            self.revive()?;
            let end = plan.events * step / steps;
            let (broker, subject) = (self.broker.clone(), self.folder.names.subject());
            let publishing = publish(&broker, &subject, next..end);
            let hitting = async {
                sleep(random.between(HIT_AFTER.0, HIT_AFTER.1)).await;
                self.hit(*hit, plan, random).await
            };
            let (accepted, ()) = tokio::try_join!(publishing, hitting)?;
            next = end;
            self.accepted.extend(accepted);
            let at = began.elapsed().as_millis() as u64;
            self.notes
                .push(json!({ "record": "note", "at_ms": at, "what": format!("{hit:?}"), "events": end }));
        }
        let rest = publish(&self.broker, &self.folder.names.subject(), next..plan.events).await?;
        self.accepted.extend(rest);
        self.settle().await
    }

    async fn hit(&mut self, hit: Hit, plan: &Plan, random: &mut Random) -> anyhow::Result<()> {
        match hit {
            Hit::KillHost => {
                self.revive()?;
                if let Some(host) = self.host.take() {
                    host.kill().await?;
                }
                self.amid_work += u64::from(self.progress().await?.in_flight > 0);
                self.host = Some(self.folder.up(&self.folder.log("host"), &[])?);
            }
            Hit::KillBroker => {
                tokio::task::block_in_place(|| self.server.kill())?;
                sleep(random.between(AWAY.0, AWAY.1)).await;
                tokio::task::block_in_place(|| self.server.restart())?;
            }
            Hit::PauseBroker => {
                let pid = self.server.pid().context("no broker runs")?;
                signal("STOP", pid).await?;
                sleep(plan.pause).await;
                signal("CONT", pid).await?;
            }
        }
        Ok(())
    }

    /// Starts a host again that gave up, as a service manager would. A host that crashed by itself ends the loops.
    fn revive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.host.as_mut().map(Host::ended).transpose()?.flatten() {
            ensure!(status.code() == Some(1), "the host has ended by itself: {status}");
            self.gave_up += 1;
            self.host = Some(self.folder.up(&self.folder.log("host"), &[])?);
        }
        Ok(())
    }

    /// Waits until nothing is pending.
    async fn settle(&mut self) -> anyhow::Result<u64> {
        let mut moved = (Instant::now(), None);
        loop {
            let progress = self.progress().await?;
            if progress.is_idle() {
                break;
            }
            self.revive()?;
            if moved.1 != Some(progress) {
                moved = (Instant::now(), Some(progress));
            }
            ensure!(moved.0.elapsed() < STILL_MAX, "nothing moves any more: {progress:?}");
            sleep(LOOK).await;
        }
        if let Some(host) = self.host.take() {
            let status = host.stop().await?;
            ensure!(status.success(), "the last host ended with {status}");
        }
        Ok(self.progress().await?.deliveries)
    }

    /// The account, made by `busway verify` of the history and of the broker itself.
    async fn account(&self, settings: &Settings) -> anyhow::Result<Value> {
        let names = &self.folder.names;
        let evidence = Evidence::read(&self.broker, names, settings.sabotage).await?;
        let file = settings.history.clone().unwrap_or_else(|| settings.folder.join("history.jsonl"));
        evidence.write(&file, names, &self.accepted, &self.notes)?;
        let mut account = self.folder.verify(&[&file.to_string_lossy()]).await?;
        let running = ["--stream", &names.source, "--plugin", &names.plugin, "--outputs", &names.outputs];
        let running = self.folder.verify(&running).await?;
        let mut wrong: Vec<_> = evidence.wrong_letters(&self.accepted).into_iter().map(Value::from).collect();
        for name in ["accepted", "done", "dead", "pending", "lost", "duplicate_outputs", "outputs"] {
            if running.get(name) != account.get(name) {
                wrong.push(format!("{name}: the broker's account says otherwise: {running}").into());
            }
        }
        if let Some(Value::Array(violations)) = account.get_mut("violations") {
            violations.extend(wrong);
        }
        Ok(account)
    }
}

/// Publishes events until the broker has confirmed each.
pub async fn publish(
    broker: &Broker,
    subject: &str,
    numbers: std::ops::Range<u64>,
) -> anyhow::Result<Vec<Accepted>> {
    let events = stream::iter(numbers.map(Event::of));
    events.map(|event| broker.publish(subject, event)).buffered(PUBLISHING).try_collect().await
}
