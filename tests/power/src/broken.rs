//! Disks that lie, to prove that the harness notices: [`Io`] over the real disk with one thing done wrong. Only this program has
//! them; nothing in onelog can be told to use one.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};

use onelog_storage::error::{Result, StorageError};
use onelog_storage::io::disk::Disk;
use onelog_storage::io::{DirLock, Io, IoFile, Listed, OpenMode, Site};

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// No sync is done.
    NoSync,
    /// The sync of a commit is done after it was answered.
    AckBeforeSync,
    /// What recovery found is not synced before it is served, and not read from the disk but from memory.
    NoRecoverySync,
    /// The first failed sync of the log is tried again, and the second answer is believed.
    RetryFailedSync,
}

/// The disk with a fault, or as it is.
pub fn disk(fault: Option<Fault>) -> Arc<dyn Io> {
    disk_watched(fault, Watch::default())
}

/// As [`disk`]; `watch` sees each failure of the disk, also those the fault hides.
pub fn disk_watched(fault: Option<Fault>, watch: Watch) -> Arc<dyn Io> {
    let late = (fault == Some(Fault::AckBeforeSync)).then(late_syncs);
    Arc::new(Broken { fault, late, watch })
}

/// Sees the first failure that the disk answered onelog. Clones see the same.
#[derive(Clone, Default)]
pub struct Watch(Arc<OnceLock<Site>>);

impl Watch {
    /// For which call it was.
    pub fn failed(&self) -> Option<Site> {
        self.0.get().copied()
    }

    fn note<T>(&self, site: Site, answer: Result<T>) -> Result<T> {
        if let Err(StorageError::Io { kind, .. }) = &answer
            && *kind != std::io::ErrorKind::NotFound
        {
            let _ = self.0.set(site);
        }
        answer
    }
}

struct Broken {
    fault: Option<Fault>,
    late: Option<Sender<Arc<dyn IoFile>>>,
    watch: Watch,
}

/// Does the syncs it is sent, one after the other.
fn late_syncs() -> Sender<Arc<dyn IoFile>> {
    let (send, files) = channel::<Arc<dyn IoFile>>();
    std::thread::spawn(move || {
        for file in files {
            // Nobody waits for this any more, so nobody hears of a failure: that is the fault.
            let _ = file.sync(Site::LogSync);
        }
    });
    send
}

impl Io for Broken {
    fn open(&self, site: Site, path: &Path, mode: OpenMode) -> Result<Arc<dyn IoFile>> {
        let file = Disk.open(site, path, mode)?;
        Ok(Arc::new(BrokenFile { file, fault: self.fault, late: self.late.clone(), watch: self.watch.clone() }))
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<Listed>> {
        Disk.list(site, dir)
    }

    fn create_dir(&self, site: Site, dir: &Path) -> Result<()> {
        Disk.create_dir(site, dir)
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<()> {
        Disk.rename(site, from, to)
    }

    fn remove(&self, site: Site, path: &Path) -> Result<()> {
        Disk.remove(site, path)
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<()> {
        if self.fault == Some(Fault::NoSync) { Ok(()) } else { self.watch.note(site, Disk.sync_dir(site, dir)) }
    }

    fn lock(&self, site: Site, path: &Path, holder: &str) -> Result<Box<dyn DirLock>> {
        Disk.lock(site, path, holder)
    }

    fn available(&self, site: Site, dir: &Path) -> Result<u64> {
        Disk.available(site, dir)
    }
}

struct BrokenFile {
    file: Arc<dyn IoFile>,
    fault: Option<Fault>,
    late: Option<Sender<Arc<dyn IoFile>>>,
    watch: Watch,
}

impl BrokenFile {
    fn sync_now(&self, site: Site) -> Result<()> {
        self.watch.note(site, self.file.sync(site))
    }
}

impl IoFile for BrokenFile {
    fn len(&self, site: Site) -> Result<u64> {
        self.file.len(site)
    }

    fn read_at(&self, site: Site, buf: &mut [u8], at: u64) -> Result<usize> {
        self.file.read_at(site, buf, at)
    }

    fn write_at(&self, site: Site, parts: &[&[u8]], at: u64) -> Result<()> {
        self.watch.note(site, self.file.write_at(site, parts, at))
    }

    fn set_len(&self, site: Site, len: u64) -> Result<()> {
        self.file.set_len(site, len)
    }

    fn sync(&self, site: Site) -> Result<()> {
        match (self.fault, site) {
            (Some(Fault::NoSync), _) | (Some(Fault::NoRecoverySync), Site::RecoverySync) => Ok(()),
            (Some(Fault::AckBeforeSync), Site::LogSync) => {
                if let Some(late) = &self.late {
                    let _ = late.send(Arc::clone(&self.file));
                }
                Ok(())
            }
            (Some(Fault::RetryFailedSync), Site::LogSync | Site::SegmentZeroSync) => self.sync_now(site).or_else(|_| self.sync_now(site)),
            _ => self.sync_now(site),
        }
    }

    fn evict(&self, site: Site) -> Result<()> {
        if self.fault == Some(Fault::NoRecoverySync) { Ok(()) } else { self.file.evict(site) }
    }
}
