//! What the tests share: a broker in memory, the model of a real one, handlers that follow a script, a launcher of real nats-servers.
#![expect(clippy::expect_used, clippy::panic, reason = "test code: what can not be set up ends the test")]

pub mod link;
pub mod memory;
pub mod nats;
pub mod requests;
pub mod scripted;
pub mod simulated;
