//! One start of one host, and its end.
//!
//! A killed process does nothing any more: no clean-up runs and nothing is sent. So the seams of a dead life never return
//! ([`Life::breathe`]), whatever its tasks were about to do; they go with the runtime of the run.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

/// One life.
#[derive(Clone)]
pub struct Life(Arc<Inner>);

struct Inner {
    number: u32,
    dead: AtomicBool,
    operations: AtomicU64,
    operations_max: Option<u64>,
    crashed: Notify,
}

impl Life {
    /// The nth life, which dies at this operation.
    pub fn new(number: u32, operations_max: Option<u64>) -> Self {
        Self(Arc::new(Inner {
            number,
            dead: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            operations_max,
            crashed: Notify::new(),
        }))
    }

    /// Its number, from 1.
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Ends it without a word.
    pub fn crash(&self) {
        self.0.dead.store(true, Ordering::Relaxed);
        self.0.crashed.notify_one();
    }

    /// Whether it ended without a word.
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Relaxed)
    }

    /// Waits for its end without a word. One waiter only.
    pub async fn crashed(&self) {
        if !self.is_dead() {
            self.0.crashed.notified().await;
        }
    }

    /// Returns while it lives, and never after.
    pub async fn breathe(&self) {
        if self.is_dead() {
            pending().await
        }
    }

    /// Counts an operation; whether it is the one at which this life ends.
    pub fn is_spent(&self) -> bool {
        let operations = self.0.operations.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.operations_max.is_some_and(|most| operations >= most)
    }
}
