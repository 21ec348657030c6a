//! The index file while the log is not judged yet: what a backend writes (a repair, a mark that it is open) is held in memory
//! and reaches the file when the opening is accepted, in the order of the calls. A refused opening leaves the file as it was.
//!
//! Owns what is held. Bounded by what a backend writes when it opens a file; nothing else may be written before the release.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::Result;
use crate::io::{IoFile, Site};

const PAGE: u64 = 4096;

/// An index file that is written only once it is released.
pub struct HeldFile {
    file: Arc<dyn IoFile>,
    released: AtomicBool,
    held: Mutex<Held>,
}

struct Held {
    len: u64,
    /// Bytes of the file from here on are gone: they were cut off.
    file_len: u64,
    /// Pages as they would be, by number.
    pages: BTreeMap<u64, Vec<u8>>,
    calls: Vec<Call>,
}

enum Call {
    Write { site: Site, at: u64, bytes: Vec<u8> },
    SetLen { site: Site, len: u64 },
    Sync(Site),
}

impl HeldFile {
    pub fn new(file: Arc<dyn IoFile>) -> Result<Self> {
        let len = file.len(Site::IndexRead)?;
        let held = Held { len, file_len: len, pages: BTreeMap::new(), calls: Vec::new() };
        Ok(Self { file, released: AtomicBool::new(false), held: Mutex::new(held) })
    }

    /// Does what was held back; from now on calls go straight to the file.
    pub fn release(&self) -> Result<()> {
        let mut held = self.held.lock();
        for call in held.calls.drain(..) {
            match call {
                Call::Write { site, at, bytes } => self.file.write_at(site, &[&bytes], at)?,
                Call::SetLen { site, len } => self.file.set_len(site, len)?,
                Call::Sync(site) => self.file.sync(site)?,
            }
        }
        held.pages.clear();
        self.released.store(true, Ordering::Release);
        Ok(())
    }

    /// What is held; `None` once nothing is.
    fn held(&self) -> Option<parking_lot::MutexGuard<'_, Held>> {
        if self.released.load(Ordering::Acquire) {
            return None;
        }
        let held = self.held.lock();
        (!self.released.load(Ordering::Acquire)).then_some(held)
    }
}

impl Held {
    fn read(&self, file: &dyn IoFile, site: Site, buf: &mut [u8], at: u64) -> Result<usize> {
        let filled = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..filled).unwrap_or_default();
        buf.fill(0);
        let of_file = usize::try_from(self.file_len.saturating_sub(at)).unwrap_or(usize::MAX).min(filled);
        if let Some(from_file) = buf.get_mut(..of_file).filter(|part| !part.is_empty()) {
            file.read_at(site, from_file, at)?;
        }
        let end = at.saturating_add(filled as u64);
        for (number, page) in self.pages.range(at / PAGE..end.div_ceil(PAGE)) {
            let start = number * PAGE;
            let (from, to) = (start.max(at), (start + PAGE).min(end));
            copy(buf, from - at, page, from - start, to - from);
        }
        Ok(filled)
    }

    fn write(&mut self, file: &dyn IoFile, site: Site, bytes: &[u8], at: u64) -> Result<()> {
        let end = at.saturating_add(bytes.len() as u64);
        self.len = self.len.max(end);
        for number in at / PAGE..end.div_ceil(PAGE) {
            let start = number * PAGE;
            let mut page = vec![0; usize::try_from(PAGE).unwrap_or(0)];
            self.read(file, Site::IndexRead, &mut page, start)?;
            let (from, to) = (start.max(at), (start + PAGE).min(end));
            copy(&mut page, from - start, bytes, from - at, to - from);
            self.pages.insert(number, page);
        }
        self.calls.push(Call::Write { site, at, bytes: bytes.to_vec() });
        Ok(())
    }

    fn set_len(&mut self, site: Site, len: u64) {
        self.len = len;
        self.file_len = self.file_len.min(len);
        self.pages.split_off(&len.div_ceil(PAGE));
        if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
            let kept = usize::try_from(len % PAGE).unwrap_or(0);
            page.iter_mut().skip(kept).for_each(|byte| *byte = 0);
        }
        self.calls.push(Call::SetLen { site, len });
    }
}

fn copy(to: &mut [u8], to_at: u64, from: &[u8], from_at: u64, len: u64) {
    let range = |at: u64| Some(usize::try_from(at).ok()?..usize::try_from(at.checked_add(len)?).ok()?);
    let parts = (range(to_at).and_then(|range| to.get_mut(range)), range(from_at).and_then(|range| from.get(range)));
    if let (Some(to), Some(from)) = parts {
        to.copy_from_slice(from);
    }
}

impl IoFile for HeldFile {
    fn len(&self, site: Site) -> Result<u64> {
        self.held().map_or_else(|| self.file.len(site), |held| Ok(held.len))
    }

    fn read_at(&self, site: Site, buf: &mut [u8], at: u64) -> Result<usize> {
        match self.held() {
            Some(held) => held.read(&*self.file, site, buf, at),
            None => self.file.read_at(site, buf, at),
        }
    }

    fn write_at(&self, site: Site, parts: &[&[u8]], at: u64) -> Result<()> {
        match self.held() {
            Some(mut held) => held.write(&*self.file, site, &parts.concat(), at),
            None => self.file.write_at(site, parts, at),
        }
    }

    fn set_len(&self, site: Site, len: u64) -> Result<()> {
        match self.held() {
            Some(mut held) => {
                held.set_len(site, len);
                Ok(())
            }
            None => self.file.set_len(site, len),
        }
    }

    fn sync(&self, site: Site) -> Result<()> {
        match self.held() {
            Some(mut held) => {
                held.calls.push(Call::Sync(site));
                Ok(())
            }
            None => self.file.sync(site),
        }
    }

    fn evict(&self, site: Site) -> Result<()> {
        self.file.evict(site)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::io::sim::SimDisk;
    use crate::io::{Io, OpenMode};

    fn all(file: &dyn IoFile) -> Vec<u8> {
        let mut bytes = vec![9; 40_000];
        let filled = file.read_at(Site::IndexRead, &mut bytes, 0).unwrap();
        bytes.truncate(filled);
        bytes
    }

    /// The same calls on a held file and on a plain one: the same reads at every step, the plain bytes after the release,
    /// and nothing on the disk before it.
    #[test]
    fn a_held_file_reads_as_if_written_and_is_written_at_its_release() {
        let disk = SimDisk::with_dir(1, Path::new("/d"));
        let open = |name| disk.open(Site::IndexOpen, Path::new(name), OpenMode::CreateOrWrite).unwrap();
        let (plain, under) = (open("/d/plain"), open("/d/held"));
        for file in [&plain, &under] {
            file.write_at(Site::IndexWrite, &[&[7; 10_000]], 0).unwrap();
        }
        let held = HeldFile::new(Arc::clone(&under)).unwrap();
        let before = all(&*under);
        let mut dice = 1_u64;
        for step in 0..400_u64 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (what, at, len) = ((dice >> 33) % 8, (dice >> 40) % 20_000, (dice >> 50) % 9_000);
            for file in [&*plain, &held as &dyn IoFile] {
                match what {
                    0 => file.set_len(Site::IndexResize, at).unwrap(),
                    1 => file.sync(Site::IndexSync).unwrap(),
                    _ => file.write_at(Site::IndexWrite, &[&vec![u8::try_from(step % 250).unwrap(); len as usize]], at).unwrap(),
                }
            }
            assert_eq!(all(&held), all(&*plain), "step {step}");
            assert_eq!(held.len(Site::IndexRead).unwrap(), plain.len(Site::IndexRead).unwrap(), "step {step}");
        }
        assert_eq!(all(&*under), before);
        held.release().unwrap();
        assert_eq!(all(&*under), all(&*plain));
        held.write_at(Site::IndexWrite, &[b"straight"], 3).unwrap();
        assert_eq!(all(&*under)[3..11], *b"straight");
    }
}
