//! The WASI interfaces that standard libraries import: real clocks and randomness, and nothing behind the rest.
//!
//! No files, no sockets, no names to resolve, no arguments, no environment, nothing to read. What is written to standard
//! output and error becomes log lines. Made only when a run calls one of them: a plugin that imports none of it pays
//! nothing.

use super::http::{self, Refusing};
use crate::store::State;
use busway_core::{LogLevel, limits::LOG_BYTES_MAX};
use bytes::Bytes;
use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError},
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Bytes of randomness that one call may ask for.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// Nanoseconds of a millisecond.
const NANOSECONDS: u64 = 1_000_000;

/// What a run has of WASI.
pub(crate) struct Wasi {
    ctx: WasiCtx,
    http: WasiHttpCtx,
    hooks: Refusing,
    stdout: Captured,
    stderr: Captured,
}

impl Wasi {
    fn new() -> Self {
        let (stdout, stderr) = (Captured::default(), Captured::default());
        let mut builder = WasiCtx::builder();
        builder.stdout(stdout.clone()).stderr(stderr.clone());
        builder.max_random_size(RANDOM_BYTES_MAX);
        builder.wall_clock(Milliseconds::start()).monotonic_clock(Milliseconds::start());
        // The defaults say so already; said again because everything depends on it.
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        builder.allow_blocking_current_thread(false);
        Self { ctx: builder.build(), http: http::context(), hooks: Refusing, stdout, stderr }
    }
}

impl State {
    fn wasi_parts(&mut self) -> (&mut Wasi, &mut wasmtime::component::ResourceTable) {
        (self.wasi.get_or_insert_with(|| Box::new(Wasi::new())), &mut self.table)
    }

    /// Turns what was written to standard output and error into log lines; called when the run has ended.
    pub(crate) fn log_standard_streams(&mut self) {
        let Some(wasi) = self.wasi.take() else { return };
        for (stream, level, context) in
            [(&wasi.stdout, LogLevel::Info, "stdout"), (&wasi.stderr, LogLevel::Warn, "stderr")]
        {
            for line in String::from_utf8_lossy(&stream.take()).lines() {
                self.log_line(level, context, line);
            }
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (wasi, table) = self.wasi_parts();
        WasiCtxView { ctx: &mut wasi.ctx, table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let (wasi, table) = self.wasi_parts();
        WasiHttpCtxView { hooks: &mut wasi.hooks, table, ctx: &mut wasi.http }
    }
}

/// Clocks that tell milliseconds only: finer ones measure what their neighbours do.
struct Milliseconds {
    began: Instant,
}

impl Milliseconds {
    fn start() -> Self {
        Self { began: Instant::now() }
    }
}

impl HostWallClock for Milliseconds {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_millis(now.as_millis() as u64)
    }
}

impl HostMonotonicClock for Milliseconds {
    fn resolution(&self) -> u64 {
        NANOSECONDS
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 * NANOSECONDS
    }
}

/// Text that was written to a standard stream, up to the log budget; the rest is dropped. Never wrapped in wasmtime's own
/// asynchronous writer, which lets empty writes grow the host's memory (GHSA-5m8g-xhq4-4h93).
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LOG_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(bytes.iter().take(room));
    }

    fn take(&self) -> Vec<u8> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Captured {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.keep(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(LOG_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}
