//! Brokers: the only crate that knows async-nats.
//!
//! [`nats`] implements the seams of `busway_core::port` for NATS JetStream: a source per binding, its settling, and the
//! publishing of outputs and dead letters; besides, what an operator needs of the broker.

pub mod nats;

pub use nats::{
    ConsumerState, PauseError, ServerPause,
    Auth, ClientCertificate, ConnectError, ConsumerSettings, DeadLetters, Durability, Embedded,
    EmbeddedError, Ensured, Handshake, LetterFilter, Nats, NatsConfig, NatsPublish, NatsSettle, NatsSource,
    OneMessage, OpenBinding, OpenError, OwnStreams, Published, Secret, SourceStatus, StreamSpec, Tls,
    TopologyError,
};
