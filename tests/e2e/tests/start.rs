//! Brokers that are not there, that refuse, that somebody else uses: what the host says, and what it leaves alone.

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream;
use busway_e2e_tests::{Folder, broker, bus::Bus, config};
use busway_sandbox_tests::echo;
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::{fs, path::Path, time::Duration};
use tokio::time::timeout;

/// Well below any time after which a host would have tried again and again.
const AT_ONCE: Duration = Duration::from_secs(10);

fn folder(head: &str) -> Result<Folder> {
    let folder = Folder::new(&config(head, ""))?;
    folder.guest("p", &echo("out.echo"))?;
    Ok(folder)
}

/// Starts a host that must end at once with exit code 1; gives what it said.
async fn refused(folder: &Folder) -> Result<String> {
    let output = timeout(AT_ONCE, folder.busway(&["up"])).await.context("it goes on trying")??;
    let told = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{}: {told}", output.status);
    Ok(told)
}

#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_waited_for_and_told() -> Result<()> {
    let mut server = NatsServer::start()?;
    server.kill()?;
    let folder = folder(&broker(&server.url()))?;
    let mut host = folder.up()?;
    let told = host.logged("the broker can't be reached; trying again").await?;
    assert!(told.contains(&server.url()), "{told}");
    assert_eq!((host.get("/livez").await?.0, host.get("/readyz").await?.0), (200, 503));
    server.restart()?;
    host.ready().await?;
    let bus = Bus::connect(&server).await?;
    bus.publish("in.a", [Bytes::from_static(b"late")]).await?;
    bus.wait_for("OUT", 1).await?;
    host.stop().await
}

#[tokio::test]
async fn a_host_that_waits_for_its_broker_can_be_stopped() -> Result<()> {
    let mut server = NatsServer::start()?;
    server.kill()?;
    let folder = folder(&broker(&server.url()))?;
    for signal in ["TERM", "INT"] {
        let mut host = folder.up()?;
        host.logged("trying again").await?;
        host.signal(signal).await?;
        assert_eq!(host.ended().await?.code(), Some(0), "{}", host.log());
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once_and_a_right_one_works() -> Result<()> {
    let server = NatsServer::start_with("authorization { user: ada, password: right }")?;
    let head = format!("{}\nuser = \"ada\"\npassword = {{ file = \"password\" }}", broker(&server.url()));
    let folder = folder(&head)?;
    folder.write("password", "wrong\n")?;
    let told = refused(&folder).await?;
    assert!(told.contains("the broker refuses the credentials") && !told.contains("wrong"), "{told}");
    folder.write("password", "right\n")?;
    folder.up_and_ready().await?.stop().await
}

#[tokio::test]
async fn a_broker_whose_certificate_is_not_trusted_is_told_at_once_and_one_that_is_works() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ours = authority(dir.path(), "ours.pem")?;
    authority(dir.path(), "theirs.pem")?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &ours)?;
    fs::write(dir.path().join("server.pem"), certificate.pem())?;
    fs::write(dir.path().join("server.key"), key.serialize_pem())?;
    let trusted = fs::read(dir.path().join("ours.pem"))?;
    let untrusted = fs::read(dir.path().join("theirs.pem"))?;
    let server =
        NatsServer::start_in(dir, "tls { cert_file: \"DIR/server.pem\", key_file: \"DIR/server.key\" }")?;
    let folder = folder(&format!("{}\nca = \"ca.pem\"", broker(&server.url())))?;
    folder.write("ca.pem", untrusted)?;
    let told = refused(&folder).await?;
    assert!(told.contains("not signed by an authority that is trusted here; see ca"), "{told}");
    folder.write("ca.pem", trusted)?;
    folder.up_and_ready().await?.stop().await
}

/// A certificate authority whose own certificate is in this file.
fn authority(dir: &Path, file: &str) -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, file);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(dir.join(file), params.self_signed(&key)?.pem())?;
    Ok(Issuer::new(params, key))
}

#[tokio::test]
async fn a_second_host_that_can_not_start_leaves_the_first_and_its_broker_as_they_are() -> Result<()> {
    let server = NatsServer::start()?;
    let folder = folder(&broker(&server.url()))?;
    let bus = Bus::connect(&server).await?;
    let mut host = folder.up_and_ready().await?;
    let before = (bus.streams().await?, bus.consumer("IN", "busway-p").await?);
    let good = fs::read_to_string(folder.path("busway.toml"))?;
    let address = host.address().await?;
    let broken = [
        (good.replace("in.>", "other.>").replace("p.wasm", "none.wasm"), 2, "none.wasm: can't be read"),
        (good.replace("attempts = 3", "attempts = 0"), 2, "must be between 1 and 100"),
        (good.clone(), 1, "another host runs with this state folder"),
        (good.replace("127.0.0.1:0", &address) + "\n[host]\nstate = \"other\"\n", 1, "can't be bound"),
    ];
    for (text, code, cause) in broken {
        folder.write("broken.toml", text)?;
        let output = folder.busway(&["up", "-c", "broken.toml"]).await?;
        let told = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(cause), "{told}");
    }
    assert_eq!((bus.streams().await?, bus.consumer("IN", "busway-p").await?), before);
    assert_eq!(host.get("/readyz").await?.0, 200);
    bus.publish("in.a", [Bytes::from_static(b"still there")]).await?;
    bus.wait_for("OUT", 1).await?;
    host.stop().await
}

#[tokio::test]
async fn a_stream_that_is_not_as_it_is_wanted_is_told_and_left_as_it_is() -> Result<()> {
    let server = NatsServer::start()?;
    let bus = Bus::connect(&server).await?;
    let subjects = vec!["in.>".to_owned()];
    bus.stream(stream::Config { name: "IN".into(), subjects, max_messages: 7, ..Default::default() }).await?;
    let told = refused(&folder(&broker(&server.url()))?).await?;
    assert!(told.contains("max_messages"), "{told}");
    assert_eq!(bus.config_of("IN").await?.max_messages, 7);
    Ok(())
}
