//! What is needed to reach a broker, and nothing else: plain data that the app fills in from checked configuration.
//!
//! Secrets are wrapped so that no `{:?}` can show them. What is wrong with the files named here is found when a
//! connection is made: see [`super::connect`].

use std::{fmt, path::PathBuf};

/// How to reach a broker.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// `nats://host:port` or `tls://host:port`, several for a cluster. Without user and password: they would stand in
    /// logs.
    pub servers: Vec<String>,
    /// Who this host is.
    pub auth: Auth,
    /// Encryption; none where the broker does not ask for it.
    pub tls: Option<Tls>,
    /// The name in the broker's list of connections; what the connection is for is appended.
    pub name: String,
    /// Where answers are sent to, for brokers that permit each client only an inbox of its own. Default `_INBOX`.
    pub inbox_prefix: Option<String>,
}

/// Who this host is to the broker.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Nobody.
    Anonymous,
    /// A user and a password.
    UserPassword {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Token(Secret),
    /// A file with a user's JWT and seed, as `nsc` writes it. Read again at every connection.
    CredsFile(PathBuf),
    /// A file with the seed of a user nkey. Read again at every connection.
    NkeySeedFile(PathBuf),
}

/// Encryption.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The PEM file of the authority that signed the broker's certificate; the system's authorities where there is none.
    pub ca: Option<PathBuf>,
    /// This host's certificate, for a broker that asks for one.
    pub client: Option<ClientCertificate>,
    /// When encryption begins.
    pub handshake: Handshake,
}

/// This host's certificate.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The PEM file of the certificate, intermediates after it.
    pub cert: PathBuf,
    /// The PEM file of its private key.
    pub key: PathBuf,
}

/// When encryption begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handshake {
    /// After the broker's greeting, as it does by itself.
    #[default]
    AfterGreeting,
    /// At once: for a broker with `handshake_first`.
    First,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for a place that has to have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl NatsConfig {
    /// A broker that asks for nothing.
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            servers: vec![server.into()],
            auth: Auth::Anonymous,
            tls: None,
            name: "busway".into(),
            inbox_prefix: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let mut config = NatsConfig::new("nats://localhost");
        config.auth = Auth::UserPassword { user: "u".into(), password: Secret::new("hunter2") };
        assert!(!format!("{config:?}").contains("hunter2"));
        config.auth = Auth::Token(Secret::new("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
