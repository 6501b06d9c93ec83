//! The broker's greeting, read without the client library: what it asks for, where a handshake ended without a reason.
//!
//! A broker that wants a client certificate closes the connection, and its alert is often lost on the way. The greeting
//! says plainly that it wants one. Only read after a failed try; brokers that encrypt first greet nobody here.

use super::{config::NatsConfig, refusal::ConnectError};
use async_nats::ServerAddr;
use serde::Deserialize;
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
};

/// What of the greeting is looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Greeting {
    #[serde(default)]
    tls_verify: bool,
}

/// How long a broker that is up may take to greet.
const GREETING_WAIT: Duration = Duration::from_secs(2);
/// No greeting is longer.
const GREETING_BYTES_MAX: u64 = 32 * 1024;

impl Greeting {
    /// The greeting of the first server that is up.
    pub(super) async fn of_any(servers: &[ServerAddr]) -> Option<Self> {
        for server in servers {
            if let Ok(Some(greeting)) = tokio::time::timeout(GREETING_WAIT, Self::of(server)).await {
                return Some(greeting);
            }
        }
        None
    }

    async fn of(server: &ServerAddr) -> Option<Self> {
        let stream = TcpStream::connect((server.host(), server.port())).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(GREETING_BYTES_MAX)).read_line(&mut line).await.ok()?;
        serde_json::from_str(line.strip_prefix("INFO ")?).ok()
    }

    /// # Errors
    /// The broker asks for a client certificate and none is configured.
    pub(super) fn check(&self, config: &NatsConfig) -> Result<(), ConnectError> {
        let has_client = config.tls.as_ref().is_some_and(|tls| tls.client.is_some());
        if self.tls_verify && !has_client { Err(ConnectError::NoClientCertificate) } else { Ok(()) }
    }
}
