//! Named points on the path of an event where a test lets it fail.
//!
//! They lie at the seams: [`FailPoints`] wraps the parts of a lane (`busway_core::port`), and has a point before and one
//! after each operation. So the path itself holds none, and every step of it can be failed: whatever an event needs of
//! the world goes through a seam. Reading order: [`point`] names them, [`plan`] says what happens at which, [`seams`]
//! wraps the parts.
//!
//! The program contains this crate only with its cargo feature `failpoints`, and says so.

pub mod plan;
pub mod point;
mod seams;

pub use plan::{Action, Plan, PlanError, When};
pub use point::{Operation, Point, Side};

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::time::sleep;
use tracing::{info, warn};

/// The points of one subscription. Clones share their counts.
#[derive(Debug, Clone)]
pub struct FailPoints(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: HashMap<Point, Vec<Rule>>,
    random: AtomicU64,
}

/// What happens at one point, and how often it was passed.
#[derive(Debug)]
struct Rule {
    action: Action,
    when: When,
    passed: AtomicU64,
}

/// What a point tells: an error, in words.
#[derive(Debug)]
pub(crate) struct Told(String);

impl FailPoints {
    /// Points that do what a plan says. What is left to chance follows from the seed.
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let mut rules: HashMap<_, Vec<_>> = HashMap::new();
        for (point, action, when) in plan.rules() {
            let rule = Rule { action, when, passed: AtomicU64::new(0) };
            rules.entry(point).or_default().push(rule);
        }
        Self(Arc::new(Inner { rules, random: AtomicU64::new(seed) }))
    }

    /// Passes a point: goes on, goes on later, is told an error, panics, or ends the process.
    async fn pass(&self, operation: Operation, side: Side) -> Result<(), Told> {
        let point = Point { operation, side };
        for rule in self.0.rules.get(&point).into_iter().flatten() {
            let pass = rule.passed.fetch_add(1, Ordering::Relaxed) + 1;
            if pass == 1 {
                info!(%point, "fail point reached");
            }
            if rule.when.is_now(pass, || self.0.chance()) {
                warn!(%point, pass, action = %rule.action, "fail point");
                act(rule.action, point).await?;
            }
        }
        Ok(())
    }

    /// An operation between its two points. `told` makes its error of what a point tells.
    async fn around<T, E>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, E>>,
        told: impl Fn(String) -> E,
    ) -> Result<T, E> {
        let tell = |Told(what)| told(what);
        self.pass(operation, Side::Before).await.map_err(tell)?;
        let done = work.await?;
        self.pass(operation, Side::After).await.map_err(tell)?;
        Ok(done)
    }
}

impl Inner {
    /// A number from 0 to 1: splitmix64, which needs no more than one word that all threads count up.
    fn chance(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut word = self.random.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) as f64 / u64::MAX as f64
    }
}

#[expect(clippy::panic, reason = "a fault of the host is what the point is for")]
async fn act(action: Action, point: Point) -> Result<(), Told> {
    match action {
        Action::Panic => panic!("fail point {point}"),
        Action::Abort => std::process::abort(),
        Action::Error => Err(Told(format!("fail point {point}"))),
        Action::Delay(time) => {
            sleep(time).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
