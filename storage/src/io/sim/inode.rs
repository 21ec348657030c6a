//! One simulated file: what is on the disk, what the page cache shows, and which sectors of it no sync has covered yet.
//!
//! Owns bytes and lengths; knows no name, no fault table and no error. Pages are shared between the disk, the cache and
//! every clone of them, and copied when written, so a power cut costs what was pending and not what is stored.
//! Invariant: a page that is neither pending nor diverged is the same on disk and in the cache.

#![expect(clippy::indexing_slicing, reason = "a simulated disk runs in tests only; an index out of bounds is its own bug and may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use super::cut::{Odds, SECTOR};
use super::random::Random;

pub(super) const PAGE: usize = 4096;
/// More versions of a page between two syncs are not told apart.
const VERSIONS_MAX: usize = 16;

type Page = Arc<[u8; PAGE]>;

/// Shared by all pages that were written as zeros, so that a zero-filled segment costs nothing.
static ZERO_PAGE: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE]));

/// The bytes of a file. An absent page is a hole: it reads as zeros and takes no space.
#[derive(Clone, Debug, Default)]
struct Image {
    len: u64,
    pages: Vec<Option<Page>>,
    allocated: usize,
}

impl Image {
    fn page(&self, number: usize) -> Option<&Page> {
        self.pages.get(number)?.as_ref()
    }

    fn bytes(&self, number: usize) -> &[u8; PAGE] {
        self.page(number).unwrap_or(&ZERO_PAGE)
    }

    fn set_page(&mut self, number: usize, page: Option<Page>) {
        if number >= self.pages.len() {
            if page.is_none() {
                return;
            }
            self.pages.resize(number + 1, None);
        }
        self.allocated += usize::from(page.is_some());
        let before = std::mem::replace(&mut self.pages[number], page);
        self.allocated -= usize::from(before.is_some());
    }

    /// Bytes above the length read as zeros should the file grow again.
    fn cut_to_len(&mut self) {
        let whole = to_usize(self.len).div_ceil(PAGE);
        while self.pages.len() > whole {
            self.set_page(self.pages.len() - 1, None);
            self.pages.pop();
        }
        let tail = to_usize(self.len) % PAGE;
        if tail != 0
            && let Some(Some(page)) = self.pages.get_mut(whole - 1)
            && page[tail..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(page)[tail..].fill(0);
        }
    }
}

/// A page with sectors that no sync has covered.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// One bit per sector.
    dirty: u8,
    /// Those of them that the disk will say it took and never hold.
    lost: u8,
    /// The page after each write to it, oldest first. Write-back may have caught any of them.
    versions: Vec<Option<Page>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    disk: Image,
    cache: Image,
    pending: BTreeMap<usize, Pending>,
    /// Each length since the last sync, oldest first.
    pending_lens: Vec<u64>,
    /// Where the next write-back will put bytes that do not belong there.
    misdirected: Vec<(u64, Vec<u8>)>,
    /// Pages marked clean by a failed sync though the disk does not hold what the cache shows.
    diverged: BTreeSet<usize>,
    /// Failed syncs so far. Each open file description reports each of them once.
    pub(super) failed_syncs: u64,
    pub(super) handles: usize,
    /// Whether a name leads here.
    pub(super) linked: bool,
}

impl Inode {
    /// An empty file that a name leads to.
    pub(super) fn new() -> Self {
        Self { linked: true, ..Self::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.cache.len
    }

    /// Pages the file takes of the disk's capacity.
    pub(super) fn allocated(&self) -> usize {
        self.cache.allocated
    }

    /// How many of `len` bytes from `at` can be written when `free` more pages may be allocated.
    pub(super) fn fitting(&self, at: u64, len: usize, mut free: usize) -> usize {
        let at = to_usize(at);
        for number in at / PAGE..(at + len).div_ceil(PAGE) {
            if self.cache.page(number).is_none() {
                if free == 0 {
                    return (number * PAGE).saturating_sub(at);
                }
                free -= 1;
            }
        }
        len
    }

    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> usize {
        let filled = to_usize(self.cache.len.saturating_sub(at)).min(buf.len());
        for (number, within, span) in pages_of(at, filled) {
            buf[span].copy_from_slice(&self.cache.bytes(number)[within]);
        }
        filled
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: u64) {
        for (number, within, span) in pages_of(at, bytes.len()) {
            let (from, dirty) = (&bytes[span], sectors_of(&within));
            let page = if from.len() == PAGE && from == ZERO_PAGE.as_slice() {
                Arc::clone(&ZERO_PAGE)
            } else {
                let mut page = self.cache.page(number).unwrap_or(&ZERO_PAGE).clone();
                Arc::make_mut(&mut page)[within].copy_from_slice(from);
                page
            };
            self.show(number, Some(page), dirty);
        }
        let end = at + bytes.len() as u64;
        if end > self.cache.len {
            self.set_cache_len(end);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let pages_before = self.cache.pages.len();
        let shrinks = len < self.cache.len;
        self.set_cache_len(len);
        if !shrinks {
            return;
        }
        self.cache.cut_to_len();
        let whole = to_usize(len).div_ceil(PAGE);
        if !to_usize(len).is_multiple_of(PAGE) && self.cache.page(whole - 1).is_some() {
            let page = self.cache.page(whole - 1).cloned();
            self.show(whole - 1, page, sectors_of(&(to_usize(len) % PAGE..PAGE)));
        }
        for number in whole..pages_before {
            self.show(number, None, u8::MAX);
        }
    }

    fn set_cache_len(&mut self, len: u64) {
        self.cache.len = len;
        self.pending_lens.push(len);
    }

    /// Puts a page in the cache and remembers that the disk does not have it.
    fn show(&mut self, number: usize, page: Option<Page>, dirty: u8) {
        let pending = self.pending.entry(number).or_default();
        pending.dirty |= dirty;
        pending.lost &= !dirty;
        if pending.versions.len() == VERSIONS_MAX {
            pending.versions.pop();
        }
        pending.versions.push(page.clone());
        self.cache.set_page(number, page);
    }

    pub(super) fn sync(&mut self) {
        for (number, pending) in std::mem::take(&mut self.pending) {
            // Write-back takes whole pages, so it also heals what an earlier failure left behind in this one.
            if pending.lost == 0 {
                self.diverged.remove(&number);
                self.disk.set_page(number, self.cache.page(number).cloned());
                continue;
            }
            let mut page = *self.cache.bytes(number);
            for sector in dirty_sectors(pending.lost) {
                page[sector.clone()].copy_from_slice(&self.disk.bytes(number)[sector]);
            }
            self.disk.set_page(number, Some(Arc::new(page)));
            self.diverged.insert(number);
        }
        self.misdirect();
        self.disk.len = self.cache.len;
        self.pending_lens.clear();
        self.disk.cut_to_len();
    }

    /// What Linux does: some sectors arrived, the others did not, and all of them count as clean from now on.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        for (number, pending) in std::mem::take(&mut self.pending) {
            let mut page = *self.disk.bytes(number);
            for sector in dirty_sectors(pending.dirty & !pending.lost) {
                if random.coin() {
                    page[sector.clone()].copy_from_slice(&self.cache.bytes(number)[sector]);
                }
            }
            self.disk.set_page(number, Some(Arc::new(page)));
            self.diverged.insert(number);
        }
        if random.coin() {
            self.disk.len = self.cache.len;
            self.pending_lens.clear();
        }
        self.failed_syncs += 1;
    }

    /// Drops clean pages, which only shows where the disk holds something else.
    pub(super) fn evict(&mut self) {
        let (stay, go): (BTreeSet<_>, BTreeSet<_>) = self.diverged.iter().partition(|page| self.pending.contains_key(page));
        self.diverged = stay;
        for number in go {
            if number * PAGE < to_usize(self.cache.len) {
                self.cache.set_page(number, self.disk.page(number).cloned());
            }
        }
    }

    /// The file as a power cut leaves it.
    pub(super) fn crash(&self, odds: Odds, random: &mut Random) -> Self {
        let mut disk = self.disk.clone();
        for (number, pending) in &self.pending {
            let version = &pending.versions[odds.version(pending.versions.len(), random)];
            let new = version.as_ref().unwrap_or(&ZERO_PAGE);
            let mut page = *self.disk.bytes(*number);
            for sector in dirty_sectors(pending.dirty & !pending.lost) {
                odds.strike(&mut page[sector.clone()], &new[sector], random);
            }
            disk.set_page(*number, Some(Arc::new(page)));
        }
        let newer = odds.version(self.pending_lens.len() + 1, random).checked_sub(1);
        disk.len = newer.map_or(disk.len, |newer| self.pending_lens[newer]);
        disk.cut_to_len();
        Self { cache: disk.clone(), disk, ..Self::new() }
    }

    /// What was just written never arrives where it belongs; with dice, it lands on another sector of the disk.
    pub(super) fn lose(&mut self, bytes: &[u8], at: u64, elsewhere: Option<&mut Random>) {
        for (number, within, _) in pages_of(at, bytes.len()) {
            self.pending.entry(number).or_default().lost |= sectors_of(&within);
        }
        let sectors = self.disk.len / SECTOR as u64;
        let Some(random) = elsewhere.filter(|_| sectors > 0) else { return };
        let target = random.below(sectors) * SECTOR as u64;
        let kept = bytes.len().min(to_usize(self.disk.len - target));
        self.misdirected.push((target, bytes[..kept].to_vec()));
    }

    /// The disk puts bytes where they do not belong.
    fn misdirect(&mut self) {
        for (target, bytes) in std::mem::take(&mut self.misdirected) {
            for (number, within, span) in pages_of(target, bytes.len()) {
                let mut page = *self.disk.bytes(number);
                page[within].copy_from_slice(&bytes[span]);
                self.disk.set_page(number, Some(Arc::new(page)));
                self.diverged.insert(number);
            }
        }
    }

    /// The file as another process finds it: the same bytes, nothing open.
    pub(super) fn reopened(&self) -> Self {
        Self { failed_syncs: 0, handles: 0, ..self.clone() }
    }

    /// All of it, as a reader sees it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; to_usize(self.cache.len)];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Changes bytes behind everyone's back, on disk and in the cache.
    pub(super) fn damage(&mut self, bytes: &[u8], at: u64) {
        for (number, within, span) in pages_of(at, bytes.len()) {
            for image in [&mut self.disk, &mut self.cache] {
                let mut page = *image.bytes(number);
                page[within.clone()].copy_from_slice(&bytes[span.clone()]);
                image.set_page(number, Some(Arc::new(page)));
            }
        }
    }
}

/// The pages that `len` bytes from `at` touch: number, range within the page, range within the bytes.
fn pages_of(at: u64, len: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let at = to_usize(at);
    (at / PAGE..(at + len).div_ceil(PAGE)).map(move |number| {
        let start = at.max(number * PAGE);
        let end = (at + len).min((number + 1) * PAGE);
        (number, start - number * PAGE..end - number * PAGE, start - at..end - at)
    })
}

/// One bit for each sector that a range within a page touches.
fn sectors_of(within: &Range<usize>) -> u8 {
    (within.start / SECTOR..within.end.div_ceil(SECTOR)).fold(0, |bits, sector| bits | 1 << sector)
}

fn dirty_sectors(dirty: u8) -> impl Iterator<Item = Range<usize>> {
    (0..PAGE / SECTOR).filter(move |sector| dirty >> sector & 1 == 1).map(|sector| sector * SECTOR..(sector + 1) * SECTOR)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
