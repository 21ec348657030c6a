//! The index over sled 0.34, a second backend kept so that the choice of redb is a measured one.
//!
//! Owns the directory `index.sled` and the way our tables share sled's one tree: each key stands behind a prefix that
//! names its table, because sled applies a batch atomically within one tree only. sled opens its files itself: of all that
//! is durable only this does not pass [`Io`], so no simulated disk and no fault table sees it. Never used unless the
//! feature `sled` is on. Dropping a table costs one delete per key.

use std::path::Path;

use parking_lot::RwLock;
use sled::{Batch, Db};

use super::{Index, IndexBatch, Pair, Table, after_prefix, contained, floor_bounds};
use crate::error::{Result, StorageError};
use crate::io::{Io, Site};
use crate::layout;

/// First byte of the keys of each table. Those of [`Table::Keys`] go on with class and number.
const META: u8 = 0;
const STATE: u8 = 1;
const OFFSETS: u8 = 2;
const PARTITIONS: u8 = 3;
const KEYS: u8 = 4;
/// Tag, class, number.
const KEYS_PREFIX_BYTES: usize = 1 + 1 + 8;

/// An open index directory.
pub struct SledIndex {
    database: Db,
    /// Held for writing by a commit: sled's iterators would see half of a batch.
    commits: RwLock<()>,
}

impl SledIndex {
    /// Opens the index of the data directory `dir`, or creates an empty one. `io` serves for the names only.
    ///
    /// An error means the files cannot be used: [`SledIndex::remove`] them and rebuild.
    pub fn open(io: &dyn Io, dir: &Path, cache_bytes: usize) -> Result<Self> {
        let own = layout::sled_dir(dir);
        io.create_dir(Site::DirCreate, &own)?;
        io.sync_dir(Site::DirSync, dir)?;
        // Nothing is flushed behind our back: a commit flushes before it answers.
        let config = sled::Config::new().path(&own).cache_capacity(cache_bytes as u64).flush_every_ms(None);
        let database = guarded(|| config.open())?;
        io.sync_dir(Site::DirSync, &own)?;
        Ok(Self { database, commits: RwLock::new(()) })
    }

    /// Deletes the files of the index. Fine when there is none. The index must not be open.
    pub fn remove(io: &dyn Io, dir: &Path) -> Result<()> {
        let listed = io.list(Site::DirList, dir)?;
        if listed.iter().any(|entry| entry.is_dir && dir.join(&entry.name) == layout::sled_dir(dir)) {
            remove_files(io, &layout::sled_dir(dir))?;
        }
        Ok(())
    }
}

/// Empties `dir` and the directories in it. The directories stay: sled finds them empty and starts anew.
fn remove_files(io: &dyn Io, dir: &Path) -> Result<()> {
    for entry in io.list(Site::DirList, dir)? {
        let path = dir.join(&entry.name);
        if entry.is_dir { remove_files(io, &path)? } else { io.remove(Site::IndexRemove, &path)? }
    }
    io.sync_dir(Site::DirSync, dir)
}

impl Index for SledIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let _no_commit = self.commits.read();
        guarded(|| Ok(self.database.get(stored(table, key))?.map(|value| value.to_vec())))
    }

    fn floor(&self, table: Table, prefix: &[u8], key: &[u8]) -> Result<Option<Pair>> {
        let Some(bounds) = floor_bounds(&stored(table, prefix), &stored(table, key)) else { return Ok(None) };
        let _no_commit = self.commits.read();
        guarded(|| self.database.range(bounds).next_back().transpose().map(|last| last.map(|pair| ours(table, &pair))))
    }

    fn range(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>> {
        let (stored_prefix, start) = (stored(table, prefix), stored(table, prefix.max(from)));
        let _no_commit = self.commits.read();
        guarded(|| {
            let mut found = Vec::new();
            for pair in self.database.range(start..).take(limit) {
                let pair = pair?;
                if !pair.0.starts_with(&stored_prefix) {
                    break;
                }
                found.push(ours(table, &pair));
            }
            Ok(found)
        })
    }

    fn key_tables(&self) -> Result<Vec<Table>> {
        let _no_commit = self.commits.read();
        guarded(|| {
            let mut tables = Vec::new();
            let mut next = Some(vec![KEYS]);
            while let Some(from) = next {
                let Some((key, _)) = self.database.range(from..).next().transpose()? else { break };
                let Some(table) = keys_table(&key) else { break };
                tables.push(table);
                next = after_prefix(&stored(table, b""));
            }
            Ok(tables)
        })
    }

    fn commit(&self, batch: IndexBatch) -> Result<()> {
        let _alone = self.commits.write();
        guarded(|| {
            self.database.apply_batch(self.translate(batch)?)?;
            self.database.flush().map(|_bytes| ())
        })
    }

    fn bytes(&self) -> Result<u64> {
        guarded(|| self.database.size_on_disk())
    }
}

impl SledIndex {
    /// One batch of sled's. Of several changes to one key the last one counts, so the order of these loops is the contract's.
    fn translate(&self, batch: IndexBatch) -> sled::Result<Batch> {
        let mut translated = Batch::default();
        for table in batch.drops {
            for key in self.database.scan_prefix(stored(table, b"")).keys() {
                translated.remove(key?);
            }
        }
        for (table, key) in batch.deletes {
            translated.remove(stored(table, &key));
        }
        for (table, key, value) in batch.puts {
            translated.insert(stored(table, &key), value);
        }
        Ok(translated)
    }
}

/// A key as sled sees it: behind its table's prefix. No table's prefix begins another's.
fn stored(table: Table, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(KEYS_PREFIX_BYTES + key.len());
    match table {
        Table::Meta => bytes.push(META),
        Table::State => bytes.push(STATE),
        Table::Offsets => bytes.push(OFFSETS),
        Table::Partitions => bytes.push(PARTITIONS),
        Table::Keys { class, number } => {
            bytes.extend([KEYS, class]);
            bytes.extend(number.to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes
}

/// The generation of keys a stored key belongs to; `None` for those of other tables.
fn keys_table(stored: &[u8]) -> Option<Table> {
    let (&[tag, class], rest) = stored.split_first_chunk()?;
    let number = u64::from_be_bytes(*rest.first_chunk()?);
    (tag == KEYS).then_some(Table::Keys { class, number })
}

/// A pair without its table's prefix.
fn ours(table: Table, (key, value): &(sled::IVec, sled::IVec)) -> Pair {
    let key = key.strip_prefix(stored(table, b"").as_slice()).unwrap_or_default();
    (key.to_vec(), value.to_vec())
}

/// Runs one use of sled and turns its error, or its panic, into ours.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    contained("sled", || work().map_err(|error| StorageError::Index(error.to_string())))
}
