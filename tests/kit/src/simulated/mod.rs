//! What a broker does, as plain state machines: no clock, no task, no randomness of their own.
//!
//! Time is handed in, in milliseconds, so the same model stands in for a broker under paused time (the simulator) and is
//! held against a real one, operation by operation (`tests/sim/tests/real_broker.rs`). [`consumer`] gives and gives
//! again, [`stream`] stores once per message id, [`random`] is the seeded source of chance.

pub mod consumer;
pub mod random;
pub mod stream;

pub use consumer::{Consumer, Given};
pub use random::Random;
pub use stream::{Refused, Stream, Taken};
