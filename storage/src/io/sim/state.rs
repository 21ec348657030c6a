//! The state of the simulated machine: its names, files, locks, limits and planned faults, and what each call does to them.
//!
//! Answers in the words of the operating system (`io::Error`); knows no [`Io`](super::super::Io) trait and no caller.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::super::{Listed, OpenMode, Site};
use super::Fault;
use super::inode::{Inode, PAGE};
use super::names::{Names, Node};
use super::random::Random;
use super::trace::Trace;

/// What is free on a disk without a limit.
const UNLIMITED_BYTES: u64 = 1 << 50;

/// Everything the disk is, under one lock: calls have an order, and so has the trace.
pub(super) struct State {
    pub(super) random: Random,
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    /// Held locks: their path, and the number that tells one holding from the next.
    pub(super) locks: BTreeMap<PathBuf, (u64, String)>,
    pub(super) locks_taken: u64,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) faults: Vec<(Site, u64, Fault)>,
    pub(super) happened: Vec<(Site, Fault)>,
    pub(super) calls: BTreeMap<Site, u64>,
    pub(super) calls_of_all_sites: u64,
    pub(super) power_off_at: Option<u64>,
    pub(super) is_off: bool,
    pub(super) trace: Trace,
}

impl State {
    pub(super) fn new(random: Random, names: Names, inodes: BTreeMap<u64, Inode>) -> Self {
        Self {
            random,
            names,
            inodes,
            next_inode: 1,
            locks: BTreeMap::new(),
            locks_taken: 0,
            capacity_bytes: None,
            faults: Vec::new(),
            happened: Vec::new(),
            calls: BTreeMap::new(),
            calls_of_all_sites: 0,
            power_off_at: None,
            is_off: false,
            trace: Trace::default(),
        }
    }

    /// Counts a call. Fails when the machine is off; answers the fault that was planned for this call.
    pub(super) fn arrive(&mut self, site: Site, does: Does) -> io::Result<Option<Fault>> {
        let calls = self.calls.entry(site).or_default();
        *calls += 1;
        let calls = *calls;
        self.calls_of_all_sites += 1;
        if self.is_off {
            return Err(error_of(Fault::PowerOff));
        }
        let planned = self.faults.iter().position(|(of, at, _)| *of == site && *at == calls);
        let mut fault = planned.map(|index| self.faults.swap_remove(index).2).filter(|fault| fault.can_happen(does));
        self.happened.extend(fault.map(|fault| (site, fault)));
        if self.power_off_at == Some(self.calls_of_all_sites) {
            fault = Some(Fault::PowerOff);
        }
        self.is_off = fault == Some(Fault::PowerOff);
        Ok(fault)
    }

    pub(super) fn file(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| Errno::BADF.into())
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        if !self.names.has_parent(path) {
            return Err(Errno::NOENT.into());
        }
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, Inode::new());
        self.names.put(path, Node::File(number));
        Ok(number)
    }

    pub(super) fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<u64> {
        match (self.names.get(path), mode) {
            (Some(Node::Dir), _) => Err(Errno::ISDIR.into()),
            (Some(Node::File(_)), OpenMode::CreateNew) => Err(Errno::EXIST.into()),
            (Some(Node::File(inode)), _) => Ok(inode),
            (None, OpenMode::Read | OpenMode::Write) => Err(Errno::NOENT.into()),
            (None, OpenMode::CreateOrWrite | OpenMode::CreateNew) => self.create(path),
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        if !self.names.is_dir(dir) {
            return Err(Errno::NOENT.into());
        }
        let listed = self.names.list(dir).map(|(path, node)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match node {
                Node::Dir => Listed { name, len: 0, is_dir: true },
                Node::File(inode) => Listed { name, len: self.inodes.get(&inode).map_or(0, Inode::len), is_dir: false },
            }
        });
        Ok(listed.collect())
    }

    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = dir.ancestors().take_while(|above| !self.names.is_dir(above)).collect();
        while let Some(next) = missing.pop() {
            match self.names.get(next) {
                Some(_) => return Err(Errno::EXIST.into()),
                None => self.names.put(next, Node::Dir),
            }
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if from.parent() != to.parent() {
            return Err(io::Error::other("renames between directories are not simulated"));
        }
        let Some(Node::File(moved)) = self.names.get(from) else { return Err(Errno::NOENT.into()) };
        if from == to {
            return Ok(());
        }
        let replaced = self.names.get(to);
        self.names.rename(from, to, Node::File(moved));
        self.unlink(replaced);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            None => Ok(()),
            Some(Node::Dir) => Err(Errno::ISDIR.into()),
            found => {
                self.names.remove(path);
                self.unlink(found);
                Ok(())
            }
        }
    }

    fn unlink(&mut self, node: Option<Node>) {
        if let Some(Node::File(inode)) = node
            && let Some(file) = self.inodes.get_mut(&inode)
        {
            file.linked = false;
            self.forget_unreachable();
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.names.is_dir(dir) {
            return Err(Errno::NOENT.into());
        }
        self.names.sync(dir);
        self.forget_unreachable();
        Ok(())
    }

    /// Drops files that no name, no open handle and no power cut could lead to.
    pub(super) fn forget_unreachable(&mut self) {
        let names = &self.names;
        self.inodes.retain(|number, file| file.linked || file.handles > 0 || names.mention(*number));
    }

    pub(super) fn lock(&mut self, path: &Path, holder: &str) -> Result<u64, Refusal> {
        if let Some((_, held_by)) = self.locks.get(path) {
            return Err(Refusal::Held(held_by.clone()));
        }
        let inode = self.open(path, OpenMode::CreateOrWrite).map_err(Refusal::Io)?;
        let file = self.file(inode).map_err(Refusal::Io)?;
        file.set_len(0);
        file.write(holder.as_bytes(), 0);
        self.locks_taken += 1;
        self.locks.insert(path.to_path_buf(), (self.locks_taken, holder.to_owned()));
        Ok(self.locks_taken)
    }

    fn free_pages(&self) -> usize {
        let Some(capacity) = self.capacity_bytes else { return usize::MAX };
        let used: usize = self.inodes.values().filter(|file| file.linked || file.handles > 0).map(Inode::allocated).sum();
        usize::try_from(capacity).unwrap_or(usize::MAX).wrapping_div(PAGE).saturating_sub(used)
    }

    pub(super) fn available(&self) -> u64 {
        if self.capacity_bytes.is_none() { UNLIMITED_BYTES } else { (self.free_pages() as u64).saturating_mul(PAGE as u64) }
    }

    /// Writes as far as there is space, as a real write does; only when nothing fits it says so.
    pub(super) fn write(&mut self, inode: u64, bytes: &[u8], at: u64) -> io::Result<usize> {
        let free = self.free_pages();
        let file = self.file(inode)?;
        let fitting = file.fitting(at, bytes.len(), free);
        if fitting == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC.into());
        }
        file.write(bytes.get(..fitting).unwrap_or(bytes), at);
        Ok(fitting)
    }

    pub(super) fn faulty_write(&mut self, inode: u64, bytes: &[u8], at: u64, fault: Fault) -> io::Result<usize> {
        let done = match fault {
            Fault::ShortThenError => self.random.index_below(bytes.len()),
            Fault::Short => self.random.index_below(bytes.len().saturating_sub(1)) + 1,
            Fault::PowerOff | Fault::Lost | Fault::Misdirected => bytes.len(),
            Fault::Eio | Fault::Enospc | Fault::Interrupted => 0,
        };
        let written = if done == 0 { 0 } else { self.write(inode, bytes.get(..done).unwrap_or(bytes), at)? };
        if matches!(fault, Fault::Lost | Fault::Misdirected) {
            let State { inodes, random, .. } = self;
            let elsewhere = (fault == Fault::Misdirected).then_some(random);
            let file = inodes.get_mut(&inode).ok_or(Errno::BADF)?;
            file.lose(bytes.get(..written).unwrap_or(bytes), at, elsewhere);
        }
        match fault {
            Fault::Short | Fault::Lost | Fault::Misdirected => Ok(written),
            fault => Err(error_of(fault)),
        }
    }
}

/// What kind of call it is, as far as faults differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    Read,
    Write,
    Sync,
    Other,
}

impl Fault {
    fn can_happen(self, does: Does) -> bool {
        match self {
            Self::Eio | Self::Enospc | Self::ShortThenError | Self::PowerOff => true,
            Self::Short => matches!(does, Does::Read | Does::Write),
            Self::Interrupted => does != Does::Other,
            Self::Lost | Self::Misdirected => does == Does::Write,
        }
    }
}

/// Why a lock was not given.
pub(super) enum Refusal {
    Held(String),
    Io(io::Error),
}

pub(super) fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Eio | Fault::ShortThenError => Errno::IO.into(),
        Fault::Enospc => Errno::NOSPC.into(),
        Fault::Interrupted => Errno::INTR.into(),
        Fault::PowerOff => io::Error::other("the simulated machine is off"),
        // These are no errors to whoever calls.
        Fault::Short | Fault::Lost | Fault::Misdirected => io::Error::other("a fault that does not show"),
    }
}
