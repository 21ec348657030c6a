//! The index backend: a small ordered key-value store that holds checkpointed views. A cache of the log, never the truth.
//!
//! Backends ([`redb`], [`sled`]) know keys and bytes only; what the keys mean stands in [`offsets`], [`dedup`] and
//! `checkpoint`. The same conformance tests run on each backend.

pub mod checked;
pub mod dedup;
pub mod held;
pub mod offsets;
pub mod redb;
#[cfg(feature = "sled")]
pub mod sled;
mod sums;

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Result, StorageError};
use crate::io::Io;

/// A named key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// What the checkpoint itself is: applied position, epoch, chain.
    Meta,
    /// Views of the broker, opaque here.
    State,
    /// Sparse offset and time index.
    Offsets,
    /// Partitions: next offset, log start and the like.
    Partitions,
    /// One generation of idempotency keys: `class` is the binary logarithm of the window, `number` counts within the class.
    Keys { class: u8, number: u64 },
}

/// Puts and deletes that become visible and durable together.
#[derive(Debug, Default)]
pub struct IndexBatch {
    pub puts: Vec<(Table, Vec<u8>, Vec<u8>)>,
    pub deletes: Vec<(Table, Vec<u8>)>,
    /// Whole tables to drop; a missing one is fine.
    pub drops: Vec<Table>,
}

/// Key and value as stored.
pub type Pair = (Vec<u8>, Vec<u8>);

/// What a backend does. Keys are ordered bytewise. A missing table reads as empty.
pub trait Index: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The pair with the greatest key `<= key` that starts with `prefix`.
    fn floor(&self, table: Table, prefix: &[u8], key: &[u8]) -> Result<Option<Pair>>;
    /// Up to `limit` pairs with keys `>= from` that start with `prefix`, ascending.
    fn range(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>>;
    /// All tables of the kind [`Table::Keys`] that exist.
    fn key_tables(&self) -> Result<Vec<Table>>;
    /// Applies drops, then deletes, then puts: all of them, durably, or none.
    fn commit(&self, batch: IndexBatch) -> Result<()>;
    /// Bytes on disk.
    fn bytes(&self) -> Result<u64>;
}

/// Runs one use of a backend. A panic of its code is an error of the index, which is rebuilt, and not the end of the process.
fn contained<T>(backend: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(StorageError::Index(format!("{backend} panicked: {}", words.unwrap_or("without a word"))))
    })
}

/// The first key after all keys that start with `prefix`; `None` when no key can follow them.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte = byte.saturating_add(1);
    }
    Some(end)
}

/// Where a walk over keys starts and ends.
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The keys in which a `floor` looks: those that start with `prefix` and are not above `key`. `None` when there can be none.
fn floor_bounds(prefix: &[u8], key: &[u8]) -> Option<Bounds> {
    if key < prefix {
        return None;
    }
    let end = match after_prefix(prefix) {
        Some(end) if end.as_slice() <= key => Bound::Excluded(end),
        _ => Bound::Included(key.to_vec()),
    };
    Some((Bound::Included(prefix.to_vec()), end))
}

/// Which backend holds the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    Redb,
    #[cfg(feature = "sled")]
    Sled,
}

/// What opening an index would write.
pub struct HeldBack(Option<Arc<held::HeldFile>>);

impl HeldBack {
    /// Writes it.
    pub fn release(self) -> Result<()> {
        self.0.map_or(Ok(()), |file| file.release())
    }
}

impl Backend {
    /// Opens or creates the index of `dir`.
    pub fn open(self, io: &Arc<dyn Io>, dir: &Path, cache_bytes: usize) -> Result<Arc<dyn Index>> {
        let raw: Arc<dyn Index> = match self {
            Self::Redb => Arc::new(redb::RedbIndex::open(&**io, dir, cache_bytes)?),
            #[cfg(feature = "sled")]
            Self::Sled => Arc::new(sled::SledIndex::open(&**io, dir, cache_bytes)?),
        };
        Ok(Arc::new(checked::CheckedIndex(raw)))
    }

    /// Opens the index of `dir` if there is one, and holds back what that writes until [`HeldBack::release`].
    /// The sled backend cannot hold anything back: it opens its files itself.
    pub fn open_held(self, io: &Arc<dyn Io>, dir: &Path, cache_bytes: usize) -> Result<(Arc<dyn Index>, HeldBack)> {
        let (raw, held): (Arc<dyn Index>, _) = match self {
            Self::Redb => {
                let (index, file) = redb::RedbIndex::open_held(&**io, dir, cache_bytes)?;
                (Arc::new(index), HeldBack(Some(file)))
            }
            #[cfg(feature = "sled")]
            Self::Sled => (Arc::new(sled::SledIndex::open(&**io, dir, cache_bytes)?), HeldBack(None)),
        };
        Ok((Arc::new(checked::CheckedIndex(raw)), held))
    }

    /// Deletes the index of `dir`: what it held is folded from the log again.
    pub fn remove(self, io: &Arc<dyn Io>, dir: &Path) -> Result<()> {
        match self {
            Self::Redb => redb::RedbIndex::remove(&**io, dir),
            #[cfg(feature = "sled")]
            Self::Sled => sled::SledIndex::remove(&**io, dir),
        }
    }
}
