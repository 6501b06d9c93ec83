//! What the tests share: a broker in memory, handlers that follow a script, a launcher of real nats-servers.

pub mod memory;
pub mod nats;
pub mod scripted;
