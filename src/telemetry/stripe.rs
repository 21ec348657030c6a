//! Counters that many threads count in at once: each thread has a cell of its own, readers add them up. A shared cell would cost
//! more than the rest of a publish, because its cache line travels between the cores.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Cells per counter. More threads than this share them.
pub const STRIPES: usize = 8;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = NEXT.fetch_add(1, Relaxed) % STRIPES;
}

/// The calling thread's cell.
#[must_use]
pub fn stripe() -> usize {
    STRIPE.with(|stripe| *stripe)
}

/// Alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter {
    cells: [Padded<AtomicU64>; STRIPES],
}

impl Counter {
    pub fn add(&self, count: u64) {
        self.cells[stripe()].0.fetch_add(count, Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.cells.iter().map(|cell| cell.0.load(Relaxed)).sum()
    }
}
