//! What a queue group can be told: how long a lease lasts, how often and how soon a record is tried again, in which order.
//!
//! Owns the defaults and the backoff arithmetic. Settings are no part of the state: a change applies to what is decided next.

use serde::{Deserialize, Serialize};

/// Order of deliveries within a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// Any record may be in flight beside any other.
    #[default]
    None,
    /// Of the records of one key only one is in flight, the next after it is settled. Records without a key are not ordered.
    /// A dead letter settles its record, so later records of its key go on without it.
    Key,
    /// One batch is in flight, the next after all of it is settled or given back. Deliveries are the unsettled records from the
    /// lowest on, without gaps: a deferred record holds back all that follow it.
    Partition,
}

/// Time until a failed record is delivered again: `initial x multiplier^(attempt - 1)`, at most `cap`, shortened by up to `jitter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    pub initial_ms: u64,
    pub multiplier_permille: u32,
    pub cap_ms: u64,
    pub jitter_permille: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial_ms: 1_000, multiplier_permille: 2_000, cap_ms: 60_000, jitter_permille: 100 }
    }
}

impl Backoff {
    /// The delay after `attempt` (1 for the first) failed. `random` is any number, new for each call.
    ///
    /// Jitter only shortens: delays at the cap stay spread, and the cap stays a cap.
    #[must_use]
    pub fn delay_ms(&self, attempt: u32, random: u64) -> u64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = (f64::from(self.multiplier_permille) / 1_000.0).powi(exponent);
        // The cast saturates; it is not exact beyond 2^53 ms, which the cap cuts anyway.
        let delay_ms = ((self.initial_ms as f64 * factor) as u64).min(self.cap_ms);
        let jitter_ms = u128::from(delay_ms) * u128::from(self.jitter_permille.min(1_000)) / 1_000;
        delay_ms - (u128::from(random) % (jitter_ms + 1)) as u64
    }
}

/// The settings of a queue group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseSettings {
    /// How long a lease lasts when the request does not say.
    pub visibility_ms: u64,
    /// Attempts after which a record that fails or whose lease expires becomes a dead letter. 0: never.
    pub max_deliveries: u32,
    pub retry: Backoff,
    pub ordering: Ordering,
    /// Records leased at once, over all members.
    pub in_flight_max: u32,
    /// Unsettled records kept in memory, deferred and parked ones included. No fresh record is read beyond: in a group ordered by
    /// key, so many records of one stuck key hold back all others.
    pub open_max: u32,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            visibility_ms: 30_000,
            max_deliveries: 5,
            retry: Backoff::default(),
            ordering: Ordering::None,
            in_flight_max: 10_000,
            open_max: 100_000,
        }
    }
}

impl LeaseSettings {
    /// Whether a record with so many attempts may not be delivered another time.
    pub(super) const fn exhausted(&self, attempts: u32) -> bool {
        self.max_deliveries != 0 && attempts >= self.max_deliveries
    }
}
