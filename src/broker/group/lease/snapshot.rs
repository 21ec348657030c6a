//! A partition queue as it is written to a checkpoint or a snapshot entry.
//!
//! Owns the stored shape and both translations. Deadlines are stored as what remains of them, rounded up, so that nothing is
//! delivered before its time; members are stored once each. Indexes are not stored: they follow from the records.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use onelog_storage::types::Offset;
use serde::{Deserialize, Serialize};

use super::{Failures, LeaseToken, OpenRecord, PartitionQueue, Status, after};

const NANOS_PER_MS: u128 = 1_000_000;

/// The state of a [`PartitionQueue`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    origin: Offset,
    cursor: Offset,
    last_token: LeaseToken,
    acked: u64,
    dead: u64,
    skipped: u64,
    members: Vec<Box<str>>,
    records: Vec<SnapshotRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotRecord {
    offset: Offset,
    attempts: u32,
    key_hash: Option<u64>,
    failures: Option<Box<Failures>>,
    status: SnapshotStatus,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SnapshotStatus {
    /// `member` counts the members of the snapshot.
    Leased {
        token: LeaseToken,
        member: u32,
        remaining_ms: u64,
    },
    Deferred {
        remaining_ms: u64,
    },
    Ready {
        uncounted: bool,
    },
    Parked,
}

impl PartitionQueue {
    /// The state at `now`.
    #[must_use]
    pub fn to_snapshot(&self, now: Duration) -> Snapshot {
        let mut members = Members::default();
        let record = |(offset, record): (&Offset, &OpenRecord)| SnapshotRecord {
            offset: *offset,
            attempts: record.attempts,
            key_hash: record.key_hash,
            failures: record.failures.clone(),
            status: match &record.status {
                Status::Leased { token, member, deadline } => {
                    SnapshotStatus::Leased { token: *token, member: members.number_of(member), remaining_ms: remaining_ms(*deadline, now) }
                }
                Status::Deferred { until } => SnapshotStatus::Deferred { remaining_ms: remaining_ms(*until, now) },
                Status::Ready { uncounted } => SnapshotStatus::Ready { uncounted: *uncounted },
                Status::Parked => SnapshotStatus::Parked,
            },
        };
        let records = self.open.iter().map(record).collect();
        Snapshot {
            origin: self.origin,
            cursor: self.cursor,
            last_token: self.last_token,
            acked: self.acked,
            dead: self.dead,
            skipped: self.skipped,
            members: members.names,
            records,
        }
    }

    /// The state again, its deadlines counted from `now`.
    #[must_use]
    pub fn from_snapshot(snapshot: &Snapshot, now: Duration) -> Self {
        let members: Vec<Arc<str>> = snapshot.members.iter().map(|name| Arc::from(&**name)).collect();
        let mut queue = Self {
            origin: snapshot.origin,
            cursor: snapshot.cursor,
            last_token: snapshot.last_token,
            acked: snapshot.acked,
            dead: snapshot.dead,
            skipped: snapshot.skipped,
            ..Self::default()
        };
        for record in &snapshot.records {
            let status = match &record.status {
                SnapshotStatus::Leased { token, member, remaining_ms } => Status::Leased {
                    token: *token,
                    member: members.get(*member as usize).cloned().unwrap_or_else(|| Arc::from("")),
                    deadline: after(now, *remaining_ms),
                },
                SnapshotStatus::Deferred { remaining_ms } => Status::Deferred { until: after(now, *remaining_ms) },
                SnapshotStatus::Ready { uncounted } => Status::Ready { uncounted: *uncounted },
                SnapshotStatus::Parked => Status::Parked,
            };
            let (attempts, key_hash, failures) = (record.attempts, record.key_hash, record.failures.clone());
            queue.insert(record.offset, OpenRecord { status, attempts, key_hash, failures });
        }
        queue
    }
}

/// The members met so far, numbered.
#[derive(Default)]
struct Members {
    names: Vec<Box<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Members {
    fn number_of(&mut self, member: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(member) {
            return *number;
        }
        // Fewer members than leases, and those are counted in 32 bits.
        let number = self.names.len() as u32;
        self.names.push(Box::from(&**member));
        self.numbers.insert(Arc::clone(member), number);
        number
    }
}

fn remaining_ms(until: Duration, now: Duration) -> u64 {
    let nanos = until.saturating_sub(now).as_nanos();
    u64::try_from(nanos.div_ceil(NANOS_PER_MS)).unwrap_or(u64::MAX)
}
