//! The log: commits in segments. Knows bytes, positions and checksums; not what records or partitions mean beyond their framing.

pub mod cache;
pub mod commit;
pub mod entry;
pub mod reader;
pub mod scan;
pub mod segment;
pub mod verdict;
pub mod writer;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Result, StorageError};
use crate::io::Io;
use crate::layout::to_sectors;
use crate::types::{Epoch, Position};
use cache::CommitCache;
use commit::Header;
use segment::Segments;

/// The newest commit: where the next one goes and what it must chain to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tip {
    /// Where the next commit goes.
    pub end: Position,
    /// Where the newest commit starts.
    pub last: Position,
    pub crc: u32,
    pub epoch: Epoch,
}

/// What writer and readers share.
pub struct Log {
    pub io: Arc<dyn Io>,
    pub dir: PathBuf,
    pub segments: Segments,
    pub cache: CommitCache,
    /// First position that is still needed.
    pub start: AtomicU64,
    /// Commits below this position are complete; readers go no further.
    visible: AtomicU64,
    /// Everything below is on stable storage.
    durable: AtomicU64,
    tip: Mutex<Tip>,
    /// The newest durable commit whose effects all views show: where a checkpoint may begin.
    published: Mutex<Tip>,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    pub disk_full: AtomicBool,
    /// The time of the newest commit, milliseconds since the epoch.
    pub last_stamp: AtomicI64,
}

impl Log {
    pub fn new(io: Arc<dyn Io>, dir: PathBuf, segments: Segments, cache_bytes: usize) -> Self {
        Self {
            io,
            dir,
            segments,
            cache: CommitCache::new(cache_bytes),
            start: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            tip: Mutex::new(Tip::default()),
            published: Mutex::new(Tip::default()),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            disk_full: AtomicBool::new(false),
            last_stamp: AtomicI64::new(0),
        }
    }

    /// The position after `header`'s commit.
    pub fn after(&self, header: &Header) -> Position {
        if header.is_pad() { self.segments.next_first(header.position) } else { header.position.plus(to_sectors(u64::from(header.length))) }
    }

    pub fn tip(&self) -> Tip {
        *self.tip.lock()
    }

    pub fn set_tip(&self, tip: Tip) {
        *self.tip.lock() = tip;
    }

    pub fn published(&self) -> Tip {
        *self.published.lock()
    }

    /// Everything up to the tip is in the views now. Called by whoever changes them.
    pub fn set_published(&self) {
        let tip = self.tip();
        *self.published.lock() = tip;
    }

    pub fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    pub fn visible(&self) -> Position {
        Position(self.visible.load(Ordering::Acquire))
    }

    pub fn set_visible(&self, to: Position) {
        self.visible.store(to.0, Ordering::Release);
    }

    pub fn set_durable(&self, to: Position) {
        self.durable.store(to.0, Ordering::Release);
    }

    /// Remembers the first failed write or sync. From here on nothing is acknowledged.
    pub fn poison(&self, reason: &StorageError) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            *failure = Some(reason.to_string());
        }
        self.failed.store(true, Ordering::Release);
    }

    /// The error every write gets after a failure, if there was one.
    pub fn check_poison(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(StorageError::Poisoned { reason: self.failure.lock().clone().unwrap_or_default() })
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// An error that says which bytes are damaged.
    pub fn damage(&self, at: Position, what: impl Into<String>) -> StorageError {
        StorageError::Damage { dir: self.dir.clone(), file: self.segments.path_of(at), position: at, what: what.into() }
    }
}

/// Whether an allocation failed because there is no room, which may pass, unlike a failed write.
pub fn is_full(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { kind: ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge, .. })
}
