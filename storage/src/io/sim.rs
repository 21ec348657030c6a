//! The simulated disk: [`Io`] and [`IoFile`] in memory, with everything a real disk may do to bytes that were not synced.
//!
//! Owns one seed and, of it, every loss and every fault: the same seed and the same calls give the same bytes and the same
//! trace. Bytes and their durability live in `inode`, names and theirs in `names`, the odds of a power cut in `cut`,
//! and what a call does in `state`.
//! Stricter than most file systems: a name is lost without a sync of its directory, also that of a directory itself, and
//! syncs of data cover no name. Never touches the real disk and never asks the system for time or randomness.

mod cut;
mod file;
mod inode;
mod names;
mod random;
mod state;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use self::cut::Odds;
pub use self::cut::PowerCut;
use self::file::{SimFile, SimLock};
use self::inode::Inode;
use self::names::{Names, Node};
use self::random::Random;
use self::state::{Does, Refusal, State, error_of};
use self::trace::What;
use super::{DirLock, Io, IoFile, Listed, OpenMode, Site, refused};
use crate::error::{Result, StorageError};

/// What goes wrong at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO, without effect; at a sync some pending sectors arrive, the others are lost and count as clean.
    Eio,
    /// ENOSPC, without effect; at a sync as [`Fault::Eio`].
    Enospc,
    /// A write that does a part of its work and then answers EIO. Elsewhere as [`Fault::Eio`].
    ShortThenError,
    /// A read or write that does a part of its work and says so. Elsewhere nothing happens.
    Short,
    /// EINTR, without effect: of a read, a write or a sync. Elsewhere nothing happens.
    Interrupted,
    /// A write that is answered ok, shown by the cache and synced, and never reaches the disk. Elsewhere nothing happens.
    Lost,
    /// As [`Fault::Lost`], and the disk puts the bytes over another place of the same file.
    Misdirected,
    /// The machine is off from here on: every call fails. A write still reaches the cache, so a cut may keep any part of it.
    PowerOff,
}

/// A disk in memory. Clones are the same disk; [`SimDisk::crash_clone`] makes another one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk that holds only its root, `/`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_dir(seed, Path::new("/"))
    }

    /// An empty disk on which `dir` and the directories above it are there, durably.
    #[must_use]
    pub fn with_dir(seed: u64, dir: &Path) -> Self {
        Self::of(State::new(Random::new(seed), Names::with_dir(dir), BTreeMap::new()))
    }

    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk a power cut would leave now, after a restart: no lock, no fault, nothing open. This disk goes on.
    #[must_use]
    pub fn crash_clone(&self, seed: u64) -> Self {
        self.crash_clone_with(seed, PowerCut::Hostile)
    }

    /// As [`SimDisk::crash_clone`], with a chosen kind of cut.
    #[must_use]
    pub fn crash_clone_with(&self, seed: u64, cut: PowerCut) -> Self {
        let state = self.state.lock();
        let mut random = Random::new(seed);
        let odds = Odds::throw(cut, &mut random);
        let names = state.names.crash(odds, &mut random);
        let crashed = |inode| Some((inode, state.inodes.get(&inode)?.crash(odds, &mut Random::of_part(seed, inode))));
        let inodes = names.files().filter_map(crashed).collect();
        let mut left = State::new(random, names, inodes);
        left.next_inode = state.next_inode;
        left.capacity_bytes = state.capacity_bytes;
        Self::of(left)
    }

    /// The disk as the next process finds it after the death of the one that used it: no lock, no fault, nothing open, and
    /// everything that was written in the cache, synced or not. This disk goes on.
    #[must_use]
    pub fn kill_clone(&self, seed: u64) -> Self {
        let state = self.state.lock();
        // A file whose removal is not durable may come back with a power cut.
        let reachable = state.inodes.iter().filter(|(number, file)| file.linked || state.names.mention(**number));
        let inodes = reachable.map(|(number, file)| (*number, file.reopened())).collect();
        let mut left = State::new(Random::new(seed), state.names.clone(), inodes);
        left.next_inode = state.next_inode;
        left.capacity_bytes = state.capacity_bytes;
        Self::of(left)
    }

    /// Lets `fault` happen at the `nth` call of `site` from now, 1 being the next. It happens once.
    pub fn fail(&self, site: Site, nth: u64, fault: Fault) {
        let mut state = self.state.lock();
        let at = state.calls.get(&site).copied().unwrap_or(0).saturating_add(nth);
        state.faults.push((site, at, fault));
    }

    /// Turns the machine off at the `nth` call of any site from now, 1 being the next.
    pub fn power_off_after(&self, nth: u64) {
        let mut state = self.state.lock();
        state.power_off_at = Some(state.calls_of_all_sites.saturating_add(nth));
    }

    /// The planned faults that happened so far.
    #[must_use]
    pub fn happened(&self) -> Vec<(Site, Fault)> {
        self.state.lock().happened.clone()
    }

    /// Every file by name, with the bytes a reader would see. Counts as no call.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state.lock();
        let read = |inode| state.inodes.get(&inode).map(Inode::bytes).unwrap_or_default();
        state.names.named_files().map(|(path, inode)| (path.to_path_buf(), read(inode))).collect()
    }

    /// Whether a planned moment has turned the machine off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().is_off
    }

    /// Calls of one site so far.
    #[must_use]
    pub fn calls_of(&self, site: Site) -> u64 {
        self.state.lock().calls.get(&site).copied().unwrap_or(0)
    }

    /// Calls so far, of every site: how many moments there are to turn the machine off.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls_of_all_sites
    }

    /// Limits what may be allocated, in bytes; `None` takes the limit away. Counted in pages of 4 KiB; holes are free.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Overwrites durable bytes behind everyone's back, as a failing medium does. Nothing happens when there is no such file.
    pub fn damage(&self, path: &Path, bytes: &[u8], at: u64) {
        let mut state = self.state.lock();
        if let Some(Node::File(inode)) = state.names.get(path)
            && let Some(file) = state.inodes.get_mut(&inode)
        {
            file.damage(bytes, at);
        }
    }

    /// Every call so far, one line each.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.state.lock().trace.lines()
    }

    /// Runs one call about a name: counts it, lets a planned fault happen instead, and traces it.
    fn named<T>(&self, site: Site, path: &Path, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.named_as(Does::Other, site, path, work)
    }

    fn named_as<T>(&self, does: Does, site: Site, path: &Path, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        let arrived = state.arrive(site, does).and_then(|fault| fault.map_or(Ok(()), |fault| Err(error_of(fault))));
        let result = arrived.map_err(|e| refused(site, path, &e)).and_then(|()| work(&mut state));
        state.trace.push(site, What::Name(path.to_path_buf()), result.is_ok());
        result
    }
}

impl Io for SimDisk {
    fn open(&self, site: Site, path: &Path, mode: OpenMode) -> Result<Arc<dyn IoFile>> {
        self.named(site, path, |state| {
            let inode = state.open(path, mode).map_err(|e| refused(site, path, &e))?;
            let file = state.file(inode).map_err(|e| refused(site, path, &e))?;
            file.handles += 1;
            let failed_syncs_seen = AtomicU64::new(file.failed_syncs);
            let disk = self.clone();
            let opened = SimFile { disk, inode, path: path.to_path_buf(), writable: mode != OpenMode::Read, failed_syncs_seen };
            Ok(Arc::new(opened) as Arc<dyn IoFile>)
        })
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<Listed>> {
        self.named(site, dir, |state| state.list(dir).map_err(|e| refused(site, dir, &e)))
    }

    fn create_dir(&self, site: Site, dir: &Path) -> Result<()> {
        self.named(site, dir, |state| state.create_dir(dir).map_err(|e| refused(site, dir, &e)))
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<()> {
        self.named(site, from, |state| state.rename(from, to).map_err(|e| refused(site, from, &e)))
    }

    fn remove(&self, site: Site, path: &Path) -> Result<()> {
        self.named(site, path, |state| state.remove(path).map_err(|e| refused(site, path, &e)))
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<()> {
        self.named_as(Does::Sync, site, dir, |state| state.sync_dir(dir).map_err(|e| refused(site, dir, &e)))
    }

    fn lock(&self, site: Site, path: &Path, holder: &str) -> Result<Box<dyn DirLock>> {
        self.named(site, path, |state| match state.lock(path, holder) {
            Ok(number) => Ok(Box::new(SimLock { disk: self.clone(), path: path.to_path_buf(), number }) as Box<dyn DirLock>),
            Err(Refusal::Held(holder)) => Err(StorageError::Locked { dir: path.parent().unwrap_or(path).to_path_buf(), holder }),
            Err(Refusal::Io(error)) => Err(refused(site, path, &error)),
        })
    }

    fn available(&self, site: Site, dir: &Path) -> Result<u64> {
        self.named(site, dir, |state| Ok(state.available()))
    }
}
