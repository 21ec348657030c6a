//! Disks that lie, to prove that the harness notices: [`Io`] over the real disk with one thing done wrong. Only this program has
//! them; nothing in onelog can be told to use one.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use onelog_storage::error::{Result, StorageError};
use onelog_storage::io::disk::Disk;
use onelog_storage::io::{DirLock, Io, IoFile, Listed, OpenMode, Site};

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// No sync is done.
    WithoutSyncs,
    /// The sync of a commit is done after it was answered.
    EarlyAcks,
    /// What recovery found is not synced before it is served, and not read from the disk but from memory.
    UnsyncedRecovery,
    /// The first failed sync of the log is tried again, and the second answer is believed.
    SyncAgain,
}

/// The disk with a fault, or as it is.
pub fn disk(fault: Option<Fault>) -> Arc<dyn Io> {
    disk_watched(fault, Watch::default())
}

/// As [`disk`]; `watch` sees each failure of the disk, also those the fault hides.
pub fn disk_watched(fault: Option<Fault>, watch: Watch) -> Arc<dyn Io> {
    let late = (fault == Some(Fault::EarlyAcks)).then(|| Arc::new(LateSyncs::start()));
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
    late: Option<Arc<LateSyncs>>,
    watch: Watch,
}

/// A thread that does the syncs it is sent, one after the other; all of them, before the last holder lets go.
struct LateSyncs {
    files: Option<Sender<Arc<dyn IoFile>>>,
    thread: Option<JoinHandle<()>>,
}

impl LateSyncs {
    fn start() -> Self {
        let (send, files) = channel::<Arc<dyn IoFile>>();
        let thread = std::thread::spawn(move || {
            for file in files {
                // Nobody waits for this any more, so nobody hears of a failure: that is the fault.
                let _ = file.sync(Site::LogSync);
            }
        });
        Self { files: Some(send), thread: Some(thread) }
    }

    fn sync_later(&self, file: &Arc<dyn IoFile>) {
        if let Some(files) = &self.files {
            let _ = files.send(Arc::clone(file));
        }
    }
}

impl Drop for LateSyncs {
    fn drop(&mut self) {
        self.files = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
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
        if self.fault == Some(Fault::WithoutSyncs) { Ok(()) } else { self.watch.note(site, Disk.sync_dir(site, dir)) }
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
    late: Option<Arc<LateSyncs>>,
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
            (Some(Fault::WithoutSyncs), _) | (Some(Fault::UnsyncedRecovery), Site::RecoverySync) => Ok(()),
            (Some(Fault::EarlyAcks), Site::LogSync) => {
                if let Some(late) = &self.late {
                    late.sync_later(&self.file);
                }
                Ok(())
            }
            (Some(Fault::SyncAgain), Site::LogSync | Site::SegmentZeroSync) => self.sync_now(site).or_else(|_| self.sync_now(site)),
            _ => self.sync_now(site),
        }
    }

    fn evict(&self, site: Site) -> Result<()> {
        if self.fault == Some(Fault::UnsyncedRecovery) { Ok(()) } else { self.file.evict(site) }
    }
}
