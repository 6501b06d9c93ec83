//! Brokers: the only crate that knows async-nats.
//!
//! [`nats`] implements the seams of `busway_core::port` for NATS JetStream: a source per binding, its settling, and the
//! publishing of outputs and dead letters; besides, what an operator needs of the broker.

pub mod nats;

pub use nats::{
    Auth, ClientCertificate, ConnectError, ConsumerSettings, ConsumerState, DeadLetters, Durability,
    Embedded, EmbeddedError, Ensured, Features, Handshake, HistorySettings, KeptError, KeptMessage,
    KeptReader, KeptStream, LetterFilter, Nats, NatsConfig, NatsPublish, NatsRequest, NatsSettle, NatsSource,
    OneMessage, OpenBinding, OpenError, OwnStreams, PauseError, Published, Secret, ServerPause, SourceStatus,
    StreamSpec, Tls, TopologyError,
};
