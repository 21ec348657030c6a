//! Checkpoints: all views at one position of the log, in one index transaction. A checkpoint only saves time when opening.
//!
//! It is fuzzy: views may contain more than the position says, never less, and folding an entry twice changes nothing.
//! Everything they contain is made durable in the log first.

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::Result;
use crate::index::{Index, IndexBatch, Table};
use crate::log::Tip;
use crate::log::entry::PartitionTold;
use crate::types::{PartitionId, Position, TimestampMs};

const META_KEY: &[u8] = b"checkpoint";

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    pub store_id: [u8; 16],
    /// Everything before `tip.end` is in the views.
    pub tip: Tip,
    pub log_start: Position,
    pub last_timestamp: TimestampMs,
}

/// A change of the broker's checkpointed state: `None` deletes the key.
pub type StateChange = (Vec<u8>, Option<Vec<u8>>);

impl CheckpointMeta {
    pub fn read(index: &dyn Index) -> Result<Option<Self>> {
        index.get(Table::Meta, META_KEY)?.map(|bytes| codec::decode(&bytes)).transpose()
    }

    pub fn put(&self, batch: &mut IndexBatch) -> Result<()> {
        batch.puts.push((Table::Meta, META_KEY.to_vec(), codec::encode(self)?));
        Ok(())
    }
}

/// Adds a partition's numbers to what the next index commit writes.
pub fn put_partition(batch: &mut IndexBatch, id: PartitionId, told: &PartitionTold) {
    let mut value = Vec::new();
    told.encode(&mut value);
    batch.puts.push((Table::Partitions, id.0.to_be_bytes().to_vec(), value));
}

/// Reads all partitions' numbers.
pub fn read_partitions(index: &dyn Index) -> Result<Vec<(PartitionId, PartitionTold)>> {
    let pairs = index.range(Table::Partitions, &[], &[], usize::MAX)?;
    let decoded = pairs.iter().filter_map(|(key, value)| {
        let id = PartitionId(u32::from_be_bytes(key.as_slice().try_into().ok()?));
        Some((id, PartitionTold::decode(value)?))
    });
    Ok(decoded.collect())
}

/// Adds changes of the broker's state to what the next index commit writes.
pub fn put_state(batch: &mut IndexBatch, changes: Vec<StateChange>) {
    for (key, value) in changes {
        match value {
            Some(value) => batch.puts.push((Table::State, key, value)),
            None => batch.deletes.push((Table::State, key)),
        }
    }
}
