//! Publishing: limits, placement, encoding on the caller's thread, then one submission. Answers once it is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use onelog_storage::error::StorageError;
use onelog_storage::index::dedup::DedupKey;
use onelog_storage::submission::{NewEntry, Receipt, Submission};
use onelog_storage::types::{Durability, Offset, PartitionId};
use smallvec::SmallVec;

use super::error::{BrokerError, Result};
use super::topic::Topic;
use super::types::{BATCH_RECORDS_MAX, NewRecord, Produced};
use super::{Broker, Inner, records};

/// Bytes one request takes at most; less with small segments, which a commit must fit.
pub(super) const BATCH_BYTES_LIMIT: u64 = 16 * 1024 * 1024;

impl Broker {
    /// Publishes records to one topic: all of them or none. Answers once they are durable.
    pub async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Produced>> {
        let topic = self.inner.topic(topic)?;
        let targets = records.into_iter().map(|record| (Arc::clone(&topic), record)).collect();
        self.inner.produce(targets, None).await
    }

    /// Publishes records to several topics and partitions: all of them or none.
    pub async fn produce_atomic(&self, records: Vec<(String, NewRecord)>) -> Result<Vec<Produced>> {
        let targets: Result<Targets> = records.into_iter().map(|(topic, record)| Ok((self.inner.topic(&topic)?, record))).collect();
        self.inner.produce(targets?, None).await
    }

    /// Publishes one record if the partition's next offset is `expected`.
    pub async fn produce_if(&self, topic: &str, record: NewRecord, expected: i64) -> Result<Produced> {
        let topic = self.inner.topic(topic)?;
        let produced = self.inner.produce(smallvec::smallvec![(topic, record)], Some(Offset(expected))).await?;
        produced.into_iter().next().ok_or(BrokerError::Closing)
    }
}

/// Records with their topics. One record, the common case, needs no allocation.
pub(super) type Targets = SmallVec<[(Arc<Topic>, NewRecord); 1]>;

/// Partition numbers of the records of a submission, to name them in answers.
type Places = SmallVec<[u32; 1]>;

impl Inner {
    pub(super) async fn produce(&self, targets: Targets, expected: Option<Offset>) -> Result<Vec<Produced>> {
        self.check_open()?;
        let begun = self.timer.now();
        if targets.is_empty() {
            return Err(BrokerError::InvalidRequest("there are no records to publish".into()));
        }
        if targets.len() > BATCH_RECORDS_MAX {
            return Err(BrokerError::InvalidRequest(format!("{} records at once, at most {BATCH_RECORDS_MAX}", targets.len())));
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
        for (topic, records) in by_topic(targets) {
            let bytes_max = topic.view().settings.record_bytes_max;
            for (index, record) in records {
                bytes += records::check(record, &topic.name, index, bytes_max)? as u64;
            }
        }
        let most = self.batch_bytes_max;
        if bytes > most { Err(BrokerError::BatchTooLarge { bytes, max: most }) } else { Ok(bytes) }
    }

    /// Encodes records into a submission. Durable unless every topic in it is lazy.
    pub(super) fn prepare(&self, targets: &Targets, expected: Option<Offset>) -> Result<(Submission, Places)> {
        let now = self.clock.wall();
        let mut submission = Submission { durability: Durability::Lazy, ..Submission::default() };
        submission.records.reserve(targets.len());
        let mut places = Places::with_capacity(targets.len());
        for (topic, records) in by_topic(targets) {
            let view = topic.view();
            let settings = &view.settings;
            if settings.durability == Durability::Sync {
                submission.durability = Durability::Sync;
            }
            for (_, record) in records {
                let (number, partition) = topic.place(&view, record.partition, record.key.as_deref())?;
                let key = match &record.idempotency_key {
                    Some(key) if settings.dedup_window_ms > 0 => Some(self.dedup_key(topic, key, record, settings.dedup_window_ms)?),
                    _ => None,
                };
                submission.records.push(NewEntry { partition: Arc::clone(partition), body: records::encode(record, now), key, expected });
                places.push(number);
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
            let topic = targets.get(index).map(|(topic, _)| Arc::clone(topic));
            (topic, places.get(index).copied().unwrap_or(0))
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

fn name(receipt: &Receipt, targets: &Targets, places: &Places, durability: Durability) -> Vec<Produced> {
    let answers = receipt.appended.iter().zip(targets).zip(places);
    let produced = answers.map(|((appended, (topic, _)), number)| Produced {
        topic: Arc::clone(&topic.name),
        // A repeat may stand in another partition than this copy would have gone to.
        partition: if appended.duplicate { number_of(topic, appended.partition).unwrap_or(*number) } else { *number },
        offset: appended.offset.0,
        duplicate: appended.duplicate,
        durability,
    });
    produced.collect()
}

/// The records in runs of one topic, each with its place in the request.
fn by_topic(targets: &Targets) -> impl Iterator<Item = (&Arc<Topic>, impl Iterator<Item = (usize, &NewRecord)>)> {
    let mut next = 0;
    targets.chunk_by(|(one, _), (other, _)| Arc::ptr_eq(one, other)).filter_map(move |run| {
        let first = next;
        next += run.len();
        let (topic, _) = run.first()?;
        Some((topic, (first..).zip(run.iter().map(|(_, record)| record))))
    })
}
