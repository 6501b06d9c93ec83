//! The one seam between the SDK and what is under it: the same functions, answered by the host through the WIT in a
//! WebAssembly build and by the test harness in a native one.

#[cfg(target_arch = "wasm32")]
mod guest;
#[cfg(not(target_arch = "wasm32"))]
mod native;

#[cfg(target_arch = "wasm32")]
pub use guest::*;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;
