//! Offline verification: reads every byte of the log that should be whole and says what is lost. Changes nothing but
//! the text in the lock file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{self, CheckpointMeta};
use crate::error::{Result, StorageError};
use crate::index::{Backend, Index, Pair, Table};
use crate::io::{Io, Site};
use crate::layout;
use crate::ledger::{Ledger, PartitionLedger};
use crate::log::Log;
use crate::log::commit::{Commit, EntryKind};
use crate::log::entry::PartitionTold;
use crate::recovery::RecoveredEvent;
use crate::store::TAG_LOG_START;
use crate::store_file::StoreFile;
use crate::submission::NewEvent;
pub use crate::survey::Damage;
use crate::survey::{Found, Survey};
use crate::types::{Epoch, PartitionId, Position};

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
    /// What is there and what is lost of each.
    pub partitions: BTreeMap<PartitionId, PartitionLedger>,
    /// Bytes behind the end that were never acknowledged, in words.
    pub torn_tail: Option<String>,
    /// Position up to which the index saves work when opening.
    pub checkpoint: Option<Position>,
    /// Why the index will be rebuilt, if it will.
    pub index: Option<String>,
    pub damages: Vec<Damage>,
    /// Whole commits, and records in them, behind the last damage; all of them when there is none.
    pub good_commits_after: u64,
    pub good_records_after: u64,
    /// Of the last opening.
    pub epoch: Epoch,
}

/// Verifies the directory. Fails only when it cannot be read at all, or is in use.
pub fn check_dir(io: &Arc<dyn Io>, dir: &Path, holder: &str) -> Result<CheckReport> {
    check_dir_with(io, dir, holder, &mut Nobody)
}

/// As [`check_dir`], and shows all whole events to whom they belong.
pub fn check_dir_with(io: &Arc<dyn Io>, dir: &Path, holder: &str, owner: &mut dyn EventOwner) -> Result<CheckReport> {
    let (store, log, _lock) = open_log(io, dir, holder)?;
    let index = read_index(io, dir, &store, &log)?;
    check_log(&log, &store, &index, owner)
}

/// The owner of the events in the log, whom alone they mean anything.
pub trait EventOwner {
    /// The broker's state at the checkpoint, as events that say it anew. Only asked when the checkpoint is sound; events below
    /// it are in the state and not shown.
    fn restate(&mut self, state: &[Pair]) -> Result<Vec<NewEvent>>;
    /// A whole event of the log, in order. Whether a repair may copy it as it is.
    fn event(&mut self, event: &RecoveredEvent) -> Result<bool>;
    /// The partitions that exist, by what was shown.
    fn partitions(&self) -> Vec<PartitionId>;
    /// What a repair must say behind all others, now that it is known what is lost.
    fn close(&mut self, found: &CheckReport) -> Result<Vec<NewEvent>>;
}

/// Copies events and knows nothing of them.
pub struct Nobody;

impl EventOwner for Nobody {
    fn restate(&mut self, _: &[Pair]) -> Result<Vec<NewEvent>> {
        Ok(Vec::new())
    }

    fn event(&mut self, _: &RecoveredEvent) -> Result<bool> {
        Ok(true)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        Vec::new()
    }

    fn close(&mut self, _: &CheckReport) -> Result<Vec<NewEvent>> {
        Ok(Vec::new())
    }
}

/// The parts of a directory whose log is to be read and not written, held against others.
pub(crate) fn open_log(io: &Arc<dyn Io>, dir: &Path, holder: &str) -> Result<(StoreFile, Log, Box<dyn crate::io::DirLock>)> {
    let Some(store) = StoreFile::read(&**io, dir)? else {
        return Err(StorageError::NotAStore { dir: dir.to_owned(), what: "it has no STORE file".into() });
    };
    let lock = io.lock(Site::LockFile, &layout::lock_file(dir), holder)?;
    let segments = crate::recovery::open_segments(io, dir, store.segment_bytes, 0)?;
    Ok((store, Log::new(Arc::clone(io), dir.to_owned(), segments, 0), lock))
}

/// What an index says, if it is one to believe.
#[derive(Default)]
pub(crate) struct KnownIndex {
    pub checkpoint: Option<CheckpointMeta>,
    pub partitions: Vec<(PartitionId, PartitionTold)>,
    pub state: Vec<Pair>,
    pub keys: u64,
    pub why_not: Option<String>,
}

fn read_index(io: &Arc<dyn Io>, dir: &Path, store: &StoreFile, log: &Log) -> Result<KnownIndex> {
    let without = |why: String| Ok(KnownIndex { why_not: Some(why), ..KnownIndex::default() });
    let listed = io.list(Site::DirList, dir)?;
    if !listed.iter().any(|entry| layout::redb_file(dir).ends_with(&entry.name)) {
        return without("there is no index file".into());
    }
    // What opening would repair is held back and forgotten.
    match Backend::Redb.open_held(io, dir, INDEX_CACHE_BYTES) {
        Ok((index, _held)) => believe(&*index, store, log),
        Err(error) => without(format!("the index cannot be read: {error}")),
    }
}

/// Takes over what an index says when it is whole and belongs to this store and this log.
pub(crate) fn believe(index: &dyn Index, store: &StoreFile, log: &Log) -> Result<KnownIndex> {
    let without = |why: String| Ok(KnownIndex { why_not: Some(why), ..KnownIndex::default() });
    let (meta, partitions, state, keys) = match read_views(index) {
        Ok((Some(meta), partitions, state, keys)) if meta.store_id == store.id => (meta, partitions, state, keys),
        Ok(_) => return without("the index holds no checkpoint of this store".into()),
        Err(error) => return without(format!("the index cannot be read: {error}")),
    };
    // A whole commit that is another one: the log is an older copy, or the index is.
    if meta.tip.end > meta.tip.last && log.whole_at(meta.tip.last)?.is_some_and(|commit| commit.crc != meta.tip.crc) {
        return without(format!("the index knows another commit at position {} than the log holds", meta.tip.last));
    }
    Ok(KnownIndex { checkpoint: Some(meta), partitions, state, keys, why_not: None })
}

type Views = (Option<CheckpointMeta>, Vec<(PartitionId, PartitionTold)>, Vec<Pair>, u64);

fn read_views(index: &dyn Index) -> Result<Views> {
    let mut keys = 0;
    for table in index.key_tables()? {
        keys += index.range(table, &[], &[], usize::MAX)?.len() as u64;
    }
    let state = index.range(Table::State, &[], &[], usize::MAX)?;
    Ok((CheckpointMeta::read(index)?, checkpoint::read_partitions(index)?, state, keys))
}

/// Walks the log and keeps the books.
pub(crate) fn check_log(log: &Log, store: &StoreFile, index: &KnownIndex, owner: &mut dyn EventOwner) -> Result<CheckReport> {
    let mut survey = Survey::new(log, store.id, index.checkpoint.as_ref())?;
    let mut report = CheckReport {
        segments: log.segments.firsts().len() as u64,
        segment_bytes: store.segment_bytes,
        start: survey.log_start(),
        checkpoint: index.checkpoint.as_ref().map(|meta| meta.tip.end),
        index: index.why_not.clone(),
        ..CheckReport::default()
    };
    let mut ledger = begin_ledger(&survey, index);
    let mut events_from = Position(0);
    if let Some(meta) = &index.checkpoint {
        owner.restate(&index.state)?;
        events_from = meta.tip.end;
    }
    while let Some(found) = survey.advance()? {
        match found {
            Found::Commit(commit) => {
                report.count(&commit, &mut ledger);
                if commit.header.position >= events_from {
                    show_events(&commit, owner)?;
                }
            }
            Found::Damage(damage) => {
                ledger.damage(damage.bytes_max);
                report.note(damage);
            }
        }
    }
    report.end = survey.position();
    report.torn_tail = survey.torn_tail.map(str::to_owned);
    report.epoch = survey.epoch();
    end_ledger(&mut ledger, index, &report.damages, &owner.partitions());
    report.partitions = ledger.partitions;
    Ok(report)
}

pub(crate) fn begin_ledger(survey: &Survey<'_>, index: &KnownIndex) -> Ledger {
    let mut ledger = Ledger { from_the_beginning: survey.log_start() == Position(0), ..Ledger::default() };
    for (id, told) in &index.partitions {
        ledger.begin(*id, told.numbers.log_start);
    }
    ledger
}

/// Adds what the index knows of the end: it may name offsets that stand in no commit that is left.
pub(crate) fn end_ledger(ledger: &mut Ledger, index: &KnownIndex, damages: &[Damage], existing: &[PartitionId]) {
    existing.iter().for_each(|id| ledger.exists(*id));
    let known_to = index.checkpoint.as_ref().map_or(Position(0), |meta| meta.tip.end);
    let certain = damages.iter().all(|damage| damage.until.unwrap_or(damage.position.plus(damage.bytes_max)) <= known_to);
    for (id, told) in &index.partitions {
        ledger.told(*id, told, certain);
    }
    if certain {
        ledger.all_certain();
    }
    ledger.close();
}

fn show_events(commit: &Commit, owner: &mut dyn EventOwner) -> Result<()> {
    for event in events_of(commit) {
        owner.event(&event)?;
    }
    Ok(())
}

/// The broker's events of a commit.
fn events_of(commit: &Commit) -> impl Iterator<Item = RecoveredEvent> + '_ {
    let (position, timestamp) = (commit.header.position, commit.header.timestamp);
    let events = commit.entries().flatten().filter(|entry| entry.kind == EntryKind::Event && entry.tag != TAG_LOG_START);
    events.map(move |entry| RecoveredEvent { tag: entry.tag, payload: entry.payload, position, timestamp })
}

impl CheckReport {
    fn count(&mut self, commit: &Commit, ledger: &mut Ledger) {
        self.commits += 1;
        self.good_commits_after += 1;
        self.bytes += commit.bytes.len() as u64;
        for entry in commit.entries().flatten() {
            ledger.entry(&entry);
            match entry.kind {
                EntryKind::Event => self.events += 1,
                EntryKind::Records => {
                    let count = crate::log::entry::Records::decode(&entry.payload)
                        .and_then(|records| Some(crate::batch::BatchView::parse(&records.batch).ok()?.count() as u64));
                    self.records += count.unwrap_or(0);
                    self.good_records_after += count.unwrap_or(0);
                }
                EntryKind::Keys | EntryKind::Partition | EntryKind::Boot => {}
            }
        }
    }

    fn note(&mut self, damage: Damage) {
        let good_commits_before = std::mem::take(&mut self.good_commits_after);
        let good_records_before = std::mem::take(&mut self.good_records_after);
        self.damages.push(Damage { good_commits_before, good_records_before, ..damage });
    }
}

pub(crate) const INDEX_CACHE_BYTES: usize = 1024 * 1024;
