//! Credentials and certificates, each right and wrong, and a broker that is not there yet.

use crate::support::within;
use anyhow::{Context as _, Result, ensure};
use busway_testkit::nats::NatsServer;
use busway_transport::{
    Auth, ClientCertificate, ConnectError, Handshake, Nats, NatsConfig, OwnStreams, Secret, Tls,
};
use nkeys::KeyPair as Nkey;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

fn config(server: &NatsServer, auth: Auth) -> NatsConfig {
    NatsConfig { auth, ..NatsConfig::new(server.url()) }
}

async fn connects(config: &NatsConfig) -> Result<()> {
    let nats = within(Nats::connect(config)).await??;
    ensure!(nats.is_connected() && nats.server_version().starts_with("2."));
    nats.close().await;
    Ok(())
}

async fn refusal(config: &NatsConfig) -> Result<ConnectError> {
    within(Nats::connect(config)).await?.err().context("it connected")
}

#[tokio::test]
async fn user_and_password() -> Result<()> {
    let server = NatsServer::start_with("authorization { user: u, password: right }")?;
    let auth = |user: &str, password: &str| Auth::UserPassword {
        user: user.into(),
        password: Secret::new(password),
    };
    connects(&config(&server, auth("u", "right"))).await?;
    for wrong in [auth("u", "wrong"), auth("x", "right"), Auth::Anonymous, Auth::Token(Secret::new("right"))]
    {
        let refusal = refusal(&config(&server, wrong)).await?;
        assert!(matches!(refusal, ConnectError::Unauthorized { .. }), "{refusal}");
        assert!(!refusal.to_string().contains("right"), "{refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn token() -> Result<()> {
    let server = NatsServer::start_with("authorization { token: right }")?;
    connects(&config(&server, Auth::Token(Secret::new("right")))).await?;
    let refusal = refusal(&config(&server, Auth::Token(Secret::new("wrong")))).await?;
    assert!(matches!(refusal, ConnectError::Unauthorized { .. }), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn nkey() -> Result<()> {
    let (right, wrong) = (Nkey::new_user(), Nkey::new_user());
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", right.public_key());
    let server = NatsServer::start_with(&users)?;
    let file = |name: &str, text: String| -> Result<Auth> {
        let path = server.dir().join(name);
        fs::write(&path, text)?;
        Ok(Auth::NkeySeedFile(path))
    };
    connects(&config(&server, file("right", format!("# a comment\n{}\n", right.seed()?))?)).await?;
    let refused = refusal(&config(&server, file("wrong", wrong.seed()?)?)).await?;
    assert!(matches!(refused, ConnectError::Unauthorized { .. }), "{refused}");
    let empty = refusal(&config(&server, file("empty", String::new())?)).await?;
    assert!(matches!(&empty, ConnectError::SecretFile { path, .. } if path.ends_with("empty")), "{empty}");
    let missing = refusal(&config(&server, Auth::NkeySeedFile("/no/such/seed".into()))).await?;
    assert!(matches!(missing, ConnectError::SecretFile { .. }), "{missing}");
    Ok(())
}

/// A JWT of NATS' own kind.
fn jwt(issuer: &Nkey, subject: &Nkey, nats: &Value) -> Result<String> {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "name": "test", "nats": nats,
        "iss": issuer.public_key(), "sub": subject.public_key(),
    });
    let text = format!("{}.{}", encode(head.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = encode(&issuer.sign(text.as_bytes())?);
    Ok(format!("{text}.{signature}"))
}

#[tokio::test]
async fn creds() -> Result<()> {
    let (operator, system, account) = (Nkey::new_operator(), Nkey::new_account(), Nkey::new_account());
    let (user, stranger) = (Nkey::new_user(), Nkey::new_account());
    // The account that the broker keeps to itself may have no JetStream.
    let claims = |streams: i32| {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": streams, "disk_storage": streams, "streams": streams, "consumer": streams,
        });
        json!({ "limits": limits, "type": "account", "version": 2 })
    };
    let operator_jwt = jwt(&operator, &operator, &json!({ "type": "operator", "version": 2 }))?;
    let preload = |key: &Nkey, streams: i32| -> Result<String> {
        Ok(format!("{}: {}", key.public_key(), jwt(&operator, key, &claims(streams))?))
    };
    let (system_line, account_line) = (preload(&system, 0)?, preload(&account, -1)?);
    let server = NatsServer::start_with(&format!(
        "operator: {operator_jwt}\nsystem_account: {}\nresolver: MEMORY\n\
         resolver_preload {{\n{system_line}\n{account_line}\n}}",
        system.public_key()
    ))?;
    let file = |name: &str, issuer: &Nkey| -> Result<Auth> {
        let claims = json!({ "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
        let (jwt, seed) = (jwt(issuer, &user, &claims)?, user.seed()?);
        let path = server.dir().join(name);
        fs::write(
            &path,
            format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            ),
        )?;
        Ok(Auth::CredsFile(path))
    };
    connects(&config(&server, file("right.creds", &account)?)).await?;
    let refused = refusal(&config(&server, file("wrong.creds", &stranger)?)).await?;
    assert!(matches!(refused, ConnectError::Unauthorized { .. }), "{refused}");
    fs::write(server.dir().join("none.creds"), "nothing")?;
    let none = refusal(&config(&server, Auth::CredsFile(server.dir().join("none.creds")))).await?;
    assert!(matches!(none, ConnectError::SecretFile { .. }), "{none}");
    Ok(())
}

/// A certificate authority with a folder for what it signs.
struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir(&dir)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        fs::write(dir.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { dir, issuer: Issuer::new(params, key) })
    }

    /// Writes `<name>.pem` and `<name>.key`, for these host names or addresses, valid until the end of `last_year`.
    fn sign(&self, name: &str, hosts: &[&str], last_year: i32) -> Result<ClientCertificate> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(last_year, 12, 31);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let (cert_file, key_file) =
            (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        fs::write(&cert_file, params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(&key_file, key.serialize_pem())?;
        Ok(ClientCertificate { cert: cert_file, key: key_file })
    }

    fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }
}

/// A server whose certificate the authority signed for these hosts. `more` stands inside its `tls` block.
fn tls_server(
    dir: TempDir,
    authority: &Authority,
    certificate: &ClientCertificate,
    more: &str,
) -> Result<NatsServer> {
    let settings = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", {more} }}",
        certificate.cert.display(),
        certificate.key.display(),
        authority.ca().display()
    );
    NatsServer::start_in(dir, &settings)
}

fn tls(server: &NatsServer, ca: PathBuf, client: Option<ClientCertificate>) -> NatsConfig {
    let tls = Tls { ca: Some(ca), client, handshake: Handshake::AfterGreeting };
    NatsConfig { tls: Some(tls), ..NatsConfig::new(server.url()) }
}

#[tokio::test]
async fn certificates_on_both_sides() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (Authority::new(dir.path(), "ours")?, Authority::new(dir.path(), "theirs")?);
    let certificate = ours.sign("server", &["127.0.0.1", "localhost"], 2099)?;
    let (right, wrong) = (ours.sign("right", &["host"], 2099)?, theirs.sign("wrong", &["host"], 2099)?);
    let server = tls_server(dir, &ours, &certificate, "verify: true")?;
    connects(&tls(&server, ours.ca(), Some(right.clone()))).await?;
    let untrusted = refusal(&tls(&server, theirs.ca(), Some(right))).await?;
    assert!(
        matches!(&untrusted, ConnectError::BrokerCertificate { why } if why.contains("authority")),
        "{untrusted}"
    );
    let missing = refusal(&tls(&server, ours.ca(), None)).await?;
    assert!(matches!(missing, ConnectError::NoClientCertificate), "{missing}");
    let strange = refusal(&tls(&server, ours.ca(), Some(wrong))).await?;
    assert!(
        matches!(strange, ConnectError::ClientCertificate { .. } | ConnectError::BrokenOff { .. }),
        "{strange}"
    );
    Ok(())
}

#[tokio::test]
async fn a_brokers_certificate_for_another_name_or_of_another_time_is_refused() -> Result<()> {
    for (hosts, last_year, expected) in
        [(["elsewhere.example"], 2099, "not valid for name"), (["127.0.0.1"], 2021, "expired")]
    {
        let dir = tempfile::tempdir()?;
        let ours = Authority::new(dir.path(), "ours")?;
        let certificate = ours.sign("server", &hosts, last_year)?;
        let server = tls_server(dir, &ours, &certificate, "")?;
        let refused = refusal(&tls(&server, ours.ca(), None)).await?;
        assert!(matches!(refused, ConnectError::BrokerCertificate { .. }), "{refused}");
        assert!(refused.to_string().contains(expected), "{refused} does not contain {expected}");
    }
    Ok(())
}

#[tokio::test]
async fn encryption_before_the_greeting() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ours = Authority::new(dir.path(), "ours")?;
    let certificate = ours.sign("server", &["127.0.0.1"], 2099)?;
    let server = tls_server(dir, &ours, &certificate, "handshake_first: true")?;
    let mut config = tls(&server, ours.ca(), None);
    if let Some(tls) = &mut config.tls {
        tls.handshake = Handshake::First;
    }
    connects(&config).await
}

#[tokio::test]
async fn encryption_that_the_broker_does_not_offer() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ours = Authority::new(dir.path(), "ours")?;
    let server = NatsServer::start()?;
    let refused = refusal(&tls(&server, ours.ca(), None)).await?;
    assert!(matches!(refused, ConnectError::Tls { .. }), "{refused}");
    let missing = refusal(&tls(&server, "/no/such/ca.pem".into(), None)).await?;
    assert!(matches!(&missing, ConnectError::TlsFile { path, .. } if path.ends_with("ca.pem")), "{missing}");
    fs::write(dir.path().join("ours/empty.pem"), "")?;
    let empty = refusal(&tls(&server, dir.path().join("ours/empty.pem"), None)).await?;
    assert!(matches!(empty, ConnectError::TlsFile { .. }), "{empty}");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_waited_for() -> Result<()> {
    let mut server = NatsServer::start()?;
    let config = NatsConfig::new(server.url());
    server.kill()?;
    let connecting = tokio::spawn(async move { Nats::connect(&config).await });
    // Refused at least once by then: nothing listens, and connecting to a closed port takes no time.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!connecting.is_finished());
    server.restart()?;
    assert!(within(connecting).await???.is_connected());
    Ok(())
}

fn signal(name: &str, server: &NatsServer) -> Result<()> {
    let pid = server.pid().context("a server")?.to_string();
    ensure!(Command::new("kill").args([format!("-{name}"), pid]).status()?.success());
    Ok(())
}

#[tokio::test]
async fn a_broker_that_stands_still_while_streams_are_made_is_waited_for() -> Result<()> {
    let server = NatsServer::start()?;
    let nats = Nats::connect(&NatsConfig::new(server.url())).await?;
    signal("STOP", &server)?;
    let mut ensuring = std::pin::pin!(nats.ensure_own_streams(OwnStreams::default()));
    // Longer than one request waits for its answer.
    let early = tokio::time::timeout(Duration::from_secs(7), &mut ensuring).await;
    signal("CONT", &server)?;
    ensure!(early.is_err(), "{early:?}");
    within(ensuring).await??;
    Ok(())
}

#[tokio::test]
async fn a_user_who_may_not_make_streams_is_told_and_not_waited_for() -> Result<()> {
    let server = NatsServer::start_with(
        "authorization { users: [ { user: u, password: p, permissions: { publish: { deny: \"$JS.API.>\" } } } ] }",
    )?;
    let auth = Auth::UserPassword { user: "u".into(), password: Secret::new("p") };
    let nats = Nats::connect(&config(&server, auth)).await?;
    let refused = within(nats.ensure_own_streams(OwnStreams::default())).await?;
    assert!(refused.is_err());
    Ok(())
}
