//! What must be there: partitions, idempotency keys and events in plain memory, and what each submission does to them.
//!
//! Knows no store. The same plan on the same world always ends the same, so an answer can be foretold exactly.

use std::collections::BTreeMap;

use crate::support::{self, Event};

pub const PARTITIONS: u32 = 4;
/// Set in the id of a record with a key, so that its value is the same each time.
const KEYED: u64 = 1 << 63;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub start: i64,
    /// Ids by offset, those below `start` too.
    pub records: Vec<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct World {
    pub parts: [Part; PARTITIONS as usize],
    pub map: BTreeMap<u32, (u64, u64)>,
    /// Where each idempotency key was first published, and with which record.
    pub keys: BTreeMap<u32, (u32, i64, u64)>,
}

/// One submission.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Partition, id, idempotency key.
    pub records: Vec<(u32, u64, Option<u32>)>,
    /// What the first record's offset must become, or the submission is refused.
    pub expected: Option<i64>,
    pub batch: Option<(u32, Vec<u64>)>,
    pub events: Vec<Event>,
    pub trim: Option<(u32, i64)>,
    pub retold: Vec<u32>,
    pub lazy: bool,
}

/// What becomes of a plan when nothing fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Partition, offset and whether it is a repeat, of each record; the batch's first offset.
    Done(Vec<(u32, i64, bool)>, Option<i64>),
    Refused,
}

/// An id carries the length of its value.
pub fn id_of(number: u64, len: u64) -> u64 {
    number << 20 | len
}

/// The record of an idempotency key in one of its two bodies.
pub fn keyed_id(key: u32, other: bool) -> u64 {
    KEYED | id_of(u64::from(key) << 1 | u64::from(other), 40)
}

pub fn value_of(id: u64) -> Vec<u8> {
    let len = usize::try_from(id & 0xf_ffff).unwrap().max(8);
    let mut value = vec![id.to_le_bytes()[3] ^ 0x5a; len];
    value[..8].copy_from_slice(&id.to_le_bytes());
    value
}

impl World {
    pub fn next(&self, partition: u32) -> i64 {
        i64::try_from(self.parts[partition as usize].records.len()).unwrap()
    }

    pub fn apply(&mut self, plan: &Plan) -> Outcome {
        if self.refuses(plan) {
            return Outcome::Refused;
        }
        let appended = plan.records.iter().map(|record| self.append(*record)).collect();
        let batch = plan.batch.as_ref().map(|(partition, ids)| {
            let base = self.next(*partition);
            self.parts[*partition as usize].records.extend(ids);
            base
        });
        for event in &plan.events {
            support::fold(&mut self.map, *event);
        }
        if let Some((partition, to)) = plan.trim {
            let part = &mut self.parts[partition as usize];
            part.start = part.start.max(to);
        }
        Outcome::Done(appended, batch)
    }

    fn refuses(&self, plan: &Plan) -> bool {
        let mut own = BTreeMap::new();
        let conflict = plan.records.iter().any(|(_, id, key)| {
            let Some(key) = key else { return false };
            let first = self.keys.get(key).map(|known| known.2).unwrap_or(*own.entry(*key).or_insert(*id));
            first != *id
        });
        let first = plan.records.first().map(|(partition, ..)| self.next(*partition));
        conflict || plan.expected.is_some_and(|expected| first != Some(expected))
    }

    fn append(&mut self, (partition, id, key): (u32, u64, Option<u32>)) -> (u32, i64, bool) {
        if let Some((partition, offset, _)) = key.and_then(|key| self.keys.get(&key)) {
            return (*partition, *offset, true);
        }
        let offset = self.next(partition);
        self.parts[partition as usize].records.push(id);
        if let Some(key) = key {
            self.keys.insert(key, (partition, offset, id));
        }
        (partition, offset, false)
    }

    /// The numbers a store shows without a read: log start and next offset of each partition.
    pub fn numbers(&self) -> Vec<(i64, i64)> {
        (0..PARTITIONS).map(|partition| (self.parts[partition as usize].start, self.next(partition))).collect()
    }

    /// The ids a reader must find.
    pub fn readable(&self, partition: u32) -> &[u64] {
        let part = &self.parts[partition as usize];
        &part.records[usize::try_from(part.start).unwrap()..]
    }
}
