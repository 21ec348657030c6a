//! What goes to the writer thread and what comes back: submissions, receipts, tickets.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;

use crate::batch::{BatchBuilder, RecordBody};
use crate::error::{Result, StorageError};
use crate::index::dedup::DedupKey;
use crate::log::commit;
use crate::log::entry::RECORDS_HEADER_BYTES;
use crate::partition::Partition;
use crate::types::{Durability, Offset, PartitionId, Position, TimestampMs};

/// A record to append.
pub struct NewEntry {
    pub partition: Arc<Partition>,
    pub body: RecordBody,
    /// With a key, a repeat within its window stores nothing and answers with the first offset.
    pub key: Option<Box<DedupKey>>,
    /// Refuses the whole submission unless this will be the record's offset.
    pub expected: Option<Offset>,
}

/// Records of one partition, made into a batch by the thread that produced them. Its base offset is assigned when it is
/// sequenced; the rest is stored as it is.
pub struct NewBatch {
    pub partition: Arc<Partition>,
    /// [`BATCH_HEADROOM_BYTES`] of room, then a valid, dense Kafka record batch v2.
    pub bytes: Vec<u8>,
    pub count: u32,
    pub max_timestamp: TimestampMs,
}

/// Room in front of a batch for what the log puts there: a batch that is alone in its commit becomes the commit without being copied.
pub const BATCH_HEADROOM_BYTES: usize = commit::HEADROOM_BYTES + RECORDS_HEADER_BYTES;

impl NewBatch {
    /// A builder for a batch of about `bytes`, with the room that a [`NewBatch`] wants.
    #[must_use]
    pub fn builder(bytes: usize) -> BatchBuilder {
        BatchBuilder::with_headroom(BATCH_HEADROOM_BYTES, bytes)
    }

    /// The batch of what was pushed to `builder`, best one that [`NewBatch::builder`] made.
    #[must_use]
    pub fn new(partition: Arc<Partition>, builder: BatchBuilder) -> Self {
        let count = u32::try_from(builder.count()).unwrap_or(u32::MAX);
        let max_timestamp = builder.max_timestamp();
        let bytes = builder.into_batch(Offset(0), BATCH_HEADROOM_BYTES);
        Self { partition, bytes, count, max_timestamp }
    }
}

/// An event of the broker, opaque to storage.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub tag: u8,
    pub payload: Vec<u8>,
}

/// Everything in it is committed together or not at all.
#[derive(Default)]
pub struct Submission {
    pub records: SmallVec<[NewEntry; 1]>,
    /// Go behind `records`.
    pub batches: Vec<NewBatch>,
    pub events: SmallVec<[NewEvent; 1]>,
    /// New log starts: records below are gone.
    pub trims: Vec<(Arc<Partition>, Offset)>,
    /// Partitions whose numbers must be told again, because the log below is about to go.
    pub retold: Vec<Arc<Partition>>,
    pub durability: Durability,
    /// May use the blocks kept back for acks and deletes on a full disk.
    pub urgent: bool,
}

impl Submission {
    /// A bound for the bytes it takes in a commit.
    pub(crate) fn bytes(&self) -> u64 {
        let records: usize = self.records.iter().map(|entry| entry.body.len_bytes_max() + RECORD_OVERHEAD_BYTES).sum();
        let batches: usize = self.batches.iter().map(|batch| batch.bytes.len() + RECORD_OVERHEAD_BYTES).sum();
        let events: usize = self.events.iter().map(|event| event.payload.len() + EVENT_OVERHEAD_BYTES).sum();
        let numbers = (self.trims.len() + self.retold.len()) * NUMBERS_BYTES;
        (records + batches + events + numbers) as u64
    }
}

/// Batch header, entry headers and an idempotency key, were each record alone in its partition.
const RECORD_OVERHEAD_BYTES: usize = 160;
const EVENT_OVERHEAD_BYTES: usize = 16;
const NUMBERS_BYTES: usize = 64;

/// Where one record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub partition: PartitionId,
    pub offset: Offset,
    /// The idempotency key was known: partition and offset are those of the first record.
    pub duplicate: bool,
}

/// What became of a submission.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    /// One per record, in order.
    pub appended: SmallVec<[Appended; 1]>,
    /// Base offset of each batch, in order.
    pub batches: Vec<Offset>,
    /// End of the commit.
    pub end: Position,
}

/// The answers of one commit, ready to be sent.
pub struct Answers(pub(crate) Vec<Answer>);

/// Whom to answer, and what.
pub(crate) type Answer = (oneshot::Sender<Result<Receipt>>, Result<Receipt>);

impl Answers {
    /// Completes the tickets. Whoever gave up waiting has dropped its ticket; the submission stands all the same.
    pub fn send(self) {
        for (reply, answer) in self.0 {
            let _ = reply.send(answer);
        }
    }
}

/// Where the writer thread hands the answers of a commit, instead of waking each waiter itself. Waking a task from outside its
/// runtime costs several times what it costs from inside; a runtime takes all answers of a commit with one wake.
pub type AnswerThrough = Box<dyn Fn(Answers) + Send + Sync>;

/// Completes with the receipt once the submission is as durable as it asked to be. A future that needs no runtime.
pub struct Ticket(pub(crate) oneshot::Receiver<Result<Receipt>>);

impl Ticket {
    /// Whether the submission was settled by now, and if so whether it succeeded.
    pub fn succeeded(&mut self) -> Option<bool> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer.is_ok()),
            Err(oneshot::TryRecvError::Empty) => None,
            Err(oneshot::TryRecvError::Disconnected) => Some(false),
        }
    }

    /// Blocks the thread until the submission is settled.
    pub fn wait(self) -> Result<Receipt> {
        self.0.recv().unwrap_or(Err(StorageError::Closed))
    }
}

impl Future for Ticket {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|received| received.unwrap_or(Err(StorageError::Closed)))
    }
}
