//! The writer thread: takes what waits, makes one commit of it, one write, one sync, and only then answers everybody.
//!
//! The only thread that calls write and sync of commits. Nothing is answered with ok before the sync that covers it,
//! unless it asked to be lazy. Nobody is called back: tickets are completed, partitions become readable.

pub mod turns;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use event_listener::Event;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::Clock;
use crate::error::{Result, StorageError};
use crate::index::Index;
use crate::index::dedup::Dedup;
use crate::log::Log;
use crate::log::commit::CommitBuilder;
use crate::log::writer::LogWriter;
use crate::sequencer::{Sequencer, Staged};
use crate::submission::{AnswerThrough, Answers, Receipt, Submission, Ticket};
use crate::types::{Durability, Position};

/// A commit takes submissions until it has about this many bytes.
const COMMIT_BYTES_AIM: u64 = 1024 * 1024;
/// Up to so many waiters the writer thread wakes itself.
const DIRECT_ANSWERS_MAX: usize = 2;
/// After this long without work the last commit is proven durable by an empty one behind it, and lazy ones are synced.
const IDLE: Duration = Duration::from_millis(500);

/// What waits for the writer thread.
#[derive(Default)]
pub struct Queue {
    state: Mutex<QueueState>,
    ready: Condvar,
    /// Rung when what waited was taken.
    pub room: Event,
}

#[derive(Default)]
struct QueueState {
    waiting: Vec<Queued>,
    bytes: u64,
    asleep: bool,
    closed: bool,
}

struct Queued {
    submission: Submission,
    bytes: u64,
    reply: oneshot::Sender<Result<Receipt>>,
}

/// Numbers of the writer thread.
#[derive(Debug, Default)]
pub struct PumpCounters {
    pub commits: AtomicU64,
    pub syncs: AtomicU64,
    pub records: AtomicU64,
    pub bytes: AtomicU64,
}

impl Queue {
    /// Queues a submission. The order of calls is the order in the log.
    pub fn push(&self, submission: Submission) -> Ticket {
        let bytes = submission.bytes();
        self.put(submission, bytes, self.state.lock())
    }

    /// Queues a submission unless more than `bytes_max` would wait then; an empty queue takes any.
    pub fn push_within(&self, submission: Submission, bytes_max: u64) -> Result<Ticket, Box<Submission>> {
        let bytes = submission.bytes();
        let state = self.state.lock();
        if state.bytes > 0 && state.bytes.saturating_add(bytes) > bytes_max {
            drop(state);
            return Err(Box::new(submission));
        }
        Ok(self.put(submission, bytes, state))
    }

    fn put(&self, submission: Submission, bytes: u64, mut state: MutexGuard<'_, QueueState>) -> Ticket {
        let (reply, receiver) = oneshot::channel();
        if state.closed {
            drop(state);
            let _ = reply.send(Err(StorageError::Closed));
            return Ticket(receiver);
        }
        state.bytes += bytes;
        state.waiting.push(Queued { submission, bytes, reply });
        let wake = std::mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        Ticket(receiver)
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Refuses what comes from now on; what waits is still written.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        drop(state);
        self.ready.notify_one();
    }

    /// All that waits, into `batch`. False once closed and empty. An empty batch: nothing came for a while.
    fn take(&self, batch: &mut Vec<Queued>) -> bool {
        let mut state = self.state.lock();
        if state.waiting.is_empty() && !state.closed {
            state.asleep = true;
            self.ready.wait_for(&mut state, IDLE);
            state.asleep = false;
        }
        std::mem::swap(&mut state.waiting, batch);
        state.bytes = 0;
        let go_on = !(state.closed && batch.is_empty());
        drop(state);
        self.room.notify(usize::MAX);
        go_on
    }
}

/// The writer thread's belongings.
pub struct Pump {
    pub log: Arc<Log>,
    pub writer: LogWriter,
    pub queue: Arc<Queue>,
    pub dedup: Arc<Dedup>,
    pub index: Arc<dyn Index>,
    pub clock: Arc<dyn Clock>,
    pub counters: Arc<PumpCounters>,
    pub sequencer: Sequencer,
    pub through: Arc<OnceLock<AnswerThrough>>,
    /// Called between a commit's sync and its publication: tests look at the store there.
    pub between: Option<Box<dyn FnMut() + Send>>,
}

impl Pump {
    /// Runs until the queue is closed and empty.
    pub fn run(mut self) {
        let mut batch = Vec::new();
        while self.queue.take(&mut batch) {
            if batch.is_empty() {
                self.settle_idle();
            }
            while !batch.is_empty() {
                let (count, bytes) = round_of(&batch);
                self.commit(&mut batch, count, bytes);
            }
        }
        self.settle_idle();
    }

    /// One commit from the first `count` submissions, which it takes away.
    fn commit(&mut self, batch: &mut Vec<Queued>, count: usize, bytes: u64) {
        let count = match self.admit(batch, count, bytes) {
            Ok(count) => count,
            Err(error) => return refuse(batch.drain(..count), &error),
        };
        let now = self.writer.stamp(self.clock.wall());
        let mut builder = CommitBuilder::with_room(bytes);
        let mut answers = Vec::with_capacity(count);
        let mut sync = false;
        for mut queued in batch.drain(..count) {
            let staged = self.sequencer.stage(&mut queued.submission, &self.dedup, &*self.index, now, &mut builder);
            sync |= queued.submission.durability == Durability::Sync;
            match staged {
                Ok(receipt) => answers.push((queued.reply, Ok(receipt))),
                Err(error) => drop(queued.reply.send(Err(error))),
            }
        }
        let staged = self.sequencer.seal(&mut builder);
        let written = self.write(builder, now, sync, &staged);
        for (_, answer) in &mut answers {
            match (answer, &written) {
                (Ok(receipt), Ok(end)) => receipt.end = *end,
                (answer, Err(error)) => *answer = Err(error.clone()),
                (Err(_), Ok(_)) => {}
            }
        }
        self.answer(Answers(answers));
    }

    /// Many answers go through the runtime, with one wake for all; a few are sent from here, with no thread between.
    fn answer(&self, answers: Answers) {
        match self.through.get() {
            Some(through) if answers.0.len() > DIRECT_ANSWERS_MAX => through(answers),
            _ => answers.send(),
        }
    }

    /// Makes room for the first `count`. On a full disk what is not urgent is refused whole; answers with how many are left.
    fn admit(&mut self, batch: &mut Vec<Queued>, count: usize, bytes: u64) -> Result<usize> {
        let most = self.writer.commit_bytes_max();
        if bytes > most {
            return Err(StorageError::TooLarge { bytes, max: most });
        }
        match self.writer.make_room(bytes, false) {
            Err(error @ StorageError::Full { .. }) => {
                let (urgent, refused): (Vec<_>, Vec<_>) = batch.drain(..count).partition(|queued| queued.submission.urgent);
                refuse(refused, &error);
                let bytes = urgent.iter().map(|queued| queued.bytes).sum();
                let count = urgent.len();
                if let Err(error) = self.writer.make_room(bytes, true) {
                    refuse(urgent, &error);
                    return Ok(0);
                }
                batch.splice(..0, urgent);
                Ok(count)
            }
            result => result.map(|()| count),
        }
    }

    fn write(&mut self, builder: CommitBuilder, now: crate::types::TimestampMs, sync: bool, staged: &Staged) -> Result<Position> {
        if !builder.is_empty() {
            let bytes = builder.len_bytes() as u64;
            let commit = self.writer.append(builder, now)?;
            self.counters.commits.fetch_add(1, Relaxed);
            self.counters.records.fetch_add(staged.records, Relaxed);
            self.counters.bytes.fetch_add(bytes, Relaxed);
            if sync {
                self.sync()?;
            }
            if let Some(between) = &mut self.between {
                between();
            }
            self.log.set_visible(self.writer.end());
            staged.publish(commit.header.position);
            self.log.set_published();
        } else if sync {
            // Only repeats: what they repeat may be a lazy commit that was not synced yet.
            self.sync()?;
        }
        Ok(self.writer.end())
    }

    fn sync(&mut self) -> Result<()> {
        if self.writer.has_unsynced() {
            self.counters.syncs.fetch_add(1, Relaxed);
        }
        self.writer.sync()
    }

    /// Nothing to do: sync what was lazy, and leave a commit behind that proves the last one was durable.
    fn settle_idle(&mut self) {
        // A failure is remembered by the log; there is nobody to answer here.
        let _ = self.sync().and_then(|()| self.prove_last());
    }

    fn prove_last(&mut self) -> Result<()> {
        if !self.writer.unproven() {
            return Ok(());
        }
        self.writer.make_room(crate::log::commit::HEADER_BYTES as u64, true)?;
        let now = self.writer.stamp(self.clock.wall());
        self.writer.append_mark(now)?;
        self.sync()?;
        self.log.set_visible(self.writer.end());
        self.log.set_published();
        Ok(())
    }
}

/// How many of the waiting submissions go into the next commit, and a bound for their bytes. At least one.
fn round_of(waiting: &[Queued]) -> (usize, u64) {
    let mut bytes = 0;
    let fitting = waiting.iter().take_while(|queued| {
        let fits = bytes == 0 || bytes + queued.bytes <= COMMIT_BYTES_AIM;
        bytes += if fits { queued.bytes } else { 0 };
        fits
    });
    let count = fitting.count();
    (count, bytes)
}

fn refuse(round: impl IntoIterator<Item = Queued>, error: &StorageError) {
    for queued in round {
        let _ = queued.reply.send(Err(error.clone()));
    }
}
