//! The durable consumer behind a binding: created, updated in place, made again where it was lost.
//!
//! `max_deliver` is never finite: the broker would park an event silently. Attempts are counted by the host. What can be
//! changed in place is changed in place, because a consumer that is deleted and made again forgets what is acknowledged;
//! what can't be is refused with the difference.

use super::{
    api::{self, ApiError, code},
    checkpoint,
    connect::Line,
    delivery::Origin,
    own_streams::AGAIN_STREAM,
    refusal::ConnectError,
    topology::{self, Difference, compare},
};
use async_nats::jetstream::{
    consumer::{AckPolicy, Config, DeliverPolicy, Info, ReplayPolicy, pull},
    stream::RetentionPolicy,
};
use busway_core::{Binding, SubjectFilter, again, binding::Subscription};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tracing::{info, warn};

/// Pull requests that wait at the broker, of all hosts together.
const WAITING_MAX: i64 = 16;
/// Events in one pull request.
pub(super) const BATCH_MAX: usize = 256;
/// How long a pull request may wait at the broker.
const EXPIRES_MAX: Duration = Duration::from_secs(60);
/// Deliveries that are not acknowledged, of all hosts together.
const ACK_PENDING_MAX: i64 = 1024;
/// How long the broker waits for a word about a delivery.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// What may be chosen about a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// How long the broker waits for a word about a delivery before it gives it again. Default 30 s, 5 s to 10 min.
    pub ack_wait: Duration,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self { ack_wait: ACK_WAIT }
    }
}

/// Why a binding can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a subscription to a stream.
    #[error("plugin {plugin}: only a subscription to a stream has a consumer")]
    NoConsumer {
        /// The plugin.
        plugin: String,
    },
    /// A group that the protocol can't carry.
    #[error("plugin {plugin}: {group:?} is not a group: it has 1 to 128 letters, digits, `_`, `-` and `.`")]
    Group {
        /// The plugin.
        plugin: String,
        /// What it says.
        group: String,
    },
    /// Two subjects of one plain subscription let the same message through, which would come twice.
    #[error(
        "plugin {plugin}: {one} and {other} overlap, so some messages would come twice; name one that contains both"
    )]
    Overlap {
        /// The plugin.
        plugin: String,
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
    /// No connection for plain subjects.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The stream does not exist.
    #[error("stream {stream} does not exist; add a [[stream]] or create it")]
    NoStream {
        /// The stream.
        stream: String,
    },
    /// The stream is not the one that it was.
    #[error(
        "stream {stream} was made anew, so its sequences mean other events than before: restart the host to read it \
         from its beginning"
    )]
    MadeAnew {
        /// The stream.
        stream: String,
    },
    /// The stream captures nothing that the filter lets through.
    #[error("stream {stream} captures nothing that {filter} lets through; its subjects are {}", subjects.join(", "))]
    NotCaptured {
        /// The stream.
        stream: String,
        /// The filter.
        filter: String,
        /// What the stream captures.
        subjects: Vec<String>,
    },
    /// A consumer of this name exists and can't be changed into what is wanted.
    #[error(
        "consumer {consumer} on stream {stream}: {}; this can't be changed in place: remove the consumer \
         (`nats consumer rm {stream} {consumer}`), knowing that what it has acknowledged is forgotten",
        topology::lines(differences)
    )]
    Differs {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// Line by line.
        differences: Vec<Difference>,
    },
    /// Repeated inputs are to be recognised, and the broker can't end a single message's stay.
    #[error(
        "recognising repeated inputs (`dedup`) needs nats-server 2.11 or later, and this is {version}: update it, or \
         leave `dedup` out"
    )]
    TooOldForDedup {
        /// What it says it is.
        version: String,
    },
    /// The bucket of keys is missing, or is not what claims need.
    #[error(
        "stream {stream} is missing, or was made without allow_msg_ttl or with other than one message per subject: \
         remove it (`nats stream rm {stream}`, which forgets which inputs were seen) and restart the host"
    )]
    KeysNotKept {
        /// The stream.
        stream: String,
    },
    /// JetStream gave no good answer.
    #[error("consumer {consumer} on stream {stream}")]
    Api {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// Why.
        source: ApiError,
    },
}

/// A consumer as it is wanted.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub stream: Arc<str>,
    pub durable: Arc<str>,
    pub filters: Vec<SubjectFilter>,
    pub ack_wait: Duration,
    /// Whether one host at a time may pull.
    pub ordered: bool,
    max_ack_pending: i64,
    description: String,
}

/// What a consumer was like when it was last looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'a> {
    pub origin: &'a Origin,
    pub ack_floor: u64,
}

/// A consumer that the broker has confirmed.
#[derive(Debug)]
pub(super) struct Confirmed {
    pub origin: Origin,
    pub info: Info,
}

impl Spec {
    pub(super) fn of(binding: &Binding, settings: ConsumerSettings) -> Result<Self, OpenError> {
        let (stream, filters) = match &binding.subscription {
            Subscription::Stream { stream, filters } => (stream.as_str(), filters.clone()),
            Subscription::Returned => {
                (AGAIN_STREAM, again::due_filter(&binding.plugin).parse().into_iter().collect())
            }
            Subscription::Core { .. } => {
                return Err(OpenError::NoConsumer { plugin: binding.plugin.to_string() });
            }
        };
        let concurrency = i64::from(binding.limits.concurrency);
        Ok(Self {
            stream: stream.into(),
            durable: binding.durable().into(),
            filters,
            ack_wait: settings.ack_wait,
            ordered: binding.ordering.is_ordered(),
            max_ack_pending: match binding.ordering.window() {
                Some(window) => i64::from(window),
                None => (BATCH_MAX as i64 + 4 * concurrency).min(ACK_PENDING_MAX),
            },
            description: format!("Busway plugin {}", binding.plugin),
        })
    }

    fn config(&self, deliver_policy: DeliverPolicy) -> pull::Config {
        let mut filters: Vec<String> = self.filters.iter().map(ToString::to_string).collect();
        let only = if filters.len() == 1 { filters.pop() } else { None };
        pull::Config {
            durable_name: Some(self.durable.to_string()),
            name: Some(self.durable.to_string()),
            description: Some(self.description.clone()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            max_deliver: -1,
            filter_subject: only.unwrap_or_default(),
            filter_subjects: filters,
            replay_policy: ReplayPolicy::Instant,
            max_waiting: WAITING_MAX,
            max_ack_pending: self.max_ack_pending,
            max_batch: BATCH_MAX as i64,
            max_expires: EXPIRES_MAX,
            ..pull::Config::default()
        }
    }

    pub(super) fn failed(&self, source: ApiError) -> OpenError {
        OpenError::Api { stream: self.stream.to_string(), consumer: self.durable.to_string(), source }
    }

    /// What differs and can't be changed in place.
    pub(super) fn fixed_differences(&self, is: &Config) -> Vec<Difference> {
        let mut differences = Vec::new();
        compare(&mut differences, "deliver_subject", &is.deliver_subject, &None);
        compare(&mut differences, "ack_policy", &is.ack_policy, &AckPolicy::Explicit);
        compare(&mut differences, "replay_policy", &is.replay_policy, &ReplayPolicy::Instant);
        compare(&mut differences, "max_waiting", &is.max_waiting, &WAITING_MAX);
        // A consumer that was made again begins after what its predecessor had acknowledged.
        if !matches!(is.deliver_policy, DeliverPolicy::All | DeliverPolicy::ByStartSequence { .. }) {
            let (is, wanted) = (format!("{:?}", is.deliver_policy), "All".into());
            differences.push(Difference { key: "deliver_policy", is, wanted });
        }
        differences
    }

    /// What differs and can be changed in place.
    pub(super) fn changeable_differences(&self, is: &Config) -> Vec<Difference> {
        let wanted = self.config(DeliverPolicy::All);
        let filters = |one: &str, more: &[String]| {
            let mut filters = more.to_vec();
            filters.extend((!one.is_empty()).then(|| one.to_owned()));
            filters.sort();
            filters
        };
        let mut differences = Vec::new();
        let is_filters = filters(&is.filter_subject, &is.filter_subjects);
        let wanted_filters = filters(&wanted.filter_subject, &wanted.filter_subjects);
        compare(&mut differences, "filters", &is_filters, &wanted_filters);
        compare(&mut differences, "ack_wait", &is.ack_wait, &wanted.ack_wait);
        compare(&mut differences, "max_deliver", &is.max_deliver, &wanted.max_deliver);
        compare(&mut differences, "max_ack_pending", &is.max_ack_pending, &wanted.max_ack_pending);
        compare(&mut differences, "max_batch", &is.max_batch, &wanted.max_batch);
        compare(&mut differences, "max_expires", &is.max_expires, &wanted.max_expires);
        compare(&mut differences, "headers_only", &is.headers_only, &false);
        compare(&mut differences, "inactive_threshold", &is.inactive_threshold, &Duration::ZERO);
        compare(&mut differences, "backoff", &is.backoff, &Vec::new());
        differences
    }

    /// Brings the consumer about, whatever is there now. `before` is what the consumer was like when it was last looked
    /// at. One that has to be made begins after what was acknowledged by then or by its checkpoint, whichever is later.
    pub(super) async fn ensure(
        &self,
        line: &Line,
        before: Option<Before<'_>>,
    ) -> Result<Confirmed, OpenError> {
        let stream = topology::info(line, &self.stream).await.map_err(|why| self.failed(why))?;
        let stream = stream.ok_or_else(|| OpenError::NoStream { stream: self.stream.to_string() })?;
        self.check_captured(&stream.config.subjects)?;
        let origin = Origin {
            stream: Arc::clone(&self.stream),
            stream_created_ns: stream.created.unix_timestamp_nanos(),
            consumer: Arc::clone(&self.durable),
        };
        if before.is_some_and(|before| *before.origin != origin) {
            return Err(OpenError::MadeAnew { stream: self.stream.to_string() });
        }
        let existing = self.info(line).await.map_err(|why| self.failed(why))?;
        let info = match existing {
            Some(info) => self.adapt(line, info).await?,
            // A work queue still holds exactly what was not acknowledged, and takes no other beginning.
            None if stream.config.retention != RetentionPolicy::Limits => self.create(line, 0).await?,
            None => {
                let kept = checkpoint::read(line, &origin).await;
                let after = before.map_or(0, |before| before.ack_floor).max(kept);
                // Beyond the end: the stream was restored from an older copy, and its sequences mean other events.
                let after = if after > stream.state.last_sequence { 0 } else { after };
                self.create(line, after).await?
            }
        };
        Ok(Confirmed { origin, info })
    }

    /// The consumer as it is, or none.
    pub(super) async fn info(&self, line: &Line) -> Result<Option<Info>, ApiError> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream, self.durable);
        match api::call(line, &subject, &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(why) if why.is(code::CONSUMER_NOT_FOUND) || why.is(code::STREAM_NOT_FOUND) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Whether somebody changed the consumer so that the host's promises no longer hold. What only changes how much is
    /// under way is left alone: two hosts with other limits on one durable would change it back and forth for ever.
    pub(super) fn is_unsafe(&self, is: &Config) -> bool {
        let only_how_much = |difference: &Difference| match difference.key {
            "max_ack_pending" | "max_batch" | "max_expires" => true,
            "ack_wait" => is.ack_wait >= self.ack_wait,
            _ => false,
        };
        !self.fixed_differences(is).is_empty() || !self.changeable_differences(is).iter().all(only_how_much)
    }

    /// Deliveries that may be unacknowledged at once.
    pub(super) fn max_ack_pending(&self) -> usize {
        usize::try_from(self.max_ack_pending).unwrap_or_default()
    }

    fn check_captured(&self, subjects: &[String]) -> Result<(), OpenError> {
        let captured: Vec<SubjectFilter> =
            subjects.iter().filter_map(|subject| subject.parse().ok()).collect();
        match self.filters.iter().find(|filter| !captured.iter().any(|other| other.overlaps(filter))) {
            // A mirror has no subjects of its own.
            Some(filter) if !captured.is_empty() => Err(OpenError::NotCaptured {
                stream: self.stream.to_string(),
                filter: filter.to_string(),
                subjects: subjects.to_vec(),
            }),
            _ => Ok(()),
        }
    }

    async fn create(&self, line: &Line, after: u64) -> Result<Info, OpenError> {
        let deliver_policy = match after {
            0 => DeliverPolicy::All,
            after => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        };
        info!(stream = %self.stream, consumer = %self.durable, ?deliver_policy, "creating the consumer");
        match self.put(line, deliver_policy, "create").await {
            // Another host was faster.
            Err(why) if why.is(code::CONSUMER_ALREADY_EXISTS) => match self.info(line).await {
                Ok(Some(info)) => self.adapt(line, info).await,
                Ok(None) => Err(self.failed(why)),
                Err(why) => Err(self.failed(why)),
            },
            other => other.map_err(|why| self.failed(why)),
        }
    }

    async fn adapt(&self, line: &Line, info: Info) -> Result<Info, OpenError> {
        let differences = self.fixed_differences(&info.config);
        if !differences.is_empty() {
            return Err(OpenError::Differs {
                stream: self.stream.to_string(),
                consumer: self.durable.to_string(),
                differences,
            });
        }
        let differences = self.changeable_differences(&info.config);
        if differences.is_empty() {
            return Ok(info);
        }
        let changes = topology::lines(&differences);
        warn!(stream = %self.stream, consumer = %self.durable, %changes, "changing the consumer");
        self.put(line, info.config.deliver_policy, "update").await.map_err(|why| self.failed(why))
    }

    async fn put(&self, line: &Line, deliver_policy: DeliverPolicy, action: &str) -> Result<Info, ApiError> {
        let config = self.config(deliver_policy);
        let filter = match config.filter_subject.as_str() {
            "" => String::new(),
            filter => format!(".{filter}"),
        };
        let subject = format!("CONSUMER.CREATE.{}.{}{filter}", self.stream, self.durable);
        api::call(
            line,
            &subject,
            &json!({ "stream_name": &*self.stream, "config": config, "action": action }),
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::consumer::IntoConsumerConfig as _;

    /// Whether a host changes its consumer back after somebody changed it so.
    fn is_changed_back(edit: impl FnOnce(&mut Config)) -> bool {
        let stream = Subscription::Stream { stream: "S".into(), filters: vec!["in.>".parse().unwrap()] };
        let binding = Binding::new("p".parse().unwrap(), stream);
        let spec = Spec::of(&binding, ConsumerSettings::default()).unwrap();
        let mut config = spec.config(DeliverPolicy::All).into_consumer_config();
        edit(&mut config);
        spec.is_unsafe(&config)
    }

    #[test]
    fn what_breaks_a_promise_is_changed_back_and_how_much_is_under_way_is_left_to_whoever_changed_it() {
        assert!(!is_changed_back(|_| {}));
        assert!(!is_changed_back(|config| config.max_ack_pending = 7));
        assert!(!is_changed_back(|config| config.ack_wait *= 2));
        assert!(is_changed_back(|config| config.ack_wait = Duration::from_secs(1)));
        assert!(is_changed_back(|config| config.max_deliver = 1));
        assert!(is_changed_back(|config| config.filter_subject = "in.a".into()));
        assert!(is_changed_back(|config| config.headers_only = true));
    }
}
