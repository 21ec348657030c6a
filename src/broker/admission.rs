//! Backpressure: how many bytes of records may wait for the disk at once. Over the budget a publisher waits, then is refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_listener::Event;

use super::error::{BrokerError, Result};
use super::timer::Timer;

/// How long a publisher waits for room before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(1);
/// What it is told to wait then.
const RETRY_AFTER_MS: u64 = 1_000;

/// Counts the bytes of records that are on their way to the disk.
pub struct Admission {
    bytes_max: u64,
    bytes: AtomicU64,
    freed: Event,
}

/// Bytes admitted; given back when dropped.
pub struct Admitted<'a> {
    admission: &'a Admission,
    bytes: u64,
}

impl Admission {
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: AtomicU64::new(0), freed: Event::new() }
    }

    /// Admits `bytes`, or waits until there is room. A request larger than the whole budget is admitted alone.
    pub async fn admit(&self, bytes: u64, timer: &Timer) -> Result<Admitted<'_>> {
        if let Some(admitted) = self.try_admit(bytes) {
            return Ok(admitted);
        }
        let deadline = timer.now() + PATIENCE;
        loop {
            let freed = self.freed.listen();
            if let Some(admitted) = self.try_admit(bytes) {
                return Ok(admitted);
            }
            tokio::select! {
                () = freed => {}
                () = timer.sleep_until(deadline) => return Err(BrokerError::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
            }
        }
    }

    fn try_admit(&self, bytes: u64) -> Option<Admitted<'_>> {
        let fits = |held: u64| (held == 0 || held.saturating_add(bytes) <= self.bytes_max).then(|| held.saturating_add(bytes));
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Admitted { admission: self, bytes })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.admission.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.admission.freed.notify(usize::MAX);
    }
}
