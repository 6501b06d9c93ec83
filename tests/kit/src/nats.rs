//! A real nats-server for tests: loopback, a free port, a folder of its own, stopped with the test.
//!
//! The program is looked for in `NATS_SERVER`, then in `.busway/toolchain/bin` and `.busway/bin` of the workspace, then in
//! `PATH`. Where there is none the test fails and says how to get one: a test that skips itself proves nothing.

use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a server may take to answer.
const START_WAIT: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A running server. Killed when it is dropped, and its folder removed.
#[derive(Debug)]
pub struct NatsServer {
    dir: TempDir,
    settings: String,
    port: u16,
    child: Option<Child>,
}

impl NatsServer {
    /// A server that asks for nothing.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// A server with more settings, in nats-server's own language. `DIR` in them becomes the server's folder.
    pub fn start_with(settings: &str) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, settings)
    }

    /// A server in a folder that was prepared.
    pub fn start_in(dir: TempDir, settings: &str) -> Result<Self> {
        let mut server = Self { settings: settings.to_owned(), port: 0, child: None, dir };
        server.restart()?;
        Ok(server)
    }

    /// The address, `nats://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// The address of its socket.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The server's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process's number; none while none runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("killing nats-server")?;
            child.wait()?;
        }
        Ok(())
    }

    /// Waits until the server has ended by itself, as one does that was asked to leave.
    pub fn wait_for_end(&mut self, patience: Duration) -> Result<()> {
        let began = Instant::now();
        while let Some(child) = &mut self.child {
            if child.try_wait()?.is_some() {
                self.child = None;
                break;
            }
            if began.elapsed() > patience {
                bail!("nats-server does not end; its log:\n{}", self.log());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Starts the server again after [`NatsServer::kill`], on the same port and with the same store.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let dir = self.dir.path();
        for old in ports_files(dir)? {
            fs::remove_file(old)?;
        }
        let port = if self.port == 0 { -1 } else { i32::from(self.port) };
        let shown = dir.display();
        let settings = self.settings.replace("DIR", &shown.to_string());
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{shown}\"\nlogfile: \"{shown}/log\"\n\
             jetstream {{ store_dir: \"{shown}/store\" }}\n{settings}\n"
        );
        let file = dir.join("server.conf");
        fs::write(&file, config)?;
        let program = program()?;
        let child = Command::new(&program)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        self.child = Some(child);
        self.wait()
    }

    /// The same with other settings than before.
    pub fn restart_with(&mut self, settings: &str) -> Result<()> {
        settings.clone_into(&mut self.settings);
        self.restart()
    }

    /// Waits until the server answers.
    fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(port) = ports_files(self.dir.path())?.first().and_then(|file| port_in(file)) {
                self.port = port;
                if answers(self.address(), &self.settings) {
                    return Ok(());
                }
            }
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || began.elapsed() > START_WAIT {
                bail!("nats-server does not answer ({ended:?}); its log:\n{}", self.log());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Err(why) = self.kill() {
            eprintln!("nats-server was left behind: {why:#}");
        }
    }
}

/// Where the program is.
pub fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("NATS_SERVER") {
        return Ok(named.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = [".busway/toolchain/bin", ".busway/bin"].map(|folder| root.join(folder));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let name = format!("nats-server{}", std::env::consts::EXE_SUFFIX);
    folders
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(&name))
        .find(|candidate| candidate.is_file())
        .context("no nats-server: `cargo xtask setup` installs one, or name a program in NATS_SERVER")
}

fn ports_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The port in `{"nats":["nats://127.0.0.1:12345"],…}`.
fn port_in(file: &Path) -> Option<u16> {
    let text = fs::read_to_string(file).ok()?;
    let (_, after) = text.split_once("127.0.0.1:")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Whether the server greets; one that encrypts at once greets nobody, so a connection has to do.
fn answers(address: SocketAddr, settings: &str) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    if settings.contains("handshake_first") {
        return true;
    }
    let mut line = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && BufReader::new(stream).read_line(&mut line).is_ok()
        && line.starts_with("INFO ")
}
