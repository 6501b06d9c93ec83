//! Plain subjects through a host: requests and their answers, and a plugin that shows up as a micro service.

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use busway_e2e_tests::{Folder, broker, bus::Bus, config, eventually};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;

const GRANTS: &str =
    r#"grants = { publish = ["out.>"], publish-core = ["heard.>"], request = ["prices.get"] }"#;

/// A host with the guest `answers` on `ask.*`, and a client beside it.
async fn asked() -> Result<(NatsServer, Folder, Bus, Client)> {
    let server = NatsServer::start()?;
    let config = config(&broker(&server.url()), "")
        .replace(r#"{ stream = "IN", subjects = ["in.>"] }"#, r#"{ subjects = ["ask.*"], group = "g" }"#)
        .replace(r#"grants = { publish = ["out.>"] }"#, GRANTS);
    ensure!(config.contains("group") && config.contains("heard"), "{config}");
    let folder = Folder::new(&config)?;
    folder.built_guest("answers")?;
    std::fs::rename(folder.path("answers.wasm"), folder.path("p.wasm"))?;
    let bus = Bus::connect(&server).await?;
    let client = async_nats::connect(server.url()).await?;
    Ok((server, folder, bus, client))
}

async fn ask(client: &Client, subject: &str, payload: &'static [u8]) -> Result<async_nats::Message> {
    Ok(client.request(subject.to_owned(), Bytes::from_static(payload)).await?)
}

fn header(message: &async_nats::Message, name: &str) -> String {
    let value = message.headers.as_ref().and_then(|headers| headers.get(name));
    value.map(|value| value.as_str().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn a_plugin_answers_requests_and_says_why_it_does_not() -> Result<()> {
    let (_server, folder, bus, client) = asked().await?;
    let listed = folder.told(&["check"]).await?;
    assert!(listed.contains("ask.*") && listed.contains("at most once"), "{listed}");
    let host = folder.up_and_ready().await?;

    let answer = ask(&client, "ask.echo", b"hello").await?;
    assert_eq!(&answer.payload[..], b"hello");
    assert_eq!(
        (header(&answer, "Answered-By"), header(&answer, "Busway-Hops")),
        ("answers".into(), "1".into())
    );
    assert_eq!(header(&answer, "Busway-Event-Id").len(), 52);

    // The first attempt fails; the requester waits and has the answer of the second.
    assert_eq!(&ask(&client, "ask.again", b"later").await?.payload[..], b"later");

    let refused = ask(&client, "ask.refuse", b"x").await?;
    assert_eq!(header(&refused, "Nats-Service-Error-Code"), "400");
    assert_eq!(header(&refused, "Nats-Service-Error"), "not-today: as the subject says");
    let letter = bus.wait_for("BUSWAY_DLQ", 1).await?;
    let letter = letter.first().context("a letter")?;
    assert_eq!((letter.header("Busway-Subject"), &letter.payload[..]), ("ask.refuse", &b"x"[..]));
    assert_eq!(letter.header("Busway-Stream"), "");
    let shown = folder.told(&["dlq", "show", "1"]).await?;
    assert!(shown.contains("not-today"), "{shown}");
    host.stop().await
}

#[tokio::test]
async fn a_plugin_asks_another_service_and_speaks_in_order() -> Result<()> {
    let (_server, folder, bus, client) = asked().await?;
    let mut prices = client.subscribe("prices.get").await?;
    let mut heard = client.subscribe("heard.it").await?;
    let service = client.clone();
    let (hops, mut hops_seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(question) = prices.next().await {
            hops.send((header(&question, "Busway-Hops"), header(&question, "traceparent")))?;
            let price = [&question.payload[..], b" costs 2.50"].concat();
            service.publish(question.reply.context("no reply subject")?, price.into()).await?;
        }
        anyhow::Ok(())
    });
    let mut host = folder.up_and_ready().await?;
    let answer = ask(&client, "ask.relay", b"tea").await?;
    assert_eq!(&answer.payload[..], b"tea costs 2.50");
    // What was stored and sent went before the answer.
    let stored = bus.read("OUT").await?;
    assert_eq!(stored.first().map(|output| &output.payload[..]), Some(&b"tea costs 2.50"[..]));
    let sent = heard.next().await.context("nothing was sent")?;
    assert_eq!((&sent.payload[..], header(&sent, "Nats-Msg-Id")), (&b"tea costs 2.50"[..], String::new()));
    let (hops, trace) = hops_seen.recv().await.context("nobody asked")?;
    assert_eq!(hops, "1");
    assert_eq!(trace, header(&sent, "traceparent"), "one trace for all that an attempt causes");
    assert_eq!(trace, header(&answer, "traceparent"));
    assert_eq!(host.metric("busway_events_shed_total{plugin=\"p\"}").await?, 0.0);
    host.stop().await
}

#[tokio::test]
async fn a_plugin_is_a_micro_service_for_as_long_as_its_host_runs() -> Result<()> {
    let (_server, folder, _bus, client) = asked().await?;
    let host = folder.up_and_ready().await?;
    ask(&client, "ask.echo", b"1").await?;
    ask(&client, "ask.refuse", b"2").await?;
    let told = async |subject: &str| -> Result<Value> {
        Ok(serde_json::from_slice(&ask(&client, subject, b"").await?.payload)?)
    };
    let info = eventually("it shows up", async || Ok(told("$SRV.INFO.p").await.ok())).await?;
    assert_eq!((&info["name"], &info["version"]), (&"p".into(), &"1.2.3".into()));
    assert!(
        info["metadata"]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")),
        "{info}"
    );
    let endpoint = &info["endpoints"][0];
    assert_eq!((&endpoint["subject"], &endpoint["queue_group"]), (&"ask.*".into(), &"g".into()));
    // The answer goes out before the event is settled.
    let stats = eventually("both are settled", async || {
        let stats = told("$SRV.STATS.p").await?["endpoints"][0].clone();
        Ok((stats["num_errors"] == 1).then_some(stats))
    })
    .await?;
    assert_eq!(stats["num_requests"], 2);
    assert!(
        stats["last_error"].as_str().is_some_and(|error| error.contains("as the subject says")),
        "{stats}"
    );
    host.stop().await?;
    let gone = client.request("$SRV.PING.p", Bytes::new()).await;
    ensure!(
        gone.is_err_and(|why| why.kind() == async_nats::RequestErrorKind::NoResponders),
        "it is still there"
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_stops_finishes_what_runs_and_tells_the_others() -> Result<()> {
    let (_server, folder, _bus, client) = asked().await?;
    let config = std::fs::read_to_string(folder.path("busway.toml"))?
        .replace(r#"group = "g" }"#, r#"group = "g", buffer = { messages = 1 } }"#);
    folder.write("busway.toml", format!("{config}\nlimits = {{ concurrency = 1 }}"))?;
    let mut prices = client.subscribe("prices.get").await?;
    let mut host = folder.up_and_ready().await?;
    let asking = |payload: &'static [u8]| {
        let client = client.clone();
        tokio::spawn(async move { ask(&client, "ask.relay", payload).await })
    };
    let first = asking(b"tea");
    let question = prices.next().await.context("the plugin asks")?;
    // It runs and waits. One more is held, one waits in the buffer, the rest is shed.
    let others = [0; 6].map(|_| asking(b"x"));
    eventually("some are shed", async || {
        Ok((host.metric("busway_events_shed_total{plugin=\"p\"}").await? >= 4.0).then_some(()))
    })
    .await?;
    host.signal("TERM").await?;
    host.logged("draining").await?;
    client.publish(question.reply.context("no reply subject")?, "2.50".into()).await?;
    assert_eq!(&first.await??.payload[..], b"2.50", "what runs may finish");
    for other in others {
        assert_eq!(header(&other.await??, "Nats-Service-Error-Code"), "503");
    }
    assert_eq!(host.ended().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn two_requests_that_wait_for_each_other_end_by_their_timeout() -> Result<()> {
    // A35: the plugin asks itself, and has no second worker to answer.
    let (_server, folder, bus, client) = asked().await?;
    let config = std::fs::read_to_string(folder.path("busway.toml"))?
        .replace(r#"subjects = ["ask.*"]"#, r#"subjects = ["ask.*", "prices.get"]"#)
        .replace("attempts = 3", "attempts = 1");
    folder.write("busway.toml", format!("{config}\nlimits = {{ concurrency = 1 }}"))?;
    let host = folder.up_and_ready().await?;
    let answer = ask(&client, "ask.relay", b"tea").await?;
    assert_eq!(header(&answer, "Nats-Service-Error-Code"), "503", "{answer:?}");
    assert_eq!(
        bus.wait_for("BUSWAY_DLQ", 1).await?.first().context("a letter")?.header("Busway-Class"),
        "retry"
    );
    // And goes on.
    assert_eq!(&ask(&client, "ask.echo", b"still here").await?.payload[..], b"still here");
    host.stop().await
}

#[tokio::test]
async fn a_request_can_be_tried_without_a_broker() -> Result<()> {
    let (_server, folder, _bus, _client) = asked().await?;
    let told =
        folder.told(&["invoke", "p.wasm", "--subject", "ask.echo", "--data", "hello", "--request"]).await?;
    assert!(
        told.contains("reply") && told.contains("Answered-By: answers") && told.contains("hello"),
        "{told}"
    );
    let arguments =
        ["invoke", "p.wasm", "--subject", "ask.echo", "--data", "hello", "--request", "--output", "json"];
    let told: Value = serde_json::from_str(&folder.told(&arguments).await?)?;
    assert_eq!(told["outcome"]["reply"]["payload"], "hello");
    Ok(())
}
