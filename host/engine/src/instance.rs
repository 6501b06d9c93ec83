//! A plugin at work: one fresh sandbox per event.
//!
//! The clock starts before instantiation, so that a start function is within the budgets too. When the run is over,
//! however it ended, the store and everything the guest had are dropped.

use crate::{
    bindings::Plugin as Exports,
    bindings::busway::plugin::types::{self, HeaderParam},
    bindings::exports::busway::plugin::handler::Event as GuestEvent,
    capability::Grants,
    classify,
    component::{HANDLER, LIFECYCLE, LoadError, Loaded},
    cpu::Measured,
    engine::Engine,
    manifest::Manifest,
    store::{About, Phase, Shared, State},
};
use busway_core::{
    Attempt, Digest, Event, Failure, Handler, Limits, PluginName, Ran, Report, Request, port::BoxFuture,
};
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::time::timeout;
use wasmtime::{Store, UpdateDeadline};

/// What an operator decides about a plugin.
#[derive(Debug, Clone)]
pub struct PluginSpec {
    /// The name it runs under.
    pub name: PluginName,
    /// What one run may use.
    pub limits: Limits,
    /// What it may do.
    pub grants: Grants,
    /// Its configuration.
    pub config: BTreeMap<String, String>,
    /// Bytes of the largest message that the broker takes.
    pub payload_bytes_max: u64,
}

/// A plugin, ready for events.
#[derive(Clone)]
pub struct Plugin {
    engine: Engine,
    loaded: Loaded,
    shared: Arc<Shared>,
}

/// Why a plugin can't be put to work.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// It failed before it could handle anything.
    #[error("{class} {code}: {reason}", class = .0.class, code = .0.code, reason = .0.reason)]
    Failed(Failure),
    /// Its own `init` refused.
    #[error("its init refuses: {0}")]
    Init(String),
    /// The host had no sandbox for it.
    #[error("no sandbox was free: {0}")]
    NoSandbox(String),
}

/// An export has other parameters or another result than the contract says.
#[derive(Debug, thiserror::Error)]
#[error("it does not fit the contract: what it exports in {0} has another shape: {1}")]
pub(crate) struct Misfit(&'static str, String);

/// Bytes that lifting one host call's arguments may take, at least; the largest message must fit in.
const HOSTCALL_FUEL_MIN: u64 = 4 << 20;
const HOSTCALL_FUEL_MAX: u64 = 16 << 20;
/// Component handles that a run may hold.
const HANDLES_MAX: usize = 1_000;

impl Plugin {
    /// A plugin with its limits, grants and configuration.
    ///
    /// # Errors
    /// None today; a plugin whose spec contradicts its component would be refused here.
    pub fn new(engine: &Engine, loaded: &Loaded, spec: PluginSpec) -> Result<Self, LoadError> {
        let shared = Shared {
            name: spec.name,
            limits: spec.limits,
            grants: spec.grants,
            config: spec.config,
            payload_bytes_max: AtomicU64::new(spec.payload_bytes_max),
            requests: OnceLock::new(),
        };
        Ok(Self { engine: engine.clone(), loaded: loaded.clone(), shared: Arc::new(shared) })
    }

    /// The sha256 of its bytes.
    pub fn digest(&self) -> &Digest {
        self.loaded.digest()
    }

    /// What it says of itself, if anything.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.loaded.manifest()
    }

    /// Tells the largest message that the broker takes, which is known only once it is reached.
    pub fn set_payload_bytes_max(&self, bytes: u64) {
        self.shared.payload_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Whether it may ask other services, and so needs [`Plugin::set_requests`].
    pub fn may_request(&self) -> bool {
        !self.shared.grants.request.is_empty()
    }

    /// Tells how other services are asked, which is known only once a broker is reached. Only the first call counts; until
    /// then a request is answered `unavailable`.
    pub fn set_requests(&self, requests: Arc<dyn Request>) {
        self.shared.requests.get_or_init(|| requests);
    }

    /// Instantiates it once within its limits and runs its `init`, if it has one. Handles no event: that would run its
    /// effects. Cancel safe.
    ///
    /// # Errors
    /// See [`TrialError`].
    pub async fn trial(&self) -> Result<(), TrialError> {
        let mut store = self.store(About::default());
        let clock = store.data().cpu.clone();
        let started = {
            let start = pin!(self.start(&mut store));
            timeout(self.shared.limits.timeout, Measured::new(clock, start)).await
        };
        store.data_mut().log_standard_streams();
        let ran = match started {
            Ok(Ok((_, Ok(())))) => return Ok(()),
            Ok(Ok((_, Err(refusal)))) => return Err(TrialError::Init(refusal)),
            Ok(Err(error)) => classify::failed(&error, store.data()),
            Err(_) => classify::timed_out(store.data()),
        };
        match ran {
            Ran::Failed(failure) => Err(TrialError::Failed(failure)),
            Ran::Refused(refusal) => Err(TrialError::NoSandbox(format!("{refusal:?}"))),
            Ran::Ok(_) => Ok(()),
        }
    }

    async fn run(&self, event: &Event, attempt: Attempt) -> Report {
        let mut store = self.store(About::event(event, attempt));
        let clock = store.data().cpu.clone();
        let handled = {
            let handle = pin!(self.handle(&mut store, event));
            timeout(self.shared.limits.timeout, Measured::new(clock, handle)).await
        };
        let state = store.data_mut();
        let ran = match handled {
            Ok(Ok(answer)) => classify::returned(answer, std::mem::take(&mut state.outputs)),
            Ok(Err(error)) => classify::failed(&error, state),
            Err(_) => classify::timed_out(state),
        };
        state.log_standard_streams();
        Report { ran, used: state.used(), logs: std::mem::take(&mut state.logs) }
    }

    async fn handle(
        &self,
        store: &mut Store<State>,
        event: &Event,
    ) -> wasmtime::Result<Result<(), types::Failure>> {
        let (exports, init) = self.start(store).await?;
        if let Err(refusal) = init {
            let later = types::RetryLater { reason: format!("init refuses: {refusal}"), after_ms: None };
            return Ok(Err(types::Failure::Retry(later)));
        }
        store.data_mut().phase = Phase::Handling;
        let headers: Vec<_> = event.headers.iter().map(|(name, value)| HeaderParam { name, value }).collect();
        let event = GuestEvent {
            id: event.id.as_str(),
            subject: event.subject.as_str(),
            headers: &headers,
            payload: &event.payload,
        };
        exports.busway_plugin_handler().call_handle(store, event).await
    }

    /// Instantiates, compares the shape of what it exports with the contract, and calls `init` where there is one.
    async fn start(&self, store: &mut Store<State>) -> wasmtime::Result<(Exports, Result<(), String>)> {
        let misfit = |interface| move |why| wasmtime::Error::new(Misfit(interface, format!("{why:#}")));
        let instance = self.loaded.pre.instantiate_async(&mut *store).await?;
        let exports = self.loaded.indices.load(&mut *store, &instance).map_err(misfit(HANDLER))?;
        let Some(init) = &self.loaded.init else { return Ok((exports, Ok(()))) };
        let init = instance.get_typed_func::<(), (Result<(), String>,)>(&mut *store, init);
        let (answer,) = init.map_err(misfit(LIFECYCLE))?.call_async(store, ()).await?;
        Ok((exports, answer))
    }

    fn store(&self, about: About) -> Store<State> {
        let mut store = Store::new(self.engine.wasmtime(), State::new(Arc::clone(&self.shared), about));
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            context.data().cpu.check()?;
            Ok(UpdateDeadline::Yield(1))
        });
        let fuel = (self.shared.payload_bytes_max() * 2).clamp(HOSTCALL_FUEL_MIN, HOSTCALL_FUEL_MAX);
        store.set_hostcall_fuel(usize::try_from(fuel).unwrap_or(usize::MAX));
        store.set_max_component_handles(HANDLES_MAX);
        store
    }
}

impl Handler for Plugin {
    fn call<'a>(&'a self, event: &'a Event, attempt: Attempt) -> BoxFuture<'a, Report> {
        Box::pin(self.run(event, attempt))
    }
}
