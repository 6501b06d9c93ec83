//! A host on the world: the real lane, intake and supervisor, one life after another.

use crate::{
    active::Active,
    handler::SimHandler,
    history::{Counter, What},
    life::Life,
    plant::{Plant, Planted},
    port::Port,
    scenario::{ACK_WAIT_MS, Scenario, TIMEOUT_MS},
    source::{Kind, SimSource},
    world::{STREAM, World, nap},
};
use busway_core::{
    Backoff, Binding, Digest, Limits, Publish, RetryPolicy, Settle,
    binding::{Ordering, Subscription},
};
use busway_dispatch::{Clock, Drained, Host, Intake, Lane, LaneParts, Recorder, Supervisor};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{sync::Arc, time::Duration};
use tokio::runtime::Handle;

/// How long a host that is asked to end lets handlers finish.
const PATIENCE: Duration = Duration::from_secs(25);

/// A host that runs.
struct Running {
    life: Life,
    active: Active,
    lanes: [Arc<Lane>; 2],
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
        let planted =
            plant.map(|plant| Arc::new(Planted::new(port.clone(), plant, world.clone(), life.clone())));
        let (settle, publish): (Arc<dyn Settle>, Arc<dyn Publish>) = match planted {
            Some(planted) => (Arc::clone(&planted) as _, planted),
            None => (Arc::new(port.clone()), Arc::new(port)),
        };
        let handler = Arc::new(SimHandler::new(world.clone(), life.clone()));
        let clock = Clock::Runtime { at: world.began(), showed_ms: 0 };
        let host = Host { clock, ..Host::new(format!("h{}", life.number()), 64) };
        let recorder = Recorder::new(&mut registry);
        let parts = |binding: Binding| LaneParts {
            binding,
            digest: Digest::of(b"plugin"),
            handler: Arc::clone(&handler) as _,
            settle: Arc::clone(&settle),
            publish: Arc::clone(&publish),
            ack_wait: Duration::from_millis(ACK_WAIT_MS),
            settled_max: scenario.settled_max,
        };
        let binding = binding(scenario);
        // What comes back has no order, and is no repetition of itself.
        let returned = Binding {
            subscription: Subscription::Returned,
            ordering: Ordering::Unordered,
            ..binding.clone()
        };
        let lanes = [binding, returned].map(|binding| Lane::new(parts(binding), host.clone(), &recorder));
        let supervisor = Supervisor::new(Handle::current(), Handle::current());
        for (lane, kind) in lanes.iter().zip([Kind::Events, Kind::Copies]) {
            let source = SimSource::new(world.clone(), life.clone(), active.clone(), kind);
            Intake::start(Arc::clone(lane), Box::new(source), &supervisor);
        }
        Self { life, active, lanes, supervisor, registry }
    }

    /// Ends the host in order and writes down what it counted; a crash on the way is a crash.
    async fn drain(&self, world: &World) {
        let drained = self.supervisor.drain(&self.lanes, PATIENCE).await;
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
        Counter::Parked => (settled, "verdict=\"parked\""),
        Counter::PassedOn => (copies, "reason=\"passed-on\""),
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
