//! What the simulated disk hands out: open file descriptions and held locks.
//!
//! Owns what each description has been told; the bytes stay with the state, so that a power cut sees all of them.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::super::full::{Calls, read_full, write_full};
use super::super::{DirLock, IoFile, Site, refused};
use super::inode::Inode;
use super::state::{Does, State, error_of};
use super::trace::What;
use super::{Fault, SimDisk};
use crate::error::{Result, StorageError};

/// A held lock. `number` tells this holding from a later one.
pub(super) struct SimLock {
    pub(super) disk: SimDisk,
    pub(super) path: PathBuf,
    pub(super) number: u64,
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.locks.get(&self.path).is_some_and(|(number, _)| *number == self.number) {
            state.locks.remove(&self.path);
        }
    }
}

/// An open file description.
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: u64,
    pub(super) path: PathBuf,
    pub(super) writable: bool,
    /// As the kernel's errseq: a failed sync is reported once to each description that was open when it happened.
    pub(super) failed_syncs_seen: AtomicU64,
}

impl SimFile {
    /// Runs one call about bytes. `work` also runs when a fault was planned, and answers what the fault leaves.
    fn call<T>(&self, site: Site, does: Does, what: What, work: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        let result = state.arrive(site, does).and_then(|fault| work(&mut state, fault));
        state.trace.push(site, what, result.is_ok());
        result
    }

    /// A call that a fault merely replaces by an error.
    fn plain<T>(&self, site: Site, what: What, work: impl FnOnce(&mut Inode) -> T) -> Result<T> {
        let called = self.call(site, Does::Other, what, |state, fault| match fault {
            Some(fault) => Err(error_of(fault)),
            None => Ok(work(state.file(self.inode)?)),
        });
        called.map_err(|e| self.refused(site, &e))
    }

    fn refused(&self, site: Site, error: &io::Error) -> StorageError {
        refused(site, &self.path, error)
    }

    fn may_write(&self, site: Site) -> Result<()> {
        if self.writable { Ok(()) } else { Err(self.refused(site, &Errno::BADF.into())) }
    }

    fn sync_in(&self, state: &mut State, fault: Option<Fault>) -> io::Result<()> {
        // Split so that the file and the dice can be held at once.
        let State { inodes, random, .. } = state;
        let file = inodes.get_mut(&self.inode).ok_or(Errno::BADF)?;
        let seen = self.failed_syncs_seen.load(Ordering::Relaxed);
        match fault {
            Some(fault @ (Fault::PowerOff | Fault::Interrupted)) => return Err(error_of(fault)),
            Some(_) => file.fail_sync(random),
            None => file.sync(),
        }
        self.failed_syncs_seen.store(file.failed_syncs, Ordering::Relaxed);
        match fault {
            Some(fault) => Err(error_of(fault)),
            // Another description's sync failed: this one is told once, and what was lost then is not written now.
            None if file.failed_syncs > seen => Err(Errno::IO.into()),
            None => Ok(()),
        }
    }
}

impl IoFile for SimFile {
    fn len(&self, site: Site) -> Result<u64> {
        self.plain(site, What::Len(self.inode), |file| file.len())
    }

    fn read_at(&self, site: Site, buf: &mut [u8], at: u64) -> Result<usize> {
        read_full(&At { file: self, site }, buf, at).map_err(|e| self.refused(site, &e))
    }

    fn write_at(&self, site: Site, parts: &[&[u8]], at: u64) -> Result<()> {
        self.may_write(site)?;
        write_full(&At { file: self, site }, parts, at).map_err(|e| self.refused(site, &e))
    }

    fn set_len(&self, site: Site, len: u64) -> Result<()> {
        self.may_write(site)?;
        self.plain(site, What::SetLen { inode: self.inode, len }, |file| file.set_len(len))
    }

    fn sync(&self, site: Site) -> Result<()> {
        let synced = self.call(site, Does::Sync, What::Sync(self.inode), |state, fault| self.sync_in(state, fault));
        synced.map_err(|e| self.refused(site, &e))
    }

    fn evict(&self, site: Site) -> Result<()> {
        self.plain(site, What::Evict(self.inode), Inode::evict)
    }
}

/// The single calls of a file at one site.
struct At<'a> {
    file: &'a SimFile,
    site: Site,
}

impl Calls for At<'_> {
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let inode = self.file.inode;
        let what = What::Read { inode, at, len: buf.len() };
        self.file.call(self.site, Does::Read, what, |state, fault| {
            let most = match fault {
                None => buf.len(),
                Some(Fault::Short) => state.random.index_below(buf.len().saturating_sub(1)) + 1,
                Some(fault) => return Err(error_of(fault)),
            };
            let some = buf.get_mut(..most).unwrap_or_default();
            Ok(state.file(inode)?.read(some, at))
        })
    }

    fn pwritev(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let joined;
        let bytes: &[u8] = match parts {
            [one] => one,
            several => {
                let mut all = Vec::with_capacity(several.iter().map(|part| part.len()).sum());
                several.iter().for_each(|part| all.extend_from_slice(part));
                joined = all;
                &joined
            }
        };
        let inode = self.file.inode;
        let what = What::Write { inode, at, len: bytes.len(), sum: crc32fast::hash(bytes) };
        self.file.call(self.site, Does::Write, what, |state, fault| match fault {
            None => state.write(inode, bytes, at),
            Some(fault) => state.faulty_write(inode, bytes, at, fault),
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if let Some(file) = state.inodes.get_mut(&self.inode) {
            file.handles -= 1;
            if !file.linked {
                state.forget_unreachable();
            }
        }
    }
}
