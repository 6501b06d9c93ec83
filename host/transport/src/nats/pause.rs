//! Pausing a consumer at the server, so that no host gets its events, and what an operator sees of it.
//!
//! The server knows one thing of a pause: until when. Who paused is told by that: a pause by hand is for ever (a moment
//! beyond the year 2100), a breaker's is short and ends by itself, so that a host that dies with an open breaker stops
//! nobody. A breaker never shortens or ends a pause by hand: it looks first, and it ends none at all. Times are reckoned on
//! the server's clock, which its answers tell, so that a host whose clock is wrong pauses no longer than it means to.
//!
//! A change of the consumer's configuration leaves its pause as it is; only a pause request changes that.

use super::{
    Nats,
    api::{self, ApiError, code},
    connect::Line,
};
use async_nats::jetstream::consumer::Info;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

/// 2100-01-01T00:00:00Z: a pause beyond it was made by hand.
const BY_HAND_FROM_S: i64 = 4_102_444_800;
/// Until when a pause by hand is.
const BY_HAND_UNTIL: &str = "2199-12-31T00:00:00Z";
/// The first server that can pause consumers.
const OLDEST: (u64, u64) = (2, 11);
/// A breaker pauses for no longer.
const AWHILE_MAX: Duration = Duration::from_secs(24 * 3600);
/// After this an operator's pause or resume is looked at again: a breaker may have paused in the same moment.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often an operator's pause is tried against breakers that pause in the same moment.
const TRIES: usize = 3;

/// A durable consumer as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// Whether it is paused, and by whom.
    pub pause: Option<ServerPause>,
    /// Events that nobody was given yet.
    pub pending: u64,
    /// Events that were given and are not settled.
    pub in_flight: u64,
    /// How many of these were given more than once.
    pub redelivered: u64,
}

/// A pause that the server knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPause {
    /// An operator's, until it is ended.
    ByHand,
    /// A breaker's, for so much longer.
    Awhile(Duration),
}

/// Why a consumer was not paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The server can't.
    #[error("nats-server {version} can't pause consumers: at least 2.11 is needed")]
    ServerTooOld {
        /// Its version.
        version: String,
    },
    /// Something pauses it again and again.
    #[error("consumer {consumer}: something else changes its pause at the same time; try again")]
    Contended {
        /// The consumer.
        consumer: String,
    },
    /// There is no such consumer.
    #[error("there is no consumer {consumer} on stream {stream} yet: it is made when a host starts")]
    NoConsumer {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// JetStream gave no good answer.
    #[error("consumer {consumer} on stream {stream}")]
    Api {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// Why.
        #[source]
        source: ApiError,
    },
}

/// What the server answers about a consumer, as far as it matters here.
#[derive(Deserialize)]
struct Looked {
    #[serde(flatten)]
    info: Info,
    /// The server's clock.
    ts: Option<String>,
}

#[derive(Serialize)]
struct Until<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_until: Option<&'a str>,
}

#[derive(Deserialize)]
struct Paused {}

impl Nats {
    /// A durable consumer as it is now; none where there is none.
    ///
    /// # Errors
    /// JetStream gave no good answer.
    pub async fn consumer_state(
        &self,
        stream: &str,
        durable: &str,
    ) -> Result<Option<ConsumerState>, PauseError> {
        let looked = look(&self.control, stream, durable).await?;
        Ok(looked.map(|looked| ConsumerState {
            pause: pause_of(&looked.info),
            pending: looked.info.num_pending,
            in_flight: looked.info.num_ack_pending as u64,
            redelivered: looked.info.num_redelivered as u64,
        }))
    }

    /// Pauses a consumer until [`Nats::resume_consumer`], for every host. Repeating it is safe.
    ///
    /// # Errors
    /// See [`PauseError`].
    pub async fn pause_consumer(&self, stream: &str, durable: &str) -> Result<(), PauseError> {
        self.check_can_pause()?;
        for _ in 0..TRIES {
            self.set_pause(stream, durable, Some(BY_HAND_UNTIL)).await?;
            tokio::time::sleep(LOOK_AGAIN).await;
            let state = self.consumer_state(stream, durable).await?;
            if state.is_some_and(|state| state.pause == Some(ServerPause::ByHand)) {
                return Ok(());
            }
        }
        Err(PauseError::Contended { consumer: durable.to_owned() })
    }

    /// Ends a pause, whoever made it. Repeating it is safe.
    ///
    /// # Errors
    /// See [`PauseError`].
    pub async fn resume_consumer(&self, stream: &str, durable: &str) -> Result<(), PauseError> {
        self.check_can_pause()?;
        self.set_pause(stream, durable, None).await
    }

    /// Pauses a consumer for a while, unless it is paused by hand or for longer already. For how long it is paused then, by
    /// the server's clock; none where an operator has the last word.
    ///
    /// # Errors
    /// See [`PauseError`].
    pub async fn pause_consumer_awhile(
        &self,
        stream: &str,
        durable: &str,
        awhile: Duration,
    ) -> Result<Option<Duration>, PauseError> {
        self.check_can_pause()?;
        let missing = || PauseError::NoConsumer { stream: stream.to_owned(), consumer: durable.to_owned() };
        let looked = look(&self.control, stream, durable).await?.ok_or_else(missing)?;
        match pause_of(&looked.info) {
            Some(ServerPause::ByHand) => return Ok(None),
            Some(ServerPause::Awhile(remaining)) if remaining >= awhile => return Ok(Some(remaining)),
            _ => {}
        }
        let until = until(&looked, awhile).map_err(|source| api_error(stream, durable, source))?;
        self.set_pause(stream, durable, Some(&until)).await?;
        Ok(Some(awhile))
    }

    async fn set_pause(&self, stream: &str, durable: &str, until: Option<&str>) -> Result<(), PauseError> {
        let subject = format!("CONSUMER.PAUSE.{stream}.{durable}");
        let answer = api::call::<Paused>(&self.control, &subject, &Until { pause_until: until }).await;
        match answer {
            Ok(Paused {}) => Ok(()),
            Err(why) if is_missing(&why) => {
                Err(PauseError::NoConsumer { stream: stream.to_owned(), consumer: durable.to_owned() })
            }
            Err(source) => Err(api_error(stream, durable, source)),
        }
    }

    fn check_can_pause(&self) -> Result<(), PauseError> {
        let version = self.server_version();
        if can_pause(&version) { Ok(()) } else { Err(PauseError::ServerTooOld { version }) }
    }
}

fn can_pause(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= OLDEST
}

async fn look(line: &Line, stream: &str, durable: &str) -> Result<Option<Looked>, PauseError> {
    let subject = format!("CONSUMER.INFO.{stream}.{durable}");
    match api::call(line, &subject, &json!({})).await {
        Ok(looked) => Ok(Some(looked)),
        Err(why) if is_missing(&why) => Ok(None),
        Err(source) => Err(api_error(stream, durable, source)),
    }
}

fn pause_of(info: &Info) -> Option<ServerPause> {
    if !info.paused {
        return None;
    }
    let by_hand = info.config.pause_until.is_some_and(|until| until.unix_timestamp() >= BY_HAND_FROM_S);
    let remaining = info.pause_remaining.unwrap_or_default();
    Some(if by_hand { ServerPause::ByHand } else { ServerPause::Awhile(remaining) })
}

/// A moment on the server's clock, as it writes moments.
fn until(looked: &Looked, awhile: Duration) -> Result<String, ApiError> {
    let now = looked.ts.as_deref().ok_or_else(|| ApiError::Unreadable("no time in the answer".into()))?;
    let until_ns = api::time(now)? + awhile.min(AWHILE_MAX).as_nanos() as i128;
    let unreadable = |why: String| ApiError::Unreadable(why);
    let until = async_nats::datetime::from_nanos(until_ns).map_err(|why| unreadable(why.to_string()))?;
    let (date, time) = (until.date(), until.time());
    Ok(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.nanosecond()
    ))
}

fn is_missing(why: &ApiError) -> bool {
    why.is(code::CONSUMER_NOT_FOUND) || why.is(code::STREAM_NOT_FOUND)
}

fn api_error(stream: &str, durable: &str, source: ApiError) -> PauseError {
    PauseError::Api { stream: stream.to_owned(), consumer: durable.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_pause_from_its_version_on() {
        for (version, expected) in [
            ("2.11.0", true),
            ("2.15.1", true),
            ("3.0.0-beta.1", true),
            ("2.10.27", false),
            ("2.9.10", false),
            ("", false),
        ] {
            assert_eq!(can_pause(version), expected, "{version:?}");
        }
    }
}
