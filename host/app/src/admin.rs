//! The admin listener: is the host alive, is it ready, what has it counted.
//!
//! `/livez` says that the process answers and never depends on the broker, so that a broker's outage restarts no host.
//! `/readyz` says that every subscription is confirmed by the server; until then, and while draining, it answers 503 and
//! names what is missing. What is paused, by hand or by a breaker, is told there and is no reason not to be ready.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::TcpListener;
use tracing::info;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the listener tells.
#[derive(Clone)]
pub struct Status {
    registry: Arc<Registry>,
    // Guards the sentences that say why the host is not ready; never held across an await.
    missing: Arc<Mutex<Missing>>,
    // Guards what a ready host has to say besides.
    notes: Arc<Mutex<Vec<String>>>,
}

enum Missing {
    /// These; nothing means ready.
    Still(Vec<String>),
    /// The host is stopping and will not be ready again.
    Draining,
}

impl Status {
    /// A host that is starting.
    pub fn starting(registry: Registry) -> Self {
        Self {
            registry: Arc::new(registry),
            missing: Arc::new(Mutex::new(Missing::Still(vec!["starting".to_owned()]))),
            notes: Arc::default(),
        }
    }

    /// Says what is missing; nothing means ready. Has no effect on a host that drains.
    pub fn set_missing(&self, missing: Vec<String>) {
        let mut state = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Missing::Still(known) = &mut *state {
            *known = missing;
        }
    }

    /// Says what a person should know although the host is ready.
    pub fn set_notes(&self, notes: Vec<String>) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
    }

    /// From now on the host is not ready.
    pub fn drain(&self) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = Missing::Draining;
    }

    fn missing(&self) -> Vec<String> {
        match &*self.missing.lock().unwrap_or_else(PoisonError::into_inner) {
            Missing::Still(missing) => missing.clone(),
            Missing::Draining => vec!["draining".to_owned()],
        }
    }
}

/// Binds the listener and serves until the future that is returned is dropped.
///
/// # Errors
/// The address can't be bound.
pub async fn bind(
    listen: SocketAddr,
    status: Status,
) -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    let listener = TcpListener::bind(listen).await?;
    info!(address = %listener.local_addr()?, "admin listener is up");
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(status);
    Ok(axum::serve(listener, routes).into_future())
}

async fn livez() -> &'static str {
    concat!("alive, busway ", env!("CARGO_PKG_VERSION"), ", wasmtime 48.0.8\n")
}

async fn readyz(State(status): State<Status>) -> Response {
    let missing = status.missing();
    let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let notes = lines(&status.notes.lock().unwrap_or_else(PoisonError::into_inner));
    if missing.is_empty() {
        return format!("ready\n{notes}").into_response();
    }
    let lines = lines(&missing) + &notes;
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn metrics(State(status): State<Status>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &status.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
    }
}
