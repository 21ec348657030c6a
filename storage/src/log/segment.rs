//! Segment files: which exist, handles on them, and the blocks written ahead of the tail.
//!
//! Overwriting blocks that were written before makes a sync two to three times cheaper than appending, so zeros (or a
//! recycled segment's old bytes) run ahead of the tail. A commit goes only where blocks exist, therefore a full disk shows here,
//! as a refused allocation, and never as a half-written commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::Result;
use crate::io::{Io, IoFile, OpenMode, Site};
use crate::layout;
use crate::types::Position;

/// Segments kept for reuse; more are removed.
const SPARES_MAX: usize = 2;

/// All segments of a log.
pub struct Segments {
    io: Arc<dyn Io>,
    dir: PathBuf,
    bytes: u64,
    /// Blocks that should exist beyond the tail at any time, bytes.
    pub ahead_bytes: u64,
    /// Read handles by first position; `None` until first used.
    present: Mutex<BTreeMap<u64, Option<Arc<dyn IoFile>>>>,
    /// Blocks exist below this position (and from the tail on). Changed under `allocation`, read without it.
    end: AtomicU64,
    allocation: Mutex<Allocation>,
}

struct Allocation {
    /// Handle used for zero-filling: its own description, so that it does not take away a write-back error from the writer's.
    file: Option<(u64, Arc<dyn IoFile>)>,
    /// Old segments that may be renamed to new ones.
    spares: Vec<Position>,
}

impl Segments {
    /// Looks at what the log directory holds. Names that are no segments are left alone.
    pub fn open(io: Arc<dyn Io>, dir: &Path, bytes: u64, ahead_bytes: u64) -> Result<Self> {
        let listed = io.list(Site::DirList, &layout::log_dir(dir))?;
        let present = listed.iter().filter_map(|entry| layout::parse_segment_name(&entry.name)).map(|first| (first.0, None)).collect();
        let allocation = Mutex::new(Allocation { file: None, spares: Vec::new() });
        Ok(Self { io, dir: dir.to_owned(), bytes, ahead_bytes, present: Mutex::new(present), end: AtomicU64::new(0), allocation })
    }

    pub fn segment_bytes(&self) -> u64 {
        self.bytes
    }

    /// First position of the segment that holds `at`.
    pub fn first_of(&self, at: Position) -> Position {
        Position(at.0 - at.0 % self.bytes)
    }

    /// First position of the segment after the one that holds `at`.
    pub fn next_first(&self, at: Position) -> Position {
        self.first_of(at).plus(self.bytes)
    }

    pub fn path_of(&self, at: Position) -> PathBuf {
        layout::segment_file(&self.dir, self.first_of(at))
    }

    /// First positions of the segments that exist, ascending.
    pub fn firsts(&self) -> Vec<Position> {
        self.present.lock().keys().copied().map(Position).collect()
    }

    /// A handle to read the segment that holds `at`; `None` when there is no such file.
    pub fn reader(&self, at: Position) -> Result<Option<Arc<dyn IoFile>>> {
        let mut present = self.present.lock();
        let first = self.first_of(at);
        let Some(slot) = present.get_mut(&first.0) else { return Ok(None) };
        if let Some(file) = slot {
            return Ok(Some(Arc::clone(file)));
        }
        let file = self.io.open(Site::SegmentOpen, &self.path_of(at), OpenMode::Read)?;
        *slot = Some(Arc::clone(&file));
        Ok(Some(file))
    }

    /// A handle of its own to write the segment that holds `at`.
    pub fn writer(&self, at: Position) -> Result<Arc<dyn IoFile>> {
        self.io.open(Site::SegmentOpen, &self.path_of(at), OpenMode::Write)
    }

    /// Finds out which blocks exist from `tail` on, and which segments below `start` may be reused.
    pub fn resume(&self, start: Position, tail: Position) -> Result<()> {
        let mut end = tail.0;
        let mut first = self.first_of(tail);
        while let Some(file) = self.reader(first)? {
            let len = file.len(Site::SegmentOpen)?.min(self.bytes);
            end = end.max(first.0 + len - len % layout::SECTOR_BYTES);
            if len < self.bytes {
                break;
            }
            first = first.plus(self.bytes);
        }
        self.end.store(end, Ordering::Release);
        self.retire_below(start)
    }

    pub fn allocated_end(&self) -> Position {
        Position(self.end.load(Ordering::Acquire))
    }

    /// Makes up to `step` more bytes writable without allocating: from a recycled segment, or by writing and syncing zeros.
    pub fn allocate(&self, step: u64) -> Result<Position> {
        let mut allocation = self.allocation.lock();
        let at = self.allocated_end();
        let first = self.first_of(at);
        if at == first && !self.present.lock().contains_key(&first.0) {
            if let Some(end) = self.recycle(&mut allocation, first)? {
                return Ok(end);
            }
            let file = self.io.open(Site::SegmentCreate, &self.path_of(at), OpenMode::CreateOrWrite)?;
            self.io.sync_dir(Site::DirSync, &layout::log_dir(&self.dir))?;
            self.present.lock().insert(first.0, None);
            allocation.file = Some((first.0, file));
        }
        let file = match &allocation.file {
            Some((held, file)) if *held == first.0 => Arc::clone(file),
            _ => self.writer(at)?,
        };
        allocation.file = Some((first.0, Arc::clone(&file)));
        let at = at.since(first);
        let goal = at.saturating_add(step).min(self.bytes);
        file.zero(Site::SegmentZero, at, goal - at)?;
        file.sync(Site::SegmentZeroSync)?;
        self.end.store(first.0 + goal, Ordering::Release);
        Ok(first.plus(goal))
    }

    /// Renames an old segment to `first`. Its stale bytes cannot be taken for new ones: position, epoch and chain differ.
    fn recycle(&self, allocation: &mut Allocation, first: Position) -> Result<Option<Position>> {
        let Some(old) = allocation.spares.pop() else { return Ok(None) };
        self.present.lock().remove(&old.0);
        let path = layout::segment_file(&self.dir, first);
        self.io.rename(Site::SegmentRecycle, &layout::segment_file(&self.dir, old), &path)?;
        self.io.sync_dir(Site::DirSync, &layout::log_dir(&self.dir))?;
        let file = self.io.open(Site::SegmentOpen, &path, OpenMode::Write)?;
        let len = file.len(Site::SegmentOpen)?.min(self.bytes);
        self.present.lock().insert(first.0, None);
        allocation.file = Some((first.0, file));
        let end = first.plus(len - len % layout::SECTOR_BYTES);
        self.end.store(end.0, Ordering::Release);
        Ok((len > 0).then_some(end))
    }

    /// Gives up the segments that lie wholly below `start`: a few are kept for reuse, the others removed.
    pub fn retire_below(&self, start: Position) -> Result<()> {
        let mut allocation = self.allocation.lock();
        let keep_from = self.first_of(start).0;
        let old: Vec<u64> = self.present.lock().range(..keep_from).map(|(first, _)| *first).collect();
        for first in old {
            if allocation.spares.contains(&Position(first)) {
                continue;
            }
            if allocation.spares.len() < SPARES_MAX {
                allocation.spares.push(Position(first));
            } else {
                self.io.remove(Site::SegmentRemove, &layout::segment_file(&self.dir, Position(first)))?;
                self.present.lock().remove(&first);
            }
        }
        Ok(())
    }
}
