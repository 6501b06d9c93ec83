//! What the host offers to a run, one file per interface.
//!
//! Every function here checks what is granted, then what is well-formed, then what is left of the budget, and answers
//! with the interface's own error. Nothing here panics, and nothing traps for a mere refusal: only a guest that goes on
//! calling far beyond its budget is ended.

pub(crate) mod blobstore;
pub(crate) mod bus;
mod config;
mod context;
mod diagnostics;
mod grants;
pub(crate) mod http;
pub(crate) mod keyvalue;
pub(crate) mod logging;
mod request;
mod secrets;
pub(crate) mod wasi;

pub use grants::Grants;

/// What an interface answers that this version only offers by name.
pub(crate) const UNAVAILABLE: &str = "unavailable: this host does not offer it";
