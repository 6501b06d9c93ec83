//! Where a binding's events come from: what the pump has queued, and what is due again.

use super::{Shared, shared::Why};
use busway_core::{
    Delivery, Source,
    port::{BoxFuture, Opening},
};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// A plain subscription's events.
pub(in crate::nats) struct CoreSource(Arc<Shared>);

impl CoreSource {
    pub(in crate::nats) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    async fn advance(&self) -> Option<Delivery> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Before looking, so that what comes in between is not missed.
            changed.as_mut().enable();
            let due = {
                let mut state = self.0.state();
                if state.closed {
                    return None;
                }
                match state.queue.pop(Instant::now()) {
                    Ok(entry) => {
                        drop(state);
                        return Some(self.0.hand_out(entry));
                    }
                    Err(due) => due,
                }
            };
            match due {
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
                None => changed.await,
            }
        }
    }
}

impl Source for CoreSource {
    /// `room` is at least one whenever the intake asks, and one is given at a time.
    fn next(&mut self, _room: usize) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.advance())
    }

    /// Nobody takes these events back: those who wait for an answer are told, and all are counted as shed.
    fn opening(&self) -> Opening {
        Opening { number: 1, unsettled: 0 }
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async {
            let waiting = self.0.close();
            self.0.shed(waiting, Why::Stopping);
            Vec::new()
        })
    }
}

impl Drop for CoreSource {
    fn drop(&mut self) {
        let waiting = self.0.close();
        self.0.shed(waiting, Why::Stopping);
    }
}
