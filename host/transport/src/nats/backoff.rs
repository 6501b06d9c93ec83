//! How long to wait before the next try: doubling, capped, and spread so that hosts that lost a broker together do not
//! return together.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// The longest wait between two tries to reach a broker.
pub const WAIT_MAX: Duration = Duration::from_secs(5);

/// The wait before try number `tries` (from 1): `first` doubled with every try, at most [`WAIT_MAX`], between half and
/// the whole of that.
pub fn wait(first: Duration, tries: usize) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let whole = first.saturating_mul(1 << doublings).min(WAIT_MAX);
    whole.mul_f64(0.5 + 0.5 * fraction())
}

/// A number in 0..1. The standard library keys every `RandomState` anew, which is random enough to spread waits.
fn fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_grows_to_its_cap_and_is_spread() {
        let first = Duration::from_millis(100);
        for tries in [0, 1, 2, 5, 60, usize::MAX] {
            assert!(wait(first, tries) <= WAIT_MAX);
            assert!(wait(first, tries) >= first / 2);
        }
        assert!(wait(first, 20) >= WAIT_MAX / 2);
        let waits: std::collections::HashSet<_> = (0..20).map(|_| wait(first, 10)).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
