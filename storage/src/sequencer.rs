//! Gives records their offsets and ids, finds repeats, and merges what waits together into one batch per partition.
//!
//! Owned by the writer thread: one order of submissions, so no locks between them. A submission is checked whole before
//! anything of it is staged. Offsets are given out here and become visible in [`Staged::publish`], after the sync.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::batch::BatchBuilder;
use crate::error::{Result, StorageError};
use crate::index::Index;
use crate::index::dedup::{Dedup, KnownKey};
use crate::log::commit::{CommitBuilder, EntryKind, HEADROOM_BYTES};
use crate::log::entry::{KeyEntry, Keys, PartitionNumbers, PartitionTold, RECORDS_HEADER_BYTES, Records};
use crate::partition::{Partition, WrittenBatch};
use crate::submission::{Appended, BATCH_HEADROOM_BYTES, NewBatch, NewEntry, Receipt, Submission};
use crate::types::{Offset, Position, StreamId, TimestampMs};

/// Batch buffers kept for the next commit.
const IDLE_BUILDERS_MAX: usize = 16;

/// Numbers what the next commit holds.
#[derive(Default)]
pub struct Sequencer {
    /// Counts commits, to tell a slot of this commit from one of an earlier.
    serial: u64,
    /// Batch buffers to use again.
    idle: Vec<BatchBuilder>,
    staged: Staged,
    open: Vec<OpenBatch>,
}

struct OpenBatch {
    partition: Arc<Partition>,
    body: Body,
    base_offset: Offset,
    stream: StreamId,
    max_timestamp: TimestampMs,
    keys: SmallVec<[Keys; 1]>,
}

/// What a slot of the commit will hold.
enum Body {
    /// Records of several submissions, merged.
    Merged(BatchBuilder),
    /// A batch that came whole.
    Whole { bytes: Vec<u8>, count: u32 },
}

impl Body {
    fn count(&self) -> i64 {
        match self {
            Self::Merged(builder) => i64::try_from(builder.count()).unwrap_or(i64::MAX),
            Self::Whole { count, .. } => i64::from(*count),
        }
    }

    /// Writes the entry of a batch, `head` and the batch with its offset. Answers with the batch's length in bytes, and with
    /// the buffer to use again if there is one.
    fn write(self, head: &[u8; RECORDS_HEADER_BYTES], base_offset: Offset, to: &mut CommitBuilder) -> (usize, Option<BatchBuilder>) {
        match self {
            Self::Merged(mut builder) => {
                let length = builder.len_bytes();
                to.entry(EntryKind::Records, 0, |out| {
                    out.extend_from_slice(head);
                    builder.finish_into(base_offset, out);
                });
                (length, Some(builder))
            }
            Self::Whole { mut bytes, .. } => {
                let length = bytes.len().saturating_sub(BATCH_HEADROOM_BYTES);
                // Base offset and leader epoch lead the batch and are outside its checksum; the epoch is 0 as written.
                put(&mut bytes, HEADROOM_BYTES, head);
                put(&mut bytes, BATCH_HEADROOM_BYTES, &base_offset.0.to_be_bytes());
                if to.is_empty() {
                    to.first_entry(EntryKind::Records, 0, bytes);
                } else {
                    to.entry(EntryKind::Records, 0, |out| out.extend_from_slice(bytes.get(HEADROOM_BYTES..).unwrap_or_default()));
                }
                (length, None)
            }
        }
    }
}

/// Overwrites what stands at `at`.
fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + with.len()) {
        place.copy_from_slice(with);
    }
}

/// What the commit being made will change once it is written.
#[derive(Default)]
pub struct Staged {
    batches: Vec<(Arc<Partition>, WrittenBatch)>,
    told: Vec<(Arc<Partition>, PartitionNumbers)>,
    trims: Vec<(Arc<Partition>, Offset)>,
    pub records: u64,
}

/// What a record of a submission is.
#[derive(Clone, Copy)]
enum Verdict {
    New,
    /// Stored by an earlier submission.
    Known(KnownKey),
    /// The same key as this earlier record of the submission.
    Twin(usize),
}

impl Sequencer {
    /// Stages one submission, or refuses it whole.
    pub fn stage(
        &mut self,
        submission: &mut Submission,
        dedup: &Dedup,
        index: &dyn Index,
        now: TimestampMs,
        to: &mut CommitBuilder,
    ) -> Result<Receipt> {
        let verdicts = self.check(submission, dedup, index, now)?;
        let mut appended = SmallVec::with_capacity(submission.records.len());
        for (at, entry) in submission.records.iter().enumerate() {
            // Nothing here may fail any more: what was staged of the submission stays staged.
            let twin = |first: usize| appended.get(first).map(|first: &Appended| Appended { duplicate: true, ..*first });
            let repeated = match verdicts.get(at) {
                Some(Verdict::Known(known)) => Some(Appended { partition: known.partition, offset: known.offset, duplicate: true }),
                Some(Verdict::Twin(first)) => twin(*first),
                Some(Verdict::New) | None => None,
            };
            appended.push(repeated.unwrap_or_else(|| self.append(entry, dedup, now)));
        }
        let batches = submission.batches.drain(..).map(|batch| self.append_batch(batch, now)).collect();
        for event in &submission.events {
            to.entry(EntryKind::Event, event.tag, |out| out.extend_from_slice(&event.payload));
        }
        self.staged.trims.extend(submission.trims.iter().cloned());
        self.staged.trims.extend(submission.retold.iter().map(|partition| (Arc::clone(partition), Offset(0))));
        Ok(Receipt { appended, batches, end: Position(0) })
    }

    /// Looks for everything that would refuse the submission. Changes nothing.
    fn check(&self, submission: &Submission, dedup: &Dedup, index: &dyn Index, now: TimestampMs) -> Result<SmallVec<[Verdict; 1]>> {
        let mut verdicts = SmallVec::new();
        if submission.records.iter().all(|entry| entry.key.is_none() && entry.expected.is_none()) {
            return Ok(verdicts);
        }
        let mut own: HashMap<u128, (usize, u64)> = HashMap::new();
        for (at, entry) in submission.records.iter().enumerate() {
            let mut verdict = Verdict::New;
            if let Some(key) = &entry.key {
                let known = dedup.find(index, key, now)?;
                let twin = own.get(&key.key).copied();
                let first_body = known.map(|known| known.body).or_else(|| twin.map(|(_, body)| body));
                if first_body.is_some_and(|body| body != key.body) {
                    let (partition, offset) = known.map_or((entry.partition.id, Offset(-1)), |known| (known.partition, known.offset));
                    return Err(StorageError::IdempotencyConflict { index: at, partition, offset });
                }
                verdict = known.map(Verdict::Known).or_else(|| twin.map(|(first, _)| Verdict::Twin(first))).unwrap_or(Verdict::New);
                if submission.records.len() > 1 {
                    own.entry(key.key).or_insert((at, key.body));
                }
            }
            if let (Verdict::New, Some(expected)) = (verdict, entry.expected) {
                let actual = entry.partition.sequence.lock().next;
                if actual != expected {
                    return Err(StorageError::UnexpectedOffset { expected, actual });
                }
            }
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    fn append(&mut self, entry: &NewEntry, dedup: &Dedup, now: TimestampMs) -> Appended {
        let (slot, offset) = self.slot(&entry.partition, now);
        let Some(open) = self.open.get_mut(slot) else {
            // `slot` has just been made or found; there is no other case.
            return Appended { partition: entry.partition.id, offset, duplicate: false };
        };
        if let Body::Merged(builder) = &mut open.body {
            builder.push(&entry.body);
        }
        open.max_timestamp = open.max_timestamp.max(entry.body.timestamp());
        if let Some(key) = &entry.key {
            let partition = entry.partition.id;
            let stored = KeyEntry { key: key.key, body: key.body, offset };
            match open.keys.iter_mut().find(|keys| keys.class == key.class) {
                Some(keys) => keys.keys.push(stored),
                None => open.keys.push(Keys { partition, class: key.class, keys: vec![stored] }),
            }
            dedup.insert(key.key, KnownKey { partition, offset, body: key.body, written: now, class: key.class });
        }
        Appended { partition: entry.partition.id, offset, duplicate: false }
    }

    /// A batch of its own behind what the partition has so far; later records begin another one.
    fn append_batch(&mut self, batch: NewBatch, now: TimestampMs) -> Offset {
        let mut sequence = batch.partition.sequence.lock();
        let base_offset = sequence.next;
        sequence.next = base_offset.plus(i64::from(batch.count));
        let stream = sequence.stream.next(u64::try_from(now.0).unwrap_or(0));
        sequence.stream = stream.plus(u64::from(batch.count).saturating_sub(1));
        sequence.open = None;
        drop(sequence);
        self.open.push(OpenBatch {
            partition: batch.partition,
            body: Body::Whole { bytes: batch.bytes, count: batch.count },
            base_offset,
            stream,
            max_timestamp: batch.max_timestamp,
            keys: SmallVec::new(),
        });
        base_offset
    }

    /// The partition's open batch in this commit, and the offset of the record that is about to join it.
    fn slot(&mut self, partition: &Arc<Partition>, now: TimestampMs) -> (usize, Offset) {
        let mut sequence = partition.sequence.lock();
        let offset = sequence.next;
        sequence.next = offset.plus(1);
        if let Some((serial, slot)) = sequence.open
            && serial == self.serial
        {
            sequence.stream = sequence.stream.plus(1);
            return (slot, offset);
        }
        sequence.stream = sequence.stream.next(u64::try_from(now.0).unwrap_or(0));
        let slot = self.open.len();
        sequence.open = Some((self.serial, slot));
        self.open.push(OpenBatch {
            partition: Arc::clone(partition),
            body: Body::Merged(self.idle.pop().unwrap_or_default()),
            base_offset: offset,
            stream: sequence.stream,
            max_timestamp: TimestampMs(i64::MIN),
            keys: SmallVec::new(),
        });
        (slot, offset)
    }

    /// Writes the open batches, their keys and the partition numbers into the commit. `position` is where the commit will go.
    pub fn seal(&mut self, to: &mut CommitBuilder) -> Staged {
        self.serial += 1;
        let mut staged = std::mem::take(&mut self.staged);
        for open in self.open.drain(..) {
            let count = open.body.count();
            let head = Records::header(open.partition.id, open.base_offset, open.stream);
            let (bytes, idle) = open.body.write(&head, open.base_offset, to);
            for keys in &open.keys {
                keys.encode(to);
            }
            let last = u64::try_from(count - 1).unwrap_or(0);
            let batch = WrittenBatch {
                base_offset: open.base_offset,
                count,
                stream: StreamId { ms: open.stream.ms, seq: open.stream.seq.saturating_add(last) },
                max_timestamp: open.max_timestamp,
                bytes: bytes as u64,
                position: Position(0),
            };
            staged.records += u64::try_from(count).unwrap_or(0);
            staged.batches.push((open.partition, batch));
            self.idle.extend(idle.filter(|_| self.idle.len() < IDLE_BUILDERS_MAX));
        }
        staged.tell_numbers(to);
        staged
    }
}

impl Staged {
    fn tell_numbers(&mut self, to: &mut CommitBuilder) {
        for (partition, log_start) in self.trims.drain(..) {
            let sequence = partition.sequence.lock();
            let mut numbers = partition.numbers();
            numbers.next = sequence.next;
            numbers.stream = sequence.stream;
            drop(sequence);
            numbers.log_start = numbers.log_start.max(log_start.min(numbers.next));
            for (_, batch) in self.batches.iter().filter(|(written, _)| written.id == partition.id) {
                numbers.bytes += batch.bytes;
                numbers.max_timestamp = numbers.max_timestamp.max(batch.max_timestamp);
            }
            PartitionTold { numbers, lost: partition.lost() }.encode_entry(partition.id, to);
            self.told.push((partition, numbers));
        }
    }

    /// Makes the commit written at `position` visible.
    pub fn publish(&self, position: Position) {
        for (partition, batch) in &self.batches {
            partition.publish(&WrittenBatch { position, ..*batch });
        }
        for (partition, numbers) in &self.told {
            partition.publish_numbers(numbers, position);
        }
    }
}
