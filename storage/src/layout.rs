//! Names and fixed numbers of a data directory. File names are made and parsed here and nowhere else.
//!
//! ```text
//! <data>/LOCK                          flock for the life of the process; its text names the holder
//! <data>/STORE                         format version, store id, segment size; written once
//! <data>/log/00000000000000000000.seg  segments, named by the log position of their first byte
//! <data>/index.redb                    checkpointed views (a cache)
//! ```

use std::path::{Path, PathBuf};

use crate::types::Position;

/// Version of everything below the data directory. A newer binary opens older ones, never the reverse.
pub const FORMAT_VERSION: u32 = 1;
/// Commits start at multiples of this, so a sector that holds durable bytes is never written again.
pub const SECTOR_BYTES: u64 = 512;
/// Segment size unless chosen otherwise when the store is created.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Blocks a store has from its first moment on.
pub const FIRST_BLOCKS_BYTES: u64 = 64 * 1024;
/// Smallest and largest segment size.
pub const SEGMENT_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Smallest segment size of a store without threads, which only tests open.
pub const SEGMENT_BYTES_MIN_WITHOUT_THREADS: u64 = 64 * 1024;
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// `<data>/LOCK`
#[must_use]
pub fn lock_file(dir: &Path) -> PathBuf {
    dir.join("LOCK")
}

/// `<data>/STORE`
#[must_use]
pub fn store_file(dir: &Path) -> PathBuf {
    dir.join("STORE")
}

/// Written first, then renamed to [`store_file`].
#[must_use]
pub fn store_file_new(dir: &Path) -> PathBuf {
    dir.join("STORE.new")
}

/// `<data>/log`
#[must_use]
pub fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The index file of the redb backend.
#[must_use]
pub fn redb_file(dir: &Path) -> PathBuf {
    dir.join("index.redb")
}

/// The index directory of the sled backend.
#[must_use]
pub fn sled_dir(dir: &Path) -> PathBuf {
    dir.join("index.sled")
}

/// The segment that starts at `first`.
#[must_use]
pub fn segment_file(dir: &Path, first: Position) -> PathBuf {
    log_dir(dir).join(segment_name(first))
}

/// `00000000000067108864.seg` for position 67,108,864.
#[must_use]
pub fn segment_name(first: Position) -> String {
    format!("{:020}.seg", first.0)
}

/// The position in a segment's name, `None` for any other name.
#[must_use]
pub fn parse_segment_name(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Position)
}

/// `bytes` rounded up to a whole number of sectors.
#[must_use]
pub const fn to_sectors(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_round_trip_and_nothing_else_parses() {
        for at in [0, 1, 67_108_864, u64::MAX] {
            assert_eq!(parse_segment_name(&segment_name(Position(at))), Some(Position(at)));
        }
        for bad in [
            "",
            "1.seg",
            "0000000000000000000a.seg",
            "00000000000000000000.seg.old",
            "+0000000000000000001.seg",
            "99999999999999999999.seg",
        ] {
            assert_eq!(parse_segment_name(bad), None, "{bad}");
        }
    }
}
