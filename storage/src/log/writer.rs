//! The one writer: frames a commit, writes it where blocks already exist, syncs it. Owned by one thread.
//!
//! The next commit is written only after the previous one was synced (or was explicitly lazy), so a valid commit above a
//! bad one proves damage. The first failed write or sync poisons the log; nothing is retried.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commit::{Commit, CommitBuilder, FLAG_PAD, Header};
use super::{Log, Tip, is_full};
use crate::error::{Result, StorageError};
use crate::io::{IoFile, Site};
use crate::layout::{SECTOR_BYTES, to_sectors};
use crate::types::{Epoch, Position, TimestampMs};

/// Blocks that only acks, deletes and the like may use, so that they work on a full disk.
pub const RESERVE_BYTES: u64 = 256 * 1024;
/// Smallest step of allocation.
pub const ALLOCATE_BYTES: u64 = 1024 * 1024;
/// Room a commit must leave in its segment for framing.
const SEGMENT_OVERHEAD_BYTES: u64 = 4096;

/// File systems and page caches work in blocks of this size.
const BLOCK_BYTES: u64 = 4096;
static PADDING: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

/// Appends commits to a log.
pub struct LogWriter {
    log: Arc<Log>,
    tip: Tip,
    file: Option<(Position, Arc<dyn IoFile>)>,
    /// Blocks below this were written whole since the start: the page cache need not read them before part of one is written.
    whole_below: Position,
    unsynced: bool,
    /// The last commit holds entries, and no later commit says that it was durable.
    unproven: bool,
    last_timestamp: TimestampMs,
}

impl LogWriter {
    /// Goes on after `log.tip()`, as a new epoch.
    pub fn new(log: Arc<Log>, epoch: Epoch, last_timestamp: TimestampMs) -> Self {
        let tip = Tip { epoch, ..log.tip() };
        Self { log, tip, file: None, whole_below: Position(0), unsynced: false, unproven: false, last_timestamp }
    }

    /// Most bytes one commit may have in this log.
    pub fn commit_bytes_max(&self) -> u64 {
        self.log.segments.segment_bytes() - SEGMENT_OVERHEAD_BYTES
    }

    /// Time for the next commit: the wall clock, but never before an earlier commit.
    pub fn stamp(&mut self, now: TimestampMs) -> TimestampMs {
        self.last_timestamp = self.last_timestamp.max(now);
        self.log.last_stamp.store(self.last_timestamp.0, Ordering::Relaxed);
        self.last_timestamp
    }

    /// As [`Self::stamp`], and later than every earlier commit, also when the clock stands still or went back.
    pub fn stamp_later(&mut self, now: TimestampMs) -> TimestampMs {
        self.stamp(now.max(TimestampMs(self.last_timestamp.0.saturating_add(1))))
    }

    /// Whether a commit of about `bytes` can be placed; allocates when the blocks run out. `StorageError::Full` is no failure.
    pub fn make_room(&mut self, bytes: u64, may_use_reserve: bool) -> Result<()> {
        self.log.check_poison()?;
        // At least a sector stays behind every commit, so that each says of blocks beyond itself that they exist.
        let reserve = if may_use_reserve { SECTOR_BYTES } else { RESERVE_BYTES };
        let start = self.place(bytes);
        let needed = start.plus(to_sectors(bytes) + reserve);
        while self.log.segments.allocated_end() < needed {
            let result = self.log.segments.allocate(ALLOCATE_BYTES);
            self.log.disk_full.store(result.as_ref().is_err_and(is_full), Ordering::Relaxed);
            match result {
                Ok(_) => {}
                Err(error) if is_full(&error) => return Err(StorageError::Full { dir: self.log.dir.clone() }),
                Err(error) => return Err(self.fail(error)),
            }
        }
        if !may_use_reserve {
            // There was room, whoever made it: the zero-filling thread finds space first when it comes back.
            self.log.disk_full.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Where a commit of `bytes` goes: here, or at the next segment when it does not fit.
    fn place(&self, bytes: u64) -> Position {
        let boundary = self.log.segments.next_first(self.tip.end);
        if self.tip.end.plus(to_sectors(bytes)) <= boundary { self.tip.end } else { boundary }
    }

    /// Writes a commit. It is durable only after [`Self::sync`]. Call [`Self::make_room`] first.
    pub fn append(&mut self, builder: CommitBuilder, timestamp: TimestampMs) -> Result<Commit> {
        self.log.check_poison()?;
        let bytes = builder.len_bytes() as u64;
        if self.place(bytes) != self.tip.end {
            self.seal_segment(timestamp)?;
        }
        let commit = builder.finish(self.header(0, timestamp));
        self.write(&commit)?;
        self.unproven = true;
        self.log.cache.insert(commit.clone());
        Ok(commit)
    }

    /// Writes a commit without entries: its header says that everything before it was durable.
    pub fn append_mark(&mut self, timestamp: TimestampMs) -> Result<()> {
        self.append(CommitBuilder::default(), timestamp)?;
        self.unproven = false;
        Ok(())
    }

    /// Whether damage to the last commit could still pass for a torn tail.
    pub fn unproven(&self) -> bool {
        self.unproven
    }

    fn header(&self, flags: u8, timestamp: TimestampMs) -> Header {
        Header {
            flags,
            length: 0,
            entries: 0,
            position: self.tip.end,
            durable: self.log.durable(),
            log_start: Position(self.log.start.load(Ordering::Relaxed)),
            timestamp,
            epoch: self.tip.epoch,
            previous_crc: self.tip.crc,
            ahead_sectors: u32::try_from(self.log.segments.allocated_end().since(self.tip.end) / SECTOR_BYTES).unwrap_or(u32::MAX),
        }
    }

    /// Marks the rest of the segment unused and makes the segment durable before the next one is begun.
    fn seal_segment(&mut self, timestamp: TimestampMs) -> Result<()> {
        let boundary = self.log.segments.next_first(self.tip.end);
        if self.tip.end != self.log.segments.first_of(self.tip.end) {
            let pad = CommitBuilder::default().finish(self.header(FLAG_PAD, timestamp));
            self.write(&pad)?;
            self.tip.end = boundary;
        }
        self.sync()
    }

    fn write(&mut self, commit: &Commit) -> Result<()> {
        let first = self.log.segments.first_of(self.tip.end);
        let file = match &self.file {
            Some((held, file)) if *held == first => Arc::clone(file),
            _ => {
                // A lazy commit may have filled its segment to the last byte: no pad has sealed it, and later syncs do not cover it.
                if self.unsynced {
                    self.sync()?;
                }
                self.log.segments.writer(first).map_err(|error| self.fail(error))?
            }
        };
        let padded = to_sectors(commit.bytes.len() as u64);
        let end = self.tip.end.plus(padded);
        let written_to = if end <= self.whole_below { end } else { self.block_end(end) };
        let padding = usize::try_from(written_to.since(self.tip.end)).unwrap_or(0).saturating_sub(commit.bytes.len());
        let parts = [commit.bytes.as_ref(), PADDING.get(..padding).unwrap_or(&[])];
        self.unsynced = true;
        file.write_at(Site::LogWrite, &parts, self.tip.end.since(first)).map_err(|error| self.fail(error))?;
        self.file = Some((first, file));
        self.whole_below = self.whole_below.max(written_to);
        self.tip = Tip { end, last: commit.header.position, crc: commit.crc, epoch: self.tip.epoch };
        Ok(())
    }

    /// How far a write that ends in an untouched block is padded: with zeros to the end of the block, so that it is written whole.
    /// They lie above the tail, where nothing is.
    fn block_end(&self, end: Position) -> Position {
        let block_end = Position(end.0.next_multiple_of(BLOCK_BYTES));
        block_end.min(self.log.segments.allocated_end()).max(end)
    }

    /// Makes everything written so far durable. Called once; a failure is final.
    pub fn sync(&mut self) -> Result<()> {
        self.log.check_poison()?;
        if let (true, Some((_, file))) = (self.unsynced, &self.file) {
            file.sync(Site::LogSync).map_err(|error| self.fail(error))?;
            // The zero-filling thread may have seen a failure of the same file first.
            self.log.check_poison()?;
        }
        self.unsynced = false;
        self.log.set_tip(self.tip);
        self.log.set_durable(self.tip.end);
        Ok(())
    }

    pub fn end(&self) -> Position {
        self.tip.end
    }

    pub fn has_unsynced(&self) -> bool {
        self.unsynced
    }

    fn fail(&self, error: StorageError) -> StorageError {
        self.log.poison(&error);
        error
    }
}
