//! One partition as readers and the writer thread see it: its durable numbers, and the newest part of its sparse index.
//!
//! Two small locks, never held together with another partition's: `tail` for what is readable, `sequence` for what the
//! writer thread has numbered but not yet written. Knows no topic; the topic's bell is handed in.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use event_listener::Event;
use parking_lot::Mutex;

use crate::log::entry::{LostRange, PartitionNumbers, PartitionTold};
use crate::types::{Offset, PartitionId, Position, StreamId, TimestampMs};

/// A sparse index entry is made when this much log has passed since the partition's last one.
pub const INDEX_STEP_BYTES: u64 = 64 * 1024;

/// Where records from an offset on are found, with what is known of the records before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub base_offset: Offset,
    pub position: Position,
    /// Greatest timestamp of all records before `base_offset`.
    pub max_timestamp_before: TimestampMs,
    /// Bytes of all batches before `base_offset`.
    pub bytes_before: u64,
}

/// A batch that has been written.
#[derive(Clone, Copy, Debug)]
pub struct WrittenBatch {
    pub base_offset: Offset,
    pub count: i64,
    /// Of the last record.
    pub stream: StreamId,
    pub max_timestamp: TimestampMs,
    pub bytes: u64,
    /// Of the commit that holds it.
    pub position: Position,
}

/// One partition.
pub struct Partition {
    pub id: PartitionId,
    high_watermark: AtomicI64,
    log_start: AtomicI64,
    /// The newest commit that tells this partition's numbers.
    told_at: AtomicU64,
    tail: Mutex<Tail>,
    /// Where the latest reads ended: the next one of the same reader begins there.
    read_lately: Mutex<ReadLately>,
    pub(crate) sequence: Mutex<Sequence>,
}

struct Tail {
    numbers: PartitionNumbers,
    /// Offsets that a repair found lost, in order.
    lost: Vec<LostRange>,
    /// Index entries that no checkpoint has moved to the index yet.
    recent: Vec<IndexEntry>,
    indexed_at: Option<Position>,
    changed: bool,
    /// Whom to ring when records come, and how many listeners to wake each time.
    bells: Vec<(Weak<Event>, usize)>,
}

/// Base offsets and commits of the batches that ended the latest reads; the oldest is replaced next.
#[derive(Default)]
struct ReadLately {
    places: [Option<(Offset, Position)>; READERS_REMEMBERED],
    next: usize,
}

/// Readers of one partition whose places are remembered.
const READERS_REMEMBERED: usize = 4;

/// Numbers given out by the writer thread, and where the partition's batch of the current commit is being built.
#[derive(Default)]
pub(crate) struct Sequence {
    pub next: Offset,
    pub stream: StreamId,
    /// Commit counter and slot of the open batch.
    pub open: Option<(u64, usize)>,
}

/// What a checkpoint takes from a partition.
pub(crate) struct PartitionDelta {
    pub told: PartitionTold,
    pub entries: Vec<IndexEntry>,
}

impl Partition {
    pub(crate) fn new(id: PartitionId, numbers: PartitionNumbers) -> Self {
        let sequence = Sequence { next: numbers.next, stream: numbers.stream, open: None };
        Self {
            id,
            high_watermark: AtomicI64::new(numbers.next.0),
            log_start: AtomicI64::new(numbers.log_start.0),
            told_at: AtomicU64::new(0),
            tail: Mutex::new(Tail { numbers, lost: Vec::new(), recent: Vec::new(), indexed_at: None, changed: false, bells: Vec::new() }),
            read_lately: Mutex::default(),
            sequence: Mutex::new(sequence),
        }
    }

    /// One after the last record that may be seen.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// First record that is still there.
    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// The durable numbers.
    pub fn numbers(&self) -> PartitionNumbers {
        self.tail.lock().numbers
    }

    /// From now on rings `bell` for at least `listeners` whenever the high watermark moves, as long as the bell lives.
    pub fn ring(&self, bell: &Arc<Event>, listeners: usize) {
        let mut tail = self.tail.lock();
        let new = Arc::downgrade(bell);
        tail.bells.retain(|(known, _)| known.strong_count() > 0 && !known.ptr_eq(&new));
        tail.bells.push((new, listeners));
    }

    pub(crate) fn told_at(&self) -> Position {
        Position(self.told_at.load(Ordering::Relaxed))
    }

    /// Makes a written batch visible. A batch known already (replayed over a checkpoint) changes nothing.
    pub(crate) fn publish(&self, batch: &WrittenBatch) {
        self.told_at.store(batch.position.0, Ordering::Relaxed);
        let mut tail = self.tail.lock();
        if batch.base_offset < tail.numbers.next {
            return;
        }
        if tail.indexed_at.is_none_or(|at| batch.position.since(at) >= INDEX_STEP_BYTES) {
            let entry = IndexEntry {
                base_offset: batch.base_offset,
                position: batch.position,
                max_timestamp_before: tail.numbers.max_timestamp,
                bytes_before: tail.numbers.bytes,
            };
            tail.recent.push(entry);
            tail.indexed_at = Some(batch.position);
        }
        tail.changed = true;
        tail.numbers.next = batch.base_offset.plus(batch.count);
        tail.numbers.stream = batch.stream;
        tail.numbers.max_timestamp = tail.numbers.max_timestamp.max(batch.max_timestamp);
        tail.numbers.bytes += batch.bytes;
        self.high_watermark.store(tail.numbers.next.0, Ordering::Release);
        for (bell, listeners) in &tail.bells {
            if let Some(bell) = bell.upgrade() {
                bell.notify(*listeners);
            }
        }
    }

    /// Takes over numbers from a partition entry: nothing in it ever goes back.
    pub(crate) fn publish_numbers(&self, told: &PartitionNumbers, at: Position) {
        self.told_at.store(at.0, Ordering::Relaxed);
        let mut tail = self.tail.lock();
        let numbers = &mut tail.numbers;
        numbers.next = numbers.next.max(told.next);
        numbers.log_start = numbers.log_start.max(told.log_start);
        numbers.stream = numbers.stream.max(told.stream);
        numbers.max_timestamp = numbers.max_timestamp.max(told.max_timestamp);
        numbers.bytes = numbers.bytes.max(told.bytes);
        let numbers = *numbers;
        tail.changed = true;
        let gone = tail.recent.partition_point(|entry| entry.base_offset <= numbers.log_start).saturating_sub(1);
        tail.recent.drain(..gone);
        self.high_watermark.store(numbers.next.0, Ordering::Release);
        self.log_start.store(numbers.log_start.0, Ordering::Release);
    }

    /// Notes offsets whose records are lost.
    pub(crate) fn add_lost(&self, ranges: &[LostRange]) {
        let mut tail = self.tail.lock();
        for range in ranges.iter().filter(|range| range.from < range.to) {
            if !tail.lost.contains(range) {
                tail.lost.push(*range);
                tail.changed = true;
            }
        }
        tail.lost.sort_unstable();
    }

    /// The lost range that holds `offset`.
    pub fn lost_at(&self, offset: Offset) -> Option<LostRange> {
        self.tail.lock().lost.iter().find(|range| range.from <= offset && offset < range.to).copied()
    }

    /// All offsets whose records are lost, as far as they are not below the log start.
    pub fn lost(&self) -> Vec<LostRange> {
        let tail = self.tail.lock();
        tail.lost.iter().filter(|range| range.to > tail.numbers.log_start).copied().collect()
    }

    /// After recovery: numbering goes on after what was found.
    pub(crate) fn resume_sequence(&self) {
        let numbers = self.tail.lock().numbers;
        *self.sequence.lock() = Sequence { next: numbers.next, stream: numbers.stream, open: None };
    }

    /// The newest unflushed index entry at or below `offset`.
    pub(crate) fn recent_floor(&self, offset: Offset) -> Option<IndexEntry> {
        let tail = self.tail.lock();
        let upto = tail.recent.partition_point(|entry| entry.base_offset <= offset);
        upto.checked_sub(1).and_then(|at| tail.recent.get(at).copied())
    }

    /// The oldest unflushed index entry at or above `offset`.
    pub(crate) fn recent_ceiling(&self, offset: Offset) -> Option<IndexEntry> {
        let tail = self.tail.lock();
        tail.recent.get(tail.recent.partition_point(|entry| entry.base_offset < offset)).copied()
    }

    /// A reader got as far as the batch that begins at `base_offset`, in the commit at `position`.
    pub(crate) fn remember_read(&self, base_offset: Offset, position: Position) {
        let mut lately = self.read_lately.lock();
        if lately.places.contains(&Some((base_offset, position))) {
            return;
        }
        let next = lately.next;
        lately.next = (next + 1) % READERS_REMEMBERED;
        if let Some(place) = lately.places.get_mut(next) {
            *place = Some((base_offset, position));
        }
    }

    /// The nearest remembered place at or below `offset`.
    pub(crate) fn read_place(&self, offset: Offset) -> Option<(Offset, Position)> {
        let lately = self.read_lately.lock();
        lately.places.iter().flatten().filter(|(base_offset, _)| *base_offset <= offset).max().copied()
    }

    /// What changed since the last checkpoint. Entries stay readable here until [`Self::flushed`].
    pub(crate) fn delta(&self) -> Option<PartitionDelta> {
        let mut tail = self.tail.lock();
        if !std::mem::take(&mut tail.changed) {
            return None;
        }
        let told = PartitionTold { numbers: tail.numbers, lost: tail.lost.clone() };
        Some(PartitionDelta { told, entries: tail.recent.clone() })
    }

    /// The index entries up to the one of `last` are in the index now.
    pub(crate) fn flushed(&self, last: Offset) {
        let mut tail = self.tail.lock();
        let count = tail.recent.partition_point(|entry| entry.base_offset <= last);
        tail.recent.drain(..count);
        if tail.recent.is_empty() {
            tail.recent.shrink_to_fit();
        }
    }

    /// A checkpoint failed: what it took must be taken again.
    pub(crate) fn mark_changed(&self) {
        self.tail.lock().changed = true;
    }
}
