//! A plugin on plain subjects as a NATS micro service (ADR-32 of NATS): `nats micro ls|info|stats` and anything else that
//! speaks the protocol finds it, with one endpoint for each of its subscriptions.
//!
//! Written by hand: the client library's own service makes the endpoints' subscriptions itself and takes what comes into
//! its unbounded account, and here both have a bound and belong to a binding.

use super::pump;
use crate::nats::{backoff, connect::Line};
use async_nats::{Client, Message};
use busway_core::{PluginName, ReplySubject, SubjectFilter, event::base32};
use futures_util::{StreamExt as _, stream::SelectAll};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tracing::{debug, warn};

/// What is asked.
const VERBS: [&str; 3] = ["PING", "INFO", "STATS"];
/// The version of a plugin that names none, or one that is not `major.minor.patch`.
const NO_VERSION: &str = "0.0.0";
/// Between the first and the second try to subscribe.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// One plugin of this host.
#[derive(Debug)]
pub(in crate::nats) struct Service {
    name: String,
    /// This host's part of the service, drawn at random.
    id: String,
    started: String,
    answered_for: AtomicBool,
    // Guards plain data; never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    version: String,
    metadata: BTreeMap<String, String>,
    /// In the order in which they were made; none where the subscription has ended.
    endpoints: Vec<Option<Endpoint>>,
}

#[derive(Debug, Clone)]
struct Endpoint {
    name: String,
    subject: String,
    queue_group: String,
    requests: u64,
    errors: u64,
    last_error: String,
    processing: Duration,
}

/// How a request ended badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A run failed.
    Failed(String),
    /// Nobody handled it.
    Shed,
}

#[derive(Serialize)]
struct Answer<'a> {
    r#type: &'static str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Rest<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Rest<'a> {
    Ping {},
    Info { description: String, endpoints: Vec<EndpointInfo<'a>> },
    Stats { started: &'a str, endpoints: Vec<EndpointStats<'a>> },
}

#[derive(Serialize)]
struct EndpointInfo<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    metadata: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct EndpointStats<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    num_requests: u64,
    num_errors: u64,
    last_error: &'a str,
    /// Nanoseconds.
    processing_time: u64,
    /// Nanoseconds.
    average_processing_time: u64,
}

impl Service {
    pub(in crate::nats) fn new(plugin: &PluginName) -> Self {
        let state = State { version: NO_VERSION.to_owned(), ..State::default() };
        let (name, id, started) = (plugin.to_string(), draw_id(), now());
        Self { name, id, started, answered_for: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// Whether somebody took on [`respond`] before; from now on somebody has.
    pub(in crate::nats) fn is_answered_for(&self) -> bool {
        self.answered_for.swap(true, Ordering::Relaxed)
    }

    /// Tells what runs. A version that the protocol does not take is kept beside it.
    pub(in crate::nats) fn describe(&self, version: Option<&str>, metadata: &[(&str, String)]) {
        let mut state = self.state();
        state.metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        match version {
            Some(version) if is_semantic(version) => version.clone_into(&mut state.version),
            Some(other) => {
                state.metadata.insert("version".to_owned(), other.to_owned());
            }
            None => {}
        }
    }

    /// Adds an endpoint for each subscription; gives the number of the first.
    pub(super) fn add(&self, filters: &[SubjectFilter], group: Option<&str>) -> usize {
        let mut state = self.state();
        let first = state.endpoints.len();
        for filter in filters {
            let name = endpoint_name(&state.endpoints, filter);
            state.endpoints.push(Some(Endpoint {
                name,
                subject: filter.to_string(),
                queue_group: group.unwrap_or_default().to_owned(),
                requests: 0,
                errors: 0,
                last_error: String::new(),
                processing: Duration::ZERO,
            }));
        }
        first
    }

    /// Endpoints whose subscription has ended are not shown any more.
    pub(super) fn remove(&self, numbers: Range<usize>) {
        let mut state = self.state();
        for number in numbers {
            if let Some(endpoint) = state.endpoints.get_mut(number) {
                *endpoint = None;
            }
        }
    }

    /// An event came to an endpoint.
    pub(super) fn came(&self, number: usize) {
        self.change(number, |endpoint| endpoint.requests += 1);
    }

    /// A worker had one of its events for so long.
    pub(super) fn ran(&self, number: usize, time: Duration) {
        self.change(number, |endpoint| endpoint.processing += time);
    }

    pub(super) fn failed(&self, number: usize, outcome: Outcome) {
        self.change(number, |endpoint| {
            endpoint.errors += 1;
            endpoint.last_error = match outcome {
                Outcome::Failed(words) => words,
                Outcome::Shed => "overloaded: not handled".to_owned(),
            };
        });
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut Endpoint)) {
        if let Some(Some(endpoint)) = self.state().endpoints.get_mut(number) {
            change(endpoint);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said to a verb; nothing when no endpoint is left, or to another verb.
    fn answer(&self, verb: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let endpoints: Vec<_> = state.endpoints.iter().flatten().collect();
        if endpoints.is_empty() {
            return None;
        }
        let (r#type, rest) = match verb {
            "PING" => ("io.nats.micro.v1.ping_response", Rest::Ping {}),
            "INFO" => (
                "io.nats.micro.v1.info_response",
                Rest::Info {
                    description: format!("Busway plugin {}", self.name),
                    endpoints: endpoints.into_iter().map(info).collect(),
                },
            ),
            "STATS" => (
                "io.nats.micro.v1.stats_response",
                Rest::Stats { started: &self.started, endpoints: endpoints.into_iter().map(stats).collect() },
            ),
            _ => return None,
        };
        let (version, metadata) = (&state.version, &state.metadata);
        serde_json::to_vec(&Answer { r#type, name: &self.name, id: &self.id, version, metadata, rest }).ok()
    }

    /// Whom a question may be put to: all services, those of this name, this one.
    fn subjects(&self) -> Vec<String> {
        let Self { name, id, .. } = self;
        let each = |verb| {
            [format!("$SRV.{verb}"), format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.{id}")]
        };
        VERBS.into_iter().flat_map(each).collect()
    }
}

fn info(endpoint: &Endpoint) -> EndpointInfo<'_> {
    let Endpoint { name, subject, queue_group, .. } = endpoint;
    EndpointInfo { name, subject, queue_group, metadata: BTreeMap::from([("guarantee", "at most once")]) }
}

fn stats(endpoint: &Endpoint) -> EndpointStats<'_> {
    let Endpoint { name, subject, queue_group, requests, errors, last_error, processing } = endpoint;
    let processing_time = u64::try_from(processing.as_nanos()).unwrap_or(u64::MAX);
    EndpointStats {
        name,
        subject,
        queue_group,
        num_requests: *requests,
        num_errors: *errors,
        last_error,
        processing_time,
        average_processing_time: processing_time / (*requests).max(1),
    }
}

/// Answers questions about a service for as long as it is polled.
pub(in crate::nats) async fn respond(service: Arc<Service>, line: Arc<Line>) {
    let mut tries = 0;
    loop {
        let client = line.client();
        match subscribe(&service, &client).await {
            Ok(mut questions) => {
                tries = 0;
                while let Some(question) = questions.next().await {
                    answer(&service, &client, question).await;
                }
            }
            Err(why) => {
                if tries == 0 {
                    warn!(service = service.name, why, "the plugin does not show up as a service yet");
                }
                line.renew_soon(&client).await;
            }
        }
        tries += 1;
        tokio::time::sleep(backoff::wait(FIRST_WAIT, tries)).await;
    }
}

async fn subscribe(service: &Service, client: &Client) -> Result<SelectAll<async_nats::Subscriber>, String> {
    let mut questions = SelectAll::new();
    for subject in service.subjects() {
        questions.push(client.subscribe(subject).await.map_err(|why| why.to_string())?);
    }
    pump::confirm(client).await?;
    Ok(questions)
}

async fn answer(service: &Service, client: &Client, question: Message) {
    let verb = question.subject.split('.').nth(1).unwrap_or_default();
    let (Some(to), Some(answer)) = (&question.reply, service.answer(verb)) else { return };
    let Ok(to) = to.parse::<ReplySubject>() else { return };
    if let Err(why) = client.publish(to.as_str().to_owned(), answer.into()).await {
        debug!(service = service.name, %why, "a question about the service was not answered");
    }
}

/// The subject with what the protocol does not allow in a name replaced, and a number where it is taken.
fn endpoint_name(taken: &[Option<Endpoint>], filter: &SubjectFilter) -> String {
    let token = |token: &str| match token {
        "*" => "any".to_owned(),
        ">" => "all".to_owned(),
        other => other.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect(),
    };
    let base = filter.as_str().split('.').map(token).collect::<Vec<_>>().join("-");
    let is_free = |name: &str| taken.iter().flatten().all(|endpoint| endpoint.name != name);
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    std::iter::once(base.clone()).chain(numbered).find(|name| is_free(name)).unwrap_or_default()
}

/// `major.minor.patch`, perhaps with `-pre` and `+build`.
fn is_semantic(version: &str) -> bool {
    let (version, build) = version.split_once('+').map_or((version, None), |(v, build)| (v, Some(build)));
    let (numbers, pre) = version.split_once('-').map_or((version, None), |(n, pre)| (n, Some(pre)));
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    let is_words = |text: &str| {
        text.split('.').all(|word| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    numbers.split('.').count() == 3
        && numbers.split('.').all(is_number)
        && pre.is_none_or(is_words)
        && build.is_none_or(is_words)
}

/// Only to tell hosts of one service apart; where the system has no random numbers the time has to do.
fn draw_id() -> String {
    let mut bytes = [0; 10];
    let drawn = File::open("/dev/urandom").and_then(|mut system| system.read_exact(&mut bytes));
    if drawn.is_ok() { base32(&bytes) } else { base32(now().as_bytes()) }
}

/// Now, as RFC 3339 writes it.
fn now() -> String {
    let now = async_nats::datetime::now();
    let (date, month) = (now.date(), u8::from(now.month()));
    let (hour, minute, second) = (now.hour(), now.minute(), now.second());
    format!("{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", date.year(), date.day())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn filters(filters: &[&str]) -> Vec<SubjectFilter> {
        filters.iter().map(|filter| filter.parse().unwrap()).collect()
    }

    fn said(service: &Service, verb: &str) -> Value {
        serde_json::from_slice(&service.answer(verb).unwrap()).unwrap()
    }

    #[test]
    fn each_verb_is_answered_in_the_shape_of_the_protocol() {
        let service = Service::new(&"prices".parse().unwrap());
        service.describe(Some("1.2.3"), &[("digest", "sha256:x".to_owned())]);
        assert_eq!(service.add(&filters(&["prices.get", "prices.*.>"]), Some("g")), 0);
        service.came(0);
        service.came(0);
        service.ran(0, Duration::from_nanos(10));
        service.failed(0, Outcome::Failed("trap: boom".into()));
        let ping = said(&service, "PING");
        let expected = json!({
            "type": "io.nats.micro.v1.ping_response", "name": "prices", "id": service.id, "version": "1.2.3",
            "metadata": { "digest": "sha256:x" },
        });
        assert_eq!(ping, expected);
        let info = said(&service, "INFO");
        assert_eq!(info["endpoints"][1]["name"], "prices-any-all");
        assert_eq!(info["endpoints"][0]["queue_group"], "g");
        let stats = &said(&service, "STATS")["endpoints"][0];
        let numbers = ["num_requests", "num_errors", "processing_time", "average_processing_time"];
        assert_eq!(numbers.map(|name| stats[name].as_u64().unwrap()), [2, 1, 10, 5]);
        assert_eq!((&stats["last_error"], &stats["subject"]), (&json!("trap: boom"), &json!("prices.get")));
        assert_eq!(service.answer("SCHEMA"), None);
    }

    #[test]
    fn a_service_without_subscriptions_says_nothing() {
        let service = Service::new(&"p".parse().unwrap());
        assert_eq!(service.answer("PING"), None);
        service.add(&filters(&["a"]), None);
        assert_eq!(service.add(&filters(&["b", "a"]), None), 1);
        service.remove(0..1);
        assert_eq!(said(&service, "INFO")["endpoints"].as_array().unwrap().len(), 2);
        service.remove(1..3);
        assert_eq!(service.answer("PING"), None);
    }

    #[test]
    fn endpoints_of_the_same_name_are_numbered() {
        let service = Service::new(&"p".parse().unwrap());
        service.add(&filters(&["a.b", "a-b"]), None);
        let info = said(&service, "INFO");
        let names = [0, 1].map(|at| info["endpoints"][at]["name"].as_str().unwrap().to_owned());
        assert_eq!(names, ["a-b", "a-b-2"]);
    }

    #[test]
    fn a_version_that_the_protocol_does_not_take_stands_beside_it() {
        for fine in ["0.1.0", "1.2.3-rc.1", "1.2.3+build.7", "1.2.3-a-b+c"] {
            assert!(is_semantic(fine), "{fine}");
        }
        for bad in ["", "1", "1.2", "1.2.3.4", "01.2.3", "v1.2.3", "1.2.3-", "1.2.x"] {
            assert!(!is_semantic(bad), "{bad}");
        }
        let service = Service::new(&"p".parse().unwrap());
        service.add(&filters(&["a"]), None);
        service.describe(Some("2026-11"), &[]);
        let ping = said(&service, "PING");
        assert_eq!((&ping["version"], &ping["metadata"]["version"]), (&json!("0.0.0"), &json!("2026-11")));
    }
}
