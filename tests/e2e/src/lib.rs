//! A host as people run it: the `busway` program in a folder of its own, and a real nats-server beside it.
//!
//! `BUSWAY_BIN` names the program (else the debug build's), `BUSWAY_GUESTS` the folder of built plugins, `NATS_SERVER` the
//! broker; `cargo xtask test` sets all three. What is missing fails the test with what to do about it.

pub mod bus;
pub mod raw;

use anyhow::{Context as _, Result, bail, ensure};
use busway_sandbox_tests::{ATTEMPT, OK, PUBLISH, guest};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at something that sends no word of itself.
const LOOK: Duration = Duration::from_millis(20);

/// A configuration: `head` (the broker's section, the host's), streams IN (`in.>`) and OUT (`out.>`), and one plugin `p`
/// between them that has 3 attempts, 50 ms apart, and may publish to `out.>`. `plugin` stands at the end of its section.
pub fn config(head: &str, plugin: &str) -> String {
    format!(
        r#"{head}
[admin]
listen = "127.0.0.1:0"
[[stream]]
name = "IN"
subjects = ["in.>"]
[[stream]]
name = "OUT"
subjects = ["out.>"]
discard = "new"
[[plugin]]
name = "p"
source = "p.wasm"
subscribe = [{{ stream = "IN", subjects = ["in.>"] }}]
retry = {{ attempts = 3, backoff = ["50ms"] }}
grants = {{ publish = ["out.>"] }}
{plugin}"#
    )
}

/// A handler that takes about `loops` nanoseconds. What begins with `x` it rejects, what begins with `r` fails the first
/// time, and everything else goes to `out.done`.
pub fn busy(loops: u32) -> String {
    let publish = format!(
        "(local $n i32) (local.set $n (i32.const {loops}))
         (loop $on (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $on (local.get $n)))
         (if (i32.eq (i32.load8_u (local.get 6)) (i32.const 120)) (then
           (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
           (i32.store (i32.const 1040) (i32.const 32)) (i32.store (i32.const 1044) (i32.const 4))
           (i32.store (i32.const 1048) (i32.const 32)) (i32.store (i32.const 1052) (i32.const 4))
           (return (i32.const 1024))))
         (if (i32.and (i32.eq (i32.load8_u (local.get 6)) (i32.const 114)) (i32.lt_u (call $attempt) (i32.const 2)))
           (then unreachable))
         (call $publish (i32.const 16) (i32.const 8) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))
         {OK}"
    );
    let data = r#"(data (i32.const 16) "out.done") (data (i32.const 32) "told")"#;
    guest(&format!("{ATTEMPT} {PUBLISH}"), data, &publish)
}

/// The section of a configuration that names a broker.
pub fn broker(url: &str) -> String {
    format!("[nats]\nurl = \"{url}\"")
}

/// A folder with a configuration and plugins.
pub struct Folder(TempDir);

/// A running host. Killed when it is dropped.
pub struct Host {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Folder {
    /// A folder with this configuration, whose state stays inside it.
    pub fn new(config: &str) -> Result<Self> {
        let folder = Self(tempfile::tempdir()?);
        folder.write("busway.toml", config)?;
        Ok(folder)
    }

    /// Adds or replaces a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        Ok(fs::write(self.path(name), content)?)
    }

    /// Adds a plugin written in WebAssembly text.
    pub fn guest(&self, name: &str, core: &str) -> Result<()> {
        self.write(&format!("{name}.wasm"), busway_sandbox_tests::component(core))
    }

    /// Adds a plugin that was built from Rust.
    pub fn built_guest(&self, name: &str) -> Result<()> {
        let guests =
            env::var_os("BUSWAY_GUESTS").map_or_else(|| workspace().join("target/guests"), PathBuf::from);
        let file = guests.join(format!("{name}.wasm"));
        let bytes =
            fs::read(&file).with_context(|| format!("{}: run `cargo xtask build-guests`", file.display()))?;
        self.write(&format!("{name}.wasm"), bytes)
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command of the program in this folder.
    pub async fn busway(&self, arguments: &[&str]) -> Result<Output> {
        self.busway_with(arguments, &[]).await
    }

    /// The same with environment variables.
    pub async fn busway_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
        let mut command = program(self.0.path())?;
        command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
        timeout(PATIENCE, command.output())
            .await
            .context("busway does not end")?
            .context("busway can't be run")
    }

    /// The same for a command that must succeed; gives what it printed.
    pub async fn told(&self, arguments: &[&str]) -> Result<String> {
        let output = self.busway(arguments).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "busway {arguments:?}: {}: {errors}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a host in this folder.
    pub fn up(&self) -> Result<Host> {
        let mut command = program(self.0.path())?;
        command
            .args(["up", "--log-format", "json"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("busway can't be run")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = child.stderr.take().context("no standard error")?;
        let kept = Arc::clone(&log);
        // Ends by itself when the host closes its standard error.
        tokio::spawn(async move {
            let mut lines = BufReader::new(lines).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Host { child, log })
    }

    /// Starts a host and waits until it is ready.
    pub async fn up_and_ready(&self) -> Result<Host> {
        let mut host = self.up()?;
        host.ready().await?;
        Ok(host)
    }
}

impl Host {
    /// The process's number.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the host has ended")
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Waits until it has logged a line with this text.
    pub async fn logged(&mut self, text: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the host ended ({status}) without {text:?}:\n{}", self.log());
            }
            ensure!(Instant::now() < until, "the host never logged {text:?}:\n{}", self.log());
            sleep(LOOK).await;
        }
    }

    /// Where the admin listener is.
    pub async fn address(&mut self) -> Result<String> {
        let line = self.logged("admin listener is up").await?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        Ok(line.get("address").and_then(|address| address.as_str()).context("no address")?.to_owned())
    }

    /// The admin listener's answer: status and body.
    pub async fn get(&mut self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address().await?).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: busway\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }

    /// Waits until every subscription is confirmed.
    pub async fn ready(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.get("/readyz").await?;
            if status == 200 {
                return Ok(());
            }
            ensure!(Instant::now() < until, "never ready: {body}\n{}", self.log());
            sleep(LOOK).await;
        }
    }

    /// The sum of a metric's lines that begin so.
    pub async fn metric(&mut self, start: &str) -> Result<f64> {
        let (_, body) = self.get("/metrics").await?;
        let values =
            body.lines().filter(|line| line.starts_with(start)).filter_map(|line| line.rsplit(' ').next());
        Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let status =
            Command::new("kill").args([format!("-{name}"), self.pid()?.to_string()]).status().await?;
        ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        timeout(PATIENCE, self.child.wait())
            .await
            .with_context(|| format!("it does not end:\n{}", self.log()))?
            .map_err(Into::into)
    }

    /// Ends it as a crash would.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// Asks it to stop, and expects that it does so with nothing left behind.
    pub async fn stop(mut self) -> Result<()> {
        self.signal("TERM").await?;
        let status = self.ended().await?;
        ensure!(status.code() == Some(0), "{status}:\n{}", self.log());
        Ok(())
    }
}

/// Waits until `look` gives something.
///
/// # Errors
/// It never does; `what` says what was waited for.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "never: {what}");
        sleep(LOOK).await;
    }
}

/// The program that is tested.
pub fn binary() -> PathBuf {
    env::var_os("BUSWAY_BIN").map_or_else(|| workspace().join("target/debug/busway"), PathBuf::from)
}

fn program(folder: &Path) -> Result<Command> {
    let path = binary();
    ensure!(
        path.is_file(),
        "{}: no such program; run `cargo build -p busway`, or `cargo xtask test`",
        path.display()
    );
    let mut command = Command::new(path);
    command.current_dir(folder).env("NATS_SERVER", busway_testkit::nats::program()?);
    for variable in ["BUSWAY_LOG", "BUSWAY_CONFIG", "BUSWAY_LOG_FORMAT"] {
        command.env_remove(variable);
    }
    Ok(command)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
