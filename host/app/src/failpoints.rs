//! Fail points in a program that was built with them: what the environment says, around the parts of every lane.
//!
//! `BUSWAY_FAILPOINTS` holds the plan, `BUSWAY_FAILPOINTS_SEED` a number that chance follows from. Passes are counted for
//! each subscription of its own. None of this is in a release.

use anyhow::Context as _;
use busway_core::Source;
use busway_dispatch::LaneParts;
use busway_failpoints::{FailPoints, Plan};
use std::env;
use tracing::warn;

/// The plan's variable.
const PLAN: &str = "BUSWAY_FAILPOINTS";
/// The seed's variable.
const SEED: &str = "BUSWAY_FAILPOINTS_SEED";

/// Says that this program has them.
pub fn tell() {
    warn!(plan = text(PLAN), "this program has fail points: it is for tests only");
}

/// Wraps the parts of a lane.
///
/// # Errors
/// A plan or a seed with a mistake.
pub fn plant(parts: LaneParts, source: Box<dyn Source>) -> anyhow::Result<(LaneParts, Box<dyn Source>)> {
    let plan = Plan::parse(&text(PLAN)).context(PLAN)?;
    let seed = text(SEED);
    let seed = if seed.is_empty() { 0 } else { seed.parse().context(SEED)? };
    let points = FailPoints::new(&plan, seed);
    let parts = LaneParts {
        handler: points.handler(parts.handler),
        settle: points.settle(parts.settle),
        publish: points.publish(parts.publish),
        ..parts
    };
    Ok((parts, points.source(source)))
}

fn text(variable: &str) -> String {
    env::var(variable).unwrap_or_default()
}
