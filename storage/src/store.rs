//! The facade: what the broker may do with storage. Submit, read, checkpoint, give up old log.
//!
//! Owns the writer thread and the zero-filling thread. Cheap to share behind an `Arc`. Knows no topic and no group.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use event_listener::EventListener;
use parking_lot::Mutex;

use crate::batch::BatchView;
use crate::checkpoint::{self, CheckpointMeta, StateChange};
use crate::clock::Clock;
use crate::error::{Result, StorageError};
use crate::index::dedup::DedupKey;
use crate::index::{Backend, IndexBatch, offsets};
use crate::io::{Io, Site};
use crate::layout;
use crate::log::commit::EntryKind;
use crate::log::entry::Records;
use crate::log::writer::{ALLOCATE_BYTES, LogWriter};
use crate::log::{Tip, is_full};
use crate::partition::{INDEX_STEP_BYTES, IndexEntry, Partition};
use crate::pump::turns::Turns;
use crate::pump::{Pump, PumpCounters, Queue};
use crate::recovery::{Opening, Parts};
use crate::sequencer::Sequencer;
use crate::submission::{AnswerThrough, Receipt, Submission, Ticket};
use crate::types::{Epoch, Offset, PartitionId, Position, StreamId, TimestampMs};
use crate::views::Flushing;
use crate::zerofill;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Size of a segment, bytes; counts only when the store is created.
    pub segment_bytes: u64,
    /// Blocks written ahead of the log also when nothing happens, bytes. A burst of this size meets no block that has to be
    /// written twice.
    pub ahead_bytes: u64,
    /// Memory for commits, bytes.
    pub cache_bytes: usize,
    /// Memory for pages of the index, bytes.
    pub index_cache_bytes: usize,
    pub index: Backend,
    /// Written into the lock file: who holds the directory.
    pub holder: String,
    pub threads: Threads,
    /// The store's id, should it be created; `None`: a random one. It keys the hashes of idempotency keys.
    pub new_id: Option<[u8; 16]>,
}

/// Who does the store's own work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// Two threads of the store.
    #[default]
    Own,
    /// Whoever opened it, by [`Store::turn`], [`Store::idle`] and [`Store::fill`]: for tests that must run the same way twice.
    /// Segments may be smaller then, so that a test meets many of their ends.
    None,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: layout::SEGMENT_BYTES_DEFAULT,
            ahead_bytes: ALLOCATE_BYTES,
            cache_bytes: 16 * 1024 * 1024,
            index_cache_bytes: 8 * 1024 * 1024,
            index: Backend::Redb,
            holder: "another process".into(),
            threads: Threads::Own,
            new_id: None,
        }
    }
}

/// A batch as stored: Kafka record batch v2 with its offset assigned.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// Of the first record.
    pub stream: StreamId,
    pub bytes: Bytes,
}

/// Numbers of the store.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    pub log_start: Position,
    pub durable: Position,
    pub commits: u64,
    pub syncs: u64,
    pub records: u64,
    pub bytes: u64,
    pub segments: u64,
    /// Blocks exist this far beyond the tail, bytes.
    pub ahead_bytes: u64,
    pub queued_bytes: u64,
    pub keys_in_memory: u64,
    pub cache_bytes: u64,
    pub checkpoint: Position,
    pub checkpoints: u64,
    pub epoch: Epoch,
    pub failure: Option<String>,
    pub disk_full: bool,
    /// Reads that met damage, and what the last of them said.
    pub damaged_reads: u64,
    pub damage: Option<String>,
}

/// An open store.
pub struct Store {
    parts: Parts,
    queue: Arc<Queue>,
    counters: Arc<PumpCounters>,
    stop: Arc<zerofill::Stop>,
    through: Arc<OnceLock<AnswerThrough>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The writer, when it has no thread.
    turns: Option<Turns>,
    checkpointed: AtomicU64,
    checkpoints: AtomicU64,
    damaged_reads: AtomicU64,
    damage: Mutex<Option<String>>,
    epoch: Epoch,
    opened: TimestampMs,
    created_ms: i64,
}

/// A checkpoint that has begun: views taken from now on contain at least everything before it.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointStart(Tip);

/// A checkpoint whose views are collected and not written yet.
pub struct CheckpointTaken {
    start: CheckpointStart,
    batch: IndexBatch,
    flushing: Flushing,
    taken: Result<()>,
}

impl Store {
    /// Begins to open `dir`, creating it when it does not exist.
    pub fn open(io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: StoreConfig) -> Result<Opening> {
        Opening::start(io, clock, dir, config)
    }

    pub(crate) fn start(
        parts: Parts,
        writer: LogWriter,
        (epoch, opened): (Epoch, TimestampMs),
        created_ms: i64,
        threads: Threads,
    ) -> Result<Self> {
        let queue = Arc::new(Queue::default());
        let counters = Arc::new(PumpCounters::default());
        let stop = Arc::new(zerofill::Stop::default());
        let through = Arc::new(OnceLock::new());
        let pump = Pump {
            log: Arc::clone(&parts.log),
            writer,
            queue: Arc::clone(&queue),
            dedup: Arc::clone(&parts.dedup),
            index: Arc::clone(&parts.index),
            clock: Arc::clone(&parts.clock),
            counters: Arc::clone(&counters),
            sequencer: Sequencer::default(),
            through: Arc::clone(&through),
            between: None,
        };
        let checkpointed = AtomicU64::new(parts.checkpoint.as_ref().map_or(0, |meta| meta.tip.end.0));
        let (threads, turns) = match threads {
            Threads::Own => (start_threads(&parts, &stop, pump)?, None),
            Threads::None => (Vec::new(), Some(Turns::new(pump))),
        };
        Ok(Self {
            parts,
            queue,
            counters,
            stop,
            through,
            threads: Mutex::new(threads),
            turns,
            checkpointed,
            checkpoints: AtomicU64::new(0),
            damaged_reads: AtomicU64::new(0),
            damage: Mutex::default(),
            epoch,
            opened,
            created_ms,
        })
    }

    /// The partition of that id, made empty when it is new.
    pub fn partition(&self, id: PartitionId) -> Arc<Partition> {
        self.parts.partitions.get_or_new(id)
    }

    /// Hands a submission to the writer thread. The order of calls is the order in the log.
    pub fn submit(&self, submission: Submission) -> Ticket {
        self.queue.push(submission)
    }

    /// As [`Self::submit`], unless more than `bytes_max` would wait then: gives the submission back.
    pub fn try_submit(&self, submission: Submission, bytes_max: u64) -> Result<Ticket, Box<Submission>> {
        self.queue.push_within(submission, bytes_max)
    }

    /// Completes when the writer thread has taken what waits.
    pub fn room(&self) -> EventListener {
        self.queue.room.listen()
    }

    /// From now on answers go through `through`, a commit's at a time, on the writer thread. It must not block. Set once.
    pub fn answer_through(&self, through: AnswerThrough) {
        let _ = self.through.set(through);
    }

    /// The error every write gets since the first one failed, if one did.
    pub fn check_writable(&self) -> Result<()> {
        self.parts.log.check_poison()
    }

    /// Bytes that wait for the writer thread.
    pub fn queued_bytes(&self) -> u64 {
        self.queue.bytes()
    }

    /// Prepares an idempotency key: hashes it and looks for it on disk.
    pub fn dedup_key(&self, scope: u32, key: &[u8], body: &[&[u8]], window_ms: u64) -> Result<DedupKey> {
        self.parts.dedup.probe(&*self.parts.index, scope, key, body, window_ms, self.parts.clock.wall())
    }

    /// Batches that hold records from `from` on, in order; stops once `bytes_max` are collected, but returns at least one
    /// when there is one. The first batch may begin below `from`.
    pub fn read(&self, partition: &Partition, from: Offset, bytes_max: usize) -> Result<Vec<StoredBatch>> {
        let read = self.read_batches(partition, from, bytes_max);
        if let Err(error @ (StorageError::Damage { .. } | StorageError::Index(_))) = &read {
            self.damaged_reads.fetch_add(1, Relaxed);
            *self.damage.lock() = Some(error.to_string());
        }
        read
    }

    fn read_batches(&self, partition: &Partition, from: Offset, bytes_max: usize) -> Result<Vec<StoredBatch>> {
        let (start, end) = (partition.log_start(), partition.high_watermark());
        if from < start || from > end {
            return Err(StorageError::OffsetOutOfRange { offset: from, start, end });
        }
        if let Some(lost) = partition.lost_at(from) {
            return Err(StorageError::RecordsLost { from: lost.from, to: lost.to });
        }
        let mut walk = Walk { store: self, partition, next: from, end, found: Vec::new(), bytes: 0, bytes_max, last: None, passed: None };
        let index = &*self.parts.index;
        let mut entry = offsets::floor(index, partition, from)?;
        let mut near = partition.read_place(from);
        while let Some(here) = entry {
            let begin = near.take().map_or(here.position, |(_, position)| position.max(here.position));
            match walk.step_through(here, begin) {
                Ok(true) => {}
                Ok(false) => break,
                // What lies before the damage is whole: it is for whoever reads at the damaged place to hear of it.
                Err(StorageError::Damage { .. }) if !walk.found.is_empty() => break,
                Err(error) => return Err(error),
            }
            // Entries may lie closer than a step (after a reopening): one at or below the next offset goes on where this one ends.
            let closer = offsets::floor(index, partition, walk.next)?.filter(|next| next.position > here.position);
            entry = match closer {
                Some(closer) => Some(closer),
                None => offsets::ceiling(index, partition, walk.next)?.filter(|next| next.position > here.position),
            };
        }
        if let Some((base_offset, position)) = walk.last {
            partition.remember_read(base_offset, position);
        }
        if walk.found.is_empty() && from < end {
            if let Some(damage) = walk.passed.take() {
                return Err(damage);
            }
            return Err(self
                .parts
                .log
                .damage(self.parts.log.visible(), format!("offset {from} of partition {} is not indexed", partition.id)));
        }
        Ok(walk.found)
    }

    /// The first record with a timestamp at or after `target`: its offset and timestamp.
    pub fn offset_for_time(&self, partition: &Partition, target: TimestampMs) -> Result<Option<(Offset, TimestampMs)>> {
        let (start, end) = (partition.log_start(), partition.high_watermark());
        let index = &*self.parts.index;
        let entry = offsets::last_where(index, partition, start, end, |entry| entry.max_timestamp_before < target)?;
        let mut from = entry.map_or(start, |entry| entry.base_offset.max(start));
        while from < end {
            let found = match self.read(partition, from, READ_BYTES) {
                Err(StorageError::RecordsLost { to, .. }) => {
                    from = to;
                    continue;
                }
                found => found?,
            };
            for stored in found {
                if let Some(found) = first_at_or_after(&stored, target, start)? {
                    return Ok(Some(found));
                }
                from = stored.last_offset.plus(1);
            }
        }
        Ok(None)
    }

    /// The log start that retention asks for: records older than `before`, and what is above `bytes_max`, may go.
    pub fn retention_start(&self, partition: &Partition, before: Option<TimestampMs>, bytes_max: Option<u64>) -> Result<Offset> {
        let (start, end) = (partition.log_start(), partition.high_watermark());
        let numbers = partition.numbers();
        let index = &*self.parts.index;
        let mut goal = start;
        if let Some(before) = before {
            if numbers.max_timestamp < before {
                return Ok(end);
            }
            let old = offsets::last_where(index, partition, start, end, |entry| entry.max_timestamp_before < before)?;
            goal = goal.max(old.map_or(start, |entry| entry.base_offset));
        }
        if let Some(most) = bytes_max {
            let keep_from = numbers.bytes.saturating_sub(most);
            let over = offsets::last_where(index, partition, start, end, |entry| entry.bytes_before <= keep_from)?;
            goal = goal.max(over.map_or(start, |entry| entry.base_offset));
        }
        Ok(goal.min(end))
    }

    /// Bytes of records between log start and end, as far as the sparse index tells.
    pub fn partition_bytes(&self, partition: &Partition) -> Result<u64> {
        let floor = offsets::floor(&*self.parts.index, partition, partition.log_start())?;
        Ok(partition.numbers().bytes.saturating_sub(floor.map_or(0, |entry| entry.bytes_before)))
    }

    /// Begins a checkpoint. Collect the broker's state after this call, then [`Self::finish_checkpoint`].
    pub fn begin_checkpoint(&self) -> CheckpointStart {
        CheckpointStart(self.parts.log.published())
    }

    /// Writes all views to the index in one transaction, after everything in them is durable in the log.
    pub fn finish_checkpoint(&self, start: CheckpointStart, changes: Vec<StateChange>) -> Result<()> {
        self.write_checkpoint(self.take_checkpoint(start, changes))
    }

    /// The first half of [`Self::finish_checkpoint`]: collects the views. [`Self::write_checkpoint`] must follow.
    pub fn take_checkpoint(&self, start: CheckpointStart, changes: Vec<StateChange>) -> CheckpointTaken {
        let mut batch = IndexBatch::default();
        let now = self.parts.clock.wall();
        let flushing = self.parts.partitions.flush(&mut batch);
        self.parts.dedup.flush(&mut batch, now);
        checkpoint::put_state(&mut batch, changes);
        let meta = CheckpointMeta {
            store_id: self.parts.store_id,
            tip: start.0,
            log_start: Position(self.parts.log.start.load(Relaxed)),
            last_timestamp: now.max(TimestampMs(self.parts.log.last_stamp.load(Relaxed))),
        };
        let taken = meta.put(&mut batch);
        CheckpointTaken { start, batch, flushing, taken }
    }

    /// The second half: makes what was collected durable in the log, then writes it to the index.
    pub fn write_checkpoint(&self, checkpoint: CheckpointTaken) -> Result<()> {
        let CheckpointTaken { start, batch, flushing, taken } = checkpoint;
        let result = taken
            .and_then(|()| self.settle(Submission::default()))
            .and_then(|_| self.parts.index.commit(batch))
            .and_then(|()| self.parts.dedup.flushed(&*self.parts.index));
        match result {
            Ok(()) => flushing.done(),
            Err(error) => {
                flushing.failed();
                // A disk that fails a sync may have lost what others wrote and not yet synced, the next commit included.
                if matches!(error, StorageError::Io { .. }) && !is_full(&error) {
                    self.parts.log.poison(&error);
                }
                return Err(error);
            }
        }
        self.checkpointed.store(start.0.end.0, Relaxed);
        self.checkpoints.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Submits and waits. Blocks.
    pub fn settle(&self, submission: Submission) -> Result<Receipt> {
        self.wait(self.submit(submission))
    }

    /// Waits for an answer; a store without threads works meanwhile. Blocks.
    pub fn wait(&self, ticket: Ticket) -> Result<Receipt> {
        while self.turn() {}
        ticket.wait()
    }

    /// One commit of what waits, in a store without threads. False when nothing waited.
    pub fn turn(&self) -> bool {
        self.turns.as_ref().is_some_and(Turns::turn)
    }

    /// As [`Self::turn`], and calls `between` when the commit is durable and nobody sees it yet.
    pub fn turn_with(&self, between: Box<dyn FnMut() + Send>) -> bool {
        self.turns.as_ref().is_some_and(|turns| turns.turn_with(between))
    }

    /// What the writer does after a while without work, in a store without threads.
    pub fn idle(&self) {
        if let Some(turns) = &self.turns {
            turns.idle();
        }
    }

    /// Writes blocks for `ahead` bytes behind the tail, in a store without threads.
    pub fn fill(&self, ahead: u64) {
        if self.turns.is_some() {
            zerofill::fill(&self.parts.log, ahead);
        }
    }

    /// Log written since the last checkpoint, bytes, and keys that only memory and log hold.
    pub fn since_checkpoint(&self) -> (u64, usize) {
        (self.parts.log.visible().since(Position(self.checkpointed.load(Relaxed))), self.parts.dedup.in_memory())
    }

    /// The end of the oldest part of the log that no partition's records need: whole segments only.
    pub fn droppable_end(&self) -> Result<Position> {
        let log = &self.parts.log;
        let mut needed = Position(self.checkpointed.load(Relaxed));
        for partition in self.parts.partitions.all() {
            if partition.log_start() >= partition.high_watermark() {
                continue;
            }
            let floor = offsets::floor(&*self.parts.index, &partition, partition.log_start())?;
            let first = match floor {
                Some(entry) => Some(entry),
                None => offsets::ceiling(&*self.parts.index, &partition, partition.log_start())?,
            };
            needed = needed.min(first.map_or(Position(0), |entry| entry.position));
        }
        Ok(log.segments.first_of(needed))
    }

    /// Whether any idempotency key is remembered.
    pub fn has_keys(&self) -> bool {
        self.parts.dedup.is_used()
    }

    /// The start of the segment after the one that holds `at`.
    pub fn next_segment(&self, at: Position) -> Position {
        self.parts.log.segments.next_first(at)
    }

    /// When the commit at the start of `segment` was written.
    pub fn segment_time(&self, segment: Position) -> Result<TimestampMs> {
        Ok(self.parts.log.commit_at(segment, self.parts.log.visible())?.header.timestamp)
    }

    pub fn log_start(&self) -> Position {
        Position(self.parts.log.start.load(Relaxed))
    }

    /// Partitions whose numbers stand nowhere at or above `position`; they must be retold before the log below is dropped.
    pub fn told_below(&self, position: Position) -> Vec<Arc<Partition>> {
        self.parts.partitions.all().into_iter().filter(|partition| partition.told_at() < position).collect()
    }

    /// Gives up the log below `position`. The caller has submitted everything that is still needed of it again, and checkpointed.
    pub fn drop_below(&self, position: Position) -> Result<()> {
        let log = &self.parts.log;
        let position = log.segments.first_of(position.min(Position(self.checkpointed.load(Relaxed))));
        if position <= self.log_start() {
            return Ok(());
        }
        log.start.store(position.0, Relaxed);
        // The next commit's header carries the new start; only when it is durable may files go.
        let event = crate::submission::NewEvent { tag: TAG_LOG_START, payload: self.parts.store_id.to_vec() };
        self.settle(Submission { events: smallvec::smallvec![event], urgent: true, ..Submission::default() })?;
        log.segments.retire_below(position)
    }

    pub fn stats(&self) -> StoreStats {
        let log = &self.parts.log;
        StoreStats {
            log_start: self.log_start(),
            durable: log.durable(),
            commits: self.counters.commits.load(Relaxed),
            syncs: self.counters.syncs.load(Relaxed),
            records: self.counters.records.load(Relaxed),
            bytes: self.counters.bytes.load(Relaxed),
            segments: log.segments.firsts().len() as u64,
            ahead_bytes: log.segments.allocated_end().since(log.visible()),
            queued_bytes: self.queue.bytes(),
            keys_in_memory: self.parts.dedup.in_memory() as u64,
            cache_bytes: log.cache.bytes() as u64,
            checkpoint: Position(self.checkpointed.load(Relaxed)),
            checkpoints: self.checkpoints.load(Relaxed),
            epoch: self.epoch,
            failure: log.failure(),
            disk_full: log.disk_full.load(Relaxed),
            damaged_reads: self.damaged_reads.load(Relaxed),
            damage: self.damage.lock().clone(),
        }
    }

    /// Free bytes of the file system.
    pub fn available(&self) -> Result<u64> {
        self.parts.io.available(Site::SpaceQuery, &self.parts.log.dir)
    }

    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When this opening was written down: later than any commit before it, whatever the wall clock did.
    pub fn opened(&self) -> TimestampMs {
        self.opened
    }

    /// Writes what waits, then ends the threads. Later submissions get [`StorageError::Closed`].
    pub fn close(&self) {
        self.queue.close();
        self.stop.stop();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has answered nobody wrongly; there is nothing left to do for it here.
            let _ = thread.join();
        }
        if let Some(turns) = &self.turns {
            turns.close();
        }
    }
}

fn start_threads(parts: &Parts, stop: &Arc<zerofill::Stop>, pump: Pump) -> Result<Vec<JoinHandle<()>>> {
    let (log, stop) = (Arc::clone(&parts.log), Arc::clone(stop));
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        thread.map_err(|error| StorageError::Invalid(format!("cannot start a thread: {error}")))
    };
    Ok(vec![spawn("onelog-writer", Box::new(move || pump.run()))?, spawn("onelog-zerofill", Box::new(move || zerofill::run(&log, &stop)))?])
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Tag of the store's own event that carries a new log start, and names the store; the broker sees and ignores it.
pub const TAG_LOG_START: u8 = 0;
/// Read at once when looking for a time.
const READ_BYTES: usize = 1024 * 1024;

/// A walk through the commits behind one index entry.
struct Walk<'a> {
    store: &'a Store,
    partition: &'a Partition,
    next: Offset,
    end: Offset,
    found: Vec<StoredBatch>,
    bytes: usize,
    bytes_max: usize,
    /// The last batch found: its base offset and commit.
    last: Option<(Offset, Position)>,
    /// Damage that was passed: what was asked for may lie behind it.
    passed: Option<StorageError>,
}

impl Walk<'_> {
    /// Collects from `entry` as far as it is responsible. False when the walk is over.
    /// `begin` is `entry`'s position, or that of a later commit known to lie at or before the next record.
    fn step_through(&mut self, entry: IndexEntry, begin: Position) -> Result<bool> {
        let log = &self.store.parts.log;
        let visible = log.visible();
        let mut at = begin;
        // A record farther behind the entry has an entry of its own.
        while at < visible && at.since(entry.position) < INDEX_STEP_BYTES {
            let commit = match log.commit_at(at, visible) {
                Err(damage @ StorageError::Damage { .. }) => {
                    let Some(next) = log.resume_after(at, visible)? else { return Err(self.passed.take().unwrap_or(damage)) };
                    self.passed.get_or_insert(damage);
                    at = next;
                    continue;
                }
                commit => commit?,
            };
            for found in commit.entries() {
                let found = found.map_err(|what| log.damage(at, what))?;
                if found.kind == EntryKind::Records {
                    let records = Records::decode(&found.payload).ok_or_else(|| log.damage(at, "a records entry cannot be read"))?;
                    if records.partition == self.partition.id && !self.take(records, at)? {
                        return Ok(false);
                    }
                }
            }
            at = log.after(&commit.header);
        }
        Ok(self.next < self.end)
    }

    /// Adds a batch. False when there is enough.
    fn take(&mut self, records: Records, at: Position) -> Result<bool> {
        let bad = |error: StorageError| self.store.parts.log.damage(at, error.to_string());
        let batch = BatchView::parse(&records.batch).map_err(bad)?;
        let last_offset = records.base_offset.plus(i64::from(batch.last_offset_delta()));
        if last_offset < self.next {
            return Ok(true);
        }
        if records.base_offset >= self.end {
            return Ok(false);
        }
        if records.base_offset > self.next {
            // Up to a lost range, which the next read is told of. Any other gap is an entry that leads too far.
            if self.partition.lost_at(self.next).is_some() && !self.found.is_empty() {
                return Ok(false);
            }
            if let Some(damage) = self.passed.take() {
                return Err(damage);
            }
            let what = format!(
                "offsets {} to {} of partition {} are not where the index says",
                self.next,
                records.base_offset.0 - 1,
                self.partition.id
            );
            return Err(self.store.parts.log.damage(at, what));
        }
        if !self.found.is_empty() && self.bytes + batch.total_bytes() > self.bytes_max {
            return Ok(false);
        }
        self.last = Some((records.base_offset, at));
        self.bytes += batch.total_bytes();
        self.next = last_offset.plus(1);
        self.found.push(StoredBatch { base_offset: records.base_offset, last_offset, stream: records.stream, bytes: records.batch });
        Ok(self.next < self.end && self.bytes < self.bytes_max)
    }
}

fn first_at_or_after(stored: &StoredBatch, target: TimestampMs, start: Offset) -> Result<Option<(Offset, TimestampMs)>> {
    let batch = BatchView::parse(&stored.bytes)?;
    if batch.max_timestamp() < target {
        return Ok(None);
    }
    for record in batch.records()? {
        let record = record?;
        let offset = stored.base_offset.plus(i64::from(record.offset_delta));
        if record.timestamp >= target && offset >= start {
            return Ok(Some((offset, record.timestamp)));
        }
    }
    Ok(None)
}
