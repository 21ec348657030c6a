//! Reads single commits by position, through the cache. Every commit that comes from a file is verified whole before use.

use bytes::Bytes;

use super::Log;
use super::commit::{Commit, HEADER_BYTES, Header};
use crate::error::Result;
use crate::io::Site;
use crate::layout::{SECTOR_BYTES, to_sectors};
use crate::types::Position;

/// Read at once from a file: neighbours of a small commit come along and are cached.
const CHUNK_BYTES: u64 = 64 * 1024;

impl Log {
    /// The commit at `at`, which must be the start of a commit below `end`. Anything else found there is damage.
    pub fn commit_at(&self, at: Position, end: Position) -> Result<Commit> {
        if let Some(commit) = self.cache.get(at) {
            return Ok(commit);
        }
        let first = self.segments.first_of(at);
        let most = end.since(at).min(self.segments.next_first(at).since(at));
        let chunk = self.read_bytes(Site::LogRead, at, most.min(CHUNK_BYTES))?;
        let (header, _) = Header::decode(&chunk, at).map_err(|what| self.damage(at, what))?;
        if header.is_pad() {
            return Commit::decode(&chunk, at).map_err(|what| self.damage(at, what));
        }
        let length = u64::from(header.length);
        if length > chunk.len() as u64 {
            let whole = self.read_bytes(Site::LogRead, at, length.min(most))?;
            let commit = Commit::decode(&whole, at).map_err(|what| self.damage(at, what))?;
            self.cache.insert(commit.clone());
            return Ok(commit);
        }
        let wanted = Commit::decode(&chunk, at).map_err(|what| self.damage(at, what))?;
        self.cache.insert(wanted.clone());
        self.cache_neighbours(&chunk, at, &wanted, first.plus(self.segments.segment_bytes()).min(end));
        Ok(wanted)
    }

    /// The whole commit that stands at a position, if one does. For walks: reads past the cache.
    pub fn whole_at(&self, at: Position) -> Result<Option<Commit>> {
        if self.segments.reader(at)?.is_none() {
            return Ok(None);
        }
        let head = self.read_bytes(Site::RecoveryRead, at, HEADER_BYTES as u64)?;
        let Ok((header, _)) = Header::decode(&head, at) else { return Ok(None) };
        let bytes = self.read_bytes(Site::RecoveryRead, at, u64::from(header.length))?;
        Ok(Commit::decode(&bytes, at).ok())
    }

    /// Where whole commits go on behind damage at `at`, within its segment and below `end`: the first that the next one chains
    /// to, or that ends where `end` is. One that stands alone may be bytes of a record.
    pub fn resume_after(&self, at: Position, end: Position) -> Result<Option<Position>> {
        let end_here = end.min(self.segments.next_first(at));
        let mut from = at.plus(SECTOR_BYTES);
        while from < end_here {
            let window = self.read_bytes(Site::LogRead, from, CHUNK_BYTES.min(end_here.since(from)))?;
            for (sector, bytes) in window.chunks(SECTOR_BYTES as usize).enumerate() {
                let here = from.plus(sector as u64 * SECTOR_BYTES);
                let Some(commit) = Header::decode(bytes, here).is_ok().then(|| self.whole_at(here)).transpose()?.flatten() else {
                    continue;
                };
                let next = self.after(&commit.header);
                if next == end || self.whole_at(next)?.is_some_and(|next| next.header.previous_crc == commit.crc) {
                    return Ok(Some(here));
                }
            }
            if window.is_empty() {
                return Ok(None);
            }
            from = from.plus(to_sectors(window.len() as u64));
        }
        Ok(None)
    }

    fn cache_neighbours(&self, chunk: &Bytes, at: Position, wanted: &Commit, end: Position) {
        let mut next = self.after(&wanted.header);
        while next < end {
            let Some(rest) = usize::try_from(next.since(at)).ok().filter(|skip| skip + HEADER_BYTES <= chunk.len()) else { return };
            // A neighbour that is cut off by the chunk, or damaged, is dealt with when it is asked for.
            let Ok(commit) = Commit::decode(&chunk.slice(rest..), next) else { return };
            if commit.header.is_pad() {
                return;
            }
            next = self.after(&commit.header);
            self.cache.insert(commit);
        }
    }

    /// Up to `len` bytes from `at`, within one segment; fewer where the file ends.
    pub fn read_bytes(&self, site: Site, at: Position, len: u64) -> Result<Bytes> {
        let Some(file) = self.segments.reader(at)? else {
            return Err(self.damage(at, "the segment file is missing"));
        };
        let len = len.min(self.segments.next_first(at).since(at));
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = file.read_at(site, &mut buffer, at.since(self.segments.first_of(at)))?;
        buffer.truncate(read);
        Ok(Bytes::from(buffer))
    }
}
