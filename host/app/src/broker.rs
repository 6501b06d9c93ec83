//! How the broker of a configuration is reached: the one that it names, or the private one of this folder.

use crate::config::{Config, SecretSource};
use crate::toolchain::{Places, nats_server};
use anyhow::Context as _;
use busway_transport::{Auth, ClientCertificate, Embedded, Handshake, NatsConfig, Secret, Tls};
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The private server's folder below the state folder.
const PRIVATE_FOLDER: &str = "broker";
/// Beside it, while the server runs: how commands of the same user reach it.
const ACCESS_FILE: &str = "broker.json";

/// The broker of a running host.
pub struct Broker {
    settings: NatsConfig,
    private: Option<Private>,
}

/// A server that belongs to this host.
struct Private {
    server: Embedded,
    access: PathBuf,
}

/// How a private server is reached.
#[derive(Serialize, Deserialize)]
struct Access {
    url: String,
    user: String,
    password: String,
}

impl Broker {
    /// The named broker, which is not reached yet, or a private one, which is up when this returns.
    ///
    /// # Errors
    /// A secret that can't be read; no nats-server program, or one that does not come up.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        if let Some(settings) = named(config, "busway")? {
            return Ok(Self { settings, private: None });
        }
        let program = nats_server::find(&Places::resolve(None)?)?;
        let server = Embedded::start(&program.path, &config.host.state.join(PRIVATE_FOLDER)).await?;
        let settings = server.config("busway");
        let access = config.host.state.join(ACCESS_FILE);
        write_access(&access, &settings).with_context(|| format!("{} can't be written", access.display()))?;
        Ok(Self { settings, private: Some(Private { server, access }) })
    }

    /// How it is reached.
    pub fn settings(&self) -> &NatsConfig {
        &self.settings
    }

    /// Returns when the private server has ended by itself; never for a broker that belongs to somebody else. Cancel safe.
    pub async fn gone(&mut self) -> anyhow::Error {
        match &mut self.private {
            None => std::future::pending().await,
            Some(private) => match private.server.ended().await {
                Ok(status) => anyhow::anyhow!(
                    "the private nats-server ended by itself ({status}); its log is in its folder"
                ),
                Err(why) => anyhow::Error::new(why).context("the private nats-server can't be waited for"),
            },
        }
    }

    /// Stops a private server and waits for it.
    pub async fn stop(self) {
        if let Some(Private { server, access }) = self.private {
            // Left behind it only leads to a server that does not answer.
            drop(fs::remove_file(access));
            server.stop().await;
        }
    }
}

/// The settings for the private broker of a host that runs with this configuration.
///
/// # Errors
/// No such host.
pub fn private_one(config: &Config) -> anyhow::Result<NatsConfig> {
    let path = config.host.state.join(ACCESS_FILE);
    let missing = || {
        format!(
            "no host with a private broker runs here ({} is missing): start one with `busway up`, or set nats.url",
            path.display()
        )
    };
    let access: Access = serde_json::from_slice(&fs::read(&path).with_context(missing)?)
        .with_context(|| format!("{} can't be read", path.display()))?;
    let auth = Auth::UserPassword { user: access.user, password: Secret::new(access.password) };
    Ok(NatsConfig { auth, name: "busway command".to_owned(), ..NatsConfig::new(access.url) })
}

fn write_access(path: &Path, settings: &NatsConfig) -> io::Result<()> {
    let (Auth::UserPassword { user, password }, Some(url)) = (&settings.auth, settings.servers.first())
    else {
        return Err(io::Error::other("the private nats-server has no password"));
    };
    let access = Access { url: url.clone(), user: user.clone(), password: password.reveal().to_owned() };
    // Made anew, so that it has its mode from the beginning.
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec_pretty(&access)?)
}

/// The settings for the broker that the configuration names; none where it names none.
///
/// # Errors
/// A secret that can't be read.
pub fn named(config: &Config, client_name: &str) -> anyhow::Result<Option<NatsConfig>> {
    let nats = &config.nats;
    if nats.urls.is_empty() {
        return Ok(None);
    }
    let auth = match (&nats.user, &nats.password) {
        (Some(user), Some(password)) => {
            Auth::UserPassword { user: user.clone(), password: secret(config, "nats.password", password)? }
        }
        _ => match (&nats.token, &nats.creds, &nats.nkey) {
            (Some(token), _, _) => Auth::Token(secret(config, "nats.token", token)?),
            (None, Some(creds), _) => Auth::CredsFile(config.resolve(creds)),
            (None, None, Some(nkey)) => Auth::NkeySeedFile(config.resolve(nkey)),
            (None, None, None) => Auth::Anonymous,
        },
    };
    Ok(Some(NatsConfig {
        servers: nats.urls.clone(),
        auth,
        tls: tls(config),
        name: client_name.to_owned(),
        inbox_prefix: None,
    }))
}

fn tls(config: &Config) -> Option<Tls> {
    let nats = &config.nats;
    if nats.ca.is_none() && nats.cert.is_none() && !nats.tls_first {
        return None;
    }
    let resolved = |path: &Option<PathBuf>| path.as_ref().map(|path| config.resolve(path));
    let client = match (resolved(&nats.cert), resolved(&nats.key)) {
        (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
        _ => None,
    };
    let handshake = if nats.tls_first { Handshake::First } else { Handshake::AfterGreeting };
    Some(Tls { ca: resolved(&nats.ca), client, handshake })
}

fn secret(config: &Config, key: &str, source: &SecretSource) -> anyhow::Result<Secret> {
    let text = match source {
        SecretSource::File(file) => {
            let file = config.resolve(file);
            fs::read_to_string(&file).with_context(|| format!("{key}: {} can't be read", file.display()))?
        }
        SecretSource::Environment(name) => {
            env::var(name).with_context(|| format!("{key}: the environment variable {name} can't be read"))?
        }
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    anyhow::ensure!(!text.is_empty(), "{key}: the secret is empty");
    Ok(Secret::new(text))
}
