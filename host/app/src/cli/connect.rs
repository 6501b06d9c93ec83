//! For commands that talk to the broker of a configuration and then end.

use crate::{Exit, broker, config};
use anyhow::Context as _;
use busway_transport::Nats;
use std::{path::Path, time::Duration};

/// How long a command waits for the broker; the host itself waits as long as it takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the broker of the configuration, or to the private one of a host that runs beside it, and does `work`.
///
/// # Errors
/// A configuration with mistakes, no broker, what `work` refuses.
pub fn with_broker(
    file: &Path,
    work: impl AsyncFnOnce(&Nats) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let config = config::load(file)?;
    let settings = match broker::named(&config, "busway command")? {
        Some(settings) => settings,
        None => broker::private_one(&config)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, Nats::connect(&settings)).await;
        let servers = settings.servers.join(", ");
        let nats = connecting
            .with_context(|| {
                format!("the broker at {servers} did not answer within {} s", CONNECT_TIMEOUT.as_secs())
            })?
            .with_context(|| format!("the broker at {servers} can't be used"))?;
        let exit = work(&nats).await;
        nats.close().await;
        exit
    })
}
