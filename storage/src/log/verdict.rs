//! Judges where a walk through the log ended: a torn tail, which costs nothing that was acknowledged, or damage.
//!
//! One judgement for recovery, the offline check and repair. It is damage when anything proves that more was durable: a
//! commit or the checkpoint that says so, blocks that are gone, or a file that stands where it does not belong. Never writes.

use super::Log;
use super::commit::{CUT_SHORT, Commit, HEADER_BYTES, Header, NO_HEADER};
use super::scan::Scan;
use crate::error::Result;
use crate::io::Site;
use crate::layout::{FIRST_BLOCKS_BYTES, SECTOR_BYTES};
use crate::types::Position;

/// What is known beside the walk itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Everything below was durable.
    pub proven: Position,
    /// Blocks existed below.
    pub allocated: Position,
    /// First position that is still needed.
    pub log_start: Position,
    /// Segments wholly below are not looked at: the checkpoint vouches for them.
    pub from: Position,
}

/// How the log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that was acknowledged is missing. In words, why the bytes behind the end are no commit, if there are any.
    Torn(Option<&'static str>),
    Damage {
        at: Position,
        what: String,
    },
}

/// Judges a walk that has ended.
pub fn judge(log: &Log, scan: &Scan<'_>, known: Known) -> Result<Verdict> {
    let end = scan.tip().end;
    let stopped = scan.stopped();
    let damage = |at: Position, what: String| Ok(Verdict::Damage { at, what });
    let proven = known.proven.max(scan.proven());
    if proven > end {
        return damage(end, format!("{stopped}, though everything up to position {proven} was durable"));
    }
    if let Some(at) = scan.evidence_beyond_end()? {
        return damage(end, format!("{stopped}, though a later commit at position {at} says that it was durable"));
    }
    // A store is begun with its first blocks, before anything says that it exists.
    let allocated = known.allocated.max(scan.allocated()).max(Position(FIRST_BLOCKS_BYTES.min(log.segments.segment_bytes())));
    if let Some(cut) = first_missing_block(log, end, allocated)?
        && (cut < end.plus(SECTOR_BYTES) || stopped == CUT_SHORT)
    {
        let what = match log.segments.firsts().contains(&cut) || log.segments.first_of(cut) != cut {
            true => format!("the file ends at position {cut}, though blocks were written up to position {allocated}: it was cut"),
            false => format!("the segment file is missing, though blocks were written up to position {allocated}"),
        };
        return damage(end, what);
    }
    if scan.is_foreign_at_end()? {
        return damage(end, format!("{stopped}, and is not older: it is of another log"));
    }
    if let Some((at, claimed)) = misplaced_file(log, known)? {
        return damage(at, format!("the file holds the log of position {claimed}: files were renamed, swapped or copied over each other"));
    }
    Ok(Verdict::Torn((stopped != NO_HEADER).then_some(stopped)))
}

/// The first position from the end of the log on, and below `allocated`, that no file reaches.
fn first_missing_block(log: &Log, end: Position, allocated: Position) -> Result<Option<Position>> {
    let bytes = log.segments.segment_bytes();
    let mut first = log.segments.first_of(end);
    while first < allocated {
        let len = match log.segments.reader(first)? {
            Some(file) => file.len(Site::RecoveryRead)?,
            None => 0,
        };
        if len < bytes.min(allocated.since(first)) {
            return Ok(Some(first.plus(len)));
        }
        first = first.plus(bytes);
    }
    Ok(None)
}

/// A segment file that begins with a whole commit of another place that is still needed. A recycled one begins with a commit
/// from below the log start.
fn misplaced_file(log: &Log, known: Known) -> Result<Option<(Position, Position)>> {
    for first in log.segments.firsts() {
        if log.segments.next_first(first) <= known.from {
            continue;
        }
        let head = log.read_bytes(Site::RecoveryRead, first, HEADER_BYTES as u64)?;
        let Ok((header, _)) = Header::decode_of_any_position(&head) else { continue };
        if header.position == first || header.position < known.log_start {
            continue;
        }
        let bytes = log.read_bytes(Site::RecoveryRead, first, u64::from(header.length))?;
        if Commit::decode(&bytes, header.position).is_ok() {
            return Ok(Some((first, header.position)));
        }
    }
    Ok(None)
}
