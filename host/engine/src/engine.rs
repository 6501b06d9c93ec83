//! How wasmtime is set up: which proposals exist, how memory is pooled, how time passes.
//!
//! Nearly everything is off: most of wasmtime's advisories stand in proposals that plugins do not need. What stays on,
//! and why, is told beside it. There is one engine per process.

use crate::{bindings, cache::Cache, compiler::Compiling, store::State};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tracing::warn;
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, component::Linker,
};

/// How often a running guest looks up: it yields, and its processor budget is compared.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Bytes of the guest's stack.
const GUEST_STACK_BYTES: usize = 512 << 10;
/// Bytes of the stack that guest and host functions share; overflowing it ends the process, so the host's share is large.
const ASYNC_STACK_BYTES: usize = 2 << 20;
/// Sandboxes that exist at once.
const SANDBOXES_MAX: u32 = 256;

/// What an engine may be told.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// Where compiled plugins are kept, for this user only; none to compile every time.
    pub cache_dir: Option<PathBuf>,
    /// Where plugins are compiled.
    pub compiling: Compiling,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// This machine can't run it.
    #[error("the sandbox can't be set up on this machine: {0}")]
    Setup(String),
    /// The folder for compiled plugins can't be used.
    #[error("the folder for compiled plugins, {}, can't be used: {why}", .folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        why: std::io::Error,
    },
}

/// The engine; clones share it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    engine: wasmtime::Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    /// Held while a plugin is compiled: one at a time.
    compiling: Mutex<Compiling>,
    stopped: Arc<AtomicBool>,
}

impl Engine {
    /// Sets the engine up and starts its clock, a thread that ends with the last clone.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let setup = |why: wasmtime::Error| EngineError::Setup(format!("{why:#}"));
        let engine = match wasmtime::Engine::new(&settings(pooling())) {
            Ok(engine) => engine,
            Err(why) => {
                // A pool reserves hundreds of GiB of addresses, which some machines and containers do not give.
                warn!(%why, "no room for a pool of sandboxes; each one is allocated on demand, which is slower");
                wasmtime::Engine::new(&settings(InstanceAllocationStrategy::OnDemand)).map_err(setup)?
            }
        };
        let linker = bindings::linker(&engine).map_err(setup)?;
        let cache = config.cache_dir.map(|folder| Cache::open(folder, &engine)).transpose()?;
        let stopped = start_clock(engine.clone())?;
        let compiling = Mutex::new(config.compiling);
        Ok(Self { inner: Arc::new(Inner { engine, linker, cache, compiling, stopped }) })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner.engine
    }

    pub(crate) fn linker(&self) -> &Linker<State> {
        &self.inner.linker
    }

    /// Where plugins are compiled; nobody else compiles while it is held.
    pub(crate) fn compiling(&self) -> MutexGuard<'_, Compiling> {
        self.inner.compiling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.inner.cache.as_ref()
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cache", &self.inner.cache).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// A thread of its own: on a runtime's thread the clock would stand still when guests keep the runtime busy.
fn start_clock(engine: wasmtime::Engine) -> Result<Arc<AtomicBool>, EngineError> {
    let stopped = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stopped);
    let tick = move || {
        while !told.load(Ordering::Relaxed) {
            thread::sleep(TICK);
            engine.increment_epoch();
        }
    };
    let spawned = thread::Builder::new().name("busway-clock".to_owned()).spawn(tick);
    // Not joined: it ends by itself within a tick of the last clone's end, and holds nothing but the epoch counter.
    spawned.map(|_clock| stopped).map_err(|why| EngineError::Setup(why.to_string()))
}

/// What decides about the native code, and about how sandboxes are made.
pub(crate) fn settings(allocation: InstanceAllocationStrategy) -> Config {
    let mut config = Config::new();
    config.strategy(Strategy::Cranelift).cranelift_opt_level(OptLevel::Speed);
    config.allocation_strategy(allocation);
    config.epoch_interruption(true).consume_fuel(false);
    config.wasm_component_model(true);
    // Off: every proposal that no supported toolchain needs. Asynchronous components, core dumps and memory protection
    // keys are not even compiled in.
    config.concurrency_support(false);
    config.wasm_gc(false).wasm_function_references(false).wasm_exceptions(false);
    config.wasm_threads(false).shared_memory(false).wasm_memory64(false).wasm_tail_call(false);
    config.wasm_relaxed_simd(false).wasm_wide_arithmetic(false);
    config.wasm_custom_page_sizes(false).wasm_stack_switching(false);
    // On: without it a component with an adapter between two of its parts makes the compiler panic. Memories are capped
    // in number and in sum by the limiter.
    config.wasm_multi_memory(true);
    // The same bits on every machine, so that a run can be repeated.
    config.cranelift_nan_canonicalization(true);
    config.max_wasm_stack(GUEST_STACK_BYTES).async_stack_size(ASYNC_STACK_BYTES).async_stack_zeroing(true);
    config.memory_init_cow(true);
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(32));
    config
}

fn pooling() -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(SANDBOXES_MAX).total_stacks(SANDBOXES_MAX).total_memories(SANDBOXES_MAX);
    // Sized so that the largest known guests load: a Python component has 38 core instances, a QuickJS one 3 memories.
    pool.total_core_instances(4_096).max_core_instances_per_component(64);
    pool.max_memories_per_component(4)
        .max_memories_per_module(4)
        .max_tables_per_module(8)
        .total_tables(2_048)
        .max_tables_per_component(48)
        .table_elements(32_768);
    pool.max_memory_size(512 << 20).max_component_instance_size(1 << 20).max_core_instance_size(1 << 20);
    pool.total_gc_heaps(0);
    // Resetting what a small guest touched by copying is cheaper than giving the pages back to the kernel.
    pool.linear_memory_keep_resident(128 << 10)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10);
    pool.pagemap_scan(Enabled::Auto);
    InstanceAllocationStrategy::Pooling(pool)
}
