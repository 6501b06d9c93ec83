//! Write Busway plugins in Rust: one function, called once for every event.
//!
//! ```
//! use busway_sdk::{Event, Failure, Message, publish};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     id: u64,
//!     total: f64,
//! }
//!
//! #[busway_sdk::handler]
//! fn handle(event: Event) -> Result<(), Failure> {
//!     let order: Order = event.json()?;
//!     if order.total < 0.0 {
//!         return Err(Failure::reject("negative-total", format!("order {}", order.id)));
//!     }
//!     publish(Message::new("orders.checked", event.payload))?;
//!     Ok(())
//! }
//!
//! let run = busway_sdk::testing::run(handle, Event::test("orders.created", r#"{"id": 7, "total": 9.5}"#));
//! assert_eq!(run.outcome, Ok(()));
//! assert_eq!(run.outputs[0].subject, "orders.checked");
//! ```
//!
//! What the function returns is what happens to the event: `Ok` acknowledges it, after everything that was published has
//! been stored; a [`Failure`] asks for another attempt or gives the event up as a dead letter. There is nothing else to
//! acknowledge with. A panic is an attempt that failed; its message, file and line stand in the evidence.
//!
//! In a WebAssembly build the functions here call the host. In a native build, which is what `cargo test` makes, they
//! talk to [`testing::Harness`].

mod bus;
pub mod clock;
pub mod config;
pub mod context;
mod event;
mod failure;
mod host;
mod json;
pub mod log;
mod message;
mod secret;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use bus::{BusError, publish, reply, request};
pub use busway_sdk_macros::handler;
pub use event::{Event, Header};
pub use failure::{Failure, Rejection, RetryLater};
pub use message::Message;
pub use secret::secret;

/// What the code written by `#[handler]` refers to. Not for use by hand: it changes without notice.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod __private {
    pub use crate::host::{Guest, export, exports, handle};
}

/// The examples of the README, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
