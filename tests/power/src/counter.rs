//! A number in memory that two processes share: the disk's process counts its operations, the others look at it at the very
//! moment they are answered. One writer, any number of readers.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags};

/// One page.
const BYTES: usize = 4096;

/// Mapped until the process ends.
#[derive(Clone, Copy)]
pub struct Counter(NonNull<AtomicU64>);

// SAFETY: what it points at is mapped until the process ends and is only reached as an atomic.
unsafe impl Send for Counter {}
// SAFETY: as above.
unsafe impl Sync for Counter {}

impl Counter {
    /// Shared with whoever opens the same file; made when it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).context("the counter's file")?;
        file.set_len(BYTES as u64)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address the kernel chooses, never unmapped; nobody makes the file shorter.
        let mapped = unsafe { rustix::mm::mmap(std::ptr::null_mut(), BYTES, protection, flags, &file, 0) };
        let mapped = mapped.context("mapping the counter")?;
        Ok(Self(NonNull::new(mapped.cast()).context("the counter is mapped at zero")?))
    }

    pub fn get(&self) -> &AtomicU64 {
        // SAFETY: a page is larger than an atomic and begins where one may; it stays mapped.
        unsafe { self.0.as_ref() }
    }
}
