//! A queue group's view of one partition: which records are leased to whom, which wait, which are done.
//!
//! Owns [`PartitionQueue`] and its rules: `decide_*` looks at the state and answers with an event, [`PartitionQueue::apply`] folds
//! the event into the state. The same `apply` runs live and in recovery. No clock, no I/O, no lock and no randomness inside: the
//! caller brings the time, the tokens, the records and the dice, and puts the event into the log before it applies it.
//!
//! Life of a record: fresh -> leased -> acked, or -> deferred or released -> leased again, or -> dead; parked while an earlier
//! record of its key is unsettled. Acked, dead and skipped are final ("settled") and take no memory.
//!
//! Invariants:
//! - A record has at most one valid token; tokens strictly increase, so whoever holds an older one can change nothing.
//! - An attempt is counted when the lease is granted. Attempts never decrease.
//! - Each offset from the origin to the cursor is either in the open map or settled: `acked + dead + skipped + open = cursor - origin`.
//! - Deadlines are monotonic times; events carry durations. Recovery starts each of them anew: later than it was, never earlier.
//! - With key ordering, the unsettled records of a key are one that may be delivered and, behind it, parked ones.

mod decide;
mod event;
mod indexes;
#[cfg(test)]
mod model;
mod settings;
mod snapshot;
#[cfg(test)]
mod tests;

pub use decide::{
    BatchDecision, DeadLetter, Grant, LeaseDecision, LeaseRequest, Nack, NackDecision, Offer, Plan, Refusal, StartDecision, SweepDecision,
};
pub use event::{LeaseEvent, Leased, OffsetRange, Ranges};
pub use settings::{Backoff, LeaseSettings, Ordering};
pub use snapshot::Snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indexes::Indexes;
use onelog_storage::types::{Offset, TimestampMs};
use serde::{Deserialize, Serialize};

/// The failure noted for a lease that ran out.
pub const REASON_EXPIRED: &str = "lease expired";
/// Longer reasons are cut: they stay in memory as long as their record is open.
pub const REASON_BYTES_MAX: usize = 1024;

/// Proof of a lease: the number of its grant. A later grant has a greater one, over restarts too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseToken(pub u64);

/// Why a command was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The record was leased again since; the newer lease is the valid one.
    #[error("the lease of offset {offset} has passed to another delivery")]
    Stale { offset: Offset },
    /// Acked, dead-lettered or skipped already.
    #[error("offset {offset} is settled already")]
    Settled { offset: Offset },
    /// Never delivered, or given back since.
    #[error("offset {offset} is not leased")]
    NotLeased { offset: Offset },
    /// The same request names the offset a second time.
    #[error("offset {offset} is named twice")]
    Repeated { offset: Offset },
    /// An offer the rules do not allow to deliver now: plan again.
    #[error("offset {offset} cannot be delivered now")]
    NotDeliverable { offset: Offset },
    /// Offers must rise, and fresh ones must lie below the end of what was scanned.
    #[error("offset {offset} is offered out of order")]
    OutOfOrder { offset: Offset },
    /// The tokens offered are not all greater than those granted before.
    #[error("lease token {} was used before", token.0)]
    TokenReused { token: LeaseToken },
}

/// What an unsettled record waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Held by `member` until `deadline`, and beyond as long as nobody else was granted it.
    Leased { token: LeaseToken, member: Arc<str>, deadline: Duration },
    /// Given back; deliverable from `until` on.
    Deferred { until: Duration },
    /// Deliverable. `uncounted`: it was released in silence, so its next delivery is the same attempt again.
    Ready { uncounted: bool },
    /// Waits for an earlier record of its key to be settled.
    Parked,
}

/// Failed attempts of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    pub first: TimestampMs,
    pub last: TimestampMs,
    /// Reason of the last one.
    pub reason: Box<str>,
}

/// A record between the start and the cursor that is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRecord {
    pub status: Status,
    /// Deliveries so far; 0 for a parked record that was never delivered.
    pub attempts: u32,
    /// Hash of its key, in groups ordered by key.
    pub key_hash: Option<u64>,
    /// Boxed: most records never fail.
    pub failures: Option<Box<Failures>>,
}

impl OpenRecord {
    const fn next_attempt(&self) -> u32 {
        match self.status {
            Status::Ready { uncounted: true } => self.attempts,
            _ => self.attempts.saturating_add(1),
        }
    }

    fn note_failure(&mut self, at: TimestampMs, reason: &str) {
        match &mut self.failures {
            Some(failures) => {
                failures.last = at;
                failures.reason = reason.into();
            }
            None => self.failures = Some(Box::new(Failures { first: at, last: at, reason: reason.into() })),
        }
    }
}

/// How many records are where. They add up: ready + leased + deferred + parked + settled = high watermark - origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Deliverable now: fresh, given back and due, or with an expired lease.
    pub ready: u64,
    pub leased: u64,
    pub deferred: u64,
    pub parked: u64,
    /// Since the origin, as the next three.
    pub acked: u64,
    pub dead: u64,
    /// Absent records: removed by retention or compaction, transaction markers, records for others.
    pub skipped: u64,
    /// `acked + dead + skipped`.
    pub settled: u64,
}

/// The state of one partition for one queue group. See the head of this file for its rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionQueue {
    /// Where counting began: the first offset ever looked at, or that of the last seek.
    origin: Offset,
    /// The first offset never looked at.
    cursor: Offset,
    /// All that is not settled below the cursor.
    open: BTreeMap<Offset, OpenRecord>,
    /// Follows from `open`.
    indexes: Indexes,
    last_token: LeaseToken,
    acked: u64,
    dead: u64,
    skipped: u64,
}

impl PartitionQueue {
    /// A queue that begins at `origin`.
    #[must_use]
    pub fn new(origin: Offset) -> Self {
        Self { origin, cursor: origin, ..Self::default() }
    }

    /// The first offset that is not settled: all below can be forgotten.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.open.first_key_value().map_or(self.cursor, |(offset, _)| *offset)
    }

    /// The first offset never looked at: fresh records are read from here.
    #[must_use]
    pub const fn cursor(&self) -> Offset {
        self.cursor
    }

    /// The greatest token granted. The allocator must continue above it.
    #[must_use]
    pub const fn last_token(&self) -> LeaseToken {
        self.last_token
    }

    /// The unsettled records below the cursor, lowest first.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = (Offset, &OpenRecord)> {
        self.open.iter().map(|(offset, record)| (*offset, record))
    }

    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<&OpenRecord> {
        self.open.get(&offset)
    }

    /// The first deadline after `now`: when to look again. Those up to `now` are not repeated, so a timer cannot spin on records
    /// that are due but that nobody asks for.
    #[must_use]
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        let after = (now, Offset(i64::MAX));
        self.indexes.deadlines.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)).next().map(|(deadline, _)| *deadline)
    }

    /// Counts of a partition whose records end at `high_watermark` and begin at `log_start`. Takes time for each due record.
    #[must_use]
    pub fn counts(&self, now: Duration, high_watermark: Offset, log_start: Offset) -> Counts {
        let (expired, due) = self.due(now).fold((0, 0), |(expired, due), (_, record)| match record.status {
            Status::Leased { .. } => (expired + 1, due),
            _ => (expired, due + 1),
        });
        let fresh_from = self.cursor.max(log_start).min(high_watermark.max(self.cursor));
        let fresh = distance(fresh_from, high_watermark);
        let skipped = self.skipped + distance(self.cursor, fresh_from);
        let waiting = (self.indexes.deadlines.len() - self.indexes.leased) as u64;
        Counts {
            ready: fresh + self.indexes.ready.len() as u64 + expired + due,
            leased: self.indexes.leased as u64 - expired,
            deferred: waiting - due,
            parked: self.indexes.parked.len() as u64,
            acked: self.acked,
            dead: self.dead,
            skipped,
            settled: self.acked + self.dead + skipped,
        }
    }

    /// Records whose deadline has come, in the order of their deadlines.
    fn due(&self, now: Duration) -> impl Iterator<Item = (Offset, &OpenRecord)> {
        let due = self.indexes.deadlines.range(..=(now, Offset(i64::MAX)));
        due.filter_map(|(_, offset)| Some((*offset, self.open.get(offset)?)))
    }

    // ---- Folding events --------------------------------------------------------------------------------------------------

    /// Folds `event` into the state. `at` is the monotonic time from which its durations run: now when live, the time of
    /// recovery when replayed. Total: an event that does not fit the state changes what it can and nothing else.
    pub fn apply(&mut self, event: &LeaseEvent, at: Duration) {
        match event {
            LeaseEvent::Leased(leased) => self.apply_leased(leased, at),
            LeaseEvent::Acked { offsets } => self.acked += self.settle(offsets),
            LeaseEvent::DeadLettered { offsets } => self.dead += self.settle(offsets),
            LeaseEvent::Skipped { offsets, cursor_after } => {
                self.skipped += self.settle(offsets);
                self.pass(*cursor_after);
            }
            LeaseEvent::Deferred { offset, delay_ms, reason, wall } => {
                let until = after(at, *delay_ms);
                self.change(*offset, |record| {
                    record.note_failure(*wall, reason);
                    record.status = Status::Deferred { until };
                });
            }
            LeaseEvent::Released { offsets } => {
                for offset in self.open_in(offsets) {
                    self.change(offset, |record| record.status = Status::Ready { uncounted: true });
                }
            }
            LeaseEvent::Extended { offsets, visibility_ms } => self.apply_extended(offsets, after(at, *visibility_ms)),
            LeaseEvent::StartAdvanced { to } => {
                let below: Vec<Offset> = self.open.range(..*to).map(|(offset, _)| *offset).collect();
                self.skipped += below.into_iter().map(|offset| self.close(offset)).sum::<u64>();
                self.pass(*to);
            }
            LeaseEvent::Seeked { to } => *self = Self { last_token: self.last_token, ..Self::new(*to) },
        }
    }

    fn apply_leased(&mut self, event: &Leased, at: Duration) {
        let deadline = after(at, event.visibility_ms);
        let fresh_from = self.cursor;
        let mut key_hashes = event.key_hashes.iter().peekable();
        let (mut token, mut present) = (event.first_token.0, event.parked.len() as u64);
        for offset in event.offsets.iter() {
            let status = Status::Leased { token: LeaseToken(token), member: Arc::clone(&event.member), deadline };
            if offset < fresh_from {
                self.lease_again(offset, status, event.wall);
            } else {
                let key_hash = key_hashes.next_if(|(keyed, _)| *keyed == offset).map(|(_, key_hash)| *key_hash);
                self.insert(offset, OpenRecord { status, attempts: 1, key_hash, failures: None });
                present += 1;
            }
            self.last_token = self.last_token.max(LeaseToken(token));
            token = token.saturating_add(1);
        }
        for (offset, key_hash) in &event.parked {
            self.insert(*offset, OpenRecord { status: Status::Parked, attempts: 0, key_hash: Some(*key_hash), failures: None });
        }
        // What was scanned and is neither leased nor parked is absent from the log.
        self.skipped += distance(fresh_from, event.cursor_after).saturating_sub(present);
        self.cursor = fresh_from.max(event.cursor_after);
    }

    fn lease_again(&mut self, offset: Offset, status: Status, wall: TimestampMs) {
        self.change(offset, |record| {
            if matches!(record.status, Status::Leased { .. }) {
                record.note_failure(wall, REASON_EXPIRED);
            }
            record.attempts = record.next_attempt();
            record.status = status;
        });
    }

    fn apply_extended(&mut self, offsets: &Ranges, until: Duration) {
        for offset in self.open_in(offsets) {
            self.change(offset, |record| {
                if let Status::Leased { deadline, .. } = &mut record.status {
                    *deadline = until;
                }
            });
        }
    }

    /// Moves the cursor on, counting what lies between as skipped.
    fn pass(&mut self, to: Offset) {
        self.skipped += distance(self.cursor, to);
        self.cursor = self.cursor.max(to);
    }

    /// Settles what is open in `offsets`, and says how many were.
    fn settle(&mut self, offsets: &Ranges) -> u64 {
        self.open_in(offsets).into_iter().map(|offset| self.close(offset)).sum()
    }

    /// Work is bounded by what is open, not by what the ranges claim.
    fn open_in(&self, offsets: &Ranges) -> Vec<Offset> {
        offsets.ranges().iter().flat_map(|range| self.open.range(range.start..range.end())).map(|(offset, _)| *offset).collect()
    }

    fn insert(&mut self, offset: Offset, record: OpenRecord) {
        self.indexes.insert(offset, &record);
        self.open.insert(offset, record);
    }

    /// Changes a record and keeps the indexes true. Does nothing when it is not open.
    fn change(&mut self, offset: Offset, change: impl FnOnce(&mut OpenRecord)) {
        if let Some(record) = self.open.get_mut(&offset) {
            self.indexes.remove(offset, record);
            change(record);
            self.indexes.insert(offset, record);
        }
    }

    /// Undoes the burial of records whose dead letters could not be written: as they were, or behind the next of their key when
    /// that was let go already. Not an event: what was refused never was in the log.
    pub fn bring_back(&mut self, buried: Vec<(Offset, OpenRecord)>) {
        for (offset, mut record) in buried {
            if offset < self.origin || offset >= self.cursor || self.open.contains_key(&offset) {
                continue;
            }
            if record.key_hash.is_some_and(|key_hash| self.indexes.busy_keys.contains(&key_hash)) {
                record.status = Status::Parked;
            }
            self.dead = self.dead.saturating_sub(1);
            self.insert(offset, record);
        }
    }

    /// Makes an offset below the cursor deliverable that nothing is known of: whether it was settled got lost. Not an event.
    pub fn reopen(&mut self, offset: Offset) {
        if offset < self.origin || offset >= self.cursor || self.open.contains_key(&offset) {
            return;
        }
        self.skipped = self.skipped.saturating_sub(1);
        self.insert(offset, OpenRecord { status: Status::Ready { uncounted: false }, attempts: 0, key_hash: None, failures: None });
    }

    /// Removes a record and lets the next of its key go. Says how many were removed: 1 or 0.
    fn close(&mut self, offset: Offset) -> u64 {
        let Some(record) = self.open.remove(&offset) else { return 0 };
        self.indexes.remove(offset, &record);
        let next = record.key_hash.filter(|_| record.status != Status::Parked).and_then(|key_hash| self.indexes.first_parked(key_hash));
        if let Some(next) = next {
            self.change(next, |record| record.status = Status::Ready { uncounted: false });
        }
        1
    }
}

/// Offsets from `from` to `to`, 0 when `to` is not later.
const fn distance(from: Offset, to: Offset) -> u64 {
    if to.0 > from.0 { to.0.abs_diff(from.0) } else { 0 }
}

const fn after(at: Duration, ms: u64) -> Duration {
    at.saturating_add(Duration::from_millis(ms))
}
