//! What one power cut does to everything that was not synced: the odds, thrown once per cut, and the fate of one sector.
//!
//! Knows no file and no name. Some cuts lose all that is pending and some keep all of it, because many faults show only
//! at these two ends; the others decide each sector, length and name by itself.

use super::random::Random;
use crate::layout::SECTOR_BYTES;

/// Sector size as the memory sees it.
pub(super) const SECTOR: usize = SECTOR_BYTES as usize;

/// How much a power cut may do to a sector that was being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// Old, new, zero, garbage, or torn between old and new. What the log must survive.
    Hostile,
    /// Old, new, or torn between old and new, never bytes nobody wrote: "power-safe overwrite", which redb assumes of the
    /// one sector it writes in place.
    SafeOverwrite,
}

/// The style of one cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Odds {
    AllOld,
    AllNew,
    /// Each by itself. `new_of_8` of 8 sectors are written as they should be, the others have any fate.
    Each {
        cut: PowerCut,
        new_of_8: u64,
    },
}

/// What became of one sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Old,
    New,
    Zero,
    Garbage,
    Torn,
}

impl Odds {
    pub(super) fn throw(cut: PowerCut, random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self::AllOld,
            1 => Self::AllNew,
            _ => Self::Each { cut, new_of_8: random.below(8) },
        }
    }

    /// Whether one change of a name took place.
    pub(super) fn keeps(self, random: &mut Random) -> bool {
        match self {
            Self::AllOld => false,
            Self::AllNew => true,
            Self::Each { .. } => random.coin(),
        }
    }

    /// Which of `count` versions, oldest first, is there afterwards; 0 is the durable one.
    pub(super) fn version(self, count: usize, random: &mut Random) -> usize {
        match self {
            Self::AllOld => 0,
            Self::AllNew => count.saturating_sub(1),
            Self::Each { .. } => random.index_below(count),
        }
    }

    /// Turns `old` into what the cut left of the sector that should have become `new`.
    pub(super) fn strike(self, old: &mut [u8], new: &[u8], random: &mut Random) {
        match self.fate(random) {
            Fate::Old => {}
            Fate::New => old.copy_from_slice(new),
            Fate::Zero => old.fill(0),
            Fate::Garbage => random.fill(old),
            Fate::Torn => tear(old, new, random),
        }
    }

    fn fate(self, random: &mut Random) -> Fate {
        match self {
            Self::AllOld => Fate::Old,
            Self::AllNew => Fate::New,
            Self::Each { new_of_8, .. } if random.below(8) < new_of_8 => Fate::New,
            Self::Each { cut: PowerCut::Hostile, .. } => match random.below(5) {
                0 => Fate::Old,
                1 => Fate::New,
                2 => Fate::Zero,
                3 => Fate::Garbage,
                _ => Fate::Torn,
            },
            Self::Each { cut: PowerCut::SafeOverwrite, .. } => match random.below(3) {
                0 => Fate::Old,
                1 => Fate::New,
                _ => Fate::Torn,
            },
        }
    }
}

/// Leaves a beginning or an end of `new` in `old`.
fn tear(old: &mut [u8], new: &[u8], random: &mut Random) {
    let (kept, cut) = (random.coin(), random.index_below(SECTOR));
    for (at, (to, from)) in old.iter_mut().zip(new).enumerate() {
        if (at < cut) == kept {
            *to = *from;
        }
    }
}
