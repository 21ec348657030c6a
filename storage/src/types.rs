//! The numbers of the log, each with a type of its own so that two of them cannot be swapped.
//!
//! Owns no behaviour beyond arithmetic that cannot go wrong silently. Knows no file, no clock and no network.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Byte offset in the endless log. Never reused; a segment file is named by the position of its first byte.
    Position(u64)
}
number! {
    /// Number of a record within its partition: dense, starts at 0, never reused. Signed because Kafka's is.
    Offset(i64)
}
number! {
    /// Number of a partition within the whole store. Never reused, also after its topic was deleted.
    PartitionId(u32)
}
number! {
    /// Counts the openings of a store for writing. Strictly increasing; part of every commit.
    Epoch(u32)
}
number! {
    /// Milliseconds since 1970-01-01T00:00:00Z, as in Kafka record timestamps.
    TimestampMs(i64)
}

impl Position {
    /// The position `bytes` further on. Saturates: a log of 2^64 bytes cannot be written.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here, 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Offset {
    /// The offset `records` further on.
    #[must_use]
    pub const fn plus(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }
}

/// The id every record carries beside its offset: the Redis entry id. Strictly increasing per partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// Wall-clock milliseconds when the record was sequenced.
    pub ms: u64,
    /// Counts the records that share `ms`.
    pub seq: u64,
}

impl StreamId {
    /// The smallest id that is after `self` and not before `now_ms`.
    #[must_use]
    pub const fn next(self, now_ms: u64) -> Self {
        if now_ms > self.ms { Self { ms: now_ms, seq: 0 } } else { self.plus(1) }
    }

    /// The id `records` further on within the same millisecond.
    #[must_use]
    pub const fn plus(self, records: u64) -> Self {
        match self.seq.checked_add(records) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }
}

/// When a reply may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the sync that covers it. The default, and the promise.
    #[default]
    Sync,
    /// After the write: a power cut may take the last moments. Chosen per topic or request, named everywhere it applies.
    Lazy,
}
