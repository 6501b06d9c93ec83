//! Bad input: `check` and `up` refuse it alike, tell every mistake at once with its place, and start nothing.

use anyhow::{Context as _, Result, ensure};
use busway_e2e_tests::{Folder, broker, bus::Bus};
use busway_sandbox_tests::{component, echo, guest, wrap_with_package};
use busway_testkit::nats::NatsServer;
use serde_json::Value;

/// One mistake: the line that it stands in, the key that it is told by, and what is said about it.
struct Mistake(&'static str, &'static str, &'static str);

/// Streams: a name with a wildcard, a subject with one where none may be, one that overlaps the host's own.
const STREAMS: &str = r#"
[[stream]]
name = "IN"
subjects = ["in.>"]
[[stream]]
name = "W*"
subjects = ["w.>"]
[[stream]]
name = "X"
subjects = ["x.>.y"]
[[stream]]
name = "D"
subjects = ["busway.dlq.>"]
"#;

/// Name, file and further line of each plugin.
const PLUGINS: [(&str, &str, &str); 13] = [
    ("unknown", "fine.wasm", "surprise = 1"),
    ("unit", "fine.wasm", "limits = { timeout = \"5\" }"),
    ("twin", "fine.wasm", ""),
    ("twin", "fine.wasm", "# the second one"),
    ("missing", "missing.wasm", ""),
    ("core", "core.wasm", ""),
    ("world", "world.wasm", ""),
    ("teapot", "teapot.wasm", ""),
    ("cut", "cut.wasm", ""),
    ("noise", "noise.wasm", ""),
    ("empty", "empty.wasm", ""),
    (
        "pinned",
        "pinned.wasm",
        "digest = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"",
    ),
    ("granted", "fine.wasm", "grants = { publish = [\"$JS.API.>\"] }"),
];

const EXPECTED: &[Mistake] = &[
    Mistake("name = \"W*\"", "stream[1].name", "\"W*\" is not a stream's name"),
    Mistake("subjects = [\"x.>.y\"]", "stream[2].subjects[0]", "\"x.>.y\": "),
    Mistake("subjects = [\"busway.dlq.>\"]", "stream[3].name", "busway.dlq.> overlaps busway.>"),
    Mistake("surprise = 1", "plugin[0].surprise", "unknown key"),
    Mistake("timeout = \"5\"", "plugin[1].limits.timeout", "\"5\" is not a duration"),
    Mistake("\"in.>\", \"in.a\"", "plugin[13].subscribe[0]", "in.a overlaps in.>"),
    Mistake("missing.wasm", "plugin[4].source", "missing.wasm: can't be read"),
    Mistake("core.wasm", "plugin[5].source", "core.wasm: a core WebAssembly module, not a component"),
    Mistake("world.wasm", "plugin[6].source", "world.wasm: it exports no busway:plugin/handler@0.1.0"),
    Mistake(
        "teapot.wasm",
        "plugin[7].source",
        "teapot.wasm: it imports what this host does not know: acme:teapot/brew@1.0.0",
    ),
    Mistake("cut.wasm", "plugin[8].source", "cut.wasm: a damaged or cut component"),
    Mistake("noise.wasm", "plugin[9].source", "noise.wasm: not a WebAssembly component"),
    Mistake("empty.wasm", "plugin[10].source", "empty.wasm: the file is empty"),
    Mistake("digest = ", "plugin[11].digest", "the file's digest is sha256:"),
    Mistake("$JS.API.>", "plugin[12].grants.publish[0]", "can't be granted"),
];

/// A configuration with all of the mistakes.
fn configuration(head: &str) -> String {
    let subscribe = "subscribe = [{ stream = \"IN\", subjects = [\"in.>\"] }]";
    let mut text = format!("{head}\n[admin]\nlisten = \"127.0.0.1:0\"{STREAMS}");
    for (name, file, rest) in PLUGINS {
        text += &format!("[[plugin]]\nname = \"{name}\"\nsource = \"{file}\"\n{subscribe}\n{rest}\n");
    }
    let overlapping = subscribe.replace("\"in.>\"", "\"in.>\", \"in.a\"");
    text + &format!("[[plugin]]\nname = \"overlap\"\nsource = \"fine.wasm\"\n{overlapping}\n")
}

fn folder(config: &str) -> Result<Folder> {
    let folder = Folder::new(config)?;
    let fine = component(&echo("out.echo"));
    folder.write("cut.wasm", fine.get(..fine.len() / 2).context("half")?)?;
    folder.write("fine.wasm", &fine)?;
    folder.write("pinned.wasm", &fine)?;
    folder.write("core.wasm", b"\0asm\x01\0\0\0")?;
    folder.write("world.wasm", b"\0asm\x0d\0\x01\0")?;
    folder.write("noise.wasm", [0xa5; 300])?;
    folder.write("empty.wasm", b"")?;
    let imports = r#"(import "acme:teapot/brew@1.0.0" "brew" (func $brew))"#;
    let package = "package acme:teapot@1.0.0; interface brew { brew: func(); }";
    let teapot = guest(imports, "", "(call $brew) (i32.const 1024)");
    folder.write("teapot.wasm", wrap_with_package(&teapot, "import acme:teapot/brew@1.0.0;", package))?;
    Ok(folder)
}

/// Where in the configuration a text stands.
fn line_of(config: &str, text: &str) -> Result<usize> {
    Ok(config.lines().position(|line| line.contains(text)).context("no such line")? + 1)
}

#[tokio::test]
async fn every_mistake_is_told_with_its_place_by_check_and_up_alike_and_nothing_is_started() -> Result<()> {
    let server = NatsServer::start()?;
    let bus = Bus::connect(&server).await?;
    for head in [broker(&server.url()), String::new()] {
        let config = configuration(&head);
        let folder = folder(&config)?;
        for command in ["check", "up"] {
            let output = folder.busway(&[command]).await?;
            let told = String::from_utf8(output.stderr)?;
            assert_eq!(output.status.code(), Some(2), "{command}: {told}");
            for Mistake(text, key, what) in EXPECTED {
                let place = format!("busway.toml:{}: {key}: ", line_of(&config, text)?);
                let is_told = told.lines().any(|line| line.contains(&place) && line.contains(what));
                assert!(is_told, "{command} does not tell {place}{what}:\n{told}");
            }
            // Both of the twins can't be pointed at by a text that stands in one line only.
            assert!(told.contains("the name is taken by the plugin at"), "{told}");
            assert!(
                told.contains(&format!(
                    "{} mistakes in the configuration; nothing was started",
                    EXPECTED.len() + 1
                )),
                "{told}"
            );
            assert!(!told.contains("admin listener is up"), "{told}");
            ensure!(!folder.path(".busway/broker").exists(), "{command} started a private broker");
        }
        assert_eq!(bus.streams().await?, [] as [String; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn a_program_is_told_the_same_mistakes_as_a_person() -> Result<()> {
    let config = configuration("");
    let folder = folder(&config)?;
    let output = folder.busway(&["check", "--output", "json"]).await?;
    assert_eq!(output.status.code(), Some(2));
    let told: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(told["ok"], false);
    let mistakes = told["mistakes"].as_array().context("mistakes")?;
    assert_eq!(mistakes.len(), EXPECTED.len() + 1, "{told:#}");
    for Mistake(text, key, what) in EXPECTED {
        let line = line_of(&config, text)?;
        let is_it = |mistake: &&Value| {
            mistake["line"] == line
                && mistake["key"] == *key
                && mistake["what"].as_str().is_some_and(|told| told.contains(what))
        };
        ensure!(mistakes.iter().any(|mistake| is_it(&mistake)), "{line} {key} {what}: {told:#}");
    }
    Ok(())
}

#[tokio::test]
async fn a_configuration_without_mistakes_is_told_as_what_it_will_do() -> Result<()> {
    let folder = folder(&busway_e2e_tests::config("", "").replace("p.wasm", "fine.wasm"))?;
    let told = folder.told(&["check"]).await?;
    assert!(told.contains("IN") && told.contains("in.>") && told.contains("out.>"), "{told}");
    assert!(told.contains("ok: 1 plugin, 2 streams, broker a private nats-server"), "{told}");
    assert!(!told.contains("note: "), "its waits are short: {told}");
    let told: Value = serde_json::from_str(&folder.told(&["check", "--output", "json"]).await?)?;
    assert_eq!((&told["ok"], &told["plugins"][0]["name"]), (&true.into(), &"p".into()));
    ensure!(!folder.path(".busway/broker").exists(), "check started a private broker");
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_missing_or_no_toml_and_an_unknown_command_are_wrong_usage() -> Result<()> {
    let folder = Folder::new("")?;
    folder.write("broken.toml", "[nats]\nurl = \"nats://127.0.0.1:1\"\n[[plugin]\n")?;
    let table: [(&[&str], &str); 6] = [
        (&["check", "-c", "nowhere.toml"], "nowhere.toml: can't be read"),
        (&["up", "-c", "nowhere.toml"], "nowhere.toml: can't be read"),
        (&["check", "-c", "broken.toml"], "broken.toml:3: "),
        (&["up", "-c", "broken.toml"], "broken.toml:3: "),
        (&["fly"], "fly"),
        (&["publish"], "SUBJECT"),
    ];
    for (arguments, what) in table {
        let output = folder.busway(arguments).await?;
        let told = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(what), "{arguments:?}: {told}");
    }
    folder.told(&["check"]).await?;
    Ok(())
}

/// A component that is small and valid, within every bound of its parts, and takes minutes to compile.
fn bomb() -> Vec<u8> {
    let locals = "i64 ".repeat(9_900);
    let depth = 2_500;
    let mut loops = String::new();
    for n in 0..depth {
        loops.push_str(&format!(
            "(local.set {} (i64.add (local.get {}) (i64.const 1))) (loop ",
            n % 9_900,
            (n * 7) % 9_900
        ));
    }
    loops.push_str(&")".repeat(depth));
    component(&guest(
        "",
        &format!("(func (export \"bomb\") (local {locals}) {loops})"),
        busway_sandbox_tests::OK,
    ))
}

#[tokio::test]
async fn a_plugin_that_is_made_to_be_expensive_to_compile_ends_the_compiler_and_not_the_host() -> Result<()> {
    let folder = Folder::new("")?;
    folder.write("bomb.wasm", bomb())?;
    let child = |arguments: &'static str| {
        let (program, file) = (busway_e2e_tests::binary(), folder.path("bomb.wasm"));
        async move {
            let mut command = tokio::process::Command::new(program);
            command.args(arguments.split(' ')).stdin(std::fs::File::open(file)?).kill_on_drop(true);
            Ok::<_, anyhow::Error>(tokio::time::timeout(busway_e2e_tests::PATIENCE, command.output()).await??)
        }
    };
    use std::os::unix::process::ExitStatusExt as _;
    let by_time = child("compile --cpu-s 1 --memory-mib 2048").await?;
    ensure!(matches!(by_time.status.signal(), Some(24 | 9)), "{by_time:?}");
    let by_memory = child("compile --cpu-s 30 --memory-mib 200").await?;
    ensure!(!by_memory.status.success() && by_memory.stdout.is_empty(), "{by_memory:?}");
    Ok(())
}
