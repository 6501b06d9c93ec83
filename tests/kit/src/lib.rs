//! What the tests share: a broker in memory, the model of a real one, handlers that follow a script, a launcher of real
//! nats-servers and of a cluster of them, and a connection that loses what goes one way.
#![expect(clippy::expect_used, clippy::panic, reason = "test code: what can not be set up ends the test")]

pub mod cluster;
pub mod link;
pub mod memory;
pub mod nats;
pub mod proxy;
pub mod requests;
pub mod scripted;
pub mod simulated;
