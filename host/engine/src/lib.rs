//! The sandbox: the only crate that knows wasmtime.
//!
//! A plugin's bytes become a [`Loaded`] component ([`component`]: what it is, what it wants, compiled or from the
//! [`cache`]); with limits, grants and configuration that becomes a [`Plugin`], which runs events ([`instance`]): one
//! fresh store each, within [`limits`], with what [`capability`] offers. However a run ends, [`classify`] says what it
//! means; nothing else interprets an error of wasmtime.

mod engine;

mod bindings;
mod cache;
mod compiler;
mod component;
mod inspect;
mod manifest;
mod structure;

mod capability;
mod cpu;
mod limits;
mod store;

mod classify;
mod instance;

pub use capability::Grants;
pub use compiler::{ChildCompiler, CompileBounds, Compiling, compile_child};
pub use component::{LoadError, Loaded};
pub use engine::{Engine, EngineConfig, EngineError};
pub use inspect::{Inspection, inspect};
pub use instance::{Plugin, PluginSpec, TrialError};
pub use manifest::{ConfigKey, ConfigType, Manifest, ManifestError, Publishes, Requests, SECTION};
