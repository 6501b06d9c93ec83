//! From bytes to a component that can be instantiated: what is it, is it valid, does it fit, then compile.
//!
//! Cheap checks come first and name their cause; compiling comes last and is skipped where the cache has the result.
//! Nothing here runs guest code.

use crate::{
    bindings::PluginIndices,
    cache,
    compiler::Compiling,
    engine::Engine,
    inspect::{Inspection, inspect},
    manifest::{Manifest, ManifestError},
    store::State,
};
use busway_core::Digest;
use std::fmt::Write as _;
use wasmparser::{Validator, WasmFeatures};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre};

/// The export that makes a component a plugin.
pub(crate) const HANDLER: &str = "busway:plugin/handler@0.1.0";
const BATCH_HANDLER: &str = "busway:plugin/batch-handler@";
pub(crate) const LIFECYCLE: &str = "busway:plugin/lifecycle@0.1.0";

/// The interfaces that the host links, without versions.
const KNOWN: [(&str, &[&str]); 11] = [
    ("busway:plugin", &["types", "context", "bus", "secrets", "diagnostics"]),
    ("wasi:logging", &["logging"]),
    ("wasi:config", &["store"]),
    ("wasi:keyvalue", &["store", "atomics", "batch"]),
    ("wasi:blobstore", &["types", "container", "blobstore"]),
    ("wasi:http", &["types", "outgoing-handler"]),
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:clocks", &["monotonic-clock", "wall-clock", "timezone"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    ("wasi:filesystem", &["types", "preopens"]),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
];
const SOCKETS: &str = "wasi:sockets/";

/// Why bytes are not a plugin that this host can run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// Larger than a plugin may be.
    #[error("larger than a plugin may be: at most 64 MiB")]
    TooLarge,
    /// A core module.
    #[error(
        "a core WebAssembly module, not a component: build it with `busway build`, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// Text.
    #[error("WebAssembly in text format: assemble it first, with `wasm-tools parse`")]
    TextFormat,
    /// Native code.
    #[error(
        "precompiled native code: give the component it was made of; the host compiles by itself and runs no native code of others"
    )]
    Precompiled,
    /// Something else.
    #[error("not a WebAssembly component: {0}")]
    NotWasm(&'static str),
    /// Components inside of components without end.
    #[error("components inside of components, more than 100 deep")]
    TooDeep,
    /// More of something than a plugin may have.
    #[error("{found} {what}, more than the {most} that a plugin may have")]
    TooComplex {
        /// Of what.
        what: &'static str,
        /// How many there are, at least.
        found: u64,
        /// How many there may be.
        most: u64,
    },
    /// Cut or damaged.
    #[error("a damaged or cut component, at byte {offset}: {why}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What.
        why: String,
    },
    /// It needs a proposal that is off.
    #[error(
        "it needs a WebAssembly proposal that this host keeps off, at byte {offset}: {why}; build it without"
    )]
    Proposal {
        /// Where.
        offset: usize,
        /// Which.
        why: String,
    },
    /// It imports what the host does not know.
    #[error("it imports what this host does not know: {}{hint}", names.join(", "))]
    UnknownImports {
        /// What.
        names: Vec<String>,
        /// What may be meant.
        hint: String,
    },
    /// It exports no handler.
    #[error("it exports no {HANDLER}{hint}; it exports: {}", list(exports))]
    NoHandler {
        /// What it exports.
        exports: Vec<String>,
        /// What may be meant.
        hint: String,
    },
    /// What it imports or exports has another shape than the host's.
    #[error("it does not fit the contract: {0}")]
    Unfit(String),
    /// It can't be compiled.
    #[error("it can't be compiled: {0}")]
    Compile(String),
    /// Its manifest is broken.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

impl LoadError {
    /// Bytes of the largest plugin.
    pub const BYTES_MAX: usize = 64 << 20;

    pub(crate) fn malformed(why: wasmparser::BinaryReaderError) -> Self {
        Self::Malformed { offset: why.offset(), why: why.message().to_owned() }
    }
}

/// A component that fits and is compiled.
#[derive(Clone)]
pub struct Loaded {
    pub(crate) inspection: Inspection,
    pub(crate) pre: InstancePre<State>,
    pub(crate) indices: PluginIndices,
    pub(crate) init: Option<ComponentExportIndex>,
}

impl Loaded {
    /// What it says of itself, if anything.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.inspection.manifest.as_ref()
    }

    /// The sha256 of its bytes.
    pub fn digest(&self) -> &Digest {
        &self.inspection.digest
    }
}

impl Engine {
    /// Checks and compiles a plugin. Takes from under a millisecond (cached) to several seconds (a language run-time),
    /// all of it on the processor: not for a thread that has to answer.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(&self, bytes: &[u8]) -> Result<Loaded, LoadError> {
        let inspection = inspect(bytes)?;
        validate(bytes)?;
        check_imports(&inspection.imports)?;
        check_exports(&inspection.exports)?;
        let component = self.compiled(bytes, &inspection.digest)?;
        let unfit = |why: wasmtime::Error| LoadError::Unfit(format!("{why:#}"));
        let pre = self.linker().instantiate_pre(&component).map_err(unfit)?;
        let init = component.get_export_index(None, LIFECYCLE);
        let init = init.and_then(|interface| component.get_export_index(Some(&interface), "init"));
        let indices = PluginIndices::new(&pre).map_err(unfit)?;
        Ok(Loaded { inspection, pre, indices, init })
    }

    fn compiled(&self, bytes: &[u8], digest: &Digest) -> Result<Component, LoadError> {
        if let Some(component) = self.cache().and_then(|cache| cache.get(self.wasmtime(), digest)) {
            return Ok(component);
        }
        let component = match &*self.compiling() {
            Compiling::Here => Component::from_binary(self.wasmtime(), bytes),
            Compiling::Child(child) => cache::deserialize(self.wasmtime(), &child.compile(bytes)?),
        };
        let component = component.map_err(|why| LoadError::Compile(format!("{why:#}")))?;
        if let Some(cache) = self.cache() {
            cache.put(digest, &component);
        }
        Ok(component)
    }
}

/// The proposals that plugins may use; the engine's settings say the same to wasmtime.
fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::GC_TYPES
        | WasmFeatures::CALL_INDIRECT_OVERLONG
        | WasmFeatures::BULK_MEMORY_OPT
}

fn validate(bytes: &[u8]) -> Result<(), LoadError> {
    let Err(why) = Validator::new_with_features(features()).validate_all(bytes) else { return Ok(()) };
    // Valid with everything on: then it is a proposal that is missed.
    if Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).is_ok() {
        return Err(LoadError::Proposal { offset: why.offset(), why: why.message().to_owned() });
    }
    Err(LoadError::malformed(why))
}

fn check_imports(imports: &[String]) -> Result<(), LoadError> {
    let unknown: Vec<_> = imports.iter().filter(|name| !is_known(name)).cloned().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let hint = unknown.iter().find_map(|name| near_import(name)).unwrap_or_default();
    Err(LoadError::UnknownImports { names: unknown, hint })
}

/// What an unknown import may mean: another interface of the same package, or the same interface of another package.
fn near_import(import: &str) -> Option<String> {
    let name = import.split('@').next().unwrap_or_default();
    let (package, interface) = name.split_once('/')?;
    if let Some((_, interfaces)) = KNOWN.iter().find(|(known, _)| *known == package) {
        return Some(format!("; of {package} it knows {}", interfaces.join(", ")));
    }
    let (meant, _) = KNOWN.iter().find(|(_, interfaces)| interfaces.contains(&interface))?;
    Some(format!("; is {meant}/{interface} meant?"))
}

fn is_known(import: &str) -> bool {
    let name = import.split('@').next().unwrap_or_default();
    let Some((package, interface)) = name.split_once('/') else { return false };
    name.starts_with(SOCKETS)
        || KNOWN.iter().any(|(known, interfaces)| *known == package && interfaces.contains(&interface))
}

fn check_exports(exports: &[String]) -> Result<(), LoadError> {
    if exports.iter().any(|name| name == HANDLER) {
        return Ok(());
    }
    let mut hint = String::new();
    if let Some(other) = exports.iter().find(|name| name.starts_with("busway:plugin/handler")) {
        // Writing into a string does not fail.
        let _written = write!(hint, ": {other} is another version of the contract");
    } else if exports.iter().any(|name| name.starts_with(BATCH_HANDLER)) {
        hint.push_str(": batches are not offered by this version of the host");
    } else if let Some(near) = exports.iter().find(|name| name.contains("handle")) {
        let _written = write!(hint, ": is {near} meant?");
    }
    Err(LoadError::NoHandler { exports: exports.to_vec(), hint })
}
