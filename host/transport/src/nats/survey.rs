//! What is there at the broker, compared with what is wanted; nothing is changed, except by [`Nats::apply`].

use super::{
    ConsumerSettings, Nats, OpenError, OwnStreams, StreamSpec,
    api::ApiError,
    consumer::Spec,
    own_streams,
    topology::{self, Difference},
};
use async_nats::jetstream::stream;
use busway_core::Binding;

/// A stream as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFinding {
    /// What is not as wanted.
    pub differences: Vec<Difference>,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes it may hold; none for no limit.
    pub bytes_max: Option<u64>,
    /// What an atomic batch in it costs.
    pub batches: BatchCost,
}

/// What the outputs of an event cost as one atomic batch, against single publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchCost {
    /// The stream takes no batches.
    NotTaken,
    /// About the same: the broker holds a batch back in memory.
    Same,
    /// About a hundred times as much: on disk with one copy, the broker makes a store of files for each batch.
    StoreEach,
}

/// A consumer as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFinding {
    /// What is not as wanted and can be changed in place.
    pub changeable: Vec<Difference>,
    /// What is not as wanted and can't.
    pub fixed: Vec<Difference>,
    /// Events that nobody was given yet.
    pub pending: u64,
    /// Events that were given and are not settled.
    pub ack_pending: u64,
}

impl Nats {
    /// The stream and what differs; none where it does not exist.
    ///
    /// # Errors
    /// No good answer of the broker.
    pub async fn find_stream(&self, spec: &StreamSpec) -> Result<Option<StreamFinding>, ApiError> {
        let info = topology::info(&self.control, &spec.name).await?;
        Ok(info.map(|info| finding(topology::differences(spec, &info.config), &info)))
    }

    /// Busway's own streams by name; none for one that does not exist yet.
    ///
    /// # Errors
    /// No good answer of the broker.
    pub async fn find_own_streams(
        &self,
        own: OwnStreams,
    ) -> Result<Vec<(String, Option<StreamFinding>)>, ApiError> {
        let mut found = Vec::new();
        for config in own.configs() {
            let info = topology::info(&self.control, &config.name).await?;
            let info = info.map(|info| finding(own_streams::differences(&config, &info.config), &info));
            found.push((config.name, info));
        }
        Ok(found)
    }

    /// A binding's consumer and what differs; none where it does not exist yet.
    ///
    /// # Errors
    /// No good answer of the broker, or a binding that has no consumer.
    pub async fn find_consumer(
        &self,
        binding: &Binding,
        settings: ConsumerSettings,
    ) -> Result<Option<ConsumerFinding>, OpenError> {
        let spec = Spec::of(binding, settings)?;
        let info = spec.info(&self.control).await.map_err(|why| spec.failed(why))?;
        Ok(info.map(|info| ConsumerFinding {
            changeable: spec.changeable_differences(&info.config),
            fixed: spec.fixed_differences(&info.config),
            pending: info.num_pending,
            ack_pending: info.num_ack_pending as u64,
        }))
    }

    /// Makes a binding's consumer as it is wanted, in place.
    ///
    /// # Errors
    /// Differences that can't be changed in place, a missing stream, no good answer.
    pub async fn apply(&self, binding: &Binding, settings: ConsumerSettings) -> Result<(), OpenError> {
        Spec::of(binding, settings)?.ensure(&self.control, None).await.map(|_| ())
    }
}

fn finding(differences: Vec<Difference>, info: &stream::Info) -> StreamFinding {
    StreamFinding {
        differences,
        messages: info.state.messages,
        bytes: info.state.bytes,
        bytes_max: u64::try_from(info.config.max_bytes).ok().filter(|bytes| *bytes > 0),
        batches: batch_cost(&info.config),
    }
}

fn batch_cost(config: &stream::Config) -> BatchCost {
    match (config.allow_atomic_publish, config.storage, config.num_replicas) {
        (false, _, _) => BatchCost::NotTaken,
        (true, stream::StorageType::File, 0 | 1) => BatchCost::StoreEach,
        (true, stream::StorageType::File | stream::StorageType::Memory, _) => BatchCost::Same,
    }
}
