//! The host: `busway up` as an operator would run it.
//!
//! It is in a process group of its own, so that a Ctrl-C ends the demo and the demo ends the host: a host that got the
//! signal from the terminal as well would take the second one as "at once". Its log goes to a file, so that it can outlive
//! the demo.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    folder::Folder,
    metrics, report,
    settings::{Afterwards, Settings},
};

/// How long a host may take to be ready. The first start compiles the plugins.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How long it may take to stop: its own time to drain, and its broker's.
const STOP_WAIT: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A running host.
#[derive(Debug)]
pub struct Host {
    child: Child,
    pid: u32,
    log: PathBuf,
    admin: Option<SocketAddr>,
}

impl Host {
    /// Starts it.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn start(settings: &Settings, folder: &Folder) -> anyhow::Result<Self> {
        let log = folder.log();
        let file = File::create(&log).with_context(|| format!("{} can't be made", log.display()))?;
        let child = Command::new(&settings.busway)
            .args(["up", "--log-format", "json", "--config"])
            .arg(folder.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .process_group(0)
            .kill_on_drop(settings.afterwards == Afterwards::Stop)
            .spawn()
            .with_context(|| format!("{} can't be started", settings.busway.display()))?;
        let pid = child.id().context("the host ended at once")?;
        Ok(Self { child, pid, log, admin: None })
    }

    /// Waits until it says that it is ready. Cancel safe.
    ///
    /// # Errors
    /// It ended, or is not ready in time; with what it said last.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WAIT;
        let mut missing = "its admin listener is not up".to_owned();
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("the host ended before it was ready ({status}):\n{}", self.last_words());
            }
            self.admin = self.admin.or_else(|| self.address());
            if let Some(admin) = self.admin {
                let answer = metrics::get(admin, "/readyz").await?;
                if answer.is_ok {
                    return Ok(());
                }
                missing = answer.body;
            }
            sleep(LOOK).await;
        }
        bail!("the host is not ready after {} s: {missing}\n{}", READY_WAIT.as_secs(), self.last_words());
    }

    /// Where health and metrics are.
    ///
    /// # Errors
    /// It is not ready yet.
    pub fn admin(&self) -> anyhow::Result<SocketAddr> {
        self.admin.context("the host is not ready")
    }

    /// Returns when the host has ended by itself. Cancel safe.
    pub async fn ended(&mut self) -> anyhow::Error {
        let how = self.child.wait().await.map_or_else(|why| why.to_string(), |status| status.to_string());
        anyhow::anyhow!("the host ended by itself ({how}):\n{}", self.last_words())
    }

    /// Stops it and waits until it has ended.
    ///
    /// # Errors
    /// It had ended by itself, did not stop in time and was killed, or ended with another code than 0.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the host had ended before it was stopped ({status}):\n{}", self.last_words());
        }
        // The shell's own, because not every system has the program.
        let asked =
            Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &self.pid.to_string()]).status().await;
        let is_asked = asked.as_ref().is_ok_and(ExitStatus::success);
        if let (true, Ok(status)) = (is_asked, timeout(STOP_WAIT, self.child.wait()).await) {
            let status = status?;
            ensure!(status.success(), "the host was stopped and ended with {status}:\n{}", self.last_words());
            return Ok(());
        }
        self.child.kill().await?;
        bail!(
            "the host did not stop within {} s and was killed:\n{}",
            STOP_WAIT.as_secs(),
            self.last_words()
        );
    }

    /// Leaves it running, and says how it is looked at and stopped.
    ///
    /// # Errors
    /// The file with its process id, or standard output, can't be written.
    pub fn stay(self, settings: &Settings, folder: &Folder) -> anyhow::Result<()> {
        fs::write(folder.pid(), format!("{}\n", self.pid))?;
        let (busway, config) = (settings.busway.display(), folder.config().display().to_string());
        report::say(&format!(
            "The host stays. Look around:\n\n  {busway} dlq ls -c {config}\n  {busway} dlq show 1 -c {config}\n  curl http://{}/metrics\n  less {}\n\nStop it with: kill {}\n",
            self.admin()?,
            self.log.display(),
            self.pid,
        ))
    }

    /// What the log says about the admin listener.
    fn address(&self) -> Option<SocketAddr> {
        let text = fs::read_to_string(&self.log).ok()?;
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line =
            lines.find(|line| line.get("message").is_some_and(|said| said == "admin listener is up"))?;
        line.get("address")?.as_str()?.parse().ok()
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
    }
}
