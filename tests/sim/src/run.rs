//! One run: publish, let everything go wrong, stop that, wait until all is settled, read the history.

use crate::{
    history::History,
    host,
    plant::Plant,
    scenario::{INPUT, Scenario},
    world::{World, nap},
};
use busway_core::{
    Message,
    port::{Content, Malformed},
};
use busway_testkit::simulated::Random;
use bytes::Bytes;
use std::time::Duration;
use tokio::time::timeout;

/// The history of a scenario. It runs on a runtime of its own, whose clock stands still while anything can run.
///
/// # Errors
/// When the runtime can't be built.
pub fn run(scenario: Scenario, plant: Option<Plant>) -> std::io::Result<History> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let scenario = plant.map_or(scenario.clone(), |plant| plant.sow(scenario));
    Ok(runtime.block_on(history(scenario, plant)))
}

async fn history(scenario: Scenario, plant: Option<Plant>) -> History {
    let world = World::new(scenario);
    let hosts: Vec<_> =
        (0..world.scenario().hosts).map(|_| tokio::spawn(host::keep(world.clone(), plant))).collect();
    publish(&world).await;
    nap(world.scenario().horizon_ms.saturating_sub(world.now_ms())).await;
    world.calm();
    let within = Duration::from_millis(world.scenario().rules().settled_within_ms);
    // What is not settled by then stands in the history as pending.
    let settled = timeout(within, world.until(World::is_settled)).await;
    drop(settled);
    world.end();
    for host in hosts {
        drop(timeout(Duration::from_secs(120), host).await);
    }
    world.history()
}

/// Stores the events, spread over the time in which things go wrong.
async fn publish(world: &World) {
    let scenario = world.scenario();
    let mut chance = Random::new(scenario.seed).fork(3);
    let mut moments: Vec<u64> = (0..scenario.events).map(|_| chance.below(scenario.horizon_ms)).collect();
    moments.sort_unstable();
    for (number, at) in moments.into_iter().enumerate() {
        nap(at.saturating_sub(world.now_ms())).await;
        let key = format!("k{}", chance.below(scenario.keys));
        let subject = format!("orders.{key}.created");
        let payload = Bytes::from(format!("{{\"number\":{number},\"seed\":{}}}", scenario.seed));
        let input = match scenario.repeated_inputs {
            Some(repeated) if chance.permille(repeated) => chance.below(number as u64 + 1),
            _ => number as u64,
        };
        let (content, key) = match chance.permille(30) {
            true => (malformed(subject, payload), None),
            false => {
                let headers = [(INPUT, input.to_string().as_str())].into_iter().collect();
                (Content::Message(Message { subject, headers, payload }), Some(key))
            }
        };
        let input = key.as_ref().map(|_| input.to_string());
        world.accept(content, key, input);
    }
}

/// What no client can read. It has no key.
fn malformed(subject: String, payload: Bytes) -> Content {
    Content::Malformed(Malformed {
        subject,
        header_block: Bytes::from_static(b"NATS/1.0\r\nno colon\r\n\r\n"),
        payload,
        why: "a header line without a colon".to_owned(),
    })
}
