//! The views storage itself folds from the log: partitions with their sparse index, and idempotency keys.
//! The same fold runs in recovery and, piece by piece, live.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::batch::BatchView;
use crate::checkpoint;
use crate::error::Result;
use crate::index::dedup::{Dedup, KnownKey};
use crate::index::{Index, IndexBatch, offsets};
use crate::log::commit::{Commit, Entry, EntryKind};
use crate::log::entry::{Keys, PartitionNumbers, PartitionTold, Records};
use crate::partition::{Partition, WrittenBatch};
use crate::types::{Offset, PartitionId, StreamId};

/// All partitions by id.
#[derive(Default)]
pub struct Partitions(RwLock<HashMap<PartitionId, Arc<Partition>>>);

impl Partitions {
    pub fn get(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.0.read().get(&id).cloned()
    }

    /// The partition, made empty when it is new.
    pub fn get_or_new(&self, id: PartitionId) -> Arc<Partition> {
        if let Some(partition) = self.get(id) {
            return partition;
        }
        let mut all = self.0.write();
        Arc::clone(all.entry(id).or_insert_with(|| Arc::new(Partition::new(id, PartitionNumbers::default()))))
    }

    pub fn insert(&self, id: PartitionId, told: PartitionTold) {
        let partition = Partition::new(id, told.numbers);
        partition.add_lost(&told.lost);
        self.0.write().insert(id, Arc::new(partition));
    }

    /// In the order of their ids: what is done to each is done in the same order every time.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        let mut all: Vec<_> = self.0.read().values().cloned().collect();
        all.sort_unstable_by_key(|partition| partition.id);
        all
    }
}

/// Index entries taken from partitions for an index commit, to be confirmed after it.
pub struct Flushing(Vec<(Arc<Partition>, Option<Offset>)>);

impl Partitions {
    /// Moves what changed into `batch`.
    pub fn flush(&self, batch: &mut IndexBatch) -> Flushing {
        let mut flushing = Vec::new();
        for partition in self.all() {
            let Some(delta) = partition.delta() else { continue };
            checkpoint::put_partition(batch, partition.id, &delta.told);
            offsets::put(batch, partition.id, &delta.entries);
            flushing.push((partition, delta.entries.last().map(|entry| entry.base_offset)));
        }
        Flushing(flushing)
    }
}

impl Flushing {
    /// The index commit succeeded.
    pub fn done(self) {
        for (partition, last) in self.0 {
            if let Some(last) = last {
                partition.flushed(last);
            }
        }
    }

    /// It failed: everything must be taken again.
    pub fn failed(self) {
        for (partition, _) in self.0 {
            partition.mark_changed();
        }
    }
}

/// Folds one entry that storage understands; `Err` says in words what cannot be read.
pub fn fold(entry: &Entry, commit: &Commit, partitions: &Partitions, dedup: &Dedup) -> Result<(), &'static str> {
    match entry.kind {
        EntryKind::Records => fold_records(entry, commit, partitions),
        EntryKind::Keys => {
            let keys = Keys::decode(&entry.payload).ok_or("an idempotency key entry cannot be read")?;
            let written = commit.header.timestamp;
            for key in keys.keys {
                let known = KnownKey { partition: keys.partition, offset: key.offset, body: key.body, written, class: keys.class };
                dedup.insert(key.key, known);
            }
            Ok(())
        }
        EntryKind::Partition => {
            let (id, told) = PartitionTold::decode_entry(&entry.payload).ok_or("a partition entry cannot be read")?;
            let partition = partitions.get_or_new(id);
            partition.add_lost(&told.lost);
            partition.publish_numbers(&told.numbers, commit.header.position);
            Ok(())
        }
        EntryKind::Event | EntryKind::Boot => Ok(()),
    }
}

fn fold_records(entry: &Entry, commit: &Commit, partitions: &Partitions) -> Result<(), &'static str> {
    let records = Records::decode(&entry.payload).ok_or("a records entry cannot be read")?;
    let batch = BatchView::parse(&records.batch).map_err(|_| "a record batch cannot be read")?;
    let last = u64::try_from(batch.last_offset_delta()).unwrap_or(0);
    let partition = partitions.get_or_new(records.partition);
    let next = partition.numbers().next;
    // The first records that are left of a partition may begin anywhere: the log before them was given up.
    if next > Offset(0) && records.base_offset > next {
        return Err("records are missing between this batch and the partition's last one");
    }
    partition.publish(&WrittenBatch {
        base_offset: records.base_offset,
        count: i64::from(batch.last_offset_delta()) + 1,
        stream: StreamId { ms: records.stream.ms, seq: records.stream.seq.saturating_add(last) },
        max_timestamp: batch.max_timestamp(),
        bytes: batch.total_bytes() as u64,
        position: commit.header.position,
    });
    Ok(())
}

/// Writes the views to the index without claiming a checkpoint: keeps memory bounded while a whole log is folded.
pub fn spill(partitions: &Partitions, dedup: &Dedup, index: &dyn Index, now: crate::types::TimestampMs) -> Result<()> {
    let mut batch = IndexBatch::default();
    let flushing = partitions.flush(&mut batch);
    dedup.flush(&mut batch, now);
    index.commit(batch)?;
    flushing.done();
    dedup.flushed(index)
}
