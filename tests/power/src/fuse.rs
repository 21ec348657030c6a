//! The disk as one file, `disk`, of a FUSE filesystem: what a loop device over it writes and flushes arrives here.
//!
//! The file is served with direct I/O, so that the kernel keeps none of it. Requests are answered one after the other, in the
//! order they are read: a write that was answered before a flush was read is covered by that flush.

use std::ffi::OsStr;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::counter::Counter;
use crate::disk::{Disk, Failed, SECTOR};

pub const FILE_NAME: &str = "disk";

const FILE: INodeNo = INodeNo(2);
/// Names and sizes never change.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What the filesystem and the commands share.
pub struct Shared {
    disk: Mutex<Disk>,
    /// Operations of the present life, for all to see.
    ops: Counter,
}

impl Shared {
    pub fn new(disk: Disk, ops: Counter) -> Self {
        Self { disk: Mutex::new(disk), ops }
    }

    /// Lets `work` at the disk; the counter is right afterwards, before anybody is answered.
    pub fn with<T>(&self, work: impl FnOnce(&mut Disk) -> T) -> T {
        let mut disk = self.lock();
        let done = work(&mut disk);
        self.ops.get().store(disk.ops() as u64, SeqCst);
        done
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct DiskFile(pub Arc<Shared>);

impl DiskFile {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_file = inode == FILE;
        let size = if is_file { self.0.lock().len() as u64 } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / SECTOR as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for DiskFile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == FILE_NAME {
            true => reply.entry(&FOR_EVER, &self.attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(&self, _: &Request, _: INodeNo, _: FileHandle, at: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        let mut disk = self.0.lock();
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        disk.note_read(at);
        reply.data(disk.read(at, size as usize));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.with(|disk| disk.write(usize::try_from(at).unwrap_or(usize::MAX), bytes)) {
            Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            Err(Failed) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.with(Disk::flush) {
            Ok(()) => reply.ok(),
            Err(Failed) => reply.error(Errno::EIO),
        }
    }

    /// Closing a file is no flush of the disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
