//! The sparse offset and time index: where in the log a partition's records from some offset on are found.
//! The newest part lives with the partition, the rest in the index backend; this file alone knows its keys and values.

use super::{Index, IndexBatch, Pair, Table};
use crate::codec::Reader;
use crate::error::{Result, StorageError};
use crate::partition::{IndexEntry, Partition};
use crate::types::{Offset, PartitionId, Position, TimestampMs};

fn key(partition: PartitionId, offset: Offset) -> Vec<u8> {
    let mut key = partition.0.to_be_bytes().to_vec();
    // Offsets are never negative here, so their big-endian bytes sort as they do.
    key.extend_from_slice(&offset.0.max(0).to_be_bytes());
    key
}

fn value(entry: &IndexEntry) -> Vec<u8> {
    let mut value = entry.position.0.to_le_bytes().to_vec();
    value.extend_from_slice(&entry.max_timestamp_before.0.to_le_bytes());
    value.extend_from_slice(&entry.bytes_before.to_le_bytes());
    value
}

fn decode((key, value): &Pair) -> Result<IndexEntry> {
    let read = || {
        let (_, offset) = key.split_first_chunk::<4>()?;
        let base_offset = Offset(i64::from_be_bytes(offset.try_into().ok()?));
        let mut read = Reader(value);
        Some(IndexEntry {
            base_offset,
            position: Position(read.u64()?),
            max_timestamp_before: TimestampMs(read.i64()?),
            bytes_before: read.u64()?,
        })
    };
    read().ok_or_else(|| StorageError::Index("an offset entry cannot be read".into()))
}

/// Adds `entries` to what the next index commit writes.
pub fn put(batch: &mut IndexBatch, partition: PartitionId, entries: &[IndexEntry]) {
    batch.puts.extend(entries.iter().map(|entry| (Table::Offsets, key(partition, entry.base_offset), value(entry))));
}

/// The entry with the greatest base offset at or below `offset`.
pub fn floor(index: &dyn Index, partition: &Partition, offset: Offset) -> Result<Option<IndexEntry>> {
    if let Some(entry) = partition.recent_floor(offset) {
        return Ok(Some(entry));
    }
    let prefix = partition.id.0.to_be_bytes();
    let found = index.floor(Table::Offsets, &prefix, &key(partition.id, offset))?;
    // A checkpoint may have moved the entry between the two looks.
    match found {
        Some(pair) => decode(&pair).map(Some),
        None => Ok(partition.recent_floor(offset)),
    }
}

/// The entry with the smallest base offset at or above `offset`.
pub fn ceiling(index: &dyn Index, partition: &Partition, offset: Offset) -> Result<Option<IndexEntry>> {
    let recent = partition.recent_ceiling(offset);
    if partition.recent_floor(offset).is_some() {
        return Ok(recent);
    }
    let prefix = partition.id.0.to_be_bytes();
    let stored = index.range(Table::Offsets, &prefix, &key(partition.id, offset), 1)?;
    match stored.first() {
        Some(pair) => decode(pair).map(Some),
        None => Ok(recent),
    }
}

/// The last entry in `[start, end)` for which `before` holds. `before` must hold for a prefix of the entries and no others.
pub fn last_where(
    index: &dyn Index,
    partition: &Partition,
    start: Offset,
    end: Offset,
    before: impl Fn(&IndexEntry) -> bool,
) -> Result<Option<IndexEntry>> {
    let (mut low, mut high) = (start.0, end.0 - 1);
    let mut best = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        match floor(index, partition, Offset(middle))? {
            Some(entry) if entry.base_offset >= start && before(&entry) => {
                best = Some(entry);
                low = match ceiling(index, partition, Offset(middle + 1))? {
                    Some(next) => next.base_offset.0,
                    None => return Ok(best),
                };
            }
            Some(entry) if entry.base_offset >= start => high = entry.base_offset.0 - 1,
            // Nothing at or below `middle`: go on from the first entry there is.
            _ => match ceiling(index, partition, Offset(middle + 1))? {
                Some(next) => low = next.base_offset.0,
                None => return Ok(best),
            },
        }
    }
    Ok(best)
}
