//! Why a broker that was reached is of no use, told apart from one that was not reached. The only place that looks into
//! the client library's connection errors.

use async_nats::{
    ConnectErrorKind, ServerError,
    rustls::{self, CertificateError},
};
use std::{error::Error, io, path::PathBuf};
use tokio::sync::watch;
use tracing::warn;

/// A connection that will not come about until somebody mends something.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An address that is none.
    #[error("server {server:?}: {why}")]
    BadServer {
        /// The address.
        server: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file with credentials that can't be used.
    #[error("credentials in {} can't be used", path.display())]
    SecretFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A file with a certificate or key that can't be used.
    #[error("certificate or key in {} can't be used", path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The broker does not know the credentials.
    #[error("the broker refuses the credentials: {why}; see user and password, token, creds or nkey")]
    Unauthorized {
        /// What the broker said.
        why: String,
    },
    /// The broker's certificate is not trusted, is not for its name, or has expired.
    #[error("the broker's certificate is not accepted: {why}; see ca and the broker's address")]
    BrokerCertificate {
        /// What is wrong with it.
        why: String,
    },
    /// The broker asks for a client certificate and there is none.
    #[error("the broker asks for a client certificate; set cert and key")]
    NoClientCertificate,
    /// The broker does not accept the client certificate.
    #[error("the broker refuses the client certificate: {why}; see cert and key")]
    ClientCertificate {
        /// What the broker said.
        why: String,
    },
    /// Encryption can't be agreed on.
    #[error("no encrypted connection: {why}; see tls_first, ca, cert and key")]
    Tls {
        /// What went wrong.
        why: String,
    },
    /// The broker is up and breaks off every handshake without a reason.
    #[error("the broker breaks off every handshake, most likely because of the client certificate: {why}")]
    BrokenOff {
        /// How the last one ended.
        why: String,
    },
    /// The broker is too old.
    #[error("nats-server {version} is too old: at least {OLDEST_MAJOR}.{OLDEST_MINOR} is needed")]
    TooOld {
        /// What it says it is.
        version: String,
    },
}

const OLDEST_MAJOR: u64 = 2;
/// Below this, consumers with several filters and reasons of terminations are missing.
const OLDEST_MINOR: u64 = 10;
/// Below this, message schedules and batches are missing, and authorization has known holes.
const WANTED_MINOR: u64 = 12;

/// The reason, where a second try would end the same way.
pub(super) fn classify(failure: &async_nats::ConnectError) -> Option<ConnectError> {
    if let Some(tls) = find::<rustls::Error>(failure) {
        return Some(tls_refusal(tls));
    }
    if let Some(server) = find::<ServerError>(failure)
        && is_about_credentials(&server.to_string())
    {
        return Some(ConnectError::Unauthorized { why: server.to_string() });
    }
    match failure.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Some(ConnectError::Unauthorized { why: chain(failure) })
        }
        ConnectErrorKind::Tls => Some(ConnectError::Tls { why: chain(failure) }),
        ConnectErrorKind::ServerParse => {
            Some(ConnectError::BadServer { server: String::new(), why: chain(failure) })
        }
        ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => None,
    }
}

/// Returns what is wrong when the broker says that publishing to this subject is not permitted. Never, if it never does.
/// Cancel safe.
pub(super) async fn not_permitted(mut errors: watch::Receiver<String>, subject: &str) -> String {
    let said = format!("Permissions Violation for Publish to \"{subject}\"");
    loop {
        // What was said before this subject was tried is of no account: it may be permitted by now.
        if errors.changed().await.is_err() {
            // The connection is given up, and with it whoever waits for an answer.
            std::future::pending::<()>().await;
        }
        if errors.borrow_and_update().contains(&said) {
            break;
        }
    }
    format!("the broker's permissions forbid publishing to {subject}")
}

fn is_about_credentials(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["authorization violation", "authentication expired", "authentication revoked"]
        .iter()
        .any(|known| text.contains(known))
}

fn tls_refusal(error: &rustls::Error) -> ConnectError {
    use rustls::AlertDescription as Alert;
    let why = error.to_string();
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            ConnectError::BrokerCertificate {
                why: "it was not signed by an authority that is trusted here".into(),
            }
        }
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            ConnectError::BrokerCertificate { why }
        }
        rustls::Error::AlertReceived(Alert::CertificateRequired) => ConnectError::NoClientCertificate,
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => ConnectError::ClientCertificate { why },
        _ => ConnectError::Tls { why },
    }
}

/// The cause of a kind in a chain of errors. An [`io::Error`] does not name the error it wraps as its source, so that is
/// looked into as well.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// An error and its causes in one line, each said once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// # Errors
/// [`ConnectError::TooOld`]. A version that can't be read is let through with a warning.
pub(super) fn check_version(version: &str) -> Result<(), ConnectError> {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        warn!(%version, "the broker's version can't be read");
        return Ok(());
    };
    if (major, minor) < (OLDEST_MAJOR, OLDEST_MINOR) {
        return Err(ConnectError::TooOld { version: version.to_owned() });
    }
    if (major, minor) < (OLDEST_MAJOR, WANTED_MINOR) {
        warn!(%version, "this nats-server is old: 2.12 or later is wanted, and has fixes for lost messages");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_broker_is_refused() {
        for version in ["2.9.10", "1.4.1", "v2.9.0"] {
            assert!(matches!(check_version(version), Err(ConnectError::TooOld { .. })), "{version}");
        }
        for version in ["2.10.0", "2.12.9-RC.1", "2.15.1", "3.0.0", "dev"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
    }
}
