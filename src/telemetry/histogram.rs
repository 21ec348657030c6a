//! A histogram of durations with fixed buckets, countable from any thread without a lock, in Prometheus' shape.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, seconds. The last bucket has no bound.
pub const BOUNDS_SECONDS: [f64; 14] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Counts durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_SECONDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Cumulative counts per bound, then the count of all, and the sum in seconds.
    #[must_use]
    pub fn read(&self) -> ([u64; BOUNDS_SECONDS.len() + 1], f64) {
        let mut running = 0;
        let cumulative = std::array::from_fn(|at| {
            running += self.buckets[at].load(Relaxed);
            running
        });
        #[expect(clippy::cast_precision_loss, reason = "a sum of microseconds for display")]
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        (cumulative, sum)
    }
}
