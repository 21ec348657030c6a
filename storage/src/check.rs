//! Offline verification: reads every byte of the log that should be whole and says what is lost. Changes nothing but
//! the text in the lock file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::BatchView;
use crate::error::{Result, StorageError};
use crate::index::Backend;
use crate::io::{Io, Site};
use crate::layout;
use crate::log::Log;
use crate::log::commit::{Commit, EntryKind};
use crate::log::entry::{PartitionNumbers, Records};
use crate::log::scan::Scan;
use crate::log::segment::Segments;
use crate::recovery::last_contiguous_run;
use crate::store_file::StoreFile;
use crate::types::{Offset, PartitionId, Position};

/// Something that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub position: Position,
    /// Where whole commits go on, if they do; what lies between is lost.
    pub until: Option<Position>,
    pub what: String,
}

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    pub segments: u64,
    pub segment_bytes: u64,
    pub start: Position,
    /// Behind the last whole commit.
    pub end: Position,
    pub commits: u64,
    pub records: u64,
    pub events: u64,
    pub bytes: u64,
    pub partitions: u64,
    /// Bytes behind the end that were never acknowledged, in words.
    pub torn_tail: Option<String>,
    /// Position up to which the index saves work when opening.
    pub checkpoint: Option<Position>,
    /// Why the index will be rebuilt, if it will.
    pub index: Option<String>,
    pub damages: Vec<Damage>,
}

/// Verifies the directory. Fails only when it cannot be read at all, or is in use.
pub fn check_dir(io: &Arc<dyn Io>, dir: &Path, holder: &str) -> Result<CheckReport> {
    let Some(store) = StoreFile::read(&**io, dir)? else {
        return Err(StorageError::NotAStore { dir: dir.to_owned(), what: "it has no STORE file".into() });
    };
    let _lock = io.lock(Site::LockFile, &layout::lock_file(dir), holder)?;
    let segments = Segments::open(Arc::clone(io), dir, store.segment_bytes)?;
    let log = Log::new(Arc::clone(io), dir.to_owned(), segments, 0);
    let mut check = Check { log: &log, next_offsets: HashMap::new(), report: CheckReport::default() };
    check.report.segments = log.segments.firsts().len() as u64;
    check.report.segment_bytes = store.segment_bytes;
    let checkpoint = check.look_at_index(io, dir, &store);
    check.walk(checkpoint.unwrap_or_default())?;
    check.report.partitions = check.next_offsets.len() as u64;
    Ok(check.report)
}

struct Check<'a> {
    log: &'a Log,
    next_offsets: HashMap<PartitionId, Offset>,
    report: CheckReport,
}

impl Check<'_> {
    /// The position the checkpoint knows to be durable.
    fn look_at_index(&mut self, io: &Arc<dyn Io>, dir: &Path, store: &StoreFile) -> Option<Position> {
        let listed = io.list(Site::DirList, dir).unwrap_or_default();
        if !listed.iter().any(|entry| layout::redb_file(dir).ends_with(&entry.name)) {
            self.report.index = Some("there is no index file".into());
            return None;
        }
        // What opening would repair is held back and forgotten.
        let opened = Backend::Redb.open_held(io, dir, INDEX_CACHE_BYTES);
        let read = opened.and_then(|(index, _held)| crate::checkpoint::CheckpointMeta::read(&*index));
        match read {
            Ok(Some(meta)) if meta.store_id == store.id => {
                self.report.checkpoint = Some(meta.tip.end);
                self.report.start = meta.log_start;
                Some(meta.tip.end)
            }
            Ok(_) => {
                self.report.index = Some("the index holds no checkpoint of this store".into());
                None
            }
            Err(error) => {
                self.report.index = Some(format!("the index cannot be read: {error}"));
                None
            }
        }
    }

    fn walk(&mut self, known_durable: Position) -> Result<()> {
        let first = last_contiguous_run(&self.log.segments);
        let mut scan = Scan::from_start(self.log, self.log.segments.first_of(self.report.start.max(first)));
        self.report.start = scan.tip().end;
        let mut log_start = Position(0);
        loop {
            while let Some(commit) = scan.next_commit()? {
                log_start = log_start.max(commit.header.log_start);
                self.look_at(&commit);
            }
            let end = scan.tip().end;
            let beyond = scan.evidence_beyond_end()?;
            self.report.end = end;
            let is_proven = scan.proven() > end || known_durable > end || beyond.is_some();
            if !is_proven {
                self.report.torn_tail = (scan.stopped() != "no commit header").then(|| scan.stopped().to_owned());
                break;
            }
            self.damage(end, beyond, scan.stopped());
            match beyond {
                Some(next) => scan = Scan::from_start(self.log, next),
                None => break,
            }
        }
        if log_start < self.report.start && self.report.start > Position(0) && self.report.checkpoint.is_none() {
            self.damage(log_start, Some(self.report.start), "segment files are missing");
        }
        Ok(())
    }

    fn damage(&mut self, position: Position, until: Option<Position>, what: impl Into<String>) {
        let file = self.log.segments.path_of(position);
        self.report.damages.push(Damage { file, position, until, what: what.into() });
    }

    fn look_at(&mut self, commit: &Commit) {
        let at = commit.header.position;
        self.report.commits += 1;
        self.report.bytes += commit.bytes.len() as u64;
        for entry in commit.entries() {
            match entry {
                Err(what) => return self.damage(at, None, what),
                Ok(entry) if entry.kind == EntryKind::Event => self.report.events += 1,
                Ok(entry) if entry.kind == EntryKind::Records => match Records::decode(&entry.payload) {
                    Some(records) => self.look_at_records(&records, at),
                    None => self.damage(at, None, "a records entry cannot be read"),
                },
                Ok(entry) if entry.kind == EntryKind::Partition => {
                    if let Some((id, numbers)) = PartitionNumbers::decode_entry(&entry.payload) {
                        self.next_offsets.insert(id, numbers.next);
                    }
                }
                Ok(_) => {}
            }
        }
    }

    fn look_at_records(&mut self, records: &Records, at: Position) {
        let batch = BatchView::parse(&records.batch).and_then(|batch| batch.verify_crc().map(|()| batch));
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return self.damage(at, None, error.to_string()),
        };
        self.report.records += batch.count() as u64;
        let next = Offset(batch.last_offset().0 + 1);
        let expected = self.next_offsets.insert(records.partition, next).unwrap_or(records.base_offset);
        if records.base_offset != expected {
            let what = format!("partition {} continues at offset {}, expected {expected}", records.partition, records.base_offset);
            self.damage(at, None, what);
        }
    }
}

const INDEX_CACHE_BYTES: usize = 1024 * 1024;
