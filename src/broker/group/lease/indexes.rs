//! The open records of a partition once more, ordered by what is asked of them: deadline, readiness, key.
//!
//! Owns no truth: everything here follows from the open map, and changes with it record by record. Decides nothing.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use onelog_storage::types::Offset;

use super::{OpenRecord, Status};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Indexes {
    /// Leased and deferred records by deadline.
    pub deadlines: BTreeSet<(Duration, Offset)>,
    /// Records whose status is ready.
    pub ready: BTreeSet<Offset>,
    /// Keys of the records that are not parked. At most one such record has a given key.
    pub busy_keys: HashSet<u64>,
    /// Parked records, in each key in the order they will be let go.
    pub parked: BTreeSet<(u64, Offset)>,
    /// How many records are leased, expired or not.
    pub leased: usize,
}

impl Indexes {
    pub fn insert(&mut self, offset: Offset, record: &OpenRecord) {
        match (&record.status, record.key_hash) {
            (Status::Parked, key_hash) => {
                self.parked.insert((key_hash.unwrap_or_default(), offset));
                return;
            }
            (Status::Leased { deadline, .. }, _) => {
                self.leased += 1;
                self.deadlines.insert((*deadline, offset));
            }
            (Status::Deferred { until }, _) => {
                self.deadlines.insert((*until, offset));
            }
            (Status::Ready { .. }, _) => {
                self.ready.insert(offset);
            }
        }
        if let Some(key_hash) = record.key_hash {
            self.busy_keys.insert(key_hash);
        }
    }

    pub fn remove(&mut self, offset: Offset, record: &OpenRecord) {
        match (&record.status, record.key_hash) {
            (Status::Parked, key_hash) => {
                self.parked.remove(&(key_hash.unwrap_or_default(), offset));
                return;
            }
            (Status::Leased { deadline, .. }, _) => {
                self.leased -= 1;
                self.deadlines.remove(&(*deadline, offset));
            }
            (Status::Deferred { until }, _) => {
                self.deadlines.remove(&(*until, offset));
            }
            (Status::Ready { .. }, _) => {
                self.ready.remove(&offset);
            }
        }
        if let Some(key_hash) = record.key_hash {
            self.busy_keys.remove(&key_hash);
        }
    }

    /// The lowest parked record of a key.
    pub fn first_parked(&self, key_hash: u64) -> Option<Offset> {
        let behind = (key_hash, Offset(i64::MIN))..=(key_hash, Offset(i64::MAX));
        self.parked.range(behind).next().map(|(_, offset)| *offset)
    }
}
