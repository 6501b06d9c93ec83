//! Which host is the active one of an ordered consumer: a lease in a bucket, one key per consumer.
//!
//! The holder renews it with every sixth of its patience, each time on condition that the entry is the one it wrote last,
//! so two hosts can't both believe that they wrote the last one. No clock is compared with another host's: whoever waits
//! takes over when the same entry has stood there for the whole patience by its own clock, and the holder stops two thirds
//! of the patience after it *asked* for the last renewal that was confirmed, by its own. A holder that ends well says so in
//! the entry, and the next one need not wait.

use super::{
    api::{self, ApiError, Raw, Wanted, code},
    connect::Line,
    consumer::Spec,
    own_streams::LEASES_BUCKET,
    publish::{Ack, Store},
};
use async_nats::HeaderMap;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tracing::{debug, info, warn};

/// The version that is written.
const VERSION: u32 = 1;
/// The longest time between two looks of a host that waits.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// The condition that an entry is written on.
const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";

/// One consumer's lease, as this host sees it.
#[derive(Debug)]
pub(super) struct ActiveLease {
    control: Arc<Line>,
    subject: String,
    /// Tells this binding of this process from all others.
    me: String,
    host: String,
    patience: Duration,
    // Guards plain data; never held across an await.
    view: Mutex<View>,
    /// One conversation with the broker at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct View {
    held: Option<Held>,
    /// The entry of another host, and since when it has been the same.
    other: Option<(u64, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    revision: u64,
    asked: Instant,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    v: u32,
    /// Who holds it; none when it was given back.
    holder: Option<String>,
    /// The holder's name, for people.
    host: String,
}

/// Who stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// This host has it.
    Own,
    /// Another host has.
    Other(String),
}

impl ActiveLease {
    /// The lease of a consumer. `host` is the name under which people know this host.
    pub(super) fn of(control: Arc<Line>, spec: &Spec, host: &str) -> Self {
        Self {
            control,
            subject: format!("$KV.{LEASES_BUCKET}.{}.{}", spec.stream, spec.durable),
            me: nonce(),
            host: host.to_owned(),
            patience: spec.ack_wait,
            view: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Whether this host may still work on the consumer. Asks nobody.
    pub(super) fn is_held(&self) -> bool {
        self.view().held.is_some_and(|held| held.asked.elapsed() < self.valid_for())
    }

    /// How often a host that waits looks again.
    pub(super) fn look_interval(&self) -> Duration {
        (self.patience / 6).min(LOOK_MAX)
    }

    /// Takes the lease where it is free, given back or left alone for the whole patience.
    pub(super) async fn take(&self) -> Result<Taken, ApiError> {
        let _one_at_a_time = self.asking.lock().await;
        if self.is_held() {
            return Ok(Taken::Own);
        }
        let stored = api::stored(&self.control, &stream(), Wanted::last(&self.subject)).await?;
        let revision = match stored {
            None => 0,
            Some(raw) => match self.in_the_way(&raw) {
                Some(host) => return Ok(Taken::Other(host)),
                None => raw.sequence,
            },
        };
        match self.write(revision, Some(&self.me)).await? {
            Written::Stored => {
                info!(lease = %self.subject, "this host is the active one of its consumer");
                Ok(Taken::Own)
            }
            Written::OtherWasFaster => Ok(Taken::Other("another host".into())),
        }
    }

    /// Renews the lease where it is held and that is due.
    pub(super) async fn renew(&self) {
        let Some(held) = self.view().held else { return };
        if held.asked.elapsed() < self.patience / 6 {
            return;
        }
        let _one_at_a_time = self.asking.lock().await;
        match self.write(held.revision, Some(&self.me)).await {
            Ok(Written::Stored) => {}
            Ok(Written::OtherWasFaster) => self.look_who().await,
            Err(why) => debug!(lease = %self.subject, %why, "not renewed; trying again"),
        }
    }

    /// Gives the lease back, so that the next host need not wait.
    pub(super) async fn give_back(&self) {
        let _one_at_a_time = self.asking.lock().await;
        let Some(held) = self.view().held.take() else { return };
        if let Err(why) = self.write(held.revision, None).await {
            debug!(lease = %self.subject, %why, "not given back; the next host waits until it has lapsed");
        }
        self.view().held = None;
    }

    /// The entry is not the one that this host knows: either an answer was lost, or another host has taken over.
    async fn look_who(&self) {
        let stored = api::stored(&self.control, &stream(), Wanted::last(&self.subject)).await;
        let mut view = self.view();
        match stored {
            Ok(Some(raw)) if entry(&raw).holder.as_deref() == Some(&self.me) => {
                if let Some(held) = &mut view.held {
                    held.revision = raw.sequence;
                }
            }
            Ok(_) => {
                warn!(lease = %self.subject, "another host has taken over");
                view.held = None;
            }
            Err(why) => debug!(lease = %self.subject, %why, "the lease can't be looked at"),
        }
    }

    /// The name of the host that holds the entry and may not be passed yet.
    fn in_the_way(&self, raw: &Raw) -> Option<String> {
        let Entry { holder, host, .. } = entry(raw);
        let holder = holder?;
        if holder == self.me {
            return None;
        }
        let mut view = self.view();
        let since = match view.other {
            Some((revision, since)) if revision == raw.sequence => since,
            _ => {
                let now = Instant::now();
                view.other = Some((raw.sequence, now));
                now
            }
        };
        (since.elapsed() < self.patience).then_some(host)
    }

    async fn write(&self, expected: u64, holder: Option<&String>) -> Result<Written, ApiError> {
        let entry = Entry { v: VERSION, holder: holder.cloned(), host: self.host.clone() };
        let body = serde_json::to_vec(&entry).map_err(|why| ApiError::Unreadable(why.to_string()))?;
        let mut headers = HeaderMap::new();
        super::wire::append(&mut headers, EXPECTED_SEQUENCE, &expected.to_string())
            .map_err(|why| ApiError::Unreadable(why.to_string()))?;
        let asked = Instant::now();
        let store = Store { line: &self.control, control: &self.control };
        // Once: a repetition would carry the time of the first question.
        match store.once(&self.subject, &headers, body.into()).await {
            Ack::Stored(stored) => {
                self.view().held = holder.map(|_| Held { revision: stored.sequence, asked });
                Ok(Written::Stored)
            }
            Ack::Refused(refusal) if refusal.err_code == code::WRONG_LAST_SEQUENCE => {
                Ok(Written::OtherWasFaster)
            }
            Ack::Refused(refusal) => {
                Err(ApiError::Refused { code: refusal.err_code, description: refusal.description })
            }
            Ack::NoStream => Err(ApiError::NoAnswer(format!("the stream {} is missing", stream()))),
            Ack::TooLarge(why) | Ack::NoAnswer(why) => Err(ApiError::NoAnswer(why)),
        }
    }

    fn valid_for(&self) -> Duration {
        self.patience * 2 / 3
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Stored,
    OtherWasFaster,
}

/// An entry that can't be read is another host's: it lapses as any other does.
fn entry(raw: &Raw) -> Entry {
    serde_json::from_slice(&raw.payload).unwrap_or_else(|_| Entry {
        v: VERSION,
        holder: (!raw.payload.is_empty()).then(|| "unknown".to_owned()),
        host: "unknown".to_owned(),
    })
}

/// The stream behind the bucket.
fn stream() -> String {
    format!("KV_{LEASES_BUCKET}")
}

/// The standard library keys every `RandomState` anew, from the system's randomness.
fn nonce() -> String {
    let part = || RandomState::new().build_hasher().finish().to_be_bytes();
    HEXLOWER.encode(&[part(), part()].concat())
}
