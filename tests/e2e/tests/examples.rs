//! What the documentation shows works: the example's folder, and the README's configuration.

use anyhow::{Context as _, Result};
use busway_e2e_tests::Folder;

const EXAMPLE: &str = include_str!("../../../examples/hello-rust/busway.toml");
const README: &str = include_str!("../../../README.md");

/// On a port of its own, since tests run beside each other.
fn beside_others(config: &str) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}")
}

#[tokio::test]
async fn the_hello_example_totals_an_order_and_rejects_an_empty_one() -> Result<()> {
    let folder = Folder::new(&beside_others(EXAMPLE))?;
    folder.built_guest("hello-rust")?;
    let host = folder.up_and_ready().await?;
    folder.told(&["publish", "orders.created", r#"{"id": 7, "prices": [2.5, 4]}"#]).await?;
    folder.told(&["publish", "orders.created", r#"{"id": 8, "prices": []}"#]).await?;
    busway_e2e_tests::eventually("a dead letter", async || {
        Ok(folder.told(&["dlq", "ls"]).await?.contains("empty-order").then_some(()))
    })
    .await?;
    host.stop().await
}

#[tokio::test]
async fn the_readmes_configuration_is_one_and_its_plugin_handles_the_event_that_it_shows() -> Result<()> {
    let config = README
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .context("a configuration")?;
    let folder = Folder::new(&beside_others(config))?;
    folder.built_guest("hello-rust")?;
    std::fs::create_dir_all(folder.path("target/busway"))?;
    std::fs::rename(folder.path("hello-rust.wasm"), folder.path("target/busway/totals.wasm"))?;
    let told = folder.told(&["check"]).await?;
    assert!(told.contains("ok: 1 plugin, 1 stream, broker a private nats-server"), "{told}");
    assert!(told.contains("note: totals: waits of 30s or more free the consumer's window"), "{told}");
    let invoked = [
        "invoke",
        "target/busway/totals.wasm",
        "--subject",
        "orders.created",
        "--data",
        r#"{"id": 7, "prices": [2.5, 4]}"#,
    ];
    let told = folder.told(&invoked).await?;
    assert!(told.contains("outcome  ok, 1 published") && told.contains("orders.totalled"), "{told}");
    Ok(())
}
