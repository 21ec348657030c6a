//! What happened to the records of a partition in a queue group, as it is written to the log.
//!
//! Owns the events and their compact sets of offsets. Events carry durations, never deadlines: a monotonic time means nothing
//! to the process that reads them. The layout is what serde derives, in the order of the fields: append, never reorder.

use std::sync::Arc;

use onelog_storage::types::{Offset, TimestampMs};
use serde::{Deserialize, Serialize};

use super::LeaseToken;

/// `len` offsets from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    pub start: Offset,
    pub len: u32,
}

impl OffsetRange {
    /// The offset behind the last.
    #[must_use]
    pub const fn end(self) -> Offset {
        self.start.plus(self.len as i64)
    }
}

/// A set of offsets, lowest first, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(Vec<OffsetRange>);

impl Ranges {
    /// Adds an offset above all others.
    pub fn push(&mut self, offset: Offset) {
        match self.0.last_mut() {
            Some(last) if last.end() == offset && last.len < u32::MAX => last.len += 1,
            _ => self.0.push(OffsetRange { start: offset, len: 1 }),
        }
    }

    #[must_use]
    pub fn ranges(&self) -> &[OffsetRange] {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        self.0.iter().flat_map(|range| (0..i64::from(range.len)).map(|at| range.start.plus(at)))
    }
}

impl FromIterator<Offset> for Ranges {
    /// The offsets must rise.
    fn from_iter<I: IntoIterator<Item = Offset>>(offsets: I) -> Self {
        let mut ranges = Self::default();
        offsets.into_iter().for_each(|offset| ranges.push(offset));
        ranges
    }
}

/// Leases granted in one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// Lowest first. Those below the cursor were delivered before.
    pub offsets: Ranges,
    /// Token of the first; each further one is greater by one.
    pub first_token: LeaseToken,
    #[serde(with = "arc_str")]
    pub member: Arc<str>,
    pub visibility_ms: u64,
    /// When, for the failure of leases that expired before.
    pub wall: TimestampMs,
    /// Where the cursor is now. What was passed and is neither leased nor parked is absent from the log.
    pub cursor_after: Offset,
    /// Keys of the fresh records among them, lowest first; empty unless ordered by key.
    pub key_hashes: Vec<(Offset, u64)>,
    /// Fresh records whose key is busy, lowest first.
    pub parked: Vec<(Offset, u64)>,
}

/// A change of a [`super::PartitionQueue`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseEvent {
    Leased(Leased),
    Acked {
        offsets: Ranges,
    },
    /// Failed and to be delivered again after a delay.
    Deferred {
        offset: Offset,
        delay_ms: u64,
        reason: Box<str>,
        wall: TimestampMs,
    },
    /// Given back without a failure; the next delivery is not a further attempt.
    Released {
        offsets: Ranges,
    },
    /// The leases last from now on.
    Extended {
        offsets: Ranges,
        visibility_ms: u64,
    },
    /// Moved to the dead letter topic, by a record in the same commit.
    DeadLettered {
        offsets: Ranges,
    },
    /// Settled without delivery: `offsets`, and all from the cursor to `cursor_after`.
    Skipped {
        offsets: Ranges,
        cursor_after: Offset,
    },
    /// Retention removed all below `to`.
    StartAdvanced {
        to: Offset,
    },
    /// The group begins anew at `to`: all leases and counts are forgotten, only the tokens go on.
    Seeked {
        to: Offset,
    },
}

/// serde has `Arc<str>` only behind a feature that would let every shared pointer through.
mod arc_str {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        Box::<str>::deserialize(deserializer).map(Arc::from)
    }
}
