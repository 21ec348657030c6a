//! A walk over the whole log that goes on behind damage: what is provably good, and what lies between.
//!
//! Used by the offline check and by repair. Never writes. A commit counts as good when it is whole, in its place, and chains to
//! the one before it or is chained to by the one behind it.

use std::path::PathBuf;

use crate::batch::BatchView;
use crate::checkpoint::CheckpointMeta;
use crate::error::Result;
use crate::log::Log;
use crate::log::commit::{Commit, EntryKind};
use crate::log::entry::{Keys, PartitionTold, Records};
use crate::log::scan::Scan;
use crate::log::verdict::{self, Known, Verdict};
use crate::recovery::is_of_another_store;
use crate::types::{Epoch, Position};

/// Something that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub position: Position,
    /// Where whole commits go on, if they do; what lies between is lost.
    pub until: Option<Position>,
    /// Bytes of log that are lost, at most.
    pub bytes_max: u64,
    pub what: String,
    /// Whole commits, and records in them, between the damage before this one (or the log's start) and here.
    pub good_commits_before: u64,
    pub good_records_before: u64,
}

/// The next thing on the way.
pub enum Found {
    Commit(Commit),
    Damage(Damage),
}

/// A walk from the log's start to its end.
pub struct Survey<'a> {
    log: &'a Log,
    store_id: [u8; 16],
    scan: Scan<'a>,
    known: Known,
    ended: bool,
    /// Why the bytes behind the end are no commit, if there are any.
    pub torn_tail: Option<&'static str>,
}

impl<'a> Survey<'a> {
    /// Finds the log's start: what any whole commit names, or the checkpoint.
    pub fn new(log: &'a Log, store_id: [u8; 16], checkpoint: Option<&CheckpointMeta>) -> Result<Self> {
        let known = Known {
            proven: checkpoint.map_or(Position(0), |meta| meta.tip.end),
            log_start: checkpoint.map_or(Position(0), |meta| meta.log_start),
            ..Known::default()
        };
        let mut survey = Self { log, store_id, scan: Scan::from_start(log, Position(0)), known, ended: false, torn_tail: None };
        let mut named = known.log_start;
        let mut newest = None;
        for first in log.segments.firsts() {
            if let Some(commit) = log.whole_at(first)? {
                named = named.max(commit.header.log_start);
                newest = Some(first);
            }
        }
        if let Some(first) = newest {
            survey.scan = Scan::from_start(log, first);
            while let Some(found) = survey.advance()? {
                if let Found::Commit(commit) = found {
                    named = named.max(commit.header.log_start);
                }
            }
        }
        let start = log.segments.first_of(named);
        let known = Known { log_start: named, from: start, ..known };
        Ok(Self { scan: Scan::from_start(log, start), known, ended: false, torn_tail: None, ..survey })
    }

    /// Where the walk stands: in the end, behind the last whole commit.
    pub fn position(&self) -> Position {
        self.scan.tip().end
    }

    pub fn log_start(&self) -> Position {
        self.known.log_start
    }

    pub fn epoch(&self) -> Epoch {
        self.scan.tip().epoch
    }

    /// The next whole commit or damage; `None` at the end.
    pub fn advance(&mut self) -> Result<Option<Found>> {
        if self.ended {
            return Ok(None);
        }
        if let Some(commit) = self.scan.next_commit()? {
            let what = self.unreadable(&commit);
            return Ok(Some(match what {
                None => Found::Commit(commit),
                Some(what) => {
                    let at = commit.header.position;
                    Found::Damage(self.damage(at, Some(self.position()), what.to_owned()))
                }
            }));
        }
        match verdict::judge(self.log, &self.scan, self.known)? {
            Verdict::Torn(why) => {
                (self.ended, self.torn_tail) = (true, why);
                Ok(None)
            }
            Verdict::Damage { at, what } => {
                let resume = self.scan.resume_beyond_end()?;
                let damage = self.damage(at, resume, what);
                match resume {
                    Some(next) => self.scan = self.scan.resumed(next),
                    None => self.ended = true,
                }
                Ok(Some(Found::Damage(damage)))
            }
        }
    }

    fn damage(&self, position: Position, until: Option<Position>, what: String) -> Damage {
        let bytes_max = until.unwrap_or_else(|| self.reach()).since(position.min(self.position()));
        let file = self.log.segments.path_of(position);
        Damage { file, position, until, bytes_max, what, good_commits_before: 0, good_records_before: 0 }
    }

    /// The last position at which anything can have been that is lost at the end of the log.
    fn reach(&self) -> Position {
        let end = self.position();
        let most = self.known.proven.max(self.scan.proven()).max(self.scan.allocated()).max(end.plus(1));
        let last = self.log.segments.firsts().last().copied().unwrap_or_default();
        self.log.segments.next_first(Position(most.0.saturating_sub(1)).max(last))
    }

    /// Why a commit that is whole cannot be used, in words.
    fn unreadable(&self, commit: &Commit) -> Option<&'static str> {
        for entry in commit.entries() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(what) => return Some(what),
            };
            if is_of_another_store(&entry, self.store_id) {
                return Some("this log was written for another store: its STORE file or its log was exchanged");
            }
            let is_readable = match entry.kind {
                EntryKind::Records => {
                    let records = Records::decode(&entry.payload);
                    records.is_some_and(|records| BatchView::parse(&records.batch).and_then(|batch| batch.verify_crc()).is_ok())
                }
                EntryKind::Keys => Keys::decode(&entry.payload).is_some(),
                EntryKind::Partition => PartitionTold::decode_entry(&entry.payload).is_some(),
                EntryKind::Event | EntryKind::Boot => true,
            };
            if !is_readable {
                return Some("an entry of a whole commit cannot be read");
            }
        }
        None
    }
}
