//! Publishing: limits, placement, encoding on the caller's thread, then one submission. Answers once it is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use onelog_storage::batch::BatchBuilder;
use onelog_storage::error::StorageError;
use onelog_storage::index::dedup::DedupKey;
use onelog_storage::partition::Partition;
use onelog_storage::submission::{Appended, NewBatch, NewEntry, Receipt, Submission};
use onelog_storage::types::{Durability, Offset, PartitionId, TimestampMs};
use smallvec::SmallVec;

use super::error::{BrokerError, Result};
use super::topic::{Topic, TopicView};
use super::types::{BATCH_RECORDS_MAX, NewRecord, Produced};
use super::{Broker, Inner, records};

/// Bytes one request takes at most; less with small segments, which a commit must fit.
pub(super) const BATCH_BYTES_LIMIT: u64 = 16 * 1024 * 1024;

impl Broker {
    /// Publishes records to one topic: all of them or none. Answers once they are durable.
    pub async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Produced>> {
        let topic = self.inner.topic(topic)?;
        self.inner.produce(smallvec::smallvec![Run { topic, records }], None).await
    }

    /// Publishes records to several topics and partitions: all of them or none.
    pub async fn produce_atomic(&self, records: Vec<(String, NewRecord)>) -> Result<Vec<Produced>> {
        let mut targets = Targets::new();
        for (topic, record) in records {
            match targets.last_mut() {
                Some(run) if *run.topic.name == *topic => run.records.push(record),
                _ => targets.push(Run { topic: self.inner.topic(&topic)?, records: vec![record] }),
            }
        }
        self.inner.produce(targets, None).await
    }

    /// Publishes one record if the partition's next offset is `expected`.
    pub async fn produce_if(&self, topic: &str, record: NewRecord, expected: i64) -> Result<Produced> {
        let topic = self.inner.topic(topic)?;
        let produced = self.inner.produce(smallvec::smallvec![Run { topic, records: vec![record] }], Some(Offset(expected))).await?;
        produced.into_iter().next().ok_or(BrokerError::Closing)
    }
}

/// Records for one topic, in order.
pub(super) struct Run {
    pub topic: Arc<Topic>,
    pub records: Vec<NewRecord>,
}

/// The records of a request. One topic, the common case, needs no allocation.
pub(super) type Targets = SmallVec<[Run; 1]>;

/// Records of one topic from which on they are made into batches here instead of by the writer thread.
const WHOLE_BATCH_RECORDS: usize = 16;

/// Where each record of a submission goes, to name it in answers: its partition's number and, when it is in a batch that was
/// made here, which one and its place in it.
pub(super) type Places = SmallVec<[Place; 1]>;

#[derive(Clone, Copy)]
pub(super) struct Place {
    number: u32,
    in_batch: Option<(u32, u32)>,
}

impl Inner {
    pub(super) async fn produce(&self, targets: Targets, expected: Option<Offset>) -> Result<Vec<Produced>> {
        self.check_open()?;
        let begun = self.timer.now();
        match count_of(&targets) {
            0 => return Err(BrokerError::InvalidRequest("there are no records to publish".into())),
            count if count > BATCH_RECORDS_MAX => {
                return Err(BrokerError::InvalidRequest(format!("{count} records at once, at most {BATCH_RECORDS_MAX}")));
            }
            _ => {}
        }
        let bytes = self.check(&targets)?;
        let (submission, places) = self.prepare(&targets, expected)?;
        let durability = submission.durability;
        let receipt = match self.admit(submission).await?.await {
            Ok(receipt) => receipt,
            Err(error) => return Err(self.refused(error, &targets, &places)),
        };
        let produced = name(&receipt, &targets, &places, durability);
        self.count(&produced, bytes, self.timer.now().saturating_sub(begun));
        Ok(produced)
    }

    fn check(&self, targets: &Targets) -> Result<u64> {
        let mut bytes = 0;
        let mut index = 0;
        for run in targets {
            let bytes_max = run.topic.view().settings.record_bytes_max;
            for record in &run.records {
                bytes += records::check(record, &run.topic.name, index, bytes_max)? as u64;
                index += 1;
            }
        }
        let most = self.batch_bytes_max;
        if bytes > most { Err(BrokerError::BatchTooLarge { bytes, max: most }) } else { Ok(bytes) }
    }

    /// Encodes records into a submission. Durable unless every topic in it is lazy.
    pub(super) fn prepare(&self, targets: &Targets, expected: Option<Offset>) -> Result<(Submission, Places)> {
        let now = self.clock.wall();
        let mut submission = Submission { durability: Durability::Lazy, ..Submission::default() };
        let mut places = Places::with_capacity(count_of(targets));
        for Run { topic, records } in targets {
            let view = topic.view();
            let settings = &view.settings;
            if settings.durability == Durability::Sync {
                submission.durability = Durability::Sync;
            }
            // Batches go behind single records, so with several runs the order of the request could be lost.
            let alone = targets.len() == 1 && records.len() >= WHOLE_BATCH_RECORDS && expected.is_none();
            if alone && records.iter().all(|record| record.idempotency_key.is_none()) {
                batch_by_partition(topic, &view, records, now, &mut submission, &mut places)?;
                continue;
            }
            submission.records.reserve(records.len());
            for record in records {
                let (number, partition) = topic.place(&view, record.partition, record.key.as_deref())?;
                let key = match &record.idempotency_key {
                    Some(key) if settings.dedup_window_ms > 0 => Some(self.dedup_key(topic, key, record, settings.dedup_window_ms)?),
                    _ => None,
                };
                submission.records.push(NewEntry { partition: Arc::clone(partition), body: records::encode(record, now), key, expected });
                places.push(Place { number, in_batch: None });
            }
        }
        Ok((submission, places))
    }

    fn dedup_key(&self, topic: &Topic, key: &[u8], record: &NewRecord, window_ms: u64) -> Result<Box<DedupKey>> {
        let body = [record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default()];
        Ok(Box::new(self.store.dedup_key(topic.id, key, &body, window_ms)?))
    }

    /// The broker's word for a refused submission.
    fn refused(&self, error: StorageError, targets: &Targets, places: &Places) -> BrokerError {
        let named = |index: usize| {
            let topic = topics_of(targets).nth(index).cloned();
            (topic, places.get(index).map_or(0, |place| place.number))
        };
        let name_of = |topic: &Option<Arc<Topic>>| topic.as_ref().map_or_else(String::new, |topic| topic.name.to_string());
        match error {
            StorageError::IdempotencyConflict { index, partition, offset } => {
                let (topic, number) = named(index);
                let number = topic.as_ref().and_then(|topic| number_of(topic, partition)).unwrap_or(number);
                BrokerError::IdempotencyConflict { index, topic: name_of(&topic), partition: number, offset: offset.0 }
            }
            StorageError::UnexpectedOffset { expected, actual } => {
                let (topic, partition) = named(0);
                BrokerError::UnexpectedOffset { topic: name_of(&topic), partition, expected: expected.0, actual: actual.0 }
            }
            StorageError::Full { .. } => {
                self.counters.rejected_disk_full.fetch_add(1, Relaxed);
                BrokerError::DiskFull
            }
            other => other.into(),
        }
    }

    fn count(&self, produced: &[Produced], bytes: u64, took: std::time::Duration) {
        let duplicates = produced.iter().filter(|produced| produced.duplicate).count() as u64;
        self.counters.records_produced.add(produced.len() as u64 - duplicates);
        self.counters.bytes_produced.add(bytes);
        if duplicates > 0 {
            self.counters.duplicates.add(duplicates);
        }
        self.counters.publish_latency.record(took);
    }
}

fn number_of(topic: &Topic, partition: PartitionId) -> Option<u32> {
    let at = topic.partitions().iter().position(|other| other.id == partition)?;
    u32::try_from(at).ok()
}

/// Names where each record went, in the order of the request.
pub(super) fn name(receipt: &Receipt, targets: &Targets, places: &Places, durability: Durability) -> Vec<Produced> {
    let mut produced = Vec::with_capacity(places.len());
    if let ([Run { topic, .. }], [base]) = (&targets[..], &receipt.batches[..]) {
        // All of it is one batch, in its order.
        for (place, offset) in places.iter().zip(base.0..) {
            produced.push(Produced { topic: Arc::clone(&topic.name), partition: place.number, offset, duplicate: false, durability });
        }
        return produced;
    }
    let mut single = receipt.appended.iter();
    let mut places = places.iter();
    for Run { topic, records } in targets {
        for place in places.by_ref().take(records.len()) {
            // The receipt has an answer for each record.
            let Some((partition, offset, duplicate)) = landed(topic, *place, receipt, &mut single) else { continue };
            produced.push(Produced { topic: Arc::clone(&topic.name), partition, offset: offset.0, duplicate, durability });
        }
    }
    produced
}

/// Partition and offset of one record, and whether it was a repeat.
fn landed<'a>(
    topic: &Topic,
    place: Place,
    receipt: &Receipt,
    single: &mut impl Iterator<Item = &'a Appended>,
) -> Option<(u32, Offset, bool)> {
    if let Some((batch, at)) = place.in_batch {
        let base = receipt.batches.get(batch as usize)?;
        return Some((place.number, base.plus(i64::from(at)), false));
    }
    let appended = single.next()?;
    // A repeat may stand in another partition than this copy would have gone to.
    let elsewhere = if appended.duplicate { number_of(topic, appended.partition) } else { None };
    Some((elsewhere.unwrap_or(place.number), appended.offset, appended.duplicate))
}

/// Encodes many records of a topic straight into one batch per partition.
fn batch_by_partition(
    topic: &Arc<Topic>,
    view: &TopicView,
    records: &[NewRecord],
    now: TimestampMs,
    submission: &mut Submission,
    places: &mut Places,
) -> Result<()> {
    let mut builders: Vec<(&Arc<Partition>, BatchBuilder)> = Vec::new();
    let bytes = records.iter().map(records::bytes_about).sum::<usize>() / view.partitions.len().max(1);
    let mut slots: Vec<Option<usize>> = vec![None; view.partitions.len()];
    for record in records {
        let (number, partition) = topic.place(view, record.partition, record.key.as_deref())?;
        let slot = *slots[number as usize].get_or_insert_with(|| {
            builders.push((partition, NewBatch::builder(bytes)));
            builders.len() - 1
        });
        let builder = &mut builders[slot].1;
        let at = u32::try_from(builder.count()).unwrap_or(u32::MAX);
        records::push(record, now, builder);
        places.push(Place { number, in_batch: Some((u32::try_from(slot).unwrap_or(u32::MAX), at)) });
    }
    submission.batches.extend(builders.into_iter().map(|(partition, builder)| NewBatch::new(Arc::clone(partition), builder)));
    Ok(())
}

fn count_of(targets: &Targets) -> usize {
    targets.iter().map(|run| run.records.len()).sum()
}

/// The topic of each record.
fn topics_of(targets: &Targets) -> impl Iterator<Item = &Arc<Topic>> {
    targets.iter().flat_map(|run| std::iter::repeat_n(&run.topic, run.records.len()))
}
