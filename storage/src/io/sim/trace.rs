//! What was asked of the simulated disk, in order: two runs of one seed are one run if their traces are equal.
//!
//! Kept as numbers and told as text only when somebody asks, because most runs are never looked at.

use std::fmt;
use std::path::PathBuf;

use super::super::Site;

/// What one call was about.
pub(super) enum What {
    Name(PathBuf),
    Len(u64),
    Read { inode: u64, at: u64, len: usize },
    Write { inode: u64, at: u64, len: usize, sum: u32 },
    SetLen { inode: u64, len: u64 },
    Sync(u64),
    Evict(u64),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(path) => write!(f, "{}", path.display()),
            Self::Len(inode) => write!(f, "length of file {inode}"),
            Self::Read { inode, at, len } => write!(f, "{len} bytes of file {inode} at {at}"),
            Self::Write { inode, at, len, sum } => write!(f, "{len} bytes to file {inode} at {at}, checksum {sum:08x}"),
            Self::SetLen { inode, len } => write!(f, "file {inode} to {len} bytes"),
            Self::Sync(inode) => write!(f, "file {inode} to disk"),
            Self::Evict(inode) => write!(f, "file {inode} out of the cache"),
        }
    }
}

#[derive(Default)]
pub(super) struct Trace {
    calls: Vec<(Site, What, bool)>,
}

impl Trace {
    pub(super) fn push(&mut self, site: Site, what: What, ok: bool) {
        self.calls.push((site, what, ok));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let line = |(site, what, ok): &(Site, What, bool)| format!("{site}: {what}{}", if *ok { "" } else { " failed" });
        self.calls.iter().map(line).collect()
    }
}
