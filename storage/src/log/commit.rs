//! The bytes of a commit: a 64-byte header and entries, written by one write and made durable by one sync.
//!
//! ```text
//! header   0 magic u32 | 4 version u8 | 5 flags u8 | 6 reserved u16 | 8 length u32 | 12 entries u32 | 16 position u64
//!         24 durable u64 | 32 log start u64 | 40 timestamp i64 | 48 epoch u32 | 52 previous crc u32 | 56 ahead u32 | 60 crc u32
//! entry    0 kind u8 | 1 tag u8 | 2 reserved u16 | 4 length u32 | 8 payload
//! ```
//!
//! All little-endian. `crc` is the CRC-32 of header bytes 0..60 and of everything after the header. Position, epoch and the
//! previous commit's crc are inside it, so bytes of a recycled segment, of another store or of a torn write never pass for
//! the next commit. A commit starts at a multiple of [`SECTOR_BYTES`] and never crosses a segment.

use bytes::Bytes;

use crate::codec::Reader;
use crate::layout::SECTOR_BYTES;
use crate::types::{Epoch, Position, TimestampMs};

pub const HEADER_BYTES: usize = 64;
pub const ENTRY_HEADER_BYTES: usize = 8;
/// Bytes of a commit before the payload of its first entry.
pub const HEADROOM_BYTES: usize = HEADER_BYTES + ENTRY_HEADER_BYTES;
/// "1LOG"
const MAGIC: u32 = u32::from_le_bytes(*b"1LOG");
const VERSION: u8 = 1;
const CRC_AT: usize = 60;
/// Why bytes are no commit when the file ends within it.
pub const CUT_SHORT: &str = "commit cut short";
/// Why bytes are no commit when nothing was ever written there.
pub const NO_HEADER: &str = "no commit header";
/// Why a commit is not the next one when it is whole but follows another than the one before it.
pub const NO_CHAIN: &str = "the commit does not chain to the one before it";

/// The rest of the segment is unused; the next commit starts at the next segment.
pub const FLAG_PAD: u8 = 1;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A Kafka record batch of one partition.
    Records = 1,
    /// Idempotency keys of records in the same commit.
    Keys = 2,
    /// Numbers of one partition that its records alone no longer tell.
    Partition = 3,
    /// An event of the broker, opaque here; `tag` is the broker's.
    Event = 4,
    /// First entry of each opening: a new epoch begins.
    Boot = 5,
}

impl EntryKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Records),
            2 => Some(Self::Keys),
            3 => Some(Self::Partition),
            4 => Some(Self::Event),
            5 => Some(Self::Boot),
            _ => None,
        }
    }
}

/// A commit's header, without its crc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub flags: u8,
    /// Bytes of header and entries, without the padding to the next sector.
    pub length: u32,
    pub entries: u32,
    pub position: Position,
    /// Everything below this was durable when the commit was written.
    pub durable: Position,
    /// The log's first position when the commit was written.
    pub log_start: Position,
    pub timestamp: TimestampMs,
    pub epoch: Epoch,
    pub previous_crc: u32,
    /// Sectors from here to the end of the blocks that were written ahead: a file that ends earlier was cut.
    pub ahead_sectors: u32,
}

impl Header {
    /// Header bytes with the crc over them and `body`.
    #[must_use]
    pub fn encode(&self, body: &[u8]) -> ([u8; HEADER_BYTES], u32) {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[VERSION, self.flags, 0, 0]);
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.position.0.to_le_bytes());
        out.extend_from_slice(&self.durable.0.to_le_bytes());
        out.extend_from_slice(&self.log_start.0.to_le_bytes());
        out.extend_from_slice(&self.timestamp.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.previous_crc.to_le_bytes());
        out.extend_from_slice(&self.ahead_sectors.to_le_bytes());
        let crc = checksum(&out, body);
        out.extend_from_slice(&crc.to_le_bytes());
        let mut fixed = [0; HEADER_BYTES];
        fixed.copy_from_slice(&out);
        (fixed, crc)
    }

    /// Reads a header found at `position`. `Err` says in words why these bytes do not start a commit there.
    pub fn decode(bytes: &[u8], position: Position) -> Result<(Self, u32), &'static str> {
        let (header, crc) = Self::decode_of_any_position(bytes)?;
        if header.position == position { Ok((header, crc)) } else { Err("a commit of another position") }
    }

    /// As [`Self::decode`], wherever the commit says that it belongs.
    pub fn decode_of_any_position(bytes: &[u8]) -> Result<(Self, u32), &'static str> {
        let mut read = Reader(bytes);
        let (magic, version, header, crc) = Self::decode_fields(&mut read).ok_or(NO_HEADER)?;
        match () {
            () if magic != MAGIC => Err(NO_HEADER),
            () if version != VERSION => Err("commit of an unknown version"),
            () if (header.length as usize) < HEADER_BYTES => Err("commit length too small"),
            () => Ok((header, crc)),
        }
    }

    fn decode_fields(read: &mut Reader<'_>) -> Option<(u32, u8, Self, u32)> {
        let magic = read.u32()?;
        let version = read.u8()?;
        let flags = read.u8()?;
        read.u16()?;
        let header = Self {
            flags,
            length: read.u32()?,
            entries: read.u32()?,
            position: Position(read.u64()?),
            durable: Position(read.u64()?),
            log_start: Position(read.u64()?),
            timestamp: TimestampMs(read.i64()?),
            epoch: Epoch(read.u32()?),
            previous_crc: read.u32()?,
            ahead_sectors: read.u32()?,
        };
        Some((magic, version, header, read.u32()?))
    }

    /// Blocks existed below this position, durably, when the commit was written.
    #[must_use]
    pub const fn allocated_end(&self) -> Position {
        self.position.plus(self.ahead_sectors as u64 * SECTOR_BYTES)
    }

    #[must_use]
    pub const fn is_pad(&self) -> bool {
        self.flags & FLAG_PAD != 0
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

/// A whole commit whose checksum was verified.
#[derive(Clone, Debug)]
pub struct Commit {
    pub header: Header,
    pub crc: u32,
    /// Header and entries.
    pub bytes: Bytes,
}

/// An entry within a commit.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: EntryKind,
    pub tag: u8,
    pub payload: Bytes,
}

impl Commit {
    /// Verifies the commit at the start of `bytes`, which may be longer. `Err` says in words what is wrong.
    pub fn decode(bytes: &Bytes, position: Position) -> Result<Self, &'static str> {
        let (header, crc) = Header::decode(bytes, position)?;
        let length = header.length as usize;
        let (Some(head), Some(body)) = (bytes.get(..CRC_AT), bytes.get(HEADER_BYTES..length)) else {
            return Err(CUT_SHORT);
        };
        if checksum(head, body) != crc {
            return Err("commit checksum does not match");
        }
        Ok(Self { header, crc, bytes: bytes.slice(..length) })
    }

    /// The entries in order. An `Err` says in words what this version cannot walk.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, &'static str>> + '_ {
        let mut at = HEADER_BYTES;
        (0..self.header.entries).map(move |_| {
            let entry = self.entry_at(at)?;
            at += ENTRY_HEADER_BYTES + entry.payload.len();
            Ok(entry)
        })
    }

    fn entry_at(&self, at: usize) -> Result<Entry, &'static str> {
        let mut read = Reader(self.bytes.get(at..).ok_or("entry outside its commit")?);
        let head = (|| Some((read.u8()?, read.u8()?, read.u16()?, read.u32()? as usize)))();
        let (kind, tag, _, length) = head.ok_or("entry header cut short")?;
        let start = at + ENTRY_HEADER_BYTES;
        if read.0.len() < length {
            return Err("entry longer than its commit");
        }
        let kind = EntryKind::from_byte(kind).ok_or("entry of an unknown kind")?;
        Ok(Entry { kind, tag, payload: self.bytes.slice(start..start + length) })
    }
}

/// Collects the entries of the commit that is being made.
#[derive(Debug, Default)]
pub struct CommitBuilder {
    /// Room for the header, then the entries; nothing before the first entry.
    bytes: Vec<u8>,
    /// Bytes that are expected.
    room: usize,
    entries: u32,
}

impl CommitBuilder {
    /// With room for entries of about so many bytes.
    #[must_use]
    pub fn with_room(bytes: u64) -> Self {
        Self { room: usize::try_from(bytes).unwrap_or(0), ..Self::default() }
    }

    fn make_header_room(&mut self) {
        if self.bytes.is_empty() {
            self.bytes.reserve(HEADER_BYTES + self.room);
            self.bytes.resize(HEADER_BYTES, 0);
        }
    }

    /// Appends an entry whose payload `write` produces.
    pub fn entry(&mut self, kind: EntryKind, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.make_header_room();
        let head = self.bytes.len();
        self.bytes.extend_from_slice(&[0; ENTRY_HEADER_BYTES]);
        write(&mut self.bytes);
        self.head_entry(head, kind, tag);
    }

    /// The first entry of the commit, out of a buffer that has [`HEADROOM_BYTES`] before the payload. Not copied.
    pub fn first_entry(&mut self, kind: EntryKind, tag: u8, bytes: Vec<u8>) {
        debug_assert!(self.is_empty() && bytes.len() >= HEADROOM_BYTES);
        self.bytes = bytes;
        self.head_entry(HEADER_BYTES, kind, tag);
    }

    fn head_entry(&mut self, at: usize, kind: EntryKind, tag: u8) {
        let start = at + ENTRY_HEADER_BYTES;
        let [a, b, c, d] = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(field) = self.bytes.get_mut(at..start) {
            field.copy_from_slice(&[kind as u8, tag, 0, 0, a, b, c, d]);
        }
        self.entries += 1;
    }

    /// Header and entries so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len().max(HEADER_BYTES)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Seals the commit. `header.length` and `header.entries` are filled in here.
    #[must_use]
    pub fn finish(mut self, header: Header) -> Commit {
        self.make_header_room();
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let header = Header { length, entries: self.entries, ..header };
        let (head, body) = self.bytes.split_at_mut(HEADER_BYTES.min(length as usize));
        let (encoded, crc) = header.encode(body);
        head.copy_from_slice(&encoded);
        Commit { header, crc, bytes: Bytes::from(self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Commit {
        let mut builder = CommitBuilder::default();
        builder.entry(EntryKind::Event, 7, |out| out.extend_from_slice(b"first"));
        builder.entry(EntryKind::Boot, 0, |_| {});
        builder.finish(Header {
            flags: 0,
            length: 0,
            entries: 0,
            position: Position(1024),
            durable: Position(512),
            log_start: Position(0),
            timestamp: TimestampMs(99),
            epoch: Epoch(3),
            previous_crc: 0xdead_beef,
            ahead_sectors: 128,
        })
    }

    #[test]
    fn a_commit_reads_back_with_its_entries() {
        let commit = sample();
        let longer = Bytes::from([commit.bytes.as_ref(), &[0xff; 40]].concat());
        let read = Commit::decode(&longer, Position(1024)).unwrap();
        assert_eq!(read.header, commit.header);
        let entries: Vec<_> = read.entries().map(|e| e.unwrap()).map(|e| (e.kind, e.tag, e.payload.to_vec())).collect();
        assert_eq!(entries, [(EntryKind::Event, 7, b"first".to_vec()), (EntryKind::Boot, 0, vec![])]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let commit = sample();
        for bit in 0..commit.bytes.len() * 8 {
            let mut bytes = commit.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Commit::decode(&Bytes::from(bytes), Position(1024)).is_err(), "bit {bit}");
        }
        for cut in 0..commit.bytes.len() {
            assert!(Commit::decode(&commit.bytes.slice(..cut), Position(1024)).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn a_commit_is_not_taken_for_one_of_another_position() {
        assert!(Commit::decode(&sample().bytes, Position(1536)).is_err());
    }
}
