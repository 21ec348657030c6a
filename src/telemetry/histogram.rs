//! A histogram of durations with fixed buckets, countable from any thread without a lock, in Prometheus' shape.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::stripe::{Padded, STRIPES, stripe};

/// Upper bounds of the buckets, seconds. The last bucket has no bound.
pub const BOUNDS_SECONDS: [f64; 14] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// The same in microseconds, to count without floating point.
const BOUNDS_US: [u64; BOUNDS_SECONDS.len()] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// Counts durations.
#[derive(Debug, Default)]
pub struct Histogram {
    cells: [Padded<Cell>; STRIPES],
}

#[derive(Debug, Default)]
struct Cell {
    buckets: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let cell = &self.cells[stripe()].0;
        cell.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
        cell.sum_us.fetch_add(us, Relaxed);
    }

    /// Cumulative counts per bound, then the count of all, and the sum in seconds.
    #[must_use]
    pub fn read(&self) -> ([u64; BOUNDS_SECONDS.len() + 1], f64) {
        let mut running = 0;
        let cumulative = std::array::from_fn(|at| {
            running += self.cells.iter().map(|cell| cell.0.buckets[at].load(Relaxed)).sum::<u64>();
            running
        });
        let sum_us: u64 = self.cells.iter().map(|cell| cell.0.sum_us.load(Relaxed)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a sum of microseconds for display")]
        let sum = sum_us as f64 / 1e6;
        (cumulative, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::default();
        for (us, bucket) in [(0, 0), (100, 0), (101, 1), (5_000, 5), (30_000_000, 13), (30_000_001, 14)] {
            let before = histogram.read().0;
            histogram.record(Duration::from_micros(us));
            let after = histogram.read().0;
            assert_eq!(after.iter().zip(before).position(|(after, before)| *after > before), Some(bucket), "{us}");
        }
        assert!((histogram.read().1 - 60.005_202).abs() < 1e-9);
        for (seconds, us) in BOUNDS_SECONDS.iter().zip(BOUNDS_US) {
            assert!((seconds * 1e6 - us as f64).abs() < 1e-6);
        }
    }
}
