//! A private nats-server: for a host without a broker of its own.
//!
//! It listens on the loopback interface on a free port, with a password drawn for this run, so that no other user of the
//! machine can use it. Its data lives in one folder, and one host at a time may use that: the lock is held by whoever
//! still has the folder open, the server included, so that a new host waits until an old server has really ended.
//!
//! No orphan is left, whatever ends the host. A small shell stands between the two: it waits for the pipe from the host
//! to close, which the kernel does even for a host that was killed, and then stops the server.
//!
//! Durability: the server writes every message before it confirms it, and has the disk flushed every [`SYNC_INTERVAL`]. A
//! crash of host or server loses nothing; a power cut can lose what was confirmed within that time. Brokers for
//! production are run by their operators, with `sync_interval: always` or three replicas.

use super::config::{Auth, NatsConfig, Secret};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, ChildStdin, Command},
    time::Instant,
};
use tracing::{info, warn};

/// How often the disk is flushed.
pub const SYNC_INTERVAL: &str = "1s";
/// How long the server may take to answer.
const START_WAIT: Duration = Duration::from_secs(30);
/// How long a server of a host that ended may take to end too.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// How long the server may take to stop. The shell kills it after 10 s.
const STOP_WAIT: Duration = Duration::from_secs(12);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// The end of the server's log that is shown with an error.
const LOG_BYTES_SHOWN: usize = 2000;
/// The user that the server knows.
const USER: &str = "busway";

/// The shell's part. `$1` is the program, `$2` its configuration. The server runs beside a reader of the pipe: whichever
/// ends first ends the other. A server that does not stop within ten seconds is killed. The reader does not hold the
/// folder's lock, and is ended before its number of the server can mean another process.
const KEEPER: &str = r#"
exec 3<&0
"$1" -c "$2" </dev/null 2>>"$3" 3<&- &
server=$!
{
    read -r _ <&3
    kill -TERM "$server"
    left=10
    while [ "$left" -gt 0 ] && kill -0 "$server"; do sleep 1; left=$((left - 1)); done
    kill -KILL "$server"
} >/dev/null 2>&1 &
watch=$!
wait "$server"
status=$?
kill "$watch" 2>/dev/null
exit "$status"
"#;

/// A running private server. Stopped when it is dropped; [`Embedded::stop`] also waits for that.
#[derive(Debug)]
pub struct Embedded {
    keeper: Child,
    /// The server lives as long as this is open. Not left in `keeper`, which closes it while it is waited for.
    pipe: Option<ChildStdin>,
    address: String,
    password: Secret,
    log: PathBuf,
}

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The platform has no shell to keep the server with.
    #[error("a private nats-server needs a Unix system; set nats.url to a broker of your own")]
    Platform,
    /// The folder can't be used.
    #[error("the private nats-server's folder {} can't be used", path.display())]
    Folder {
        /// What can't be used.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another host uses the folder.
    #[error("another host runs its private nats-server in {}; stop it, or set nats.url to share a broker", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The program can't be started.
    #[error("nats-server {} can't be started", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server ended at once.
    #[error("nats-server {} ended at once ({status}); its last words:\n{log}", program.display())]
    Ended {
        /// The program.
        program: PathBuf,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The server does not answer.
    #[error("nats-server {} does not answer within {} s; its last words:\n{log}", program.display(), START_WAIT.as_secs())]
    Silent {
        /// The program.
        program: PathBuf,
        /// The end of its log.
        log: String,
    },
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(default)]
    jetstream: bool,
}

impl Embedded {
    /// Starts the server and waits until it answers. `dir` is made where it is missing.
    ///
    /// # Errors
    /// See [`EmbeddedError`]; a server that does not come up is told with the end of its own log. Cancel safe: dropping
    /// the future stops what was started.
    pub async fn start(program: &Path, dir: &Path) -> Result<Self, EmbeddedError> {
        if !cfg!(unix) {
            return Err(EmbeddedError::Platform);
        }
        let folder = |source| EmbeddedError::Folder { path: dir.to_owned(), source };
        private_folder(dir).map_err(folder)?;
        let dir = &fs::canonicalize(dir).map_err(folder)?;
        let lock = lock(dir).await?;
        remove_ports(dir).map_err(folder)?;
        let password = draw_password().map_err(folder)?;
        let config = write_config(dir, &password).map_err(folder)?;
        let log = dir.join("nats-server.log");
        let start = |source| EmbeddedError::Start { program: program.to_owned(), source };
        check_program(program).map_err(start)?;
        let mut keeper = keeper(program, &config, &log, lock).spawn().map_err(start)?;
        let pipe = keeper.stdin.take();
        let mut embedded = Self { keeper, pipe, address: String::new(), password, log };
        embedded.await_answer(program, dir).await?;
        info!(address = embedded.address, store = %dir.display(), "a private nats-server is up");
        Ok(embedded)
    }

    /// How to reach it.
    pub fn config(&self, name: &str) -> NatsConfig {
        NatsConfig {
            auth: Auth::UserPassword { user: USER.into(), password: self.password.clone() },
            name: name.into(),
            ..NatsConfig::new(self.address.clone())
        }
    }

    /// Its address, `nats://127.0.0.1:port`. It asks for the password in [`Embedded::config`].
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns when the server has ended by itself. Cancel safe.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.keeper.wait().await
    }

    /// Stops the server and waits until it has ended.
    pub async fn stop(mut self) {
        drop(self.pipe.take());
        match tokio::time::timeout(STOP_WAIT, self.keeper.wait()).await {
            Ok(Ok(_)) => info!("the private nats-server has stopped"),
            Ok(Err(why)) => warn!(%why, "the private nats-server can't be waited for"),
            Err(_) => warn!("the private nats-server does not stop; its shell will kill it"),
        }
    }

    async fn await_answer(&mut self, program: &Path, dir: &Path) -> Result<(), EmbeddedError> {
        let until = Instant::now() + START_WAIT;
        loop {
            if let Some(address) = read_ports(dir)
                && answers(&address).await
            {
                self.address = address;
                return Ok(());
            }
            let program = program.to_owned();
            if let Ok(Some(status)) = self.keeper.try_wait() {
                return Err(EmbeddedError::Ended { program, status, log: last_words(&self.log) });
            }
            if Instant::now() > until {
                return Err(EmbeddedError::Silent { program, log: last_words(&self.log) });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn keeper(program: &Path, config: &Path, log: &Path, lock: File) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", KEEPER, "nats-server-keeper"])
        .args([program, config, log])
        .stdin(Stdio::piped())
        // The lock goes along: it is held until the last of shell and server has ended.
        .stdout(Stdio::from(lock))
        .stderr(Stdio::null());
    // An interrupt from the terminal is for the host, which still needs its broker while it drains.
    #[cfg(unix)]
    command.process_group(0);
    command
}

fn private_folder(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    #[cfg(unix)]
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Takes the folder's lock; waits for the server of a host that has just ended.
async fn lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join("lock");
    let folder = |source| EmbeddedError::Folder { path: path.clone(), source };
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(folder)?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => tokio::time::sleep(LOOK).await,
            Err(fs::TryLockError::WouldBlock) => return Err(EmbeddedError::InUse { path: dir.to_owned() }),
            Err(fs::TryLockError::Error(why)) => return Err(folder(why)),
        }
    }
}

/// The shell would only say 127.
fn check_program(program: &Path) -> io::Result<()> {
    let found = fs::metadata(program)?;
    if found.is_file() { Ok(()) } else { Err(io::Error::other("not a file")) }
}

fn draw_password() -> io::Result<Secret> {
    let mut bytes = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::new(HEXLOWER.encode(&bytes)))
}

fn write_config(dir: &Path, password: &Secret) -> io::Result<PathBuf> {
    let path = dir.join("nats-server.conf");
    match fs::remove_file(&path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let shown = dir.display().to_string();
    if shown.contains(['"', '\\', '\n']) {
        return Err(io::Error::other("nats-server can't take a path with quotes or backslashes"));
    }
    let password = password.reveal();
    write!(
        options.open(&path)?,
        "# Written by busway at every start; changes are lost.\n\
         listen: \"127.0.0.1:-1\"\n\
         ports_file_dir: \"{shown}\"\n\
         log_file: \"{shown}/nats-server.log\"\n\
         log_size_limit: 10MB\n\
         server_name: \"busway-embedded\"\n\
         authorization {{ user: \"{USER}\", password: \"{password}\" }}\n\
         jetstream {{ store_dir: \"{shown}\", sync_interval: \"{SYNC_INTERVAL}\" }}\n"
    )?;
    Ok(path)
}

fn ports_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Takes away what a killed server left.
fn remove_ports(dir: &Path) -> io::Result<()> {
    ports_files(dir)?.into_iter().try_for_each(fs::remove_file)
}

fn read_ports(dir: &Path) -> Option<String> {
    let file = ports_files(dir).ok()?.into_iter().next()?;
    let ports: Ports = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    ports.nats.into_iter().next()
}

/// Whether the server greets, and has JetStream.
async fn answers(address: &str) -> bool {
    let greeting = async {
        let stream = TcpStream::connect(address.strip_prefix("nats://")?).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(32 * 1024)).read_line(&mut line).await.ok()?;
        serde_json::from_str::<Greeting>(line.strip_prefix("INFO ")?).ok()
    };
    let greeting = tokio::time::timeout(Duration::from_secs(2), greeting).await;
    greeting.ok().flatten().is_some_and(|greeting| greeting.jetstream)
}

fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let end = text.get(text.len().saturating_sub(LOG_BYTES_SHOWN)..).unwrap_or_default();
    String::from_utf8_lossy(end).trim().to_owned()
}
