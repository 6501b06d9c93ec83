//! A host that dies and is started again, as a service manager would: `busway up` in a folder of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{points::Lead, settings::Settings};

/// The file in a host's state folder that tells what ran when it died.
const JOURNAL: &str = "inflight";
/// How long a host may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(45);

/// Names that belong together: one plugin between two streams.
#[derive(Debug, Clone)]
pub struct Names {
    /// The plugin.
    pub plugin: String,
    /// The stream of its events; its subjects begin with the same in lower case.
    pub source: String,
    /// The stream of its outputs.
    pub outputs: String,
}

/// A folder with a configuration.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    busway: PathBuf,
    /// What the configuration names.
    pub names: Names,
}

/// A running host. Killed when it is dropped.
#[derive(Debug)]
pub struct Host {
    child: Child,
    log: PathBuf,
}

impl Names {
    /// Those of a number.
    pub fn of(number: usize) -> Self {
        Self {
            plugin: format!("chaos{number}"),
            source: format!("IN{number}"),
            outputs: format!("OUT{number}"),
        }
    }

    /// Where events are published.
    pub fn subject(&self) -> String {
        format!("{}.event", self.source.to_lowercase())
    }

    /// The plugin's consumer.
    pub fn consumer(&self) -> String {
        format!("busway-{}", self.plugin)
    }
}

impl Folder {
    /// Makes it, or changes what its configuration names; what the host has kept in it stays.
    ///
    /// # Errors
    /// It can't be written.
    pub fn make(
        settings: &Settings,
        name: &str,
        (names, lead): (Names, Lead),
        broker: &str,
    ) -> anyhow::Result<Self> {
        let path = settings.folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
        let (source, outputs, plugin) = (&names.source, &names.outputs, &names.plugin);
        let (input, output) = (source.to_lowercase(), outputs.to_lowercase());
        let guest = settings.guest.display();
        let (subscribe, config) = match lead {
            Lead::Keyed => (", dedup = { key = \"message-id\" }", ""),
            Lead::Ordered => (", ordering = { key = \"message-id\" }", ""),
            Lead::Core => ("", ", core = \"told.it\""),
            Lead::Plain | Lead::Parked => ("", ""),
        };
        let retry = match lead {
            Lead::Parked => "backoff = [\"2s\"], park_after = \"1s\"",
            _ => "backoff = [\"50ms\"]",
        };
        let config = format!(
            "[nats]\nurl = \"{broker}\"\n[host]\nack_wait = \"5s\"\ndrain = \"5s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [[stream]]\nname = \"{source}\"\nsubjects = [\"{input}.>\"]\n\
             [[stream]]\nname = \"{outputs}\"\nsubjects = [\"{output}.>\"]\n\
             [[plugin]]\nname = \"{plugin}\"\nsource = \"{guest}\"\n\
             subscribe = [{{ stream = \"{source}\", subjects = [\"{input}.>\"]{subscribe} }}]\n\
             retry = {{ attempts = 3, {retry} }}\nbreaker = {{ calls = 0 }}\nconfig = {{ to = \"{output}\"{config} }}\n\
             grants = {{ publish = [\"{output}.>\"], publish-core = [\"told.>\"] }}\n"
        );
        fs::write(path.join("busway.toml"), config)?;
        Ok(Self { path, busway: settings.busway.clone(), names })
    }

    /// The file of a host's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }

    /// Starts a host whose log is added to a file. It does not know what ran when its predecessor died: whoever kills hosts
    /// from outside makes suspects of events that did nothing, and convicts one that is so hit twice.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn up(&self, log: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Host> {
        let journal = self.path.join(".busway").join(JOURNAL);
        if journal.exists() {
            fs::remove_file(&journal).with_context(|| format!("{} can't be removed", journal.display()))?;
        }
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.busway);
        command
            .args(["up", "--log-format", "json", "--config"])
            .arg(self.path.join("busway.toml"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{} can't be started", self.busway.display()))?;
        Ok(Host { child, log: log.to_owned() })
    }

    /// What `busway verify` says of a history, as JSON.
    ///
    /// # Errors
    /// It gives no account.
    pub async fn verify(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(&self.busway);
        command.arg("verify").args(arguments).args(["--output", "json", "--config"]);
        let output = command.arg(self.path.join("busway.toml")).stdin(Stdio::null()).output().await?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("busway verify gives no account: {}", String::from_utf8_lossy(&output.stderr))
        })
    }
}

impl Host {
    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// It can't be asked.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// It can't be ended.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the host can't be killed")
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        if let Some(pid) = self.child.id() {
            signal("TERM", pid).await?;
        }
        match timeout(STOP_WAIT, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("the host does not stop:\n{}", self.last_words()),
        }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }
}

/// Sends a signal by its name.
///
/// # Errors
/// The process is not there.
pub async fn signal(name: &str, pid: u32) -> anyhow::Result<()> {
    // The shell's own, because not every system has the program.
    let arguments = ["-c", "kill -\"$1\" \"$2\"", "sh", name, &pid.to_string()];
    let status = Command::new("sh").args(arguments).status().await?;
    anyhow::ensure!(status.success(), "process {pid} can't be sent {name}");
    Ok(())
}
