//! Outputs that belong together, and inputs that come twice.

use anyhow::{Result, ensure};
use async_nats::HeaderMap;
use busway_e2e_tests::{Folder, broker, bus::Bus, config};
use busway_sandbox_tests::{OK, PUBLISH, echo, guest};
use busway_testkit::nats::NatsServer;
use bytes::Bytes;

/// A setting whose configuration was changed in one place.
async fn setting(from: &str, to: &str) -> Result<(NatsServer, Folder, Bus)> {
    let server = NatsServer::start()?;
    let config = config(&broker(&server.url()), "");
    ensure!(config.contains(from), "the configuration has no {from}");
    let folder = Folder::new(&config.replace(from, to))?;
    let bus = Bus::connect(&server).await?;
    Ok((server, folder, bus))
}

#[tokio::test]
async fn the_outputs_of_an_event_are_stored_as_one_batch_where_the_stream_takes_it() -> Result<()> {
    let in_memory = "discard = \"new\"\nstorage = \"memory\"";
    let (_server, folder, bus) = setting("discard = \"new\"", in_memory).await?;
    let publish = |at: usize| {
        format!(
            "(call $publish (i32.const {at}) (i32.const 5) (i32.const 0) (i32.const 0) (local.get 6) (local.get 7) (i32.const 2048))"
        )
    };
    let body = format!("{} {} {OK}", publish(16), publish(32));
    let data = r#"(data (i32.const 16) "out.a") (data (i32.const 32) "out.b")"#;
    folder.guest("p", &guest(PUBLISH, data, &body))?;
    let mut host = folder.up_and_ready().await?;
    bus.publish("in.a", [Bytes::from_static(b"x")]).await?;
    let outputs = bus.wait_for("OUT", 2).await?;
    let subjects: Vec<_> = outputs.iter().map(|output| output.subject.as_str()).collect();
    assert_eq!(subjects, ["out.a", "out.b"]);
    let batches: Vec<_> = outputs.iter().map(|output| output.header("Nats-Batch-Id")).collect();
    assert!(!batches[0].is_empty() && batches[0] == batches[1], "{outputs:?}");
    bus.idle("IN", "busway-p").await?;
    assert_eq!(host.metric("busway_outputs_released_total{plugin=\"p\",how=\"batch\"}").await?, 2.0);
    host.stop().await
}

#[tokio::test]
async fn an_input_that_comes_twice_is_handled_once() -> Result<()> {
    let subscribe = "subjects = [\"in.>\"] }]\nretry";
    let dedup = "subjects = [\"in.>\"], dedup = { key = { header = \"x-order\" }, ttl = \"1h\" } }]\nretry";
    let (_server, folder, bus) = setting(subscribe, dedup).await?;
    folder.guest("p", &echo("out.echo"))?;
    let mut host = folder.up_and_ready().await?;
    for order in ["7", "8", "7"] {
        let mut headers = HeaderMap::new();
        headers.insert("X-Order", order);
        bus.publish_with("in.a", headers, Bytes::copy_from_slice(order.as_bytes())).await?;
    }
    bus.idle("IN", "busway-p").await?;
    let mut outputs: Vec<_> =
        bus.wait_for("OUT", 2).await?.into_iter().map(|output| output.payload).collect();
    outputs.sort();
    assert_eq!(outputs, ["7", "8"]);
    assert_eq!(host.metric("busway_duplicates_dropped_total{plugin=\"p\"}").await?, 1.0);
    host.stop().await
}
