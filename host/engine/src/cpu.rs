//! Processor time of one run: what its thread used inside `poll`, whatever the guest waits for in between.
//!
//! The call's future is wrapped so that each poll is measured; the epoch callback, which runs inside the poll, compares
//! what is used with the budget at every tick, so that an endless loop ends with a trap and its backtrace.
//!
//! Measured by the thread's own clock and not by the wall's: on a busy machine, or after one that stood still, a guest must
//! not pay for the time in which it did not run.

use rustix::time::{ClockId, clock_gettime};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
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
    budget: Duration,
    // Nanoseconds: spent in finished polls, and what the thread's clock told when the running one began. Written by the
    // polling thread only; the callback runs on that same thread.
    spent: AtomicU64,
    began: AtomicU64,
}

impl CpuClock {
    pub(crate) fn new(budget: Duration) -> Self {
        let (spent, began) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { budget, spent, began }) }
    }

    /// What was used so far, the running poll included.
    pub(crate) fn used_while_running(&self) -> Duration {
        let running = thread_time().saturating_sub(self.inner.began.load(Ordering::Relaxed));
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
}

/// Nanoseconds of processor time that this thread has used.
fn thread_time() -> u64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64
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
        let began = thread_time();
        self.clock.inner.began.store(began, Ordering::Relaxed);
        let polled = self.future.as_mut().poll(context);
        self.clock.inner.spent.fetch_add(thread_time().saturating_sub(began), Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{pin::pin, task::Waker, thread};

    fn poll_once(clock: &CpuClock, future: impl Future<Output = ()>) {
        let mut future = pin!(future);
        let mut measured = Measured::new(clock.clone(), future.as_mut());
        let polled = Pin::new(&mut measured).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_ready());
    }

    #[test]
    fn a_thread_that_works_is_charged_and_one_that_stands_still_is_not() {
        let budget = Duration::from_millis(20);
        let still = CpuClock::new(budget);
        poll_once(&still, async { thread::sleep(2 * budget) });
        assert!(still.used() < budget, "{:?}", still.used());

        let busy = CpuClock::new(budget);
        poll_once(&busy, async { while busy.check().is_ok() {} });
        assert!(busy.used() >= budget, "{:?}", busy.used());
    }
}
