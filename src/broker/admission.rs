//! Backpressure: how many bytes of records may wait for the writer thread at once. Over the budget a publisher waits, then is refused.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use onelog_storage::submission::{Submission, Ticket};

use super::Inner;
use super::error::{BrokerError, Result};

/// How long a publisher waits for room before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(1);
/// What it is told to wait then.
const RETRY_AFTER_MS: u64 = 1_000;

impl Inner {
    /// Hands a submission to the store, or waits until there is room for it. One larger than the whole budget goes alone.
    pub(super) async fn admit(&self, submission: Submission) -> Result<Ticket> {
        match self.store.try_submit(submission, self.queue_bytes_max) {
            Ok(ticket) => Ok(ticket),
            // Boxed: the state of this wait would otherwise be part of every publish.
            Err(refused) => Box::pin(self.wait_for_room(refused)).await,
        }
    }

    async fn wait_for_room(&self, mut waiting: Box<Submission>) -> Result<Ticket> {
        let deadline = self.timer.now() + PATIENCE;
        loop {
            let room = self.store.room();
            waiting = match self.store.try_submit(*waiting, self.queue_bytes_max) {
                Ok(ticket) => return Ok(ticket),
                Err(refused) => refused,
            };
            tokio::select! {
                () = room => {}
                () = self.timer.sleep_until(deadline) => {
                    self.counters.rejected_overloaded.fetch_add(1, Relaxed);
                    return Err(BrokerError::Overloaded { retry_after_ms: RETRY_AFTER_MS });
                }
            }
        }
    }
}
