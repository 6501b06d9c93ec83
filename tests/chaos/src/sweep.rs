//! The sweep: for each case a host of its own that fails at one named point, 200 events, and the account.
//!
//! Several at a time on one broker, each with streams, plugin and folder of its own. The fault is in the host's plan for
//! its first two lives, so that one that ends the process meets a host that has come back once; the lives after that are
//! without faults, and must finish what is left.

use std::{
    fs,
    process::ExitStatus,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use busway_testkit::nats::NatsServer;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    broker::{Accepted, Broker},
    history::{self, Evidence},
    host::{Folder, Host, Names},
    loops,
    points::{Action, Case, Lead},
    report,
    settings::{Selection, Settings},
};

/// Events of each case.
const EVENTS: u64 = 200;
/// Cases at the same time.
const AT_ONCE: usize = 6;
/// Lives of a host that have the fault.
const LIVES_WITH_FAULT: u32 = 2;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(30);

/// Runs the cases. Whether every event of each is accounted for.
///
/// # Errors
/// Something else went wrong.
pub async fn run(settings: &Settings, selection: Selection) -> anyhow::Result<bool> {
    if settings.folder.exists() {
        fs::remove_dir_all(&settings.folder)?;
    }
    let mut cases = if selection == Selection::All { Case::all() } else { Case::selected() };
    cases.retain(|case| case.point().starts_with(&settings.only));
    report::say(&format!("fail points: seed {}: {} cases of {EVENTS} events", settings.seed, cases.len()))?;
    let began = Instant::now();
    let server = tokio::task::block_in_place(NatsServer::start)?;
    let (broker, number) = (Broker::connect(&server.url()).await?, AtomicUsize::new(0));
    let one = |case: Case| {
        let (broker, url) = (broker.clone(), server.url());
        let number = number.fetch_add(1, Ordering::Relaxed);
        async move {
            let began = Instant::now();
            let ran = Run { settings, case, number, broker, url }.play().await;
            let wrong = ran.unwrap_or_else(|why| vec![format!("{why:#}")]);
            let word = if wrong.is_empty() { "ok" } else { "FAILED" };
            let line = format!("{:<42} {word:>7} {:>7.1} s", case.to_string(), began.elapsed().as_secs_f64());
            (case, wrong, line)
        }
    };
    let mut results = stream::iter(cases).map(one).buffer_unordered(AT_ONCE);
    let (mut rows, mut failed) = (Vec::new(), 0);
    while let Some((case, wrong, line)) = results.next().await {
        report::say(&line)?;
        for line in &wrong {
            report::say(&format!("    {line}"))?;
        }
        failed += usize::from(!wrong.is_empty());
        let (point, action) = (case.point(), case.action.name());
        rows.push(json!({ "point": point, "action": action, "led_to": case.is_led_to(), "wrong": wrong }));
    }
    let all = rows.len();
    let led_to = rows.iter().filter(|row| row.get("led_to") == Some(&Value::Bool(true))).count();
    let report = json!({
        "seed": settings.seed,
        "cases": all,
        "of_these_reached": led_to,
        "failed": failed,
        "events": all as u64 * EVENTS,
        "duration_s": began.elapsed().as_secs(),
        "rows": rows,
    });
    report::table(&report, &["cases", "of_these_reached", "failed", "events", "duration_s", "seed"])?;
    report::write(&report, settings.json.as_deref())?;
    Ok(failed == 0)
}

/// One case.
struct Run<'a> {
    settings: &'a Settings,
    case: Case,
    number: usize,
    broker: Broker,
    url: String,
}

impl Run<'_> {
    /// What is wrong at its end.
    async fn play(&self) -> anyhow::Result<Vec<String>> {
        let names = Names::of(self.number);
        let folder = Folder::make(
            self.settings,
            &self.number.to_string(),
            (names.clone(), self.case.lead()),
            &self.url,
        )?;
        let log = folder.log("host");
        let told = || format!("the host's log is {}", log.display());
        let accepted = self.live(&folder).await.with_context(told)?;
        let evidence = Evidence::read(&self.broker, &names, self.settings.sabotage).await?;
        let file = folder.log("history").with_extension("jsonl");
        evidence.write(&file, &names, &accepted, &[])?;
        let account = folder.verify(&[&file.to_string_lossy()]).await?;
        let mut wrong = history::check(&account, &accepted)?;
        wrong.extend(evidence.wrong_letters(&accepted));
        let said = fs::read_to_string(&log)?;
        if self.case.is_led_to() && !said.contains("\"message\":\"fail point\"") {
            wrong.push("nothing ever happened at the point".to_owned());
        }
        if wrong.is_empty() {
            self.broker.clear(&[&names.source, &names.outputs], &names.plugin).await?;
        } else {
            wrong.push(told());
        }
        Ok(wrong)
    }

    /// Lets hosts live until nothing is pending.
    async fn live(&self, folder: &Folder) -> anyhow::Result<Vec<Accepted>> {
        let (names, log) = (&folder.names, folder.log("host"));
        let (plan, seed) = (self.case.plan(), (self.settings.seed + self.number as u64).to_string());
        let faults = [("BUSWAY_FAILPOINTS", plan.as_str()), ("BUSWAY_FAILPOINTS_SEED", seed.as_str())];
        let up = |life: u32| folder.up(&log, if life <= LIVES_WITH_FAULT { &faults } else { &[] });
        let (mut life, mut host) = (1, up(1)?);
        self.broker.progress(&names.source, &names.consumer()).await?;
        let accepted = loops::publish(&self.broker, &names.subject(), 0..EVENTS).await?;
        let mut moved = (Instant::now(), None);
        loop {
            if let Some(status) = host.ended()? {
                self.is_its_end(status)?;
                life += 1;
                host = up(life)?;
            }
            let progress = self.broker.progress(&names.source, &names.consumer()).await?;
            if progress.is_idle() && self.is_all_back(names, &accepted).await? {
                break;
            }
            if self.case.is_killed_amid() && life == 1 && progress.in_flight > 0 {
                host.kill().await?;
                life += 1;
                host = up(life)?;
            } else if self.case.stops_amid() && life == 1 && progress.in_flight > 0 {
                let status = host.stop().await?;
                ensure!(status.success() || self.is_its_end(status).is_ok(), "the host ended with {status}");
                life += 1;
                host = up(life)?;
            }
            if moved.1 != Some(progress) {
                moved = (Instant::now(), Some(progress));
            }
            ensure!(moved.0.elapsed() < self.case.patience(), "nothing moves any more: {progress:?}");
            sleep(LOOK).await;
        }
        self.end(host).await?;
        Ok(accepted)
    }

    /// Whether nothing waits outside of the consumer. What does is counted by what has not come of it yet.
    async fn is_all_back(&self, names: &Names, accepted: &[Accepted]) -> anyhow::Result<bool> {
        if self.case.lead() != Lead::Parked {
            return Ok(true);
        }
        let of = |accepted: &Accepted| {
            accepted.event.outputs() + u64::from(accepted.event.failed_runs().is_some())
        };
        let letters = format!("busway.dlq.{}.>", names.plugin);
        let is =
            self.broker.count(&names.outputs, ">").await? + self.broker.count("BUSWAY_DLQ", &letters).await?;
        Ok(is >= accepted.iter().map(of).sum())
    }

    async fn end(&self, host: Host) -> anyhow::Result<()> {
        let status = host.stop().await?;
        ensure!(status.success() || self.is_its_end(status).is_ok(), "the last host ended with {status}");
        Ok(())
    }

    /// Only a host that is told to abort ends by itself.
    fn is_its_end(&self, status: ExitStatus) -> anyhow::Result<()> {
        ensure!(self.case.action == Action::Abort, "the host ended by itself: {status}");
        Ok(())
    }
}
