//! Walks the log forward commit by commit, verifying checksum and chain, until the first commit that fails: the end, or damage.
//! Used by recovery and by the offline check. Never writes.

use bytes::Bytes;

use super::commit::{Commit, HEADER_BYTES, Header, NO_CHAIN};
use super::{Log, Tip};
use crate::error::Result;
use crate::io::Site;
use crate::layout::{SECTOR_BYTES, to_sectors};
use crate::types::{Epoch, Position};

const WINDOW_BYTES: u64 = 1024 * 1024;

/// A forward walk.
pub struct Scan<'a> {
    log: &'a Log,
    at: Position,
    last: Position,
    /// What the next commit must chain to; unknown at the log's start.
    previous_crc: Option<u32>,
    epoch: Epoch,
    /// The greatest durable position any commit proved.
    proven: Position,
    /// The greatest end of blocks any commit named.
    allocated: Position,
    window: (Position, Bytes),
    stopped: Option<&'static str>,
}

impl<'a> Scan<'a> {
    /// Starts at the log's first position, where the chain is not known yet.
    pub fn from_start(log: &'a Log, at: Position) -> Self {
        let window = (at, Bytes::new());
        let nothing = Position(0);
        Self { log, at, last: at, previous_crc: None, epoch: Epoch(0), proven: nothing, allocated: nothing, window, stopped: None }
    }

    /// Goes on after a commit that is known.
    pub fn after(log: &'a Log, tip: Tip) -> Self {
        Self { previous_crc: Some(tip.crc), epoch: tip.epoch, proven: tip.end, last: tip.last, ..Self::from_start(log, tip.end) }
    }

    /// Goes on behind damage: the chain is not known there, but what was read before it still counts.
    pub fn resumed(&self, at: Position) -> Self {
        Self { epoch: self.epoch, proven: self.proven, allocated: self.allocated, ..Self::from_start(self.log, at) }
    }

    /// Where the walk stands.
    pub fn tip(&self) -> Tip {
        Tip { end: self.at, last: self.last, crc: self.previous_crc.unwrap_or(0), epoch: self.epoch }
    }

    /// Everything below this is known to have been durable.
    pub fn proven(&self) -> Position {
        self.proven
    }

    /// Blocks are known to have existed below this.
    pub fn allocated(&self) -> Position {
        self.allocated
    }

    /// Why the walk ended, in words.
    pub fn stopped(&self) -> &'static str {
        self.stopped.unwrap_or("not at the end yet")
    }

    /// The next commit, or `None` at the first one that fails its check.
    pub fn next_commit(&mut self) -> Result<Option<Commit>> {
        loop {
            let commit = match self.commit_here()? {
                Ok(commit) => commit,
                Err(why) => {
                    self.stopped = Some(why);
                    return Ok(None);
                }
            };
            self.last = self.at;
            self.at = self.log.after(&commit.header);
            self.previous_crc = Some(commit.crc);
            self.epoch = commit.header.epoch;
            self.proven = self.proven.max(commit.header.durable);
            self.allocated = self.allocated.max(commit.header.allocated_end());
            if !commit.header.is_pad() {
                return Ok(Some(commit));
            }
        }
    }

    fn commit_here(&mut self) -> Result<Result<Commit, &'static str>> {
        if self.log.segments.reader(self.at)?.is_none() {
            return Ok(Err("the segment file does not exist"));
        }
        let bytes = self.bytes_here(HEADER_BYTES as u64)?;
        let header = match Header::decode(&bytes, self.at) {
            Ok((header, _)) => header,
            Err(why) => return Ok(Err(why)),
        };
        if self.previous_crc.is_some_and(|crc| crc != header.previous_crc) {
            return Ok(Err(NO_CHAIN));
        }
        if header.epoch < self.epoch {
            return Ok(Err("the commit is of an older epoch"));
        }
        if self.at.plus(u64::from(header.length)) > self.log.segments.next_first(self.at) {
            return Ok(Err("the commit is longer than its segment"));
        }
        let bytes = self.bytes_here(u64::from(header.length))?;
        Ok(Commit::decode(&bytes, self.at))
    }

    /// At least `len` bytes from where the walk stands, unless the file ends.
    fn bytes_here(&mut self, len: u64) -> Result<Bytes> {
        let skip = usize::try_from(self.at.since(self.window.0)).unwrap_or(usize::MAX);
        let have = (self.window.1.len() as u64).saturating_sub(skip as u64);
        if self.at < self.window.0 || have < len {
            let bytes = self.log.read_bytes(Site::RecoveryRead, self.at, len.max(WINDOW_BYTES))?;
            self.window = (self.at, bytes);
            return Ok(self.window.1.clone());
        }
        Ok(self.window.1.slice(skip..))
    }

    /// Looks above the end for a commit that proves more was durable than the walk found. Its position, if there is one.
    pub fn evidence_beyond_end(&self) -> Result<Option<Position>> {
        let mut at = self.at;
        for first in self.log.segments.firsts() {
            if first.plus(self.log.segments.segment_bytes()) <= self.at {
                continue;
            }
            at = at.max(first);
            if let Some(found) = self.evidence_in_segment(at)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn evidence_in_segment(&self, from: Position) -> Result<Option<Position>> {
        let end = self.log.segments.next_first(from);
        let mut at = from;
        while at < end {
            let window = self.log.read_bytes(Site::RecoveryRead, at, WINDOW_BYTES.min(end.since(at)))?;
            if window.is_empty() {
                return Ok(None);
            }
            for (sector, bytes) in window.chunks(SECTOR_BYTES as usize).enumerate() {
                let here = at.plus(sector as u64 * SECTOR_BYTES);
                if self.proves_more(bytes, here)? {
                    return Ok(Some(here));
                }
            }
            at = at.plus(window.len() as u64);
        }
        Ok(None)
    }

    /// Whether a whole commit stands at the end that was not written before the last one, but follows another.
    pub fn is_foreign_at_end(&self) -> Result<bool> {
        if self.stopped != Some(NO_CHAIN) {
            return Ok(false);
        }
        let commit = self.log.whole_at(self.at)?;
        Ok(commit.is_some_and(|commit| commit.header.epoch >= self.epoch))
    }

    /// Where whole commits go on behind the end: the first that the next one chains to, or that nothing whole follows. One that
    /// stands alone within damage is not believed: it may be bytes of a record.
    pub fn resume_beyond_end(&self) -> Result<Option<Position>> {
        let mut alone = None;
        let mut at = self.at.plus(SECTOR_BYTES);
        for first in self.log.segments.firsts() {
            if self.log.segments.next_first(first) <= at {
                continue;
            }
            at = at.max(first);
            while at < self.log.segments.next_first(first) {
                let window = self.log.read_bytes(Site::RecoveryRead, at, WINDOW_BYTES)?;
                if window.is_empty() {
                    break;
                }
                for (sector, bytes) in window.chunks(SECTOR_BYTES as usize).enumerate() {
                    let here = at.plus(sector as u64 * SECTOR_BYTES);
                    let is_newer = Header::decode(bytes, here).is_ok_and(|(header, _)| header.epoch >= self.epoch);
                    let Some(commit) = is_newer.then(|| self.log.whole_at(here)).transpose()?.flatten() else { continue };
                    if self.is_followed(&commit)? {
                        return Ok(Some(here));
                    }
                    alone = Some(here);
                }
                at = at.plus(to_sectors(window.len() as u64));
            }
            at = self.log.segments.next_first(first);
        }
        Ok(alone)
    }

    fn is_followed(&self, commit: &Commit) -> Result<bool> {
        let next = self.log.whole_at(self.log.after(&commit.header))?;
        Ok(next.is_some_and(|next| next.header.previous_crc == commit.crc))
    }

    /// A whole, valid commit of this epoch or a later one, written when more than the walk found was durable already.
    fn proves_more(&self, sector: &[u8], at: Position) -> Result<bool> {
        let Ok((header, _)) = Header::decode(sector, at) else { return Ok(false) };
        if header.durable <= self.at || header.epoch < self.epoch {
            return Ok(false);
        }
        let bytes = self.log.read_bytes(Site::RecoveryRead, at, u64::from(header.length))?;
        Ok(Commit::decode(&bytes, at).is_ok())
    }
}
