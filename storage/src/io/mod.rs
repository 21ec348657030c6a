//! The one door to the disk. Everything durable passes here, the index file too.
//!
//! Two object-safe traits, [`Io`] for names and [`IoFile`] for bytes, and the [`Site`] that each call carries so that
//! an error, a fault table and a simulated disk can name the call. The real disk is [`disk`], the simulated one [`sim`].
//! Neither retries a failed sync, and neither hides one.

pub mod disk;
mod full;
pub mod sim;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Result, StorageError};

macro_rules! sites {
    ($($name:ident = $words:literal,)*) => {
        /// The calls we make, by what they are for. Faults are injected and reported by these names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Site {
            $($name,)*
        }

        impl Site {
            /// Every site there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }

        impl fmt::Display for Site {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $words,)*
                })
            }
        }
    };
}

sites! {
    LockFile = "lock",
    StoreWrite = "write store file",
    StoreSync = "sync store file",
    StoreRead = "read store file",
    StoreRename = "rename store file",
    DirCreate = "create directory",
    DirList = "list directory",
    DirSync = "sync directory",
    SegmentCreate = "create segment",
    SegmentOpen = "open segment",
    SegmentRecycle = "recycle segment",
    SegmentRemove = "remove segment",
    SegmentZero = "zero-fill segment",
    SegmentZeroSync = "sync zero-filled segment",
    LogWrite = "write commit",
    LogSync = "sync commit",
    LogRead = "read log",
    RecoverySync = "sync during recovery",
    RecoveryEvict = "evict during recovery",
    RecoveryRead = "read during recovery",
    IndexOpen = "open index",
    IndexRead = "read index",
    IndexWrite = "write index",
    IndexSync = "sync index",
    IndexResize = "resize index",
    IndexRemove = "remove index",
    SpaceQuery = "ask for free space",
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; never written through this handle.
    Read,
    /// Must exist.
    Write,
    /// Created with mode 0600 when absent, kept when present. The caller syncs the directory.
    CreateOrWrite,
    /// Must not exist; created with mode 0600. The caller syncs the directory.
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    pub is_dir: bool,
}

/// Released when dropped, also by the death of the process.
pub trait DirLock: Send + Sync {}

/// Names: what exists, under which name. A name is durable only after [`Io::sync_dir`] of its directory.
pub trait Io: Send + Sync {
    /// Opens a file. Each call is an open file description of its own, and so sees a failed write-back of its own.
    fn open(&self, site: Site, path: &Path, mode: OpenMode) -> Result<Arc<dyn IoFile>>;
    /// What a directory holds, in no order. `NotFound` when it does not exist.
    fn list(&self, site: Site, dir: &Path) -> Result<Vec<Listed>>;
    /// Creates a directory (mode 0700) and its missing parents. Fine when it exists.
    fn create_dir(&self, site: Site, dir: &Path) -> Result<()>;
    /// Replaces `to` if it exists.
    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<()>;
    /// Fine when it does not exist.
    fn remove(&self, site: Site, path: &Path) -> Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, site: Site, dir: &Path) -> Result<()>;
    /// Takes the exclusive lock `path` and writes `holder` in it, or fails with
    /// [`StorageError::Locked`](crate::error::StorageError::Locked) naming who holds it.
    fn lock(&self, site: Site, path: &Path, holder: &str) -> Result<Box<dyn DirLock>>;
    /// Bytes an ordinary user may still allocate on the file system of `dir`.
    fn available(&self, site: Site, dir: &Path) -> Result<u64>;
}

/// Bytes: what a file holds. Written bytes are durable only after [`IoFile::sync`].
pub trait IoFile: Send + Sync {
    /// Length in bytes.
    fn len(&self, site: Site) -> Result<u64>;
    /// Fills `buf` from `at`; returns fewer bytes only at the end of the file. Short reads and EINTR are dealt with inside.
    fn read_at(&self, site: Site, buf: &mut [u8], at: u64) -> Result<usize>;
    /// Writes all of `parts` one after the other from `at`, growing the file when needed. Short writes and EINTR are dealt with inside.
    fn write_at(&self, site: Site, parts: &[&[u8]], at: u64) -> Result<()>;
    /// Writes zeros from `at`, growing the file when needed. For blocks that nobody reads soon: where the system can, they go
    /// around the page cache, and so no later sync of other bytes of the file has to wait for them.
    fn zero(&self, site: Site, at: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let chunk = ZEROS.0.get(..usize::try_from(len - done).unwrap_or(usize::MAX)).unwrap_or(&ZEROS.0);
            self.write_at(site, &[chunk], at.saturating_add(done))?;
            done += chunk.len() as u64;
        }
        Ok(())
    }
    /// Sets the length: cut, or grown with zeros.
    fn set_len(&self, site: Site, len: u64) -> Result<()>;
    /// fdatasync: data, and the metadata needed to read it back.
    fn sync(&self, site: Site) -> Result<()>;
    /// Drops clean pages of the file from the page cache, so that the next read shows what is on disk.
    fn evict(&self, site: Site) -> Result<()>;
}

/// Written at once when zero-filling; lives in the program's zero pages. Aligned for writes around the page cache.
#[repr(align(4096))]
struct Zeros([u8; 256 * 1024]);
static ZEROS: Zeros = Zeros([0; 256 * 1024]);

/// What the operating system answered, with the call and the name it was about.
pub(crate) fn refused(site: Site, path: &Path, error: &std::io::Error) -> StorageError {
    StorageError::Io { site, path: path.to_path_buf(), message: error.to_string(), kind: error.kind(), raw_os_error: error.raw_os_error() }
}
