//! The real disk: [`Io`] and [`IoFile`] over the operating system's files.
//!
//! The loops over short calls and EINTR stand in `full`. Never retries a sync, never hides an error, never
//! decides what is durable: it calls and reports. The only file of this crate that may use `std::fs`.

#![expect(clippy::disallowed_methods, reason = "this is the door to the file system")]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::full::{Calls, read_full, write_full};
use super::{DirLock, Io, IoFile, Listed, OpenMode, Site, ZEROS, refused};
use crate::error::{Result, StorageError};

/// Only the owner reads and writes what we store.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Places and lengths of writes around the page cache are multiples of this; what most devices and file systems ask for.
const DIRECT_ALIGN: u64 = 4096;
/// No longer text of a lock holder is shown.
const HOLDER_BYTES_MAX: usize = 1024;

/// The machine's file systems. Holds no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Io for Disk {
    fn open(&self, site: Site, path: &Path, mode: OpenMode) -> Result<Arc<dyn IoFile>> {
        let file = open_options(mode).open(path).map_err(|e| refused(site, path, &e))?;
        Ok(Arc::new(DiskFile { file, path: path.to_path_buf() }))
    }

    fn list(&self, site: Site, dir: &Path) -> Result<Vec<Listed>> {
        list(dir).map_err(|e| refused(site, dir, &e))
    }

    fn create_dir(&self, site: Site, dir: &Path) -> Result<()> {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(|e| refused(site, dir, &e))
    }

    fn rename(&self, site: Site, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|e| refused(site, from, &e))
    }

    fn remove(&self, site: Site, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(refused(site, path, &error)),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, site: Site, dir: &Path) -> Result<()> {
        // Not `File::sync_all`: std calls again after EINTR, and a sync is called once.
        let synced = File::open(dir).and_then(|opened| Ok(rustix::fs::fsync(&opened)?));
        synced.map_err(|e| refused(site, dir, &e))
    }

    fn lock(&self, site: Site, path: &Path, holder: &str) -> Result<Box<dyn DirLock>> {
        let file = open_options(OpenMode::CreateOrWrite).open(path).map_err(|e| refused(site, path, &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(&file, path)),
            Err(TryLockError::Error(error)) => return Err(refused(site, path, &error)),
        }
        // Over the old name, not after cutting it off: on a full disk the block given up would be gone.
        let named = file.write_all_at(holder.as_bytes(), 0).and_then(|()| file.set_len(holder.len() as u64));
        match named {
            // The lock is held all the same; the name is for people.
            Err(error) if error.kind() != ErrorKind::StorageFull => Err(refused(site, path, &error)),
            _ => Ok(Box::new(DiskLock { _file: file })),
        }
    }

    fn available(&self, site: Site, dir: &Path) -> Result<u64> {
        let found = rustix::fs::statvfs(dir).map_err(|e| refused(site, dir, &e.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

fn open_options(mode: OpenMode) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).mode(FILE_MODE);
    match mode {
        OpenMode::Read => &mut options,
        OpenMode::Write => options.write(true),
        OpenMode::CreateOrWrite => options.write(true).create(true),
        OpenMode::CreateNew => options.write(true).create_new(true),
    };
    options
}

fn list(dir: &Path) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since the directory was read: the same as never listed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_dir = metadata.is_dir();
        let len = if is_dir { 0 } else { metadata.len() };
        found.push(Listed { name: entry.file_name().to_string_lossy().into_owned(), len, is_dir });
    }
    Ok(found)
}

/// The refusal that names who holds the lock, as far as the holder has written its name.
fn locked(file: &File, path: &Path) -> StorageError {
    let mut text = vec![0; HOLDER_BYTES_MAX];
    let filled = read_full(file, &mut text, 0).unwrap_or(0);
    text.truncate(filled);
    let text = String::from_utf8_lossy(&text);
    let holder = if text.trim().is_empty() { "another process" } else { text.trim() };
    StorageError::Locked { dir: path.parent().unwrap_or(path).to_path_buf(), holder: holder.to_owned() }
}

/// The lock lives as long as this open file: closing it, or the death of the process, releases it.
struct DiskLock {
    _file: File,
}

impl DirLock for DiskLock {}

struct DiskFile {
    file: File,
    path: PathBuf,
}

impl DiskFile {
    fn refused(&self, site: Site, error: &io::Error) -> StorageError {
        refused(site, &self.path, error)
    }
}

impl IoFile for DiskFile {
    fn len(&self, site: Site) -> Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|e| self.refused(site, &e))
    }

    fn read_at(&self, site: Site, buf: &mut [u8], at: u64) -> Result<usize> {
        read_full(&self.file, buf, at).map_err(|e| self.refused(site, &e))
    }

    fn write_at(&self, site: Site, parts: &[&[u8]], at: u64) -> Result<()> {
        write_full(&self.file, parts, at).map_err(|e| self.refused(site, &e))
    }

    fn zero(&self, site: Site, at: u64, len: u64) -> Result<()> {
        zero(&self.file, at, len).map_err(|e| self.refused(site, &e))
    }

    fn set_len(&self, site: Site, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| self.refused(site, &e))
    }

    fn sync(&self, site: Site) -> Result<()> {
        // Not `File::sync_data`: std calls again after EINTR, and a sync is called once.
        rustix::fs::fdatasync(&self.file).map_err(|e| self.refused(site, &e.into()))
    }

    fn evict(&self, site: Site) -> Result<()> {
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| self.refused(site, &e.into()))
    }
}

impl Calls for File {
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.read_at(buf, at)
    }

    fn pwritev(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, parts, at)?)
    }
}

/// Writes zeros around the page cache; through it where the system, the file system or the place does not allow that.
fn zero(file: &File, mut at: u64, len: u64) -> io::Result<()> {
    let end = at.saturating_add(len);
    let mut direct = at.is_multiple_of(DIRECT_ALIGN) && end.is_multiple_of(DIRECT_ALIGN) && set_direct(file, true).is_ok();
    let mut result = Ok(());
    while at < end && result.is_ok() {
        let rest = usize::try_from(end - at).unwrap_or(usize::MAX);
        let chunk = ZEROS.0.get(..rest).unwrap_or(&ZEROS.0);
        match rustix::io::pwrite(file, chunk, at) {
            Ok(0) => result = Err(ErrorKind::WriteZero.into()),
            Ok(bytes) => at = at.saturating_add(bytes as u64),
            Err(rustix::io::Errno::INTR) => {}
            // A block size above ours, or a short write that left us between blocks.
            Err(rustix::io::Errno::INVAL) if direct => {
                direct = false;
                result = set_direct(file, false);
            }
            Err(error) => result = Err(error.into()),
        }
    }
    if direct { result.and(set_direct(file, false)) } else { result }
}

/// Whether writes of this open file go around the page cache from now on.
fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let flags = if on { flags | OFlags::DIRECT } else { flags.difference(OFlags::DIRECT) };
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        (dir, path)
    }

    #[test]
    fn what_was_written_in_parts_is_read_back_and_a_read_ends_with_the_file() {
        let (_dir, path) = fresh();
        let file = Disk.open(Site::StoreWrite, &path, OpenMode::CreateNew).unwrap();
        file.write_at(Site::StoreWrite, &[b"one ", b"", b"two ", b"three"], 3).unwrap();
        file.sync(Site::StoreSync).unwrap();
        file.evict(Site::RecoveryEvict).unwrap();
        assert_eq!(file.len(Site::StoreRead).unwrap(), 16);
        let mut text = [b'?'; 20];
        assert_eq!(file.read_at(Site::StoreRead, &mut text, 0).unwrap(), 16);
        assert_eq!(&text, b"\0\0\0one two three????");
        assert_eq!(file.read_at(Site::StoreRead, &mut text, 16).unwrap(), 0);
        assert_eq!(file.read_at(Site::StoreRead, &mut text, 99).unwrap(), 0);
        file.set_len(Site::StoreWrite, 2).unwrap();
        assert_eq!(file.len(Site::StoreRead).unwrap(), 2);
    }

    #[test]
    fn zeros_are_written_over_old_bytes_and_leave_the_neighbours_alone() {
        let (_dir, path) = fresh();
        let file = Disk.open(Site::SegmentCreate, &path, OpenMode::CreateNew).unwrap();
        for (at, len) in [(4096, 1024 * 1024), (512, 700_000), (0, 4096), (8192, 0)] {
            file.write_at(Site::SegmentZero, &[&vec![b'x'; 2_000_000]], 0).unwrap();
            file.zero(Site::SegmentZero, at, len).unwrap();
            let mut read = vec![0; 2_000_000];
            assert_eq!(file.read_at(Site::LogRead, &mut read, 0).unwrap(), 2_000_000);
            let wrong = read.iter().zip(0u64..).position(|(byte, place)| (*byte == 0) != (at..at + len).contains(&place));
            assert_eq!(wrong, None, "{len} zeros at {at}");
        }
        file.zero(Site::SegmentZero, 1 << 22, 4096).unwrap();
        assert_eq!(file.len(Site::StoreRead).unwrap(), (1 << 22) + 4096, "zeros behind the end make the file longer");
        file.write_at(Site::SegmentZero, &[b"odd"], 1).unwrap();
    }

    #[test]
    fn more_parts_than_one_call_takes_are_all_written() {
        let (_dir, path) = fresh();
        let file = Disk.open(Site::LogWrite, &path, OpenMode::CreateOrWrite).unwrap();
        let numbers: Vec<[u8; 4]> = (0..3000_u32).map(u32::to_le_bytes).collect();
        let parts: Vec<&[u8]> = numbers.iter().map(<[u8; 4]>::as_slice).collect();
        file.write_at(Site::LogWrite, &parts, 0).unwrap();
        let mut read = vec![0; 12_000];
        assert_eq!(file.read_at(Site::LogRead, &mut read, 0).unwrap(), 12_000);
        assert_eq!(read, numbers.concat());
    }

    #[test]
    fn files_and_directories_belong_to_their_owner_alone() {
        let (dir, path) = fresh();
        Disk.open(Site::StoreWrite, &path, OpenMode::CreateNew).unwrap();
        let (parent, child) = (dir.path().join("a"), dir.path().join("a/b"));
        Disk.create_dir(Site::DirCreate, &child).unwrap();
        Disk.create_dir(Site::DirCreate, &child).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&parent), mode(&child)), (0o600, 0o700, 0o700));
    }

    #[test]
    fn names_come_and_go() {
        let (dir, path) = fresh();
        let kind = |result: Result<_>| match result.map(|_: Arc<dyn IoFile>| ()) {
            Err(StorageError::Io { kind, .. }) => Some(kind),
            _ => None,
        };
        assert_eq!(kind(Disk.open(Site::SegmentOpen, &path, OpenMode::Read)), Some(ErrorKind::NotFound));
        assert_eq!(kind(Disk.open(Site::SegmentOpen, &path, OpenMode::Write)), Some(ErrorKind::NotFound));
        Disk.open(Site::SegmentCreate, &path, OpenMode::CreateNew).unwrap();
        assert_eq!(kind(Disk.open(Site::SegmentCreate, &path, OpenMode::CreateNew)), Some(ErrorKind::AlreadyExists));
        let renamed = dir.path().join("renamed");
        Disk.rename(Site::SegmentRecycle, &path, &renamed).unwrap();
        Disk.sync_dir(Site::DirSync, dir.path()).unwrap();
        let listed = Disk.list(Site::DirList, dir.path()).unwrap();
        assert_eq!(listed, [Listed { name: "renamed".to_owned(), len: 0, is_dir: false }]);
        Disk.remove(Site::SegmentRemove, &renamed).unwrap();
        Disk.remove(Site::SegmentRemove, &renamed).unwrap();
        assert!(Disk.list(Site::DirList, dir.path()).unwrap().is_empty());
        assert!(Disk.list(Site::DirList, &path).is_err());
        assert!(Disk.available(Site::SpaceQuery, dir.path()).unwrap() > 0);
    }

    #[test]
    fn a_second_lock_fails_and_names_the_holder() {
        let (dir, path) = fresh();
        let first = Disk.lock(Site::LockFile, &path, "a rather long name of the first holder").unwrap();
        match Disk.lock(Site::LockFile, &path, "second").map(|_| ()) {
            Err(StorageError::Locked { dir: at, holder }) => {
                assert_eq!(at, dir.path());
                assert_eq!(holder, "a rather long name of the first holder");
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        let _second = Disk.lock(Site::LockFile, &path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    }

    #[test]
    fn an_error_carries_site_path_and_number() {
        let (dir, _) = fresh();
        let missing = dir.path().join("missing");
        match Disk.sync_dir(Site::DirSync, &missing) {
            Err(StorageError::Io { site, path, kind, raw_os_error, .. }) => {
                assert_eq!((site, path, kind, raw_os_error), (Site::DirSync, missing, ErrorKind::NotFound, Some(2)));
            }
            other => panic!("{other:?}"),
        }
    }
}
