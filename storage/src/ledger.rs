//! Which offsets of each partition are there and which are lost, as a survey goes on. Pure bookkeeping; reads no file.
//!
//! An offset is lost when records around it, or numbers told later, show that it was given out. Where nothing tells, at the
//! end of a damaged log, it is assumed that as many were given out as could be in the lost bytes: none may be given out twice.

use std::collections::BTreeMap;

use crate::batch::BatchView;
use crate::log::commit::{Entry, EntryKind};
use crate::log::entry::{LostRange, PartitionNumbers, PartitionTold, Records};
use crate::types::{Offset, PartitionId, StreamId, TimestampMs};

/// Fewest bytes of log a record can take: seven bytes in a batch that it shares.
const RECORD_BYTES_MIN: u64 = 7;

/// A batch that is there.
#[derive(Clone, Copy, Debug)]
pub struct SeenBatch {
    pub base: Offset,
    /// Behind the last.
    pub end: Offset,
    pub records: u64,
    /// Of the last record.
    pub stream: StreamId,
    pub max_timestamp: TimestampMs,
    pub bytes: u64,
}

/// One partition.
#[derive(Clone, Debug, Default)]
pub struct PartitionLedger {
    pub numbers: PartitionNumbers,
    pub records: u64,
    /// Offset ranges that are there, in order.
    pub kept: Vec<LostRange>,
    /// Lost to the damage that was found now.
    pub lost: Vec<LostRange>,
    /// How many of the last lost range are only assumed: nothing tells how many there were.
    pub assumed: u64,
    /// Told lost by an earlier repair.
    pub lost_before: Vec<LostRange>,
    /// Whether its next offset is known since the last damage.
    certain: bool,
    seen: bool,
}

/// All partitions.
#[derive(Debug, Default)]
pub struct Ledger {
    pub partitions: BTreeMap<PartitionId, PartitionLedger>,
    /// The log is there from its first position on, so a partition begins at offset 0.
    pub from_the_beginning: bool,
    /// Bytes lost since any partition was last certain.
    pub(crate) uncertain_bytes: u64,
}

impl Ledger {
    /// Damage of at most so many bytes lies between what was seen and what comes.
    pub fn damage(&mut self, bytes_max: u64) {
        self.uncertain_bytes = self.uncertain_bytes.saturating_add(bytes_max);
        self.partitions.values_mut().for_each(|partition| partition.certain = false);
    }

    /// Takes over one entry; what it shows to be lost before it.
    pub fn entry(&mut self, entry: &Entry) -> Option<(PartitionId, LostRange)> {
        match entry.kind {
            EntryKind::Records => {
                let records = Records::decode(&entry.payload)?;
                let batch = BatchView::parse(&records.batch).ok()?;
                let deltas = batch.last_offset_delta();
                let seen = SeenBatch {
                    base: records.base_offset,
                    end: records.base_offset.plus(i64::from(deltas) + 1),
                    records: batch.count() as u64,
                    stream: StreamId { ms: records.stream.ms, seq: records.stream.seq.saturating_add(u64::try_from(deltas).unwrap_or(0)) },
                    max_timestamp: batch.max_timestamp(),
                    bytes: batch.total_bytes() as u64,
                };
                self.records(records.partition, &seen).map(|lost| (records.partition, lost))
            }
            EntryKind::Partition => {
                let (id, told) = PartitionTold::decode_entry(&entry.payload)?;
                self.told(id, &told, true).map(|lost| (id, lost))
            }
            EntryKind::Keys | EntryKind::Event | EntryKind::Boot => None,
        }
    }

    /// A partition that exists, though no record of it may have been seen.
    pub fn exists(&mut self, id: PartitionId) {
        self.partitions.entry(id).or_default();
    }

    /// Nothing is missing behind what is known of any partition.
    pub fn all_certain(&mut self) {
        self.partitions.values_mut().for_each(|partition| partition.certain = true);
    }

    /// A sound checkpoint names where the partition begins.
    pub fn begin(&mut self, id: PartitionId, log_start: Offset) {
        let partition = self.partitions.entry(id).or_default();
        partition.numbers.log_start = log_start;
        partition.seen = true;
    }

    /// What is lost before this batch.
    pub fn records(&mut self, id: PartitionId, batch: &SeenBatch) -> Option<LostRange> {
        let is_damaged = self.uncertain_bytes > 0;
        let from_the_beginning = self.from_the_beginning;
        let partition = self.partitions.entry(id).or_default();
        let begins_where_known = partition.seen || is_damaged && from_the_beginning;
        let gap = LostRange { from: partition.numbers.next.max(partition.numbers.log_start), to: batch.base };
        let lost = (gap.from < gap.to && begins_where_known).then_some(gap);
        partition.lost.extend(lost);
        partition.seen = true;
        partition.certain = true;
        partition.records += batch.records;
        match partition.kept.last_mut() {
            Some(last) if last.to == batch.base => last.to = batch.end,
            _ => partition.kept.push(LostRange { from: batch.base, to: batch.end }),
        }
        let numbers = &mut partition.numbers;
        numbers.next = numbers.next.max(batch.end);
        numbers.stream = numbers.stream.max(batch.stream);
        numbers.max_timestamp = numbers.max_timestamp.max(batch.max_timestamp);
        numbers.bytes += batch.bytes;
        lost
    }

    /// Takes over told numbers, of the log or, at the end, of a sound checkpoint; what is lost below them. `certain`: nothing
    /// is missing behind them.
    pub fn told(&mut self, id: PartitionId, told: &PartitionTold, certain: bool) -> Option<LostRange> {
        let is_damaged = self.uncertain_bytes > 0;
        let partition = self.partitions.entry(id).or_default();
        for range in &told.lost {
            if !partition.lost_before.contains(range) && !partition.lost.contains(range) {
                partition.lost_before.push(*range);
            }
        }
        let numbers = &mut partition.numbers;
        let known_to = told.lost.iter().fold(numbers.next, |next, range| if range.from <= next { next.max(range.to) } else { next });
        let from = known_to.max(told.numbers.log_start);
        let gap = LostRange { from, to: told.numbers.next };
        let lost = (gap.from < gap.to && (partition.seen || is_damaged)).then_some(gap);
        partition.lost.extend(lost);
        partition.certain |= certain;
        partition.seen |= told.numbers.next > Offset(0);
        numbers.next = numbers.next.max(told.numbers.next);
        numbers.log_start = numbers.log_start.max(told.numbers.log_start);
        numbers.stream = numbers.stream.max(told.numbers.stream);
        numbers.max_timestamp = numbers.max_timestamp.max(told.numbers.max_timestamp);
        numbers.bytes = numbers.bytes.max(told.numbers.bytes);
        lost
    }

    /// At the end: partitions of which nothing was told since the last damage may have had records in it. None of their
    /// offsets may be given out again.
    pub fn close(&mut self) {
        let most = i64::try_from(self.uncertain_bytes.div_ceil(RECORD_BYTES_MIN)).unwrap_or(i64::MAX);
        for partition in self.partitions.values_mut().filter(|partition| !partition.certain) {
            let range = LostRange { from: partition.numbers.next, to: partition.numbers.next.plus(most) };
            partition.numbers.next = range.to;
            if range.from < range.to {
                partition.lost.push(range);
                partition.assumed = most.unsigned_abs();
            }
        }
        for partition in self.partitions.values_mut() {
            let start = partition.numbers.log_start;
            for ranges in [&mut partition.lost, &mut partition.lost_before, &mut partition.kept] {
                ranges.retain_mut(|range| {
                    range.from = range.from.max(start);
                    range.from < range.to
                });
            }
        }
    }
}

impl PartitionLedger {
    /// What an entry of the log must say of it.
    pub fn to_tell(&self) -> PartitionTold {
        if self.kept.is_empty() {
            // Nothing is left to read before or behind what is lost: the partition begins behind it.
            return PartitionTold { numbers: PartitionNumbers { log_start: self.numbers.next, ..self.numbers }, lost: Vec::new() };
        }
        let mut lost = [self.lost_before.as_slice(), &self.lost].concat();
        lost.sort_unstable();
        PartitionTold { numbers: self.numbers, lost }
    }
}
