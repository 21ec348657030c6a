//! Telling a record whose work is done already from one that only comes again: the hook, and a simple keeper in memory.
//!
//! Delivery is at least once: a worker that dies between the work and its ack gets the record again. A hook beside the effect
//! (a table in the same database) closes that gap; [`Remembered`] closes the part of it inside one process.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::broker::Delivery;

/// Asked before the handler runs and told after it was done. Called on the handler's task: must not block for long.
pub trait Idempotency: Send + Sync {
    /// True: the record is acked without running the handler.
    fn already_done(&self, delivery: &Delivery) -> bool;
    /// The handler said [`super::Outcome::Done`]; the ack follows.
    fn mark_done(&self, delivery: &Delivery);
}

/// Remembers the newest keys of what was done, in memory.
pub struct Remembered<K> {
    key: K,
    keys_max: usize,
    /// Oldest first, and the same for looking up.
    known: Mutex<(VecDeque<Bytes>, HashSet<Bytes>)>,
}

impl<K: Fn(&Delivery) -> Bytes + Send + Sync> Remembered<K> {
    /// Keeps at most `keys_max` of what `key` finds in a delivery; deliveries of the same key are the same work.
    pub fn new(keys_max: usize, key: K) -> Self {
        Self { key, keys_max: keys_max.max(1), known: Mutex::default() }
    }
}

impl<K: Fn(&Delivery) -> Bytes + Send + Sync> Idempotency for Remembered<K> {
    fn already_done(&self, delivery: &Delivery) -> bool {
        self.known.lock().1.contains(&(self.key)(delivery))
    }

    fn mark_done(&self, delivery: &Delivery) {
        // Copied: a slice would keep the whole batch it came from in memory.
        let key = Bytes::copy_from_slice(&(self.key)(delivery));
        let (order, known) = &mut *self.known.lock();
        if known.insert(key.clone()) {
            order.push_back(key);
        }
        if order.len() > self.keys_max
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{LeaseId, Record};

    fn delivery(offset: i64, value: &'static str) -> Delivery {
        let value = Some(Bytes::from_static(value.as_bytes()));
        let record = Record { topic: "t".into(), partition: 0, offset, timestamp_ms: 0, key: None, value, headers: Vec::new() };
        Delivery { record, lease: LeaseId { partition: 0, offset, token: 1 }, attempt: 1, visibility_ms: 1 }
    }

    #[test]
    fn the_oldest_key_is_forgotten_first() {
        let seen = Remembered::new(2, |delivery: &Delivery| delivery.record.value.clone().unwrap_or_default());
        for (offset, value) in [(0, "a"), (1, "b"), (2, "a"), (3, "c")] {
            seen.mark_done(&delivery(offset, value));
        }
        let known = ["a", "b", "c"].map(|value| seen.already_done(&delivery(9, value)));
        assert_eq!(known, [false, true, true]);
    }
}
