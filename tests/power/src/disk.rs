//! The disk under test: what was written to it, in order, and what a power cut leaves of that. Pure: no file, no clock.
//!
//! A disk remembers writes and flushes. A flush makes every write before it durable. A power cut keeps those and, of what was
//! written after the last flush, any subset of 512-byte sectors, each in any version it had since: a drive writes its cache
//! back in the order it likes. A disk made by a cut is used, recorded and cut in turn, as deep as one likes.
//!
//! Writes hold what they replace once they are applied, and what they bring while they are not: going back and forth in
//! time costs what lies between, not the size of the disk.

use std::collections::BTreeMap;

use crate::random::Random;

pub const SECTOR: usize = 512;
/// Blocks of the file system. The first one holds the ext4 superblock, which the kernel writes in place over two sectors with
/// one checksum: torn apart, ext4 itself refuses to mount until it was repaired. So that block arrives whole or not at all.
const BLOCK: usize = 4096;

/// Bytes of one sector.
type Sector = [u8; SECTOR];

/// What reached the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// At a sector's start, whole sectors.
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    Flush,
}

/// How the drive was writing back its cache when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Each sector is old or in any version it had since, all equally likely.
    Any,
    /// Each sector is old or new, as a coin falls.
    Half,
    /// Everything arrived.
    All,
    /// Nothing did.
    None,
    /// In order up to some write; that one in part.
    Prefix,
    /// Nearly everything arrived: one sector in eight is lost.
    Most,
    /// Hardly anything did: one sector in eight.
    Few,
    /// Whole requests arrived or not, in any order.
    Requests,
    /// Whole blocks arrived or not.
    Blocks,
}

pub const STYLES: [Style; 9] =
    [Style::Any, Style::Half, Style::All, Style::None, Style::Prefix, Style::Most, Style::Few, Style::Requests, Style::Blocks];

/// A failure to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The write after so many more fails; when `stays`, its blocks take no write ever after.
    Write { after: u64, stays: bool },
    /// The flush after so many more fails, and with it part of what was to be flushed is gone. When it `stays`, so do all later
    /// ones; when not, the next one claims that all is well.
    Flush { after: u64, stays: bool },
}

/// The answer to a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// What a cut left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Sectors written after the last flush.
    pub pending: usize,
    /// Of those, how many have other bytes than before.
    pub kept: usize,
}

/// Operations of one life of the disk, from one power-on to the next cut.
#[derive(Debug, Default)]
struct Life {
    ops: Vec<Op>,
    /// Those are in the image.
    applied: usize,
    /// What the cut put on top: sectors, and what they replaced.
    patch: Vec<(usize, Sector)>,
}

pub struct Disk {
    image: Vec<u8>,
    /// The last one is being lived.
    lives: Vec<Life>,
    fault: Option<Fault>,
    /// Takes no writes.
    bad: Vec<(usize, usize)>,
    random: Random,
    /// Failures answered.
    pub failures: u64,
    /// The first block was read since the last cut: nobody goes by what they remember of an earlier disk.
    pub start_was_read: bool,
}

impl Disk {
    /// A disk that holds `image` and has lived no life yet.
    pub fn new(image: Vec<u8>) -> Self {
        assert!(image.len().is_multiple_of(SECTOR), "a disk has whole sectors");
        Self {
            image,
            lives: vec![Life::default()],
            fault: None,
            bad: Vec::new(),
            random: Random::new(0),
            failures: 0,
            start_was_read: false,
        }
    }

    pub fn len(&self) -> usize {
        self.image.len()
    }

    /// A disk that lived one life with those operations.
    pub fn with_past(image: Vec<u8>, ops: Vec<Op>) -> Self {
        let mut disk = Self::new(image);
        disk.lives[0].ops = ops;
        disk.go_to(usize::MAX);
        disk
    }

    pub fn read(&self, at: usize, len: usize) -> &[u8] {
        let end = at.saturating_add(len).min(self.image.len());
        &self.image[at.min(end)..end]
    }

    pub fn note_read(&mut self, at: usize) {
        self.start_was_read |= at == 0;
    }

    /// Operations of the present life.
    pub fn ops(&self) -> usize {
        self.life().ops.len()
    }

    /// Places of the flushes of a life.
    pub fn flushes(&self, life: usize) -> Vec<usize> {
        let ops = &self.lives[life].ops;
        ops.iter().enumerate().filter(|(_, op)| **op == Op::Flush).map(|(at, _)| at).collect()
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), Failed> {
        assert!(at.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR), "a disk is written by sectors");
        assert!(at + bytes.len() <= self.image.len(), "behind the end of the disk");
        if self.write_fails(at, at + bytes.len()) {
            self.failures += 1;
            // What arrived before it failed is anybody's guess.
            for (number, sector) in bytes.chunks_exact(SECTOR).enumerate() {
                let sector_at = at + number * SECTOR;
                if sector_at >= BLOCK && self.random.chance(1, 2) {
                    self.push_write(sector_at, sector.to_vec());
                }
            }
            return Err(Failed);
        }
        self.push_write(at, bytes.to_vec());
        Ok(())
    }

    pub fn flush(&mut self) -> Result<(), Failed> {
        if let Some(Fault::Flush { after, stays }) = &mut self.fault {
            if *after == 0 {
                if !*stays {
                    self.fault = None;
                }
                self.failures += 1;
                self.forget_some();
                return Err(Failed);
            }
            *after -= 1;
        }
        let life = self.life_mut();
        life.ops.push(Op::Flush);
        life.applied += 1;
        Ok(())
    }

    /// From now on. `seed` decides what of a failed request arrives.
    pub fn arm(&mut self, fault: Fault, seed: u64) {
        self.fault = Some(fault);
        self.random = Random::new(seed);
    }

    /// Nothing fails any more: the cable sits again, the bad block is replaced.
    pub fn heal(&mut self) {
        self.fault = None;
        self.bad.clear();
    }

    /// Cuts the power of `life` when `at` of its operations had happened, and begins a new life with what is left. Later
    /// lives than `life` never happened.
    pub fn cut(&mut self, life: usize, at: usize, style: Style, random: &mut Random) -> Cut {
        self.heal();
        while self.lives.len() > life + 1 {
            self.go_to(0);
            self.lives.pop();
            self.unpatch();
        }
        let at = at.min(self.ops());
        let durable = self.life().ops[..at].iter().rposition(|op| *op == Op::Flush).unwrap_or(0);
        self.go_to(durable);
        let left = arrived(&self.life().ops[durable..at], style, random);
        let cut = Cut { pending: left.len(), kept: left.values().filter(|version| version.is_some()).count() };
        self.life_mut().patch = left.into_iter().filter_map(|(sector, bytes)| Some((sector, bytes?))).collect();
        self.swap_patch();
        self.lives.push(Life::default());
        self.start_was_read = false;
        cut
    }

    /// The first life, from its beginning: the image before it and its operations. Ends all lives.
    pub fn into_past(mut self) -> (Vec<u8>, Vec<Op>) {
        while self.lives.len() > 1 {
            self.go_to(0);
            self.lives.pop();
            self.unpatch();
        }
        self.go_to(0);
        let life = self.lives.pop().unwrap_or_default();
        (self.image, life.ops)
    }

    fn life(&self) -> &Life {
        self.lives.last().expect("there is always a life")
    }

    fn life_mut(&mut self) -> &mut Life {
        self.lives.last_mut().expect("there is always a life")
    }

    fn push_write(&mut self, at: usize, mut bytes: Vec<u8>) {
        self.image[at..at + bytes.len()].swap_with_slice(&mut bytes);
        let life = self.life_mut();
        life.ops.push(Op::Write { at, bytes });
        life.applied += 1;
    }

    fn write_fails(&mut self, from: usize, to: usize) -> bool {
        if self.bad.iter().any(|(bad, end)| from < *end && *bad < to) {
            return true;
        }
        match &mut self.fault {
            Some(Fault::Write { after: 0, stays }) => {
                if *stays {
                    self.bad.push((from, to));
                }
                self.fault = None;
                true
            }
            Some(Fault::Write { after, .. }) => {
                *after -= 1;
                false
            }
            _ => false,
        }
    }

    /// Half of the sectors written since the last flush fall back to what they were.
    fn forget_some(&mut self) {
        let life = self.life();
        let durable = life.ops.iter().rposition(|op| *op == Op::Flush).unwrap_or(0);
        let mut before: BTreeMap<usize, Sector> = BTreeMap::new();
        for op in &life.ops[durable..] {
            // Applied: a write holds what it replaced, and the first one holds the oldest.
            for (sector, bytes) in sectors(op) {
                before.entry(sector).or_insert(*bytes);
            }
        }
        for (sector, bytes) in before {
            if sector >= BLOCK && self.random.chance(1, 2) {
                self.push_write(sector, bytes.to_vec());
            }
        }
    }

    /// Moves the image to where `goal` operations of the present life are applied.
    fn go_to(&mut self, goal: usize) {
        let image = &mut self.image;
        let life = self.lives.last_mut().expect("there is always a life");
        let goal = goal.min(life.ops.len());
        while life.applied > goal {
            life.applied -= 1;
            swap(image, &mut life.ops[life.applied]);
        }
        while life.applied < goal {
            swap(image, &mut life.ops[life.applied]);
            life.applied += 1;
        }
    }

    fn swap_patch(&mut self) {
        let life = self.lives.last_mut().expect("there is always a life");
        for (sector, bytes) in &mut life.patch {
            self.image[*sector..*sector + SECTOR].swap_with_slice(bytes);
        }
    }

    fn unpatch(&mut self) {
        self.swap_patch();
        self.life_mut().patch.clear();
    }
}

fn swap(image: &mut [u8], op: &mut Op) {
    if let Op::Write { at, bytes } = op {
        image[*at..*at + bytes.len()].swap_with_slice(bytes);
    }
}

/// The sectors an operation writes, by their place in bytes.
fn sectors(op: &Op) -> impl Iterator<Item = (usize, &Sector)> {
    let (at, bytes): (usize, &[u8]) = match op {
        Op::Write { at, bytes } => (*at, bytes),
        Op::Flush => (0, &[]),
    };
    let (whole, _) = bytes.as_chunks::<SECTOR>();
    whole.iter().enumerate().map(move |(number, sector)| (at + number * SECTOR, sector))
}

/// Sectors written by `ops`, none of which was flushed, and what the cut makes of each; `None` is as it was before.
fn arrived(ops: &[Op], style: Style, random: &mut Random) -> BTreeMap<usize, Option<Sector>> {
    let mut versions: BTreeMap<usize, Vec<(usize, &Sector)>> = BTreeMap::new();
    for (number, op) in ops.iter().enumerate() {
        for (sector, bytes) in sectors(op) {
            versions.entry(sector).or_default().push((number, bytes));
        }
    }
    let rank = ranks(ops.len(), style, random);
    let (torn, block_seed) = (random.index(ops.len()), random.next());
    // The place among `versions` that arrived.
    let mut choose = |sector: usize, versions: &[(usize, &Sector)]| -> Option<usize> {
        let newest = versions.len().checked_sub(1);
        let mut newest_if = |times, of| newest.filter(|_| random.chance(times, of));
        match style {
            Style::All => newest,
            Style::None => None,
            Style::Half => newest_if(1, 2),
            Style::Most => newest_if(7, 8),
            Style::Few => newest_if(1, 8),
            Style::Blocks => newest.filter(|_| Random::of(block_seed, (sector / BLOCK) as u64).chance(1, 2)),
            Style::Any => random.index(versions.len() + 1).checked_sub(1),
            Style::Prefix => {
                let torn_arrived = random.chance(1, 2);
                versions.iter().rposition(|(number, _)| *number < torn || (*number == torn && torn_arrived))
            }
            Style::Requests => {
                let arrived = (0..versions.len()).filter(|at| rank[versions[*at].0].is_some());
                arrived.max_by_key(|at| rank[versions[*at].0])
            }
        }
    };
    // The request that arrived last at the first block, once that is chosen.
    let mut first_block: Option<Option<usize>> = None;
    let mut left = BTreeMap::new();
    for (sector, versions) in &versions {
        let arrived = if *sector < BLOCK {
            let last = *first_block.get_or_insert_with(|| choose(*sector, versions).map(|at| versions[at].0));
            last.and_then(|last| versions.iter().rposition(|(number, _)| *number <= last))
        } else {
            choose(*sector, versions)
        };
        left.insert(*sector, arrived.map(|at| *versions[at].1));
    }
    left
}

/// When each request arrived, if it did.
fn ranks(count: usize, style: Style, random: &mut Random) -> Vec<Option<u64>> {
    if style != Style::Requests {
        return Vec::new();
    }
    (0..count).map(|_| Some(random.next() >> 1).filter(|rank| rank % 2 == 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(byte: u8) -> Vec<u8> {
        vec![byte; SECTOR]
    }

    /// Where a sector begins; they are counted from the second block.
    const fn at(number: usize) -> usize {
        BLOCK + number * SECTOR
    }

    fn byte_at(disk: &Disk, number: usize) -> u8 {
        disk.read(at(number), SECTOR)[0]
    }

    fn empty() -> Vec<u8> {
        vec![0; 2 * BLOCK]
    }

    /// Sectors 0 to 3: 0 flushed as 1, then 1 to 3 written and not flushed, 3 twice.
    fn used() -> Disk {
        let mut disk = Disk::new(empty());
        disk.write(at(0), &sector(1)).unwrap();
        disk.flush().unwrap();
        disk.write(at(1), &[sector(2), sector(3)].concat()).unwrap();
        disk.write(at(3), &sector(4)).unwrap();
        disk.write(at(3), &sector(5)).unwrap();
        disk
    }

    fn after(style: Style, cut: usize, seed: u64) -> [u8; 4] {
        let mut disk = used();
        disk.cut(0, cut, style, &mut Random::new(seed));
        [0, 1, 2, 3].map(|number| byte_at(&disk, number))
    }

    #[test]
    fn what_was_flushed_stays_and_what_came_later_never_happened() {
        for (seed, style) in (0..200).flat_map(|seed| STYLES.map(|style| (seed, style))) {
            assert_eq!(after(style, 5, seed)[0], 1, "{style:?} {seed}");
            assert_eq!(after(style, 2, seed), [1, 0, 0, 0], "{style:?} {seed}");
            assert_eq!(after(style, 0, seed), [0; 4], "{style:?} {seed}");
        }
        assert_eq!(after(Style::All, 5, 0), [1, 2, 3, 5]);
        assert_eq!(after(Style::All, 4, 0), [1, 2, 3, 4]);
        assert_eq!(after(Style::None, 5, 0), [1, 0, 0, 0]);
    }

    #[test]
    fn each_style_leaves_all_it_may_leave() {
        let seen = |style| (0..5_000).map(|seed| after(style, 5, seed)).collect::<std::collections::BTreeSet<_>>();
        // Two sectors old or new, one old or in either version.
        assert_eq!(seen(Style::Any).len(), 12);
        assert_eq!(seen(Style::Half).len(), 8);
        assert_eq!(seen(Style::Most).len(), 8);
        assert_eq!(seen(Style::Few).len(), 8);
        // Whole requests: both sectors of the first or none; the last of two others in either order, or none.
        assert_eq!(seen(Style::Requests).len(), 6);
        // All four sectors lie in one block.
        assert_eq!(seen(Style::Blocks).len(), 2);
        let torn = seen(Style::Prefix);
        assert!(torn.contains(&[1, 2, 0, 0]) && torn.contains(&[1, 0, 3, 0]), "a torn request");
        assert!(!torn.iter().any(|left| left[3] == 5 && left[1] == 0), "in order");
    }

    #[test]
    fn the_first_block_is_never_torn() {
        let left = |seed| {
            let mut disk = Disk::new(empty());
            disk.write(0, &vec![1; BLOCK]).unwrap();
            disk.write(0, &vec![2; BLOCK]).unwrap();
            disk.cut(0, 2, STYLES[seed % STYLES.len()], &mut Random::new(seed as u64));
            let first = disk.read(0, 1)[0];
            assert!(disk.read(0, BLOCK).iter().all(|byte| *byte == first), "torn");
            first
        };
        assert_eq!((0..300).map(left).collect::<std::collections::BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn the_same_seed_cuts_the_same_and_cuts_leave_no_trace_in_the_past() {
        let mut disk = used();
        let image = |disk: &Disk| disk.read(0, usize::MAX).to_vec();
        let mut first = Vec::new();
        for cut in 0..=5 {
            disk.cut(0, cut, Style::Any, &mut Random::new(cut as u64));
            first.push(image(&disk));
            disk.write(at(0), &sector(9)).unwrap();
            disk.flush().unwrap();
            disk.cut(1, 1, Style::Half, &mut Random::new(7));
            disk.write(at(4), &sector(8)).unwrap();
        }
        for cut in (0..=5).rev() {
            disk.cut(0, cut, Style::Any, &mut Random::new(cut as u64));
            assert_eq!(image(&disk), first[cut]);
        }
        let (before, ops) = disk.into_past();
        assert_eq!(before, empty());
        assert_eq!(image(&Disk::with_past(before, ops)), image(&used()));
    }

    #[test]
    fn a_cut_disk_is_cut_again() {
        let mut disk = used();
        disk.cut(0, 5, Style::None, &mut Random::new(0));
        disk.write(at(2), &sector(7)).unwrap();
        disk.flush().unwrap();
        disk.write(at(3), &sector(8)).unwrap();
        disk.cut(1, 3, Style::None, &mut Random::new(0));
        assert_eq!([0, 1, 2, 3].map(|number| byte_at(&disk, number)), [1, 0, 7, 0]);
        disk.cut(1, 1, Style::None, &mut Random::new(0));
        assert_eq!([0, 1, 2, 3].map(|number| byte_at(&disk, number)), [1, 0, 0, 0]);
    }

    #[test]
    fn a_bad_block_fails_for_ever_and_once_is_once() {
        let mut disk = used();
        disk.arm(Fault::Write { after: 1, stays: true }, 3);
        disk.write(at(0), &sector(1)).unwrap();
        disk.write(at(4), &sector(6)).unwrap_err();
        disk.write(at(3), &[sector(6), sector(6)].concat()).unwrap_err();
        disk.write(at(5), &sector(6)).unwrap();
        disk.heal();
        disk.write(at(4), &sector(6)).unwrap();
        disk.arm(Fault::Write { after: 0, stays: false }, 3);
        disk.write(at(4), &sector(7)).unwrap_err();
        disk.write(at(4), &sector(7)).unwrap();
        assert_eq!(disk.failures, 3);
    }

    #[test]
    fn a_failed_flush_loses_part_for_good() {
        let left = |seed| {
            let mut disk = used();
            disk.arm(Fault::Flush { after: 0, stays: seed % 2 == 0 }, seed);
            disk.flush().unwrap_err();
            assert_eq!(disk.flush().is_err(), seed % 2 == 0);
            disk.heal();
            disk.flush().unwrap();
            disk.cut(0, usize::MAX, Style::All, &mut Random::new(0));
            [0, 1, 2, 3].map(|number| byte_at(&disk, number))
        };
        let seen: std::collections::BTreeSet<_> = (0..200).map(left).collect();
        assert_eq!(seen.len(), 8);
        assert!(seen.iter().all(|left| left[0] == 1));
    }
}
