//! The idempotency index: which keys were published within their window, and where.
//!
//! Keys of the time since the last checkpoint are in memory, older ones in the index backend, in one table per window class
//! and generation, so that expiry drops whole tables. The caller's thread looks on disk, the writer thread only in memory;
//! should a checkpoint have moved keys in between, the writer looks again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher128};

use super::{Index, IndexBatch, Table};
use crate::codec::Reader;
use crate::error::{Result, StorageError};
use crate::types::{Offset, PartitionId, TimestampMs};

/// Generations a window is cut into.
const GENERATIONS: u64 = 4;
/// Class of the shortest window: 2^12 ms.
const CLASS_MIN: u8 = 12;

/// Where and when a key was first published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub partition: PartitionId,
    pub offset: Offset,
    pub body: u64,
    pub written: TimestampMs,
    pub class: u8,
}

/// A key on its way in, with what the disk said about it.
#[derive(Clone, Copy, Debug)]
pub struct DedupKey {
    pub key: u128,
    pub body: u64,
    pub window_ms: u64,
    pub class: u8,
    found: Option<KnownKey>,
    flushes_seen: u64,
}

/// The keys are hashes with a secret already; hashing them again would only cost.
#[derive(Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any 64 of the hash's bits will do")]
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

type KeyMap = HashMap<u128, KnownKey, BuildHasherDefault<Identity>>;

#[derive(Default)]
struct Memory {
    active: KeyMap,
    /// Being written to the index by a checkpoint.
    flushing: Option<Arc<KeyMap>>,
}

/// The index of idempotency keys.
pub struct Dedup {
    secret: (u64, u64),
    memory: Mutex<Memory>,
    tables: RwLock<Vec<(u8, u64)>>,
    flushes: AtomicU64,
}

/// Class of a window: its length rounded up to a power of two.
#[must_use]
pub fn class_of(window_ms: u64) -> u8 {
    let log = 64 - window_ms.saturating_sub(1).leading_zeros();
    u8::try_from(log).unwrap_or(63).clamp(CLASS_MIN, 62)
}

fn generation_ms(class: u8) -> u64 {
    (1u64 << class.min(62)) / GENERATIONS
}

fn generation_of(class: u8, written: TimestampMs) -> u64 {
    u64::try_from(written.0).unwrap_or(0) / generation_ms(class)
}

fn encode(known: &KnownKey) -> Vec<u8> {
    let mut out = known.partition.0.to_le_bytes().to_vec();
    out.extend_from_slice(&known.offset.0.to_le_bytes());
    out.extend_from_slice(&known.body.to_le_bytes());
    out.extend_from_slice(&known.written.0.to_le_bytes());
    out
}

fn decode(bytes: &[u8], class: u8) -> Result<KnownKey> {
    let mut read = Reader(bytes);
    let mut known = || {
        Some(KnownKey {
            partition: PartitionId(read.u32()?),
            offset: Offset(read.i64()?),
            body: read.u64()?,
            written: TimestampMs(read.i64()?),
            class,
        })
    };
    known().ok_or_else(|| StorageError::Index("an idempotency key cannot be read".into()))
}

impl Dedup {
    /// `secret` keys the hashes, so that nobody can construct two keys that collide.
    pub fn open(secret: [u8; 16], index: &dyn Index) -> Result<Self> {
        let mut read = Reader(&secret);
        let secret = (read.u64().unwrap_or(0), read.u64().unwrap_or(0));
        let this = Self { secret, memory: Mutex::default(), tables: RwLock::default(), flushes: AtomicU64::new(0) };
        this.reload_tables(index)?;
        Ok(this)
    }

    fn reload_tables(&self, index: &dyn Index) -> Result<()> {
        let tables = index.key_tables()?;
        *self.tables.write() = tables
            .into_iter()
            .filter_map(|table| match table {
                Table::Keys { class, number } => Some((class, number)),
                _ => None,
            })
            .collect();
        Ok(())
    }

    /// Hashes a key of `scope` (a topic) and looks on disk. `body` is what must be equal for a repeat to be one.
    pub fn probe(&self, index: &dyn Index, scope: u32, key: &[u8], body: &[&[u8]], window_ms: u64, now: TimestampMs) -> Result<DedupKey> {
        let mut hasher = SipHasher128::new_with_keys(self.secret.0, self.secret.1);
        scope.hash(&mut hasher);
        hasher.write(key);
        let mut body_hasher = SipHasher24::new_with_keys(self.secret.1, self.secret.0);
        for part in body {
            part.hash(&mut body_hasher);
        }
        let (key, body) = (hasher.finish128().as_u128(), body_hasher.finish());
        let flushes_seen = self.flushes.load(Ordering::Acquire);
        let found = self.on_disk(index, key, window_ms, now)?;
        Ok(DedupKey { key, body, window_ms, class: class_of(window_ms), found, flushes_seen })
    }

    /// Whether the key is known within its window; called by the writer thread only.
    pub fn find(&self, index: &dyn Index, key: &DedupKey, now: TimestampMs) -> Result<Option<KnownKey>> {
        let in_memory = {
            let memory = self.memory.lock();
            let flushing = || memory.flushing.as_ref().and_then(|map| map.get(&key.key).copied());
            memory.active.get(&key.key).copied().or_else(flushing)
        };
        if let Some(known) = in_memory.or(key.found).filter(|known| is_live(known, key.window_ms, now)) {
            return Ok(Some(known));
        }
        if self.flushes.load(Ordering::Acquire) == key.flushes_seen {
            return Ok(None);
        }
        self.on_disk(index, key.key, key.window_ms, now)
    }

    fn on_disk(&self, index: &dyn Index, key: u128, window_ms: u64, now: TimestampMs) -> Result<Option<KnownKey>> {
        let tables = self.tables.read();
        for &(class, number) in tables.iter() {
            let newest = (number + 1).saturating_mul(generation_ms(class));
            if newest.saturating_add(window_ms) < u64::try_from(now.0).unwrap_or(0) {
                continue;
            }
            let Some(value) = index.get(Table::Keys { class, number }, &key.to_be_bytes())? else { continue };
            let known = decode(&value, class)?;
            if is_live(&known, window_ms, now) {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// Remembers a key. The first publication within the window wins, also when replayed.
    pub fn insert(&self, key: u128, known: KnownKey) {
        self.memory.lock().active.insert(key, known);
    }

    /// Whether there are any keys at all.
    pub fn is_used(&self) -> bool {
        self.in_memory() > 0 || !self.tables.read().is_empty()
    }

    /// Keys that are only in memory and in the log.
    pub fn in_memory(&self) -> usize {
        let memory = self.memory.lock();
        memory.active.len() + memory.flushing.as_ref().map_or(0, |map| map.len())
    }

    /// Moves the keys in memory into `batch`, and drops tables whose windows have passed. They stay findable until [`Self::flushed`].
    pub fn flush(&self, batch: &mut IndexBatch, now: TimestampMs) {
        let map = {
            let mut memory = self.memory.lock();
            let mut map = std::mem::take(&mut memory.active);
            if let Some(left) = memory.flushing.take() {
                // An earlier checkpoint failed; its keys go along with this one.
                for (key, known) in left.iter() {
                    map.entry(*key).or_insert(*known);
                }
            }
            let map = Arc::new(map);
            memory.flushing = Some(Arc::clone(&map));
            map
        };
        for (key, known) in map.iter() {
            let table = Table::Keys { class: known.class, number: generation_of(known.class, known.written) };
            batch.puts.push((table, key.to_be_bytes().to_vec(), encode(known)));
        }
        for &(class, number) in self.tables.read().iter() {
            let newest = (number + 1).saturating_mul(generation_ms(class));
            if newest.saturating_add(1 << class) < u64::try_from(now.0).unwrap_or(0) {
                batch.drops.push(Table::Keys { class, number });
            }
        }
    }

    /// The batch of [`Self::flush`] is committed.
    pub fn flushed(&self, index: &dyn Index) -> Result<()> {
        self.reload_tables(index)?;
        self.flushes.fetch_add(1, Ordering::AcqRel);
        self.memory.lock().flushing = None;
        Ok(())
    }
}

fn is_live(known: &KnownKey, window_ms: u64, now: TimestampMs) -> bool {
    let end = known.written.0.saturating_add(i64::try_from(window_ms).unwrap_or(i64::MAX));
    end > now.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_falls_into_the_class_that_covers_it() {
        for (window, class) in [(0, 12), (1, 12), (4096, 12), (4097, 13), (86_400_000, 27), (u64::MAX, 62)] {
            assert_eq!(class_of(window), class, "{window}");
        }
    }
}
