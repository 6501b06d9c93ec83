//! The client library's options, from our configuration. Files are read here, so that a wrong one is told with its path.

use super::{
    config::{Auth, Handshake, NatsConfig},
    connect::Role,
    refusal::ConnectError,
};
use async_nats::{ConnectOptions, ServerAddr};
use std::{path::Path, time::Duration};

/// How often the broker is asked whether it is still there. The library gives up after two unanswered ones, so a broker
/// that hangs is noticed within 30 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Messages that wait for one subscription; what comes on top is dropped and counted. Pulls ask for less than this.
pub(super) const SUBSCRIPTION_CAPACITY: usize = 1024;
/// The same for plain subjects, where every loss is to be counted, and the library tells of no more than 128 at a time. It
/// reads up to 8 MiB (128 times its buffer of 64 KiB) before it lets anybody take a message, which is about 200,000 of the
/// smallest ones; with room for more than that, what is too much is shed and counted by the binding's own bounds. Room that
/// is not used takes no memory.
const CORE_SUBSCRIPTION_CAPACITY: usize = 262_144;
/// How long one try to connect may take, handshakes included.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

pub(super) fn servers(config: &NatsConfig) -> Result<Vec<ServerAddr>, ConnectError> {
    let servers: Result<Vec<_>, _> = config.servers.iter().map(|server| address(server)).collect();
    match servers {
        Ok(servers) if servers.is_empty() => {
            Err(ConnectError::BadServer { server: String::new(), why: "no server is named".into() })
        }
        other => other,
    }
}

fn address(server: &str) -> Result<ServerAddr, ConnectError> {
    let refuse = |shown: &str, why: String| ConnectError::BadServer { server: shown.to_owned(), why };
    let address: ServerAddr = server.parse().map_err(|why: std::io::Error| {
        refuse(if server.contains('@') { "(not shown)" } else { server }, why.to_string())
    })?;
    if address.has_user_pass() || address.password().is_some() {
        let why = "user and password don't belong into the address, where logs would show them".into();
        return Err(refuse(&format!("{}:{}", address.host(), address.port()), why));
    }
    if address.host().is_empty() {
        return Err(refuse(server, "no host is named".into()));
    }
    if address.is_websocket() {
        return Err(refuse(server, "web sockets are not supported: use nats:// or tls://".into()));
    }
    Ok(address)
}

pub(super) async fn build(role: Role, config: &NatsConfig) -> Result<ConnectOptions, ConnectError> {
    let capacity = match role {
        Role::Core => CORE_SUBSCRIPTION_CAPACITY,
        Role::Pulls | Role::Control | Role::Egress => SUBSCRIPTION_CAPACITY,
    };
    let mut options = ConnectOptions::new()
        .name(format!("{}-{}", config.name, role.name()))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(capacity)
        .connection_timeout(CONNECT_WAIT);
    if let Some(prefix) = &config.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    options = match &config.auth {
        Auth::Anonymous => options,
        Auth::UserPassword { user, password } => {
            options.user_and_password(user.clone(), password.reveal().to_owned())
        }
        Auth::Token(token) => options.token(token.reveal().to_owned()),
        Auth::CredsFile(path) => options
            .credentials(&read_secret(path)?)
            .map_err(|source| ConnectError::SecretFile { path: path.clone(), source })?,
        Auth::NkeySeedFile(path) => options.nkey(seed(path)?),
    };
    check_tls_files(config)?;
    let Some(tls) = &config.tls else { return Ok(options) };
    options = match tls.handshake {
        Handshake::AfterGreeting => options.require_tls(true),
        Handshake::First => options.tls_first(),
    };
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some(client) = &tls.client {
        options = options.add_client_certificate(client.cert.clone(), client.key.clone());
    }
    Ok(options)
}

/// The seed in a file of its own: its only line that is neither empty nor a decoration.
fn seed(path: &Path) -> Result<String, ConnectError> {
    let text = read_secret(path)?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(str::to_owned).ok_or_else(|| ConnectError::SecretFile {
        path: path.to_owned(),
        source: std::io::Error::other("no user seed in it (a line that begins with SU)"),
    })
}

pub(super) fn read_secret(path: &Path) -> Result<String, ConnectError> {
    std::fs::read_to_string(path).map_err(|source| ConnectError::SecretFile { path: path.to_owned(), source })
}

pub(super) fn check_tls_files(config: &NatsConfig) -> Result<(), ConnectError> {
    let Some(tls) = &config.tls else { return Ok(()) };
    let client = tls.client.iter().flat_map(|client| [&client.cert, &client.key]);
    for path in tls.ca.iter().chain(client) {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConnectError::TlsFile { path: path.clone(), source })?;
        if !text.contains("-----BEGIN ") {
            let source = std::io::Error::other("not a PEM file (no line that begins with -----BEGIN)");
            return Err(ConnectError::TlsFile { path: path.clone(), source });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_password_is_refused_and_not_shown() {
        for server in ["nats://u:hunter2@localhost", "nats://u:hunter2@local host"] {
            let error = servers(&NatsConfig::new(server)).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for server in ["http://localhost", "ws://localhost", "nats://", ""] {
            assert!(servers(&NatsConfig::new(server)).is_err(), "{server:?}");
        }
        for server in ["localhost", "nats://localhost:4222", "tls://[::1]:4222"] {
            assert!(servers(&NatsConfig::new(server)).is_ok(), "{server:?}");
        }
    }
}
