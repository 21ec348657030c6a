//! The leases a worker holds, when they must be extended, and what waits to be said about them.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::broker::{DELAY_MS_MAX, Delivery, Failure, LeaseId};

use super::outcome::Outcome;

/// Leases in the worker's hands, whether their handler runs or waits for a free place.
///
/// Leases of a worker last equally long, so those that come first are due first and a queue is enough.
#[derive(Default)]
pub struct Held {
    leases: HashSet<LeaseId>,
    /// When to extend; also names leases that were settled since.
    agenda: VecDeque<(Duration, LeaseId)>,
    visibility_ms: u64,
}

impl Held {
    pub fn take(&mut self, delivery: &Delivery, now: Duration) {
        self.visibility_ms = delivery.visibility_ms;
        self.leases.insert(delivery.lease);
        self.agenda.push_back((now + self.half(), delivery.lease));
    }

    pub fn give_up(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    pub fn give_up_all(&mut self) -> Vec<LeaseId> {
        self.agenda.clear();
        self.leases.drain().collect()
    }

    /// When the next lease has used half its time.
    pub fn next(&mut self) -> Option<Duration> {
        while self.agenda.front().is_some_and(|(_, lease)| !self.leases.contains(lease)) {
            self.agenda.pop_front();
        }
        self.agenda.front().map(|(at, _)| *at)
    }

    /// The leases that have used half their time, noted to come up again, and for how long to extend them.
    pub fn due(&mut self, now: Duration) -> (Vec<LeaseId>, u64) {
        let mut due = Vec::new();
        while let Some((_, lease)) = self.agenda.front().copied().filter(|(at, _)| *at <= now) {
            self.agenda.pop_front();
            if self.leases.contains(&lease) {
                due.push(lease);
            }
        }
        let next = now + self.half();
        self.agenda.extend(due.iter().map(|lease| (next, *lease)));
        (due, self.visibility_ms)
    }

    fn half(&self) -> Duration {
        Duration::from_millis(self.visibility_ms.div_ceil(2))
    }
}

/// What handlers said and the broker was not told yet: what finishes together is told together.
#[derive(Default)]
pub struct Unsettled {
    pub acks: Vec<LeaseId>,
    pub failures: Vec<Failure>,
    pub releases: Vec<LeaseId>,
}

impl Unsettled {
    pub fn add(&mut self, lease: LeaseId, outcome: Outcome) {
        let lease_of = Some(lease);
        match outcome {
            Outcome::Done => self.acks.push(lease),
            Outcome::Retry { reason, delay } => {
                let delay_ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).min(DELAY_MS_MAX));
                self.failures.push(Failure { lease: lease_of, delay_ms, reason, permanent: false });
            }
            Outcome::DeadLetter { reason } => {
                self.failures.push(Failure { lease: lease_of, delay_ms: None, reason, permanent: true });
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.failures.is_empty() && self.releases.is_empty()
    }
}
