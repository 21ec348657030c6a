//! What the simulated disk hands out: open file descriptions and held locks.
//!
//! Owns what each description has been told; the bytes stay with the state, so that a power cut sees all of them.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::super::{DirLock, IoFile, Site, refused};
use super::inode::Inode;
use super::state::{State, error_of};
use super::trace::What;
use super::{Fault, SimDisk};
use crate::error::Result;

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
    fn call<T>(&self, site: Site, what: What, work: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>) -> Result<T> {
        let mut state = self.disk.state.lock();
        let result = state.arrive(site).and_then(|fault| work(&mut state, fault));
        state.trace.push(site, what, result.is_ok());
        result.map_err(|e| refused(site, &self.path, &e))
    }

    /// A call that a fault merely replaces by an error.
    fn plain<T>(&self, site: Site, what: What, work: impl FnOnce(&mut Inode) -> T) -> Result<T> {
        self.call(site, what, |state, fault| match fault {
            Some(fault) => Err(error_of(fault)),
            None => Ok(work(state.file(self.inode)?)),
        })
    }

    fn may_write(&self, site: Site) -> Result<()> {
        if self.writable { Ok(()) } else { Err(refused(site, &self.path, &Errno::BADF.into())) }
    }

    fn sync_in(&self, state: &mut State, fault: Option<Fault>) -> io::Result<()> {
        // Split so that the file and the dice can be held at once.
        let State { inodes, random, .. } = state;
        let file = inodes.get_mut(&self.inode).ok_or(Errno::BADF)?;
        let seen = self.failed_syncs_seen.load(Ordering::Relaxed);
        match fault {
            Some(Fault::PowerOff) => return Err(error_of(Fault::PowerOff)),
            Some(Fault::Eio | Fault::Enospc | Fault::ShortThenError) => file.fail_sync(random),
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
        self.plain(site, What::Read { inode: self.inode, at, len: buf.len() }, |file| file.read(buf, at))
    }

    fn write_at(&self, site: Site, parts: &[&[u8]], at: u64) -> Result<()> {
        self.may_write(site)?;
        let joined;
        let bytes = match parts {
            [one] => *one,
            several => {
                joined = several.concat();
                &joined
            }
        };
        let what = What::Write { inode: self.inode, at, len: bytes.len(), sum: crc32fast::hash(bytes) };
        self.call(site, what, |state, fault| match fault {
            None => state.write(self.inode, bytes, at),
            Some(fault) => Err(state.faulty_write(self.inode, bytes, at, fault)),
        })
    }

    fn set_len(&self, site: Site, len: u64) -> Result<()> {
        self.may_write(site)?;
        self.plain(site, What::SetLen { inode: self.inode, len }, |file| file.set_len(len))
    }

    fn sync(&self, site: Site) -> Result<()> {
        self.call(site, What::Sync(self.inode), |state, fault| self.sync_in(state, fault))
    }

    fn evict(&self, site: Site) -> Result<()> {
        self.plain(site, What::Evict(self.inode), Inode::evict)
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
