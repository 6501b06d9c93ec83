//! Which host is the active one of an ordered consumer, as one life sees it.
//!
//! As at the real broker: whoever waits takes over when nobody has renewed for the whole patience, and the holder stops two
//! thirds of the patience after it asked for the last renewal that was confirmed.

use crate::{
    life::Life,
    scenario::ACK_WAIT_MS,
    world::{State, World},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// How long an answer is waited for.
const PATIENCE_MS: u64 = 3_000;

/// One life's view of it; clones share it.
#[derive(Clone)]
pub struct Active {
    world: World,
    life: Life,
    until_ms: Arc<AtomicU64>,
}

impl Active {
    /// A life that is not the active one.
    pub fn new(world: World, life: Life) -> Self {
        Self { world, life, until_ms: Arc::default() }
    }

    /// Whether this host may believe that it is.
    pub fn is_held(&self) -> bool {
        !self.world.scenario().is_ordered() || self.world.now_ms() < self.until_ms.load(Ordering::Relaxed)
    }

    /// Whether a sixth of the patience has gone since the last renewal.
    pub fn is_due(&self) -> bool {
        self.world.now_ms() + ACK_WAIT_MS / 2 >= self.until_ms.load(Ordering::Relaxed)
    }

    /// Becomes it or stays it, if it can.
    pub async fn take(&self) {
        let (number, asked) = (self.life.number(), self.world.now_ms());
        let taken = self.world.operate(&self.life, PATIENCE_MS, move |state, now| renew(state, number, now));
        if taken.await == Ok(true) {
            self.until_ms.store(asked + ACK_WAIT_MS * 2 / 3, Ordering::Relaxed);
        }
    }

    /// Says that it is not any more, as a host that has ended well.
    pub fn step_down(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
        let number = self.life.number();
        self.world.with(|state| state.active = state.active.filter(|(holder, _)| *holder != number));
    }
}

fn renew(state: &mut State, life: u32, now_ms: u64) -> bool {
    let is_free = state.active.is_none_or(|(holder, heard)| holder == life || now_ms - heard >= ACK_WAIT_MS);
    if is_free {
        state.active = Some((life, now_ms));
    }
    is_free
}
