//! Processor time of one run: the time spent inside `poll`, whatever the guest waits for in between.
//!
//! The call's future is wrapped so that each poll is measured; the epoch callback, which runs inside the poll, compares
//! what is used with the budget at every tick, so that an endless loop ends with a trap and its backtrace.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// The budget was spent.
#[derive(Debug, thiserror::Error)]
#[error("the processor budget of {} ms was spent", .0.as_millis())]
pub(crate) struct CpuSpent(pub Duration);

/// A run's processor clock.
#[derive(Debug, Clone)]
pub(crate) struct CpuClock {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    base: Instant,
    budget: Duration,
    // Nanoseconds: spent in finished polls, and when the running one began. Written by the polling thread only; the
    // callback runs on that same thread.
    spent: AtomicU64,
    began: AtomicU64,
}

impl CpuClock {
    pub(crate) fn new(budget: Duration) -> Self {
        let (spent, began) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { base: Instant::now(), budget, spent, began }) }
    }

    /// What was used so far, the running poll included.
    pub(crate) fn used_while_running(&self) -> Duration {
        let running = self.now().saturating_sub(self.inner.began.load(Ordering::Relaxed));
        self.used() + Duration::from_nanos(running)
    }

    /// What finished polls used.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.inner.spent.load(Ordering::Relaxed))
    }

    /// # Errors
    /// The budget is spent.
    pub(crate) fn check(&self) -> Result<(), CpuSpent> {
        if self.used_while_running() > self.inner.budget { Err(CpuSpent(self.inner.budget)) } else { Ok(()) }
    }

    fn now(&self) -> u64 {
        self.inner.base.elapsed().as_nanos() as u64
    }
}

/// A future whose polls are measured.
pub(crate) struct Measured<'a, F> {
    clock: CpuClock,
    future: Pin<&'a mut F>,
}

impl<'a, F> Measured<'a, F> {
    pub(crate) fn new(clock: CpuClock, future: Pin<&'a mut F>) -> Self {
        Self { clock, future }
    }
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = self.clock.now();
        self.clock.inner.began.store(began, Ordering::Relaxed);
        let polled = self.future.as_mut().poll(context);
        self.clock.inner.spent.fetch_add(self.clock.now() - began, Ordering::Relaxed);
        polled
    }
}
