//! Opening a directory: lock, checkpoint, sync and evict, scan and fold, decide whether the end is a torn tail or damage,
//! then a boot commit with a new epoch. Nobody is answered before that commit is durable.
//!
//! The broker pulls its events out with [`Opening::next_event`], so nothing here calls up. Until [`Opening::finish`] the log
//! is not written; a refusal leaves it as it was.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{self, CheckpointMeta};
use crate::clock::Clock;
use crate::error::{Result, StorageError};
use crate::index::dedup::Dedup;
use crate::index::{HeldBack, Index, Pair, Table};
use crate::io::{DirLock, Io, OpenMode, Site};
use crate::layout::{self, FIRST_BLOCKS_BYTES};
use crate::log::commit::{Commit, CommitBuilder, Entry, EntryKind, HEADER_BYTES, Header};
use crate::log::scan::Scan;
use crate::log::segment::Segments;
use crate::log::verdict::{self, Known, Verdict};
use crate::log::writer::LogWriter;
use crate::log::{Log, Tip, entry};
use crate::store::{Store, StoreConfig, TAG_LOG_START, Threads};
use crate::store_file::StoreFile;
use crate::types::{Epoch, Position, TimestampMs};
use crate::views::{self, Partitions};

/// Views are written to the index whenever this many keys or commits were folded without a checkpoint.
const SPILL_KEYS: usize = 200_000;
const SPILL_COMMITS: u64 = 500_000;

/// An event of the broker, found in the log.
#[derive(Clone, Debug)]
pub struct RecoveredEvent {
    pub tag: u8,
    pub payload: bytes::Bytes,
    pub position: Position,
    pub timestamp: TimestampMs,
}

/// What opening found out, for people.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    pub commits_folded: u64,
    pub bytes_folded: u64,
    /// Why the index was built anew, if it was.
    pub index_rebuilt: Option<String>,
    /// Bytes behind the last whole commit that were never acknowledged.
    pub torn_tail: Option<String>,
    pub created: bool,
}

/// A store that is being opened.
pub struct Opening {
    pub(crate) parts: Parts,
    store_file: StoreFile,
    scanned: Tip,
    previous_crc_known: bool,
    proven: Position,
    /// Blocks are known to have existed below this.
    allocated: Position,
    last_timestamp: TimestampMs,
    log_start: Position,
    pending: VecDeque<RecoveredEvent>,
    ended: bool,
    since_spill: u64,
    report: RecoveryReport,
    /// What opening the index would write: done once the log is judged good.
    held: Option<HeldBack>,
    threads: Threads,
}

/// What lives on in the opened store.
pub(crate) struct Parts {
    pub io: Arc<dyn Io>,
    pub clock: Arc<dyn Clock>,
    pub log: Arc<Log>,
    pub index: Arc<dyn Index>,
    pub partitions: Arc<Partitions>,
    pub dedup: Arc<Dedup>,
    pub store_id: [u8; 16],
    pub checkpoint: Option<CheckpointMeta>,
    /// Dropped last: until then nobody else may open the directory.
    pub _lock: Box<dyn DirLock>,
}

impl Opening {
    pub(crate) fn start(io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: StoreConfig) -> Result<Self> {
        let found = StoreFile::read(&*io, dir)?;
        if found.is_none() {
            io.create_dir(Site::DirCreate, &layout::log_dir(dir))?;
        }
        let lock = io.lock(Site::LockFile, &layout::lock_file(dir), &config.holder)?;
        let mut report = RecoveryReport { created: found.is_none(), ..RecoveryReport::default() };
        let store_file = match found {
            Some(found) => found,
            None => create(&io, dir, &config, clock.wall())?,
        };
        let segments = open_segments(&io, dir, store_file.segment_bytes, config.ahead_bytes)?;
        let log = Arc::new(Log::new(Arc::clone(&io), dir.to_owned(), segments, config.cache_bytes));
        let cached = find_checkpoint(&io, dir, &config, &store_file);
        let checkpoint = cached.as_ref().ok().map(|found| found.meta.clone());
        settle_log(&log, checkpoint.as_ref())?;
        let (index, held, log_start) = match cached {
            Ok(found) => (found.index, Some(found.held), found.meta.log_start),
            Err(why) => {
                let (index, log_start) = rebuild(&log, &store_file, &config, why, &mut report)?;
                (index, None, log_start)
            }
        };
        let partitions = Arc::new(Partitions::default());
        if checkpoint.is_some() {
            for (id, told) in checkpoint::read_partitions(&*index)? {
                partitions.insert(id, told);
            }
        }
        let dedup = Arc::new(Dedup::open(store_file.id, &*index)?);
        let store_id = store_file.id;
        let parts = Parts { io, clock, log, index, partitions, dedup, store_id, checkpoint, _lock: lock };
        let mut opening = Self {
            parts,
            store_file,
            scanned: Tip::default(),
            previous_crc_known: false,
            proven: Position(0),
            allocated: Position(0),
            last_timestamp: TimestampMs(0),
            log_start,
            pending: VecDeque::new(),
            ended: false,
            since_spill: 0,
            report,
            held,
            threads: config.threads,
        };
        opening.place_scan();
        Ok(opening)
    }

    /// Decides where folding begins.
    fn place_scan(&mut self) {
        match &self.parts.checkpoint {
            Some(meta) => {
                self.scanned = meta.tip;
                self.previous_crc_known = true;
                self.proven = meta.tip.end;
                self.last_timestamp = meta.last_timestamp;
            }
            None => self.scanned = Tip { end: self.log_start, last: self.log_start, ..Tip::default() },
        }
    }

    /// The checkpoint was taken behind a durable commit; that commit must be there, unless the log has begun above it since.
    /// Called with everything folded: the checkpoint may be older than the newest log start.
    /// Answers with the end of the blocks that commit names.
    fn check_against_checkpoint(&self) -> Result<Position> {
        let Some(meta) = &self.parts.checkpoint else { return Ok(Position(0)) };
        let log = &self.parts.log;
        let present = log.segments.firsts();
        let mut first = log.segments.first_of(self.log_start);
        while first < meta.tip.end {
            if !present.contains(&first) {
                return Err(log.damage(first, "the segment file is missing, its records were acknowledged"));
            }
            first = first.plus(log.segments.segment_bytes());
        }
        if meta.tip.end == meta.tip.last || meta.tip.last < self.log_start {
            return Ok(Position(0));
        }
        let last = log.commit_at(meta.tip.last, meta.tip.end.max(meta.tip.last.plus(1)));
        match last {
            Ok(commit) if commit.crc == meta.tip.crc => Ok(commit.header.allocated_end()),
            Ok(_) => Err(log.damage(
                meta.tip.last,
                "another commit than the checkpoint names (if the log was restored from a backup, delete the index file)",
            )),
            Err(error) => Err(error),
        }
    }

    /// What the broker checkpointed.
    pub fn state(&self) -> Result<Vec<Pair>> {
        self.parts.index.range(Table::State, &[], &[], usize::MAX)
    }

    /// The broker's next event, in log order; `None` at the end of the log.
    pub fn next_event(&mut self) -> Result<Option<RecoveredEvent>> {
        while self.pending.is_empty() && !self.ended {
            self.fold_some()?;
        }
        Ok(self.pending.pop_front())
    }

    /// Folds commits until there are events to hand out or the log ends.
    fn fold_some(&mut self) -> Result<()> {
        let log = Arc::clone(&self.parts.log);
        let mut scan = match self.previous_crc_known {
            true => Scan::after(&log, self.scanned),
            false => Scan::from_start(&log, self.scanned.end),
        };
        while self.pending.is_empty() {
            let Some(commit) = scan.next_commit()? else {
                self.ended = true;
                self.judge_end(&scan)?;
                break;
            };
            self.fold(&commit)?;
        }
        self.proven = self.proven.max(scan.proven());
        self.allocated = self.allocated.max(scan.allocated());
        if scan.tip().end != self.scanned.end {
            self.scanned = scan.tip();
            self.previous_crc_known = true;
        }
        Ok(())
    }

    fn fold(&mut self, commit: &Commit) -> Result<()> {
        let parts = &self.parts;
        let bad = |what: &str| parts.log.damage(commit.header.position, what);
        for entry in commit.entries() {
            let entry = entry.map_err(bad)?;
            if is_of_another_store(&entry, parts.store_id) {
                return Err(bad(OTHER_STORE));
            }
            views::fold(&entry, commit, &parts.partitions, &parts.dedup).map_err(bad)?;
            if entry.kind == EntryKind::Event {
                let (position, timestamp) = (commit.header.position, commit.header.timestamp);
                self.pending.push_back(RecoveredEvent { tag: entry.tag, payload: entry.payload, position, timestamp });
            }
        }
        self.last_timestamp = self.last_timestamp.max(commit.header.timestamp);
        self.log_start = self.log_start.max(commit.header.log_start);
        self.report.commits_folded += 1;
        self.report.bytes_folded += commit.bytes.len() as u64;
        self.since_spill += 1;
        if parts.checkpoint.is_none() && (parts.dedup.in_memory() > SPILL_KEYS || self.since_spill > SPILL_COMMITS) {
            self.since_spill = 0;
            views::spill(&parts.partitions, &parts.dedup, &*parts.index, self.last_timestamp)?;
        }
        Ok(())
    }

    fn judge_end(&mut self, scan: &Scan<'_>) -> Result<()> {
        let log = &self.parts.log;
        let allocated = self.check_against_checkpoint()?.max(self.allocated);
        let from = self.parts.checkpoint.as_ref().map_or(Position(0), |meta| meta.tip.end);
        let known = Known { proven: self.proven, allocated, log_start: self.log_start, from };
        self.report.torn_tail = judge_end(log, scan, known)?.map(str::to_owned);
        Ok(())
    }

    /// Begins a new epoch and starts the store's threads. Call after [`Self::next_event`] answered `None`.
    pub fn finish(mut self) -> Result<(Store, RecoveryReport)> {
        while self.next_event()?.is_some() {}
        if let Some(held) = self.held.take() {
            held.release()?;
        }
        let log = &self.parts.log;
        for partition in self.parts.partitions.all() {
            partition.resume_sequence();
        }
        log.start.store(self.log_start.0, std::sync::atomic::Ordering::Relaxed);
        log.segments.resume(self.log_start, self.scanned.end)?;
        log.set_tip(self.scanned);
        log.set_durable(self.scanned.end);
        let epoch = Epoch(self.scanned.epoch.0 + 1);
        let mut writer = LogWriter::new(Arc::clone(log), epoch, self.last_timestamp);
        let mut builder = CommitBuilder::default();
        entry::encode_boot(epoch, self.parts.store_id, &mut builder);
        writer.make_room(builder.len_bytes() as u64, true)?;
        let now = writer.stamp_later(self.parts.clock.wall());
        writer.append(builder, now)?;
        writer.sync()?;
        log.set_visible(writer.end());
        log.set_published();
        let report = self.report.clone();
        Ok((Store::start(self.parts, writer, (epoch, now), self.store_file.created_ms, self.threads)?, report))
    }
}

/// Whether an entry that names its store names another one.
pub(crate) fn is_of_another_store(entry: &Entry, store_id: [u8; 16]) -> bool {
    match (entry.kind, entry.tag) {
        (EntryKind::Boot, _) => entry::decode_boot(&entry.payload) != Some(store_id),
        (EntryKind::Event, TAG_LOG_START) => entry.payload != store_id.as_slice(),
        _ => false,
    }
}

const OTHER_STORE: &str = "this log was written for another store: its STORE file or its log was exchanged";

/// The segments of a store that exists, of which there is one from its first moment on.
pub(crate) fn open_segments(io: &Arc<dyn Io>, dir: &Path, segment_bytes: u64, ahead_bytes: u64) -> Result<Segments> {
    let gone = |file: PathBuf, what: &str| StorageError::Damage { dir: dir.to_owned(), file, position: Position(0), what: what.to_owned() };
    let segments = match Segments::open(Arc::clone(io), dir, segment_bytes, ahead_bytes) {
        Err(StorageError::Io { kind: std::io::ErrorKind::NotFound, .. }) => {
            return Err(gone(layout::log_dir(dir), "the directory of the log is missing"));
        }
        opened => opened?,
    };
    if segments.firsts().is_empty() {
        return Err(gone(segments.path_of(Position(0)), "every segment file is missing, and a store has one from its first moment on"));
    }
    Ok(segments)
}

/// Makes a directory a store. The file `STORE` comes last, so that a store without a segment has lost it.
fn create(io: &Arc<dyn Io>, dir: &Path, config: &StoreConfig, now: TimestampMs) -> Result<StoreFile> {
    if holds_commits(io, dir, config)? {
        let what = "it holds log segments, but no STORE file".to_owned();
        return Err(StorageError::NotAStore { dir: dir.to_owned(), what });
    }
    let bytes = config.segment_bytes;
    let least = match config.threads {
        Threads::Own => layout::SEGMENT_BYTES_MIN,
        Threads::None => layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS,
    };
    if !(least..=layout::SEGMENT_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(layout::SECTOR_BYTES) {
        return Err(StorageError::Invalid(format!(
            "a segment of {bytes} bytes is not between {} and {} bytes in whole sectors of {}",
            least,
            layout::SEGMENT_BYTES_MAX,
            layout::SECTOR_BYTES
        )));
    }
    let mut id = config.new_id.unwrap_or_default();
    if config.new_id.is_none() {
        getrandom::fill(&mut id).map_err(|error| StorageError::Invalid(format!("no random numbers: {error}")))?;
    }
    let store_file = StoreFile { id, created_ms: now.0, segment_bytes: bytes };
    let segments = Segments::open(Arc::clone(io), dir, bytes, config.ahead_bytes)?;
    // Also when an interrupted creation left some: they may be fewer.
    segments.allocate(FIRST_BLOCKS_BYTES)?;
    io.sync_dir(Site::DirSync, &layout::log_dir(dir))?;
    io.sync_dir(Site::DirSync, dir)?;
    store_file.create(&**io, dir)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        io.sync_dir(Site::DirSync, parent)?;
    }
    Ok(store_file)
}

/// Whether there are segments beyond the first blocks that an interrupted creation leaves.
fn holds_commits(io: &Arc<dyn Io>, dir: &Path, config: &StoreConfig) -> Result<bool> {
    let segments = Segments::open(Arc::clone(io), dir, config.segment_bytes.max(layout::SECTOR_BYTES), 0)?;
    let Some(first) = segments.reader(Position(0))? else { return Ok(!segments.firsts().is_empty()) };
    let mut head = [0; HEADER_BYTES];
    let filled = first.read_at(Site::RecoveryRead, &mut head, 0)?;
    let begins = head.get(..filled).is_some_and(|head| Header::decode(head, Position(0)).is_ok());
    Ok(segments.firsts().len() > 1 || begins || first.len(Site::SegmentOpen)? > FIRST_BLOCKS_BYTES)
}

/// An index that holds a checkpoint of this store. Its file is as it was found until `held` is released.
struct FoundIndex {
    index: Arc<dyn Index>,
    held: HeldBack,
    meta: CheckpointMeta,
}

/// Opens the index without changing it. `Err` says in words why it is to be built anew.
fn find_checkpoint(io: &Arc<dyn Io>, dir: &Path, config: &StoreConfig, store: &StoreFile) -> Result<FoundIndex, String> {
    let opened = config.index.open_held(io, dir, config.index_cache_bytes);
    let (index, held) = opened.map_err(|error| format!("it could not be opened: {error}"))?;
    match read_checkpoint(&*index) {
        Ok(Some(meta)) if meta.store_id == store.id => Ok(FoundIndex { index, held, meta }),
        Ok(Some(_)) => Err("it belongs to another store".into()),
        Ok(None) => Err("it holds no checkpoint".into()),
        Err(error) => Err(format!("it could not be read: {error}")),
    }
}

/// Throws the index away, a cache, and begins an empty one. The log is judged first: what is refused stays as it is.
/// Answers with the log's start too: what lies below it is not indexed, though its segments may still be there.
fn rebuild(
    log: &Log,
    store: &StoreFile,
    config: &StoreConfig,
    why: String,
    report: &mut RecoveryReport,
) -> Result<(Arc<dyn Index>, Position)> {
    let mut start = Position(0);
    if !report.created {
        report.index_rebuilt = Some(why);
        start = judge_whole(log, store.id)?;
    }
    config.index.remove(&log.io, &log.dir)?;
    Ok((config.index.open(&log.io, &log.dir, config.index_cache_bytes)?, start))
}

/// Makes sure that what is read from the checkpoint on is what is on the disk: the kernel may have forgotten a failed write.
fn settle_log(log: &Log, checkpoint: Option<&CheckpointMeta>) -> Result<()> {
    let from = checkpoint.map_or_else(|| last_contiguous_run(&log.segments), |meta| meta.tip.end);
    for first in log.segments.firsts() {
        if first.plus(log.segments.segment_bytes()) > from {
            let file = log.io.open(Site::SegmentOpen, &log.segments.path_of(first), OpenMode::Write)?;
            file.sync(Site::RecoverySync)?;
            file.evict(Site::RecoveryEvict)?;
        }
    }
    // Their names too: the process may have been killed between the creation of a file and the sync of its name.
    log.io.sync_dir(Site::DirSync, &layout::log_dir(&log.dir))?;
    log.io.sync_dir(Site::DirSync, &log.dir)
}

/// Walks the log to its end without folding anything. Answers with the log's start: the greatest that any commit names.
fn judge_whole(log: &Log, store_id: [u8; 16]) -> Result<Position> {
    let first = last_contiguous_run(&log.segments);
    let mut scan = Scan::from_start(log, first);
    let mut start = Position(0);
    while let Some(commit) = scan.next_commit()? {
        start = start.max(commit.header.log_start);
        if commit.entries().flatten().any(|entry| is_of_another_store(&entry, store_id)) {
            return Err(log.damage(commit.header.position, OTHER_STORE));
        }
    }
    judge_end(log, &scan, Known { log_start: start, from: first, ..Known::default() })?;
    if first > start {
        return Err(log.damage(start, "segment files are missing between here and the first one that is left"));
    }
    Ok(start)
}

/// The log ends where a commit fails its check: a torn tail, unless anything proves that more was durable.
fn judge_end(log: &Log, scan: &Scan<'_>, known: Known) -> Result<Option<&'static str>> {
    match verdict::judge(log, scan, known)? {
        Verdict::Torn(why) => Ok(why),
        Verdict::Damage { at, what } => Err(log.damage(at, what)),
    }
}

/// The checkpoint, once everything that opening takes from it has been read and verified.
fn read_checkpoint(index: &dyn Index) -> Result<Option<CheckpointMeta>> {
    let meta = CheckpointMeta::read(index)?;
    checkpoint::read_partitions(index)?;
    index.range(Table::State, &[], &[], usize::MAX)?;
    Ok(meta)
}

/// First position of the unbroken run of segments at the end of the log.
pub(crate) fn last_contiguous_run(segments: &Segments) -> Position {
    let firsts = segments.firsts();
    let mut run = firsts.last().copied().unwrap_or_default();
    for first in firsts.iter().rev().skip(1) {
        if first.plus(segments.segment_bytes()) != run {
            break;
        }
        run = *first;
    }
    run
}
