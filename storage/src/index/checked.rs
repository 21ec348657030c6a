//! Puts a checksum behind every value of an index backend and verifies it on the way out: a flipped bit in the index file
//! becomes an error instead of a wrong offset. Backends check their own structure at most, not what they are given.

use std::sync::Arc;

use super::{Index, IndexBatch, Pair, Table};
use crate::error::{Result, StorageError};

/// An index whose values are verified.
pub struct CheckedIndex(pub Arc<dyn Index>);

fn checksum(key: &[u8], value: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

/// `stored` without its checksum.
fn verified(table: Table, key: &[u8], mut stored: Vec<u8>) -> Result<Vec<u8>> {
    let whole = stored.split_last_chunk::<4>().filter(|(value, crc)| checksum(key, value) == **crc).map(|(value, _)| value.len());
    let Some(len) = whole else {
        let why =
            format!("a value in {table:?} is damaged; stop onelog, delete the index file and start again: it is rebuilt from the log");
        return Err(StorageError::Index(why));
    };
    stored.truncate(len);
    Ok(stored)
}

impl Index for CheckedIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(table, key)?.map(|stored| verified(table, key, stored)).transpose()
    }

    fn floor(&self, table: Table, prefix: &[u8], key: &[u8]) -> Result<Option<Pair>> {
        let found = self.0.floor(table, prefix, key)?;
        found.map(|(key, stored)| verified(table, &key, stored).map(|value| (key, value))).transpose()
    }

    fn range(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>> {
        let found = self.0.range(table, prefix, from, limit)?.into_iter();
        found.map(|(key, stored)| verified(table, &key, stored).map(|value| (key, value))).collect()
    }

    fn key_tables(&self) -> Result<Vec<Table>> {
        self.0.key_tables()
    }

    fn commit(&self, mut batch: IndexBatch) -> Result<()> {
        for (_, key, value) in &mut batch.puts {
            let crc = checksum(key, value);
            value.extend_from_slice(&crc);
        }
        self.0.commit(batch)
    }

    fn bytes(&self) -> Result<u64> {
        self.0.bytes()
    }
}
