//! The broker: topics, queue groups, stream groups, dead letters. Protocol-free; decides, and leaves remembering to storage.

pub mod error;
pub mod partitioner;
pub mod types;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use onelog_storage::clock::Clock;
use onelog_storage::io::Io;

use crate::telemetry::histogram::Histogram;
pub use error::{BrokerError, LeaseError, Result};
pub use types::*;

/// How to open a broker.
#[derive(Clone)]
pub struct BrokerConfig {
    /// Size of a log segment, bytes; fixed when the directory is created.
    pub segment_bytes: u64,
    /// Memory for the newest commits and for commits read lately, bytes.
    pub cache_bytes: usize,
    /// Memory for pages of the index file, bytes.
    pub index_cache_bytes: usize,
    /// Log written between two checkpoints, bytes.
    pub checkpoint_bytes: u64,
    /// Bytes of records that may wait for the disk before publishers are told to wait.
    pub queue_bytes_max: usize,
    pub clock: Arc<dyn Clock>,
    pub io: Arc<dyn Io>,
}

/// What the broker counts itself, since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    pub records_produced: AtomicU64,
    pub bytes_produced: AtomicU64,
    pub duplicates: AtomicU64,
    pub records_fetched: AtomicU64,
    pub bytes_fetched: AtomicU64,
    pub rejected_overloaded: AtomicU64,
    pub rejected_disk_full: AtomicU64,
    /// Publish: from the call to the durable answer.
    pub publish_latency: Histogram,
}

/// What one queue group counted since the broker was opened.
#[derive(Debug, Default)]
pub struct GroupCounters {
    pub delivered: AtomicU64,
    pub redelivered: AtomicU64,
    pub acked: AtomicU64,
    pub nacked: AtomicU64,
    pub expired: AtomicU64,
    pub dead_lettered: AtomicU64,
    /// From lease to ack.
    pub processing: Histogram,
}

/// A running broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    _inner: Arc<()>,
}

#[expect(clippy::unused_async, unused_variables, reason = "signatures first")]
impl Broker {
    /// Opens (or creates) the directory. Recovers, then starts writing. Must be called inside a tokio runtime.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Self> {
        unimplemented!()
    }
    pub async fn open_with(dir: &Path, config: BrokerConfig) -> Result<Self> {
        unimplemented!()
    }
    /// A broker in a temporary place that is gone when the last clone is dropped or closed.
    pub async fn ephemeral() -> Result<Self> {
        unimplemented!()
    }
    /// Stops taking requests, waits for what is in flight, checkpoints, closes.
    pub async fn close(&self) -> Result<()> {
        unimplemented!()
    }

    // -- topics
    pub async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<TopicInfo> {
        unimplemented!()
    }
    pub async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicInfo> {
        unimplemented!()
    }
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        unimplemented!()
    }
    pub fn topic(&self, name: &str) -> Result<TopicInfo> {
        unimplemented!()
    }
    /// All topics, by name.
    pub fn topics(&self) -> Vec<TopicInfo> {
        unimplemented!()
    }

    // -- records
    /// Publishes records to one topic: all of them or none. Answers once they are durable.
    pub async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Produced>> {
        unimplemented!()
    }
    /// Publishes records to several topics and partitions: all of them or none.
    pub async fn produce_atomic(&self, records: Vec<(String, NewRecord)>) -> Result<Vec<Produced>> {
        unimplemented!()
    }
    /// Publishes one record if the partition's next offset is `expected`.
    pub async fn produce_if(&self, topic: &str, record: NewRecord, expected: i64) -> Result<Produced> {
        unimplemented!()
    }
    pub async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        unimplemented!()
    }
    /// The offset a place in a partition stands for.
    pub async fn resolve(&self, topic: &str, partition: u32, place: SeekTo) -> Result<i64> {
        unimplemented!()
    }
    /// Completes when the topic may have records beyond what was there when this was called (used by tails).
    pub async fn topic_changed(&self, topic: &str) -> Result<()> {
        unimplemented!()
    }

    // -- queue groups: one group per (topic, name)
    /// Creates the group, or answers with the existing one when its settings are the same.
    pub async fn create_group(&self, topic: &str, group: &str, settings: GroupSettings) -> Result<GroupInfo> {
        unimplemented!()
    }
    pub async fn alter_group(&self, topic: &str, group: &str, settings: GroupSettings) -> Result<GroupInfo> {
        unimplemented!()
    }
    pub async fn delete_group(&self, topic: &str, group: &str) -> Result<()> {
        unimplemented!()
    }
    pub fn group(&self, topic: &str, group: &str) -> Result<GroupInfo> {
        unimplemented!()
    }
    /// Queue groups, of one topic or of all.
    pub fn groups(&self, topic: Option<&str>) -> Result<Vec<GroupInfo>> {
        unimplemented!()
    }
    /// Leases records. Creates the group with default settings when it does not exist. Empty when `wait` passed.
    pub async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>> {
        unimplemented!()
    }
    pub async fn ack(&self, topic: &str, group: &str, leases: &[LeaseId]) -> Result<Outcomes> {
        unimplemented!()
    }
    pub async fn nack(&self, topic: &str, group: &str, failures: &[Failure]) -> Result<Outcomes> {
        unimplemented!()
    }
    pub async fn extend(&self, topic: &str, group: &str, leases: &[LeaseId], visibility_ms: u64) -> Result<Outcomes> {
        unimplemented!()
    }
    /// Gives leases back at once without counting the attempt (graceful stop of a consumer).
    pub async fn release(&self, topic: &str, group: &str, leases: &[LeaseId]) -> Result<Outcomes> {
        unimplemented!()
    }
    /// Moves a queue group; leases are void afterwards. `partition: None` moves all.
    pub async fn seek_group(&self, topic: &str, group: &str, partition: Option<u32>, place: SeekTo) -> Result<()> {
        unimplemented!()
    }

    // -- dead letters; `topic` is the origin topic
    /// Unresolved dead letters in the order they died, `limit` at most, starting after `after` (partition, offset).
    pub async fn dead_letters(
        &self,
        topic: &str,
        filter: &DeadLetterFilter,
        after: Option<(u32, i64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        unimplemented!()
    }
    pub async fn redrive(&self, topic: &str, request: RedriveRequest) -> Result<RedriveReport> {
        unimplemented!()
    }
    /// Sends one dead letter back with another body: value, key or headers replaced where given.
    pub async fn redrive_edited(&self, topic: &str, at: (u32, i64), edited: NewRecord) -> Result<Produced> {
        unimplemented!()
    }
    /// Marks dead letters resolved without sending them anywhere.
    pub async fn purge(&self, topic: &str, filter: &DeadLetterFilter, dry_run: bool) -> Result<RedriveReport> {
        unimplemented!()
    }

    // -- stream groups
    pub async fn commit_offsets(&self, group: &str, offsets: Vec<CommittedOffset>) -> Result<()> {
        unimplemented!()
    }
    pub fn committed_offsets(&self, group: &str) -> Vec<CommittedOffset> {
        unimplemented!()
    }
    /// Names of the stream groups.
    pub fn stream_groups(&self) -> Vec<String> {
        unimplemented!()
    }
    /// Sets the committed offsets of a topic by meaning; answers with what was set.
    pub async fn seek_stream(&self, group: &str, topic: &str, partition: Option<u32>, place: SeekTo) -> Result<Vec<CommittedOffset>> {
        unimplemented!()
    }
    pub async fn delete_stream_group(&self, group: &str) -> Result<()> {
        unimplemented!()
    }

    // -- numbers
    pub fn storage_stats(&self) -> StorageStats {
        unimplemented!()
    }
    pub fn counters(&self) -> &Counters {
        unimplemented!()
    }
    /// Counters of each queue group: topic, group, counters.
    pub fn group_counters(&self) -> Vec<(Arc<str>, Arc<str>, Arc<GroupCounters>)> {
        unimplemented!()
    }
    pub fn clock(&self) -> Arc<dyn Clock> {
        unimplemented!()
    }
}
