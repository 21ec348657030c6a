//! Salvages what is provably good of a damaged directory into a new one, and says what is lost. Never writes to the old one,
//! apart from the holder's name in its `LOCK`.
//!
//! Entries go over byte for byte, in their order; positions, chain and index are made anew. A record keeps its offset: what is
//! lost becomes a lost range, told in a partition entry, whose offsets are never given out again. What the events of the
//! broker mean only their owner knows: see [`Salvage::run`]. `STORE` is written last, so a repair that was cut off left no store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::check::{self, CheckReport, EventOwner, KnownIndex, Nobody, check_log};
use crate::error::{Result, StorageError};
use crate::index::Backend;
use crate::io::{DirLock, Io, OpenMode, Site};
use crate::layout;
use crate::ledger::Ledger;
use crate::log::commit::{Commit, CommitBuilder, EntryKind};
use crate::log::entry::{self, Keys, PartitionNumbers, PartitionTold};
use crate::log::segment::Segments;
use crate::log::writer::LogWriter;
use crate::log::{Log, Tip};
use crate::recovery::RecoveredEvent;
use crate::store_file::StoreFile;
use crate::submission::NewEvent;
use crate::survey::{Found, Survey};
use crate::types::{Epoch, Position, TimestampMs};

/// Bytes of commits between two syncs of the new log.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;
/// Events said anew that share a commit.
const EVENTS_BYTES: usize = 256 * 1024;
/// Copied at once from the old index file.
const COPY_BYTES: usize = 1024 * 1024;

/// A damaged directory, held, with a new one beside it that is empty yet.
pub struct Salvage {
    io: Arc<dyn Io>,
    from: PathBuf,
    into: PathBuf,
    store: StoreFile,
    log: Log,
    index: KnownIndex,
    found: CheckReport,
    _lock: Box<dyn DirLock>,
}

/// What went over.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// Of the old directory: damage, and what is kept and lost of each partition.
    pub found: CheckReport,
    /// Events of the broker that were copied from the log.
    pub events: u64,
    /// Whether the broker's state is the checkpoint's, so that only events behind it count.
    pub state_from_checkpoint: bool,
    pub keys: u64,
    /// Keys the old index knew and the new log does not: their records are lost, or their windows have passed.
    pub keys_forgotten: Option<u64>,
    pub bytes_written: u64,
    pub segments_written: u64,
}

impl Salvage {
    /// Surveys `from` and prepares `into`, which must be empty or not exist. `None` when nothing is damaged.
    pub fn open(io: &Arc<dyn Io>, from: &Path, into: &Path, holder: &str) -> Result<Option<Self>> {
        match io.list(Site::DirList, into) {
            Ok(listed) if !listed.is_empty() => {
                return Err(StorageError::Invalid(format!("{} is not empty", into.display())));
            }
            Err(StorageError::Io { kind: std::io::ErrorKind::NotFound, .. }) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        let (store, log, lock) = check::open_log(io, from, holder)?;
        io.create_dir(Site::DirCreate, into)?;
        let index = read_copy(io, from, into, &store, &log)?;
        let found = check_log(&log, &store, &index, &mut Nobody)?;
        let salvage = Self { io: Arc::clone(io), from: from.to_owned(), into: into.to_owned(), store, log, index, found, _lock: lock };
        Ok((!salvage.found.damages.is_empty()).then_some(salvage))
    }

    /// Writes the new directory.
    pub fn run(self, owner: &mut dyn EventOwner, now: TimestampMs) -> Result<RepairReport> {
        let io = &self.io;
        io.create_dir(Site::DirCreate, &layout::log_dir(&self.into))?;
        let segments = Segments::open(Arc::clone(io), &self.into, self.store.segment_bytes, crate::log::writer::ALLOCATE_BYTES)?;
        segments.allocate(layout::FIRST_BLOCKS_BYTES)?;
        io.sync_dir(Site::DirSync, &layout::log_dir(&self.into))?;
        io.sync_dir(Site::DirSync, &self.into)?;
        let new = Arc::new(Log::new(Arc::clone(io), self.into.clone(), segments, 0));
        new.set_tip(Tip::default());
        let mut survey = Survey::new(&self.log, self.store.id, self.index.checkpoint.as_ref())?;
        let ledger = check::begin_ledger(&survey, &self.index);
        let epoch = Epoch(self.found.epoch.0 + 1);
        let mut copy = Copy {
            writer: LogWriter::new(Arc::clone(&new), epoch, TimestampMs(0)),
            ledger,
            unsynced: 0,
            report: RepairReport { state_from_checkpoint: self.index.checkpoint.is_some(), ..RepairReport::default() },
            events_from: self.index.checkpoint.as_ref().map_or(Position(0), |meta| meta.tip.end),
        };
        let first = self.log.whole_at(survey.log_start())?.map_or(now, |commit| commit.header.timestamp);
        let mut boot = CommitBuilder::default();
        entry::encode_boot(epoch, self.store.id, &mut boot);
        copy.append(boot, first)?;
        if self.index.checkpoint.is_some() {
            copy.say(owner.restate(&self.index.state)?, first)?;
        }
        let mut last = first;
        while let Some(found) = survey.advance()? {
            match found {
                Found::Damage(damage) => copy.ledger.damage(damage.bytes_max),
                Found::Commit(commit) => {
                    last = last.max(commit.header.timestamp);
                    copy.commit(&commit, owner)?;
                }
            }
        }
        check::end_ledger(&mut copy.ledger, &self.index, &self.found.damages, &owner.partitions());
        copy.tell_all(last)?;
        let mut found = self.found;
        found.partitions = std::mem::take(&mut copy.ledger.partitions);
        copy.say(owner.close(&found)?, last)?;
        copy.writer.sync()?;
        copy.writer.append_mark(last)?;
        copy.writer.sync()?;
        self.store.create(&**io, &self.into)?;
        if let Some(parent) = self.into.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            io.sync_dir(Site::DirSync, parent)?;
        }
        let mut report = copy.report;
        report.bytes_written = copy.writer.end().0;
        report.segments_written = new.segments.firsts().len() as u64;
        report.keys_forgotten = self.index.checkpoint.is_some().then(|| self.index.keys.saturating_sub(report.keys));
        report.found = found;
        Ok(report)
    }

    pub fn from(&self) -> &Path {
        &self.from
    }
}

/// Opening an index may change it, so a copy is opened, below the new directory, and removed again.
fn read_copy(io: &Arc<dyn Io>, from: &Path, into: &Path, store: &StoreFile, log: &Log) -> Result<KnownIndex> {
    let unknown = |why: String| KnownIndex { why_not: Some(why), ..KnownIndex::default() };
    let source = match io.open(Site::IndexRead, &layout::redb_file(from), OpenMode::Read) {
        Ok(source) => source,
        Err(StorageError::Io { kind: std::io::ErrorKind::NotFound, .. }) => return Ok(unknown("there is no index file".into())),
        Err(error) => return Err(error),
    };
    let target = io.open(Site::IndexWrite, &layout::redb_file(into), OpenMode::CreateOrWrite)?;
    let (mut at, mut buffer) = (0, vec![0; COPY_BYTES]);
    loop {
        let read = source.read_at(Site::IndexRead, &mut buffer, at)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        target.write_at(Site::IndexWrite, &[bytes], at)?;
        at += read as u64;
    }
    drop(target);
    let read = || check::believe(&*Backend::Redb.open(io, into, check::INDEX_CACHE_BYTES)?, store, log);
    let known = read().unwrap_or_else(|error| unknown(format!("the index cannot be read: {error}")));
    Backend::Redb.remove(io, into)?;
    Ok(known)
}

/// The new log as it grows.
struct Copy {
    writer: LogWriter,
    ledger: Ledger,
    unsynced: u64,
    report: RepairReport,
    /// Events below are in the checkpoint's state.
    events_from: Position,
}

impl Copy {
    fn append(&mut self, builder: CommitBuilder, at: TimestampMs) -> Result<()> {
        if builder.is_empty() {
            return Ok(());
        }
        let bytes = builder.len_bytes() as u64;
        self.writer.make_room(bytes, true)?;
        let at = self.writer.stamp(at);
        self.writer.append(builder, at)?;
        self.unsynced += bytes;
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            self.writer.sync()?;
        }
        Ok(())
    }

    /// Copies a commit, with what it shows to be lost told before it.
    fn commit(&mut self, commit: &Commit, owner: &mut dyn EventOwner) -> Result<()> {
        let mut builder = CommitBuilder::with_room(u64::from(commit.header.length));
        let mut lost = CommitBuilder::default();
        for entry in commit.entries().flatten() {
            // Before a batch its partition must have been told to begin there.
            if let Some((id, range)) = self.ledger.entry(&entry)
                && let Some(partition) = self.ledger.partitions.get(&id)
            {
                let told = partition.to_tell();
                let numbers = PartitionNumbers { next: range.to, bytes: 0, ..told.numbers };
                PartitionTold { numbers, ..told }.encode_entry(id, &mut lost);
            }
            let is_copied = match entry.kind {
                EntryKind::Boot => false,
                EntryKind::Event if entry.tag == crate::store::TAG_LOG_START => false,
                EntryKind::Event => {
                    let (position, timestamp) = (commit.header.position, commit.header.timestamp);
                    let event = RecoveredEvent { tag: entry.tag, payload: entry.payload.clone(), position, timestamp };
                    position >= self.events_from && owner.event(&event)?
                }
                EntryKind::Keys => {
                    self.report.keys += Keys::decode(&entry.payload).map_or(0, |keys| keys.keys.len() as u64);
                    true
                }
                EntryKind::Records | EntryKind::Partition => true,
            };
            if is_copied {
                self.report.events += u64::from(entry.kind == EntryKind::Event);
                builder.entry(entry.kind, entry.tag, |out| out.extend_from_slice(&entry.payload));
            }
        }
        self.append(lost, commit.header.timestamp)?;
        self.append(builder, commit.header.timestamp)
    }

    /// Tells the numbers of every partition: what is lost of them, and what only a lost entry or the index told.
    fn tell_all(&mut self, at: TimestampMs) -> Result<()> {
        let mut builder = CommitBuilder::default();
        let mut commits = Vec::new();
        for (id, partition) in &self.ledger.partitions {
            partition.to_tell().encode_entry(*id, &mut builder);
            if builder.len_bytes() > EVENTS_BYTES {
                commits.push(std::mem::take(&mut builder));
            }
        }
        commits.push(builder);
        commits.into_iter().try_for_each(|builder| self.append(builder, at))
    }

    fn say(&mut self, events: Vec<NewEvent>, at: TimestampMs) -> Result<()> {
        let mut builder = CommitBuilder::default();
        for event in events {
            builder.entry(EntryKind::Event, event.tag, |out| out.extend_from_slice(&event.payload));
            if builder.len_bytes() > EVENTS_BYTES {
                self.append(std::mem::take(&mut builder), at)?;
            }
        }
        self.append(builder, at)
    }
}
