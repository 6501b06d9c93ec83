//! A host on the world: the real lane, intake and supervisor, one life after another.

use crate::{
    active::Active,
    handler::SimHandler,
    history::{Counter, What},
    life::Life,
    plant::{Plant, Planted},
    port::Port,
    scenario::{ACK_WAIT_MS, Scenario, TIMEOUT_MS},
    source::SimSource,
    world::{STREAM, World, nap},
};
use busway_core::{Backoff, Binding, Digest, Limits, RetryPolicy, binding::Subscription};
use busway_dispatch::{Drained, Host, Intake, Lane, LaneParts, Recorder, Supervisor};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{sync::Arc, time::Duration};
use tokio::runtime::Handle;

/// How long a host that is asked to end lets handlers finish.
const PATIENCE: Duration = Duration::from_secs(25);

/// A host that runs.
struct Running {
    life: Life,
    active: Active,
    lane: Arc<Lane>,
    supervisor: Supervisor,
    registry: Registry,
}

/// Keeps one host running: starts it again when it has crashed or was drained, until the end; then drains it.
pub async fn keep(world: World, plant: Option<Plant>) {
    loop {
        let running = Running::start(&world, plant);
        let (crash, drain) = {
            let faults = &world.scenario().faults;
            let next = |moments: &[u64]| moments.iter().copied().find(|at| *at > world.now_ms());
            (next(&faults.crashes_at), next(&faults.drains_at))
        };
        tokio::select! {
            biased;
            () = running.life.crashed() => {}
            () = until(&world, crash) => running.life.crash(),
            () = until(&world, drain) => running.drain(&world).await,
            () = world.ending() => return running.drain(&world).await,
        }
        if running.life.is_dead() {
            world.note(running.life.number(), What::Crashed);
        }
        let down = world.with(|state| state.chance.between(100, 40_000));
        nap(down).await;
    }
}

/// Waits until a moment; for ever where there is none.
async fn until(world: &World, moment: Option<u64>) {
    match moment {
        Some(at) => nap(at.saturating_sub(world.now_ms())).await,
        None => std::future::pending().await,
    }
}

impl Running {
    fn start(world: &World, plant: Option<Plant>) -> Self {
        let scenario = world.scenario();
        let life = world.new_life();
        world.note(life.number(), What::Started);
        let mut registry = Registry::default();
        let active = Active::new(world.clone(), life.clone());
        let port = Port::new(world.clone(), life.clone(), active.clone());
        let mut parts = LaneParts {
            binding: binding(scenario),
            digest: Digest::of(b"plugin"),
            handler: Arc::new(SimHandler::new(world.clone(), life.clone())),
            settle: Arc::new(port.clone()),
            publish: Arc::new(port.clone()),
            ack_wait: Duration::from_millis(ACK_WAIT_MS),
            settled_max: scenario.settled_max,
        };
        if let Some(plant) = plant {
            let planted = Arc::new(Planted::new(port, plant, world.clone(), life.clone()));
            parts.settle = Arc::clone(&planted) as _;
            parts.publish = planted;
        }
        let name = format!("h{}", life.number());
        let lane = Lane::new(parts, Host::new(name, 64), &Recorder::new(&mut registry));
        let supervisor = Supervisor::new(Handle::current(), Handle::current());
        let source = Box::new(SimSource::new(world.clone(), life.clone(), active.clone()));
        Intake::start(Arc::clone(&lane), source, &supervisor);
        Self { life, active, lane, supervisor, registry }
    }

    /// Ends the host in order and writes down what it counted; a crash on the way is a crash.
    async fn drain(&self, world: &World) {
        let drained = self.supervisor.drain(std::slice::from_ref(&self.lane), PATIENCE).await;
        if self.life.is_dead() {
            return;
        }
        self.active.step_down();
        let abandoned = match drained {
            Drained::Clean => 0,
            Drained::Abandoned(events) => events as u64,
        };
        let number = self.life.number();
        world.note(number, What::Drained { abandoned });
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            return;
        }
        for counter in Counter::ALL {
            let (line, labels) = metric(counter);
            let value = text.lines().find_map(|found| {
                let found = found.strip_prefix(line)?;
                found.contains(labels).then(|| found.rsplit(' ').next()?.parse().ok())?
            });
            world.note(number, What::Counted { counter, value: value.unwrap_or_default() });
        }
    }
}

/// The line of the metrics that tells a counter: how it begins, and a label that is in it.
fn metric(counter: Counter) -> (&'static str, &'static str) {
    let settled = "busway_events_settled_total";
    let copies = "busway_copies_dropped_total";
    match counter {
        Counter::Received => ("busway_events_received_total", ""),
        Counter::Acknowledged => (settled, "verdict=\"ack\""),
        Counter::Retried => (settled, "verdict=\"retry\""),
        Counter::DeadLettered => (settled, "verdict=\"dead-letter\""),
        Counter::PutBack => (settled, "verdict=\"put-back\""),
        Counter::GivenBack => (settled, "verdict=\"given-back\""),
        Counter::LeftToBroker => (settled, "verdict=\"left-to-broker\""),
        Counter::CopiesHeld => (copies, "reason=\"held\""),
        Counter::CopiesDone => (copies, "reason=\"done\""),
        Counter::HostFaults => ("busway_host_trouble_total", "reason=\"host-fault\""),
    }
}

fn binding(scenario: &Scenario) -> Binding {
    let subscription = Subscription::Stream { stream: STREAM.to_owned(), filters: Vec::new() };
    let backoff = Backoff::Fixed(Duration::from_millis(scenario.backoff_ms));
    Binding {
        limits: Limits {
            concurrency: scenario.concurrency,
            timeout: Duration::from_millis(TIMEOUT_MS),
            ..Limits::default()
        },
        retry: RetryPolicy {
            attempts: scenario.attempts,
            backoff,
            same_trap_max: 0,
            ..RetryPolicy::default()
        },
        ack: scenario.ack,
        ordering: scenario.ordering(),
        dedup: scenario.dedup(),
        ..Binding::new(crate::PLUGIN.parse().unwrap_or_else(|_| unreachable!("a literal name")), subscription)
    }
}
