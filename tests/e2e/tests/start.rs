//! Starting: with a broker that is not there, that refuses, that is the host's own; and with mistakes.

use anyhow::{Context as _, Result, ensure};
use async_nats::ConnectOptions;
use busway_e2e_tests::{Folder, bus::Bus, eventually};
use busway_sandbox_tests::{component, echo, wrap_with_package};
use busway_testkit::nats::NatsServer;
use std::{fs, process::Command};

const PLUGIN: &str = r#"[[stream]]
name = "IN"
subjects = ["in.>"]
[[stream]]
name = "OUT"
subjects = ["out.>"]
[[plugin]]
name = "p"
source = "p.wasm"
subscribe = [{ stream = "IN", subjects = ["in.>"] }]
grants = { publish = ["out.>"] }
"#;
const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

fn named(url: &str, more: &str) -> String {
    format!("[nats]\nurl = \"{url}\"\n{more}\n{ADMIN}{PLUGIN}")
}

#[tokio::test]
async fn a_broker_that_is_down_is_waited_for_and_the_host_is_alive_and_not_ready() -> Result<()> {
    let mut server = NatsServer::start()?;
    let folder = Folder::new(&named(&server.url(), ""))?;
    folder.guest("p", &echo("out.echo"))?;
    server.kill()?;
    let mut host = folder.up()?;
    assert_eq!(host.get("/livez").await?.0, 200);
    let (status, missing) = host.get("/readyz").await?;
    assert_eq!(status, 503, "{missing}");
    host.logged("WARN").await?;
    server.restart()?;
    host.ready().await?;
    host.stop().await
}

#[tokio::test]
async fn a_host_that_waits_for_its_broker_can_be_stopped() -> Result<()> {
    let mut server = NatsServer::start()?;
    let folder = Folder::new(&named(&server.url(), ""))?;
    folder.guest("p", &echo("out.echo"))?;
    server.kill()?;
    let mut host = folder.up()?;
    host.logged("WARN").await?;
    host.signal("INT").await?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(0), "{}", host.log());
    Ok(())
}

#[tokio::test]
async fn wrong_credentials_end_the_start_at_once_with_the_cause() -> Result<()> {
    let server = NatsServer::start_with("authorization { user: busway, password: right }")?;
    let credentials = "user = \"busway\"\npassword = { file = \"password\" }";
    let folder = Folder::new(&named(&server.url(), credentials))?;
    folder.guest("p", &echo("out.echo"))?;
    folder.write("password", "wrong\n")?;
    let mut host = folder.up()?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(1), "{}", host.log());
    let told = host.log().to_lowercase();
    ensure!(
        told.contains("authorization") || told.contains("credentials") || told.contains("password"),
        "{told}"
    );
    folder.write("password", "right\n")?;
    folder.up_and_ready().await?.stop().await
}

#[tokio::test]
async fn a_certificate_of_another_authority_ends_the_start_at_once_with_the_cause() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(folder.path().join("server.pem"), own.cert.pem())?;
    fs::write(folder.path().join("server.key"), own.signing_key.serialize_pem())?;
    let server =
        NatsServer::start_in(folder, "tls { cert_file: \"DIR/server.pem\", key_file: \"DIR/server.key\" }")?;
    let folder = Folder::new(&named(&server.url().replace("nats://", "tls://"), "ca = \"ca.pem\""))?;
    folder.guest("p", &echo("out.echo"))?;
    folder.write("ca.pem", other.cert.pem())?;
    let mut host = folder.up()?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(1), "{}", host.log());
    ensure!(host.log().to_lowercase().contains("certificate"), "{}", host.log());
    folder.write("ca.pem", own.cert.pem())?;
    folder.up_and_ready().await?.stop().await
}

#[tokio::test]
async fn without_a_broker_a_private_one_is_started_and_commands_find_it_and_it_ends_with_the_host()
-> Result<()> {
    let folder = Folder::new(&format!("{ADMIN}{PLUGIN}"))?;
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    let told = folder.told(&["publish", "in.a", "{\"id\": 7}"]).await?;
    assert_eq!(told.trim(), "stored in IN, sequence 1");
    assert_eq!(folder.told(&["dlq", "ls"]).await?.trim(), "no dead letters");
    let unknown = folder.busway(&["publish", "nowhere.x", "1"]).await?;
    let why = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(1) && why.contains("no stream captures"), "{why}");
    assert_ne!(
        folder.busway(&["publish", "in.*", "1"]).await?.status.code(),
        Some(0),
        "no wildcard may be published to"
    );
    let bus = private_bus(&folder).await?;
    bus.wait_for("OUT", 1).await?;
    host.stop().await?;
    ensure!(!folder.path(".busway/broker.json").exists(), "the way in is gone");
    no_server_is_left(&folder).await
}

#[tokio::test]
async fn a_killed_host_leaves_no_private_broker_behind_and_the_next_one_finds_its_events() -> Result<()> {
    let folder = Folder::new(&format!("{ADMIN}{PLUGIN}"))?;
    folder.guest("p", &echo("out.echo"))?;
    let host = folder.up_and_ready().await?;
    folder.told(&["publish", "in.a", "1"]).await?;
    host.kill().await?;
    no_server_is_left(&folder).await?;
    let host = folder.up_and_ready().await?;
    let bus = private_bus(&folder).await?;
    bus.wait_for("OUT", 1).await?;
    host.stop().await
}

async fn private_bus(folder: &Folder) -> Result<Bus> {
    let access: serde_json::Value = serde_json::from_slice(&fs::read(folder.path(".busway/broker.json"))?)?;
    let text =
        |name: &str| access.get(name).and_then(|value| value.as_str()).context("access").map(str::to_owned);
    Bus::connect_with(ConnectOptions::with_user_and_password(text("user")?, text("password")?), &text("url")?)
        .await
}

async fn no_server_is_left(folder: &Folder) -> Result<()> {
    let mark = folder.path(".busway").display().to_string();
    eventually("the private nats-server has ended", async || {
        let running = Command::new("pgrep").args(["-f", &mark]).output()?;
        Ok((!running.status.success()).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_second_host_in_the_same_folder_is_refused_and_the_first_goes_on() -> Result<()> {
    let folder = Folder::new(&format!("{ADMIN}{PLUGIN}"))?;
    folder.guest("p", &echo("out.echo"))?;
    let mut first = folder.up_and_ready().await?;
    let mut second = folder.up()?;
    let status = second.ended().await?;
    assert_eq!(status.code(), Some(1), "{}", second.log());
    ensure!(second.log().contains("another host runs its private nats-server"), "{}", second.log());
    folder.told(&["publish", "in.a", "1"]).await?;
    private_bus(&folder).await?.wait_for("OUT", 1).await?;
    assert_eq!(first.get("/readyz").await?.0, 200);
    first.stop().await
}

#[tokio::test]
async fn a_stream_that_is_not_as_it_is_wanted_is_told_and_left_as_it_is() -> Result<()> {
    let server = NatsServer::start()?;
    let bus = Bus::connect(&server).await?;
    let subjects = vec!["in.>".to_owned()];
    let there = async_nats::jetstream::stream::Config {
        name: "IN".into(),
        subjects,
        max_messages: 7,
        ..Default::default()
    };
    bus.stream(there).await?;
    let folder = Folder::new(&named(&server.url(), ""))?;
    folder.guest("p", &echo("out.echo"))?;
    let mut host = folder.up()?;
    let status = host.ended().await?;
    assert_eq!(status.code(), Some(1), "{}", host.log());
    ensure!(host.log().contains("max_messages"), "{}", host.log());
    assert_eq!(bus.config_of("IN").await?.max_messages, 7);
    Ok(())
}

/// Everything that is wrong with a plugin's file or the configuration, told at once by `check` and by `up`.
#[tokio::test]
async fn bad_input_is_refused_by_check_and_up_alike_with_every_mistake_at_once_and_nothing_started()
-> Result<()> {
    let plugin = |name: &str, file: &str, rest: &str| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nsource = \"{file}\"\nsubscribe = [{{ stream = \"IN\", subjects = [\"in.>\"] }}]\n{rest}\n"
        )
    };
    let config = format!(
        "{ADMIN}[[stream]]\nname = \"IN\"\nsubjects = [\"in.>\"]\n[[stream]]\nname = \"D\"\nsubjects = [\"busway.>\"]\n[[stream]]\nname = \"W*\"\nsubjects = [\"w.>\"]\n{}{}{}{}{}{}{}{}{}{}",
        plugin("core", "core.wasm", "surprise = 1"),
        plugin("empty", "empty.wasm", "limits = { timeout = \"5\" }"),
        plugin("cut", "cut.wasm", ""),
        plugin("noise", "noise.wasm", ""),
        plugin("world", "world.wasm", ""),
        plugin("teapot", "teapot.wasm", ""),
        plugin("missing", "missing.wasm", ""),
        plugin("twin", "fine.wasm", ""),
        plugin("twin", "fine.wasm", ""),
        plugin("overlap", "fine.wasm", "").replace("\"in.>\"", "\"in.>\", \"in.a\""),
    );
    let folder = Folder::new(&config)?;
    let fine = component(&echo("out.echo"));
    folder.write("fine.wasm", &fine)?;
    folder.write("core.wasm", b"\0asm\x01\0\0\0")?;
    folder.write("empty.wasm", b"")?;
    folder.write("cut.wasm", fine.get(..fine.len() / 2).context("half")?)?;
    folder.write("noise.wasm", [0xa5; 300])?;
    folder.write("world.wasm", b"\0asm\x0d\0\x01\0")?;
    let teapot = busway_sandbox_tests::guest(
        r#"(import "acme:teapot/brew@1.0.0" "brew" (func $brew))"#,
        "",
        "(call $brew) (i32.const 1024)",
    );
    let package = "package acme:teapot@1.0.0; interface brew { brew: func(); }";
    folder.write("teapot.wasm", wrap_with_package(&teapot, "import acme:teapot/brew@1.0.0;", package))?;
    let expected = [
        "surprise: unknown key",
        "\"5\" is not a duration",
        "core.wasm: a core WebAssembly module, not a component",
        "empty.wasm: the file is empty",
        "cut.wasm: a damaged or cut component",
        "noise.wasm: not a WebAssembly component",
        "world.wasm: it exports no busway:plugin/handler",
        "teapot.wasm: it imports what this host does not know: acme:teapot/brew@1.0.0",
        "missing.wasm: can't be read",
        "the name is taken by the plugin at",
        "in.a overlaps in.>",
        "busway.> overlaps busway.>",
        "\"W*\" is not a stream's name",
    ];
    for command in ["check", "up"] {
        let output = folder.busway(&[command]).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{command}: {told}");
        for mistake in expected {
            assert!(told.contains(mistake), "{command} does not tell {mistake:?}:\n{told}");
        }
        let places = told.lines().filter(|line| line.contains("busway.toml:")).count();
        assert!(places >= expected.len(), "{command}:\n{told}");
        ensure!(!folder.path(".busway/broker").exists(), "{command} started a broker");
    }
    let output = folder.busway(&["check", "--output", "json"]).await?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(told.get("ok"), Some(&false.into()));
    Ok(())
}

#[tokio::test]
async fn a_configuration_that_is_missing_and_an_unknown_command_are_wrong_usage() -> Result<()> {
    let folder = Folder::new("")?;
    for arguments in
        [&["check", "-c", "nowhere.toml"][..], &["up", "-c", "nowhere.toml"], &["fly"], &["publish"]]
    {
        let output = folder.busway(arguments).await?;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let output = folder.busway(&["check"]).await?;
    assert!(output.status.success(), "an empty file is a configuration");
    Ok(())
}
