//! Payloads of the entries storage itself understands: records, idempotency keys, partition numbers, boot.
//!
//! ```text
//! records    0 partition u32 | 4 base offset i64 | 12 stream ms u64 | 20 stream seq u64 | 28 Kafka record batch v2
//! keys       0 partition u32 | 4 window class u8 | 5 count u32 | 9 count x { key u128, body u64, offset i64 }
//! partition  0 partition u32 | 4 next offset i64 | 12 log start i64 | 20 stream ms u64 | 28 stream seq u64
//!           36 max timestamp i64 | 44 bytes u64
//!           52 count u32 | 56 count x { from i64, to i64 }: records that are lost, told by a repair
//! boot       0 epoch u32 | 4 store id, 16 bytes
//! ```

use std::io::Write;

use bytes::Bytes;

use super::commit::{CommitBuilder, EntryKind};
use crate::codec::Reader;
use crate::types::{Epoch, Offset, PartitionId, StreamId, TimestampMs};

/// Bytes of a records payload before its batch.
pub const RECORDS_HEADER_BYTES: usize = 28;

/// A records entry.
#[derive(Clone, Debug)]
pub struct Records {
    pub partition: PartitionId,
    pub base_offset: Offset,
    /// Of the first record; the others count up its `seq`.
    pub stream: StreamId,
    /// Kafka record batch v2, base offset assigned.
    pub batch: Bytes,
}

impl Records {
    pub fn decode(payload: &Bytes) -> Option<Self> {
        let mut read = Reader(payload);
        Some(Self {
            partition: PartitionId(read.u32()?),
            base_offset: Offset(read.i64()?),
            stream: StreamId { ms: read.u64()?, seq: read.u64()? },
            batch: payload.slice(RECORDS_HEADER_BYTES..),
        })
    }

    /// The payload's header; the batch comes behind it.
    #[must_use]
    pub fn header(partition: PartitionId, base_offset: Offset, stream: StreamId) -> [u8; RECORDS_HEADER_BYTES] {
        let mut out = [0; RECORDS_HEADER_BYTES];
        let mut rest = out.as_mut_slice();
        let fields: [&[u8]; 4] =
            [&partition.0.to_le_bytes(), &base_offset.0.to_le_bytes(), &stream.ms.to_le_bytes(), &stream.seq.to_le_bytes()];
        for field in fields {
            // The fields fill the header exactly.
            let _ = rest.write_all(field);
        }
        out
    }
}

/// One idempotency key as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// Keyed 128-bit hash of topic and key.
    pub key: u128,
    /// Keyed 64-bit hash of the record's body.
    pub body: u64,
    pub offset: Offset,
}

/// Keys of records that one partition got in the same commit, all of one window class.
#[derive(Clone, Debug)]
pub struct Keys {
    pub partition: PartitionId,
    pub class: u8,
    pub keys: Vec<KeyEntry>,
}

impl Keys {
    const KEY_BYTES: usize = 32;

    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut read = Reader(payload);
        let partition = PartitionId(read.u32()?);
        let class = read.u8()?;
        let count = read.u32()? as usize;
        if read.0.len() != count.checked_mul(Self::KEY_BYTES)? {
            return None;
        }
        let keys = (0..count)
            .map(|_| Some(KeyEntry { key: read.u128()?, body: read.u64()?, offset: Offset(read.i64()?) }))
            .collect::<Option<_>>()?;
        Some(Self { partition, class, keys })
    }

    pub fn encode(&self, to: &mut CommitBuilder) {
        to.entry(EntryKind::Keys, 0, |out| {
            out.extend_from_slice(&self.partition.0.to_le_bytes());
            out.push(self.class);
            out.extend_from_slice(&u32::try_from(self.keys.len()).unwrap_or(u32::MAX).to_le_bytes());
            for key in &self.keys {
                out.extend_from_slice(&key.key.to_le_bytes());
                out.extend_from_slice(&key.body.to_le_bytes());
                out.extend_from_slice(&key.offset.0.to_le_bytes());
            }
        });
    }
}

/// What is known of a partition beyond its records. The same numbers go into the log, the index and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionNumbers {
    /// Offset of the next record.
    pub next: Offset,
    /// Records below are gone.
    pub log_start: Offset,
    /// Id of the newest record.
    pub stream: StreamId,
    /// Greatest record timestamp so far.
    pub max_timestamp: TimestampMs,
    /// Bytes of all batches ever appended.
    pub bytes: u64,
}

/// Offsets whose records were lost to damage: never given out again, and an error for whoever reads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostRange {
    pub from: Offset,
    /// Behind the last.
    pub to: Offset,
}

/// A partition entry, or a partition's row in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTold {
    pub numbers: PartitionNumbers,
    /// In order, apart from each other.
    pub lost: Vec<LostRange>,
}

impl PartitionTold {
    pub fn decode_entry(payload: &[u8]) -> Option<(PartitionId, Self)> {
        let mut read = Reader(payload);
        let partition = PartitionId(read.u32()?);
        Some((partition, Self::decode(read.0)?))
    }

    pub fn encode_entry(&self, partition: PartitionId, to: &mut CommitBuilder) {
        to.entry(EntryKind::Partition, 0, |out| {
            out.extend_from_slice(&partition.0.to_le_bytes());
            self.encode(out);
        });
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let numbers = PartitionNumbers::decode(bytes)?;
        let mut read = Reader(bytes.get(PartitionNumbers::BYTES..)?);
        let count = read.u32()? as usize;
        if read.0.len() != count.checked_mul(16)? {
            return None;
        }
        let lost = (0..count).map(|_| Some(LostRange { from: Offset(read.i64()?), to: Offset(read.i64()?) })).collect::<Option<_>>()?;
        Some(Self { numbers, lost })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.numbers.encode(out);
        out.extend_from_slice(&u32::try_from(self.lost.len()).unwrap_or(u32::MAX).to_le_bytes());
        for range in &self.lost {
            out.extend_from_slice(&range.from.0.to_le_bytes());
            out.extend_from_slice(&range.to.0.to_le_bytes());
        }
    }
}

impl PartitionNumbers {
    const BYTES: usize = 48;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut read = Reader(bytes);
        Some(Self {
            next: Offset(read.i64()?),
            log_start: Offset(read.i64()?),
            stream: StreamId { ms: read.u64()?, seq: read.u64()? },
            max_timestamp: TimestampMs(read.i64()?),
            bytes: read.u64()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.next.0.to_le_bytes());
        out.extend_from_slice(&self.log_start.0.to_le_bytes());
        out.extend_from_slice(&self.stream.ms.to_le_bytes());
        out.extend_from_slice(&self.stream.seq.to_le_bytes());
        out.extend_from_slice(&self.max_timestamp.0.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
    }
}

/// The payload of a boot entry. The store's id: a log that was put beside another `STORE` is noticed.
pub fn encode_boot(epoch: Epoch, store_id: [u8; 16], to: &mut CommitBuilder) {
    to.entry(EntryKind::Boot, 0, |out| {
        out.extend_from_slice(&epoch.0.to_le_bytes());
        out.extend_from_slice(&store_id);
    });
}

/// The store a boot entry was written for.
pub fn decode_boot(payload: &[u8]) -> Option<[u8; 16]> {
    let mut read = Reader(payload);
    read.u32()?;
    read.array()
}
