//! Where a life's deliveries come from: some late, some in another order, some twice, some never.

use crate::{
    active::Active,
    history::What,
    life::Life,
    world::{State, World, event_id, nap, position},
};
use busway_core::{
    Delivery, Receipt, Source,
    port::{BoxFuture, Opening},
};
use busway_testkit::simulated::Given;
use std::time::Duration;
use tokio::time::sleep;

/// What a source gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The events of the stream.
    Events,
    /// What was parked and is due.
    Copies,
}

/// The source of one life.
pub struct SimSource {
    world: World,
    life: Life,
    active: Active,
    kind: Kind,
    on_the_way: Vec<(u64, Delivery)>,
    opening: Opening,
    is_open: bool,
}

impl SimSource {
    /// The source of this life.
    pub fn new(world: World, life: Life, active: Active, kind: Kind) -> Self {
        Self {
            world,
            life,
            active,
            kind,
            on_the_way: Vec::new(),
            opening: Opening::default(),
            is_open: false,
        }
    }

    /// A new connection: what was on its way on the old one is lost.
    fn open(&mut self) {
        self.is_open = true;
        self.on_the_way.clear();
        let unsettled = self.world.with(|state| state.consumer.pending().len());
        self.opening = Opening { number: self.opening.number + 1, unsettled };
    }

    /// Asks the broker for what there is room for.
    fn pull(&mut self, room: usize) {
        let world = self.world.clone();
        let faults = &world.scenario().faults;
        if self.world.is_within(&faults.leaderless) {
            return;
        }
        let (now, calm) = (self.world.now_ms(), self.world.is_calm());
        let mut room = room.saturating_sub(self.on_the_way.len());
        while room > 0 {
            let Some((delivery, mut chance)) = self.world.with(|state| {
                let delivery = self.kind.next(state, now)?;
                let purpose = delivery.receipt.held_as.unwrap_or_default();
                Some((delivery, state.chance.fork(purpose)))
            }) else {
                return;
            };
            room -= 1;
            if !calm && chance.permille(faults.lost_deliveries) {
                // On one connection nothing is lost in the middle, and where order is kept that is relied on.
                if self.world.scenario().is_ordered() {
                    self.open();
                }
                continue;
            }
            let copies = if !calm && chance.permille(faults.duplicates) { 2 } else { 1 };
            for _ in 0..copies {
                let most = if !calm && chance.permille(faults.slow) { 2_000 } else { 5 };
                let in_order = self.on_the_way.last().filter(|_| self.world.scenario().is_ordered());
                let not_before = in_order.map_or(0, |(at, _)| *at);
                self.on_the_way.push((not_before.max(now + chance.below(most)), delivery.clone()));
            }
        }
    }

    /// What has arrived first, or when something will.
    fn arrived(&mut self) -> Result<Delivery, Option<u64>> {
        let earliest = self.on_the_way.iter().enumerate().min_by_key(|(_, (at, _))| *at);
        let Some((index, at)) = earliest.map(|(index, (at, _))| (index, *at)) else { return Err(None) };
        if at > self.world.now_ms() {
            return Err(Some(at));
        }
        Ok(self.on_the_way.remove(index).1)
    }

    fn given(&self, delivery: Delivery) -> Delivery {
        let event = self.world.with(|state| state.sequence(&delivery.receipt.event_id));
        let delivered = delivery.receipt.delivered;
        self.world.note(self.life.number(), What::Given { event, delivered });
        delivery
    }
}

impl Source for SimSource {
    fn next(&mut self, room: usize) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async move {
            loop {
                self.life.breathe().await;
                let world = self.world.clone();
                if self.kind == Kind::Events && !self.active.is_held() {
                    self.is_open = false;
                    self.active.take().await;
                }
                if self.kind == Kind::Events && !self.active.is_held() {
                    nap(500).await;
                    continue;
                }
                if !self.is_open {
                    self.open();
                }
                let changed = world.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                self.pull(room);
                let arrival = match self.arrived() {
                    Ok(delivery) => return Some(self.given(delivery)),
                    Err(arrival) => arrival,
                };
                let now = world.now_ms();
                let due = world.with(|state| self.kind.due(state)).filter(|due| *due > now);
                // A leader that is away is asked again.
                let again = Some(now + 500).filter(|_| world.is_within(&world.scenario().faults.leaderless));
                let next = [arrival, due, again].into_iter().flatten().min();
                let wait = Duration::from_millis(next.unwrap_or(now).saturating_sub(now));
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = sleep(wait), if next.is_some() => {}
                }
            }
        })
    }

    fn opening(&self) -> Opening {
        self.opening
    }

    fn close(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        Box::pin(async {
            self.life.breathe().await;
            let coming = std::mem::take(&mut self.on_the_way);
            coming.into_iter().map(|(_, delivery)| self.given(delivery)).collect()
        })
    }
}

impl Kind {
    fn next(self, state: &mut State, now_ms: u64) -> Option<Delivery> {
        if self == Self::Copies {
            return state.copies.next(now_ms);
        }
        let given = state.consumer.next(state.events.last(), now_ms)?;
        Some(delivery(state.events.get(given.sequence)?, given))
    }

    fn due(self, state: &State) -> Option<u64> {
        match self {
            Self::Events => state.consumer.due(),
            Self::Copies => state.copies.due(),
        }
    }
}

fn delivery(stored: &crate::world::Stored, given: Given) -> Delivery {
    let receipt = Receipt {
        event_id: event_id(given.sequence),
        position: Some(position(given.sequence)),
        delivered: given.delivered,
        published_at_ms: Some(stored.at_ms),
        held_as: Some(given.sequence),
        returned: None,
        reply_to: None,
        token: String::new(),
    };
    Delivery { content: stored.content.clone(), receipt }
}
