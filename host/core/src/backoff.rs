//! How long to wait after the first failed run, after the second, and so on.

use crate::retry::WAIT_MIN;
use std::time::Duration;

/// A curve of waits.
#[derive(Debug, Clone, PartialEq)]
pub enum Backoff {
    /// No other attempt: the first failed run makes a dead letter.
    None,
    /// Always the same wait.
    Fixed(Duration),
    /// One wait after another; the last repeats.
    List(Vec<Duration>),
    /// `first`, then each wait `factor` times the one before, at most `cap`.
    Exponential {
        /// After the first failed run.
        first: Duration,
        /// From one wait to the next; 1 or more.
        factor: f64,
        /// The longest.
        cap: Duration,
    },
    /// n⁴ + 15 seconds after the nth failed run: patient for weeks, as Sidekiq's default is. 16 s, 31 s, 96 s, 4.5 min,
    /// 10.7 min, …
    Sidekiq,
}

impl Backoff {
    /// The wait after the nth failed run, from 1, before jitter.
    pub fn after(&self, failed_runs: u32) -> Duration {
        let n = failed_runs.max(1);
        match self {
            Self::None => WAIT_MIN,
            Self::Fixed(wait) => *wait,
            Self::List(waits) => waits.get((n - 1) as usize).or(waits.last()).copied().unwrap_or(WAIT_MIN),
            Self::Exponential { first, factor, cap } => {
                let exponent = i32::try_from(n - 1).unwrap_or(i32::MAX);
                let seconds = first.as_secs_f64() * factor.max(1.0).powi(exponent);
                Duration::try_from_secs_f64(seconds).map_or(*cap, |wait| wait.min(*cap))
            }
            Self::Sidekiq => Duration::from_secs(u64::from(n).saturating_pow(4).saturating_add(15)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(backoff: &Backoff) -> Vec<u64> {
        (1..=6).map(|n| backoff.after(n).as_secs()).collect()
    }

    #[test]
    fn each_curve_is_what_its_name_says() {
        let second = Duration::from_secs;
        assert_eq!(seconds(&Backoff::Fixed(second(7))), [7; 6]);
        assert_eq!(seconds(&Backoff::List([1, 5, 30].map(second).to_vec())), [1, 5, 30, 30, 30, 30]);
        let exponential = Backoff::Exponential { first: second(1), factor: 2.0, cap: second(10) };
        assert_eq!(seconds(&exponential), [1, 2, 4, 8, 10, 10]);
        assert_eq!(seconds(&Backoff::Sidekiq), [16, 31, 96, 271, 640, 1311]);
    }

    #[test]
    fn a_curve_never_overflows() {
        let steep =
            Backoff::Exponential { first: Duration::from_secs(1), factor: 1e9, cap: Duration::from_secs(60) };
        assert_eq!(steep.after(u32::MAX), Duration::from_secs(60));
        assert!(Backoff::Sidekiq.after(u32::MAX) > Duration::from_secs(1));
        assert_eq!(Backoff::List(Vec::new()).after(3), WAIT_MIN);
    }
}
