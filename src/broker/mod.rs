//! The broker: topics, queue groups, stream groups, dead letters. Protocol-free; decides, and leaves remembering to storage.
//!
//! `mod` wires and closes. What users do stands in one file each: [`topics`], [`produce`], [`fetch`], [`queue`], [`dead_letter`],
//! [`streams`]; what runs by itself in `maintenance`; how state comes back in `state`. Knows no protocol and no file.

mod admission;
pub mod dead_letter;
pub mod error;
pub mod event;
mod fetch;
pub mod group;
mod maintenance;
pub mod partitioner;
mod produce;
mod queue;
mod records;
pub mod salvage;
mod state;
mod streams;
mod timer;
mod topic;
mod topics;
pub mod types;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use event_listener::Event;
pub use onelog_storage::clock::Clock;
use onelog_storage::clock::SystemClock;
use onelog_storage::io::Io;
use onelog_storage::io::disk::Disk;
use onelog_storage::submission::{NewEvent, Receipt, Submission};
use onelog_storage::{RecoveryReport, Store, StoreConfig};
use parking_lot::{Mutex, RwLock};

use self::event::{BrokerEvent, NextIds, StateKey};
use self::timer::Timer;
use self::topic::Topic;
use crate::telemetry::histogram::Histogram;
use crate::telemetry::stripe::Counter;
pub use error::{BrokerError, LeaseError, Result};
pub use types::*;

/// How to open a broker.
#[derive(Clone)]
pub struct BrokerConfig {
    /// Size of a log segment, bytes; fixed when the directory is created.
    pub segment_bytes: u64,
    /// Log blocks written in advance also when nothing happens, bytes: a burst up to this size overwrites, it does not append.
    pub ahead_bytes: u64,
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
    /// The id of a store that is to have no threads: whoever opened it lets it work by [`Broker::turn`], and asks for checkpoints
    /// and retention. For tests that must run the same way twice.
    #[doc(hidden)]
    pub without_threads: Option<[u8; 16]>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        let store = StoreConfig::default();
        Self {
            segment_bytes: store.segment_bytes,
            ahead_bytes: store.ahead_bytes,
            cache_bytes: store.cache_bytes,
            index_cache_bytes: store.index_cache_bytes,
            checkpoint_bytes: 32 * 1024 * 1024,
            queue_bytes_max: 32 * 1024 * 1024,
            clock: Arc::new(SystemClock::default()),
            io: Arc::new(Disk),
            without_threads: None,
        }
    }
}

/// For the fuzzers.
pub(crate) fn fuzz_decode(tag: u8, payload: &[u8]) {
    let _ = event::BrokerEvent::decode(tag, payload);
    let _ = event::StateKey::decode(payload);
}

/// What the broker counts itself, since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    pub records_produced: Counter,
    pub bytes_produced: Counter,
    pub duplicates: Counter,
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
    inner: Arc<Inner>,
}

/// What all clones share.
struct Inner {
    store: Store,
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    /// Offsets of stream groups: group -> (topic id, partition) -> offset and metadata.
    streams: Mutex<BTreeMap<String, streams::StreamGroup>>,
    /// Creations, changes and deletions of topics and groups happen one after the other.
    control: tokio::sync::Mutex<()>,
    ids: Mutex<NextIds>,
    /// What changed since the last checkpoint, apart from lease states, which know it themselves.
    dirty: Mutex<HashSet<StateKey>>,
    next_token: AtomicU64,
    /// Bytes of records that may wait for the writer thread.
    queue_bytes_max: u64,
    timer: Arc<Timer>,
    clock: Arc<dyn Clock>,
    counters: Counters,
    checkpoint_bytes: u64,
    batch_bytes_max: u64,
    closing: AtomicBool,
    /// Rung when the broker closes: waits end early.
    closed: Event,
    report: RecoveryReport,
    /// Serialises checkpoints.
    checkpointing: Mutex<()>,
    /// The directory of an ephemeral broker, removed last.
    _temporary: Option<tempfile::TempDir>,
}

impl Broker {
    /// Opens (or creates) the directory. Recovers, then starts writing. Must be called inside a tokio runtime.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir.as_ref(), BrokerConfig::default()).await
    }

    pub async fn open_with(dir: &Path, config: BrokerConfig) -> Result<Self> {
        Self::start(dir, config, None).await
    }

    /// A broker in a temporary place that is gone when the last clone is dropped.
    pub async fn ephemeral() -> Result<Self> {
        Self::ephemeral_with(BrokerConfig::default()).await
    }

    /// As [`Self::ephemeral`], with another clock or other budgets.
    pub async fn ephemeral_with(config: BrokerConfig) -> Result<Self> {
        let made = tempfile::Builder::new().prefix("onelog-").tempdir();
        let temporary =
            made.map_err(|error| BrokerError::StorageFailed { reason: format!("cannot make a temporary directory: {error}") })?;
        let dir = temporary.path().join("data");
        Self::start(&dir, config, Some(temporary)).await
    }

    async fn start(dir: &Path, config: BrokerConfig, temporary: Option<tempfile::TempDir>) -> Result<Self> {
        let dir = dir.to_owned();
        let has_threads = config.without_threads.is_none();
        let opened = tokio::task::spawn_blocking(move || state::open(&dir, &config, temporary)).await;
        let inner = opened.map_err(|error| BrokerError::StorageFailed { reason: format!("opening failed: {error}") })??;
        let broker = Self { inner: Arc::new(inner) };
        broker.note_deadlines();
        maintenance::spawn(&broker.inner, has_threads);
        Ok(broker)
    }

    /// Stops taking requests, waits for what is in flight, checkpoints, closes. Later calls answer [`BrokerError::Closing`].
    /// The directory can be opened again once the last clone is dropped.
    pub async fn close(&self) -> Result<()> {
        if self.inner.closing.swap(true, Relaxed) {
            return Ok(());
        }
        self.inner.closed.notify(usize::MAX);
        let inner = Arc::clone(&self.inner);
        let closed = tokio::task::spawn_blocking(move || {
            let checkpointed = inner.checkpoint();
            inner.store.close();
            match checkpointed {
                // Everything is in the log, so nothing is lost: a full disk is no failure to stop.
                Err(error) if inner.store.stats().failure.is_none() => {
                    tracing::warn!(%error, "the last checkpoint failed; the next start will read a little more of the log");
                    Ok(())
                }
                result => result,
            }
        });
        closed.await.map_err(|error| BrokerError::StorageFailed { reason: format!("closing failed: {error}") })?
    }

    /// Drops the broker if this is its last clone: afterwards the directory is free. Gives it back otherwise.
    pub(crate) fn drop_last(self) -> Result<(), Self> {
        Arc::try_unwrap(self.inner).map(drop).map_err(|inner| Self { inner })
    }

    /// One commit of what waits, in a broker without threads. False when nothing waited.
    #[doc(hidden)]
    #[must_use]
    pub fn turn(&self) -> bool {
        self.inner.store.turn()
    }

    /// What opening found.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// Writes a checkpoint now.
    pub async fn checkpoint(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let written = tokio::task::spawn_blocking(move || inner.checkpoint()).await;
        written.map_err(|error| BrokerError::StorageFailed { reason: error.to_string() })?
    }

    #[must_use]
    pub fn storage_stats(&self) -> StorageStats {
        let stats = self.inner.store.stats();
        StorageStats {
            log_start: stats.log_start.0,
            durable_position: stats.durable.0,
            commits_total: stats.commits,
            syncs_total: stats.syncs,
            records_total: stats.records,
            bytes_written_total: stats.bytes,
            segments: stats.segments,
            ahead_bytes: stats.ahead_bytes,
            disk_available_bytes: self.inner.store.available().unwrap_or(0),
            checkpoint_position: stats.checkpoint.0,
            checkpoints_total: stats.checkpoints,
            queued_bytes: stats.queued_bytes,
            epoch: stats.epoch.0,
            failure: stats.failure,
            damaged_reads_total: stats.damaged_reads,
            damage: stats.damage,
            disk_full: stats.disk_full,
        }
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Counters of each queue group: topic, group, counters.
    #[must_use]
    pub fn group_counters(&self) -> Vec<(Arc<str>, Arc<str>, Arc<GroupCounters>)> {
        let topics: Vec<Arc<Topic>> = self.inner.topics.read().values().cloned().collect();
        let of = |topic: &Arc<Topic>| {
            let groups: Vec<_> = topic.groups.read().values().cloned().collect();
            groups.into_iter().map(|group| (Arc::clone(&group.topic), Arc::clone(&group.name), Arc::clone(&group.counters)))
        };
        topics.iter().flat_map(of).collect()
    }

    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.clock)
    }

    /// Completes when the broker's monotonic clock has reached `at`, be it the machine's or one moved by hand.
    pub async fn sleep_until(&self, at: Duration) {
        self.inner.timer.sleep_until(at).await;
    }

    /// Has the timer look at each group found by recovery: at what is over already, then at the deadlines to come.
    fn note_deadlines(&self) {
        let now = self.inner.timer.now();
        for topic in self.inner.topics.read().values() {
            for group in topic.groups.read().values() {
                self.inner.timer.note(now, group);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.timer.stop();
    }
}

impl Inner {
    fn check_open(&self) -> Result<()> {
        if self.closing.load(Relaxed) { Err(BrokerError::Closing) } else { Ok(()) }
    }

    fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        self.topics.read().get(name).cloned().ok_or_else(|| BrokerError::TopicNotFound { topic: name.to_owned() })
    }

    fn mark(&self, key: StateKey) {
        self.dirty.lock().insert(key);
    }

    /// Writes events and waits until they are durable.
    async fn write_events(&self, events: impl IntoIterator<Item = BrokerEvent>) -> Result<Receipt> {
        let events: Result<Vec<NewEvent>> = events.into_iter().map(|event| event.encode()).collect();
        let submission = Submission { events: events?.into(), urgent: true, ..Submission::default() };
        Ok(self.store.submit(submission).await?)
    }

    /// `count` new lease tokens, greater than any given out before; the first of them.
    fn tokens(&self, count: usize) -> u64 {
        self.next_token.fetch_add(count as u64, Relaxed)
    }
}

/// Groups of a topic by name, copied out of the lock.
fn groups_of(topic: &Topic) -> Vec<Arc<group::QueueGroup>> {
    topic.groups.read().values().cloned().collect()
}

/// Topics by id, for folding events that name ids.
type TopicsById = HashMap<u32, Arc<Topic>>;
