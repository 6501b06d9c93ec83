//! Three nats-servers that are one broker: on loopback, each with a folder of its own, stopped with the test.
//!
//! What has several copies in it outlives any one of them, and the tests take them away one at a time. A cluster is
//! healthy when each server that runs says so of itself: it knows who leads, and what it keeps a copy of is up to date.

use crate::nats::NatsServer;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

/// How many servers there are.
pub const SERVERS: usize = 3;
/// How long they may take to become healthy, or one to leave.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long one answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// A running cluster, whose servers are called `s0`, `s1` and `s2`. Killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<NatsServer>,
    monitors: Vec<SocketAddr>,
}

impl Cluster {
    /// Starts it, and waits until it is healthy.
    pub fn start() -> Result<Self> {
        let mut ports = free_ports(2 * SERVERS)?;
        let monitors: Vec<_> = ports
            .split_off(SERVERS)
            .into_iter()
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect();
        let routes: Vec<_> = ports.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        let routes = routes.join(", ");
        let mut servers = Vec::with_capacity(SERVERS);
        for (number, (port, monitor)) in ports.iter().zip(&monitors).enumerate() {
            servers.push(NatsServer::start_with(&format!(
                "server_name: s{number}\nhttp: \"{monitor}\"\n\
                 lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"100ms\"\n\
                 cluster {{ name: three, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}"
            ))?);
        }
        let cluster = Self { servers, monitors };
        cluster.wait_until_healthy()?;
        Ok(cluster)
    }

    /// The addresses of all of them.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// The number of the server with this name.
    pub fn number(name: &str) -> Result<usize> {
        let number: usize =
            name.strip_prefix('s').and_then(|number| number.parse().ok()).context(name.to_owned())?;
        ensure!(number < SERVERS, "{name}");
        Ok(number)
    }

    /// Asks a server to leave, as an upgrade does: it hands over what it leads, sends its connections away one by one, and
    /// ends. Returns when it has.
    pub fn send_away(&mut self, number: usize) -> Result<()> {
        let server = self.server(number)?;
        let pid = server.pid().context("it does not run")?;
        let status = Command::new("kill").args(["-USR2", &pid.to_string()]).status()?;
        ensure!(status.success(), "kill -USR2 {pid}: {status}");
        server.wait_for_end(PATIENCE)
    }

    /// Ends a server at once, as a crash would.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.server(number)?.kill()
    }

    /// Starts a server again with what it has stored, and waits until the cluster is healthy.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.server(number)?.restart()?;
        self.wait_until_healthy()
    }

    /// Waits until each server that runs says that it is.
    pub fn wait_until_healthy(&self) -> Result<()> {
        let began = Instant::now();
        for (server, monitor) in self.servers.iter().zip(&self.monitors) {
            while server.pid().is_some() && !is_healthy(*monitor) {
                if began.elapsed() > PATIENCE {
                    bail!("the cluster does not become healthy; a log:\n{}", server.log());
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    fn server(&mut self, number: usize) -> Result<&mut NatsServer> {
        self.servers.get_mut(number).context("no such server")
    }
}

/// Ports that nobody listens on. They are all held until the last is known, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<_> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>()?;
    Ok(held.iter().map(|held| held.local_addr().map(|address| address.port())).collect::<Result<_, _>>()?)
}

/// Whether a server answers that JetStream is well there.
fn is_healthy(monitor: SocketAddr) -> bool {
    let look = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(monitor)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    look().is_ok_and(|answer| answer.lines().next().is_some_and(|status| status.contains(" 200 ")))
}
