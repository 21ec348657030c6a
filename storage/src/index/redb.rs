//! The index over redb: one file, `index.redb`, read and written through [`Io`].
//!
//! Owns the names of redb's tables and one snapshot of them, opened anew after each commit, so that a lookup costs one
//! walk down a tree and no transaction. Every commit is two-phase (one phase could be fooled by bytes chosen by whoever
//! writes records) and saves what a quick repair needs, so that opening after a crash does not walk the file.
//! Never lets a panic of redb out: damage redb asserts about is an error here, and the index is rebuilt from the log.
//! redb checks the bytes of its pages only when asked, which costs a walk over the file and is done for small ones. Otherwise
//! whoever must notice a flipped bit puts a checksum in the value,
//! and a sum over each table, kept here, shows whether all of it can still be reached. A table is read whole and held
//! against its sum before anybody is told for the first time that something is not in it.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableHandle, WriteTransaction};

use super::held::HeldFile;
use super::sums::Sum;
use super::{Index, IndexBatch, Pair, Table, contained, floor_bounds};
use crate::error::{Result, StorageError};
use crate::io::{Io, IoFile, OpenMode, Site};
use crate::layout;
use crate::log::is_full;

/// Index files up to this size have every page verified when they are opened, which costs up to a few hundred milliseconds; larger
/// ones only as far as values and sums show.
const VERIFIED_BYTES_MAX: u64 = 64 * 1024 * 1024;

type Bytes = &'static [u8];
type Opened = ReadOnlyTable<Bytes, Bytes>;

/// An open index file. Dropping it closes it cleanly.
pub struct RedbIndex {
    /// What lookups see: the last commit.
    snapshot: RwLock<Arc<Snapshot>>,
    /// Held across a commit and the snapshot taken after it, so that snapshots never go back. `None` while being dropped, and
    /// after a full disk until it could be opened again.
    database: Mutex<Option<Database>>,
    cache_bytes: usize,
    file: Arc<dyn IoFile>,
    /// Tables that were whole when they were read, or that this process has made.
    whole: Mutex<HashSet<Table>>,
}

/// The tables as of one commit.
#[derive(Default)]
struct Snapshot {
    tables: HashMap<Table, Opened>,
    sums: HashMap<Table, Sum>,
}

impl RedbIndex {
    /// Opens the index of the data directory `dir`, or creates an empty one.
    ///
    /// An error means the file cannot be used: [`RedbIndex::remove`] it and rebuild.
    pub fn open(io: &dyn Io, dir: &Path, cache_bytes: usize) -> Result<Self> {
        let file = io.open(Site::IndexOpen, &layout::redb_file(dir), OpenMode::CreateOrWrite)?;
        // Also when the file was there before: whoever created it may have died before this line.
        io.sync_dir(Site::DirSync, dir)?;
        Self::over(file, cache_bytes)
    }

    /// Opens the index of `dir`, which must be there. Nothing is written to it before the file is released.
    pub fn open_held(io: &dyn Io, dir: &Path, cache_bytes: usize) -> Result<(Self, Arc<HeldFile>)> {
        let file = io.open(Site::IndexOpen, &layout::redb_file(dir), OpenMode::Write)?;
        io.sync_dir(Site::DirSync, dir)?;
        let held = Arc::new(HeldFile::new(file)?);
        Ok((Self::over(Arc::clone(&held) as Arc<dyn IoFile>, cache_bytes)?, held))
    }

    fn over(file: Arc<dyn IoFile>, cache_bytes: usize) -> Result<Self> {
        let index = Self { snapshot: RwLock::default(), database: Mutex::default(), cache_bytes, file, whole: Mutex::default() };
        index.open_again(&mut index.database.lock(), true)?;
        Ok(index)
    }

    /// Deletes the index file, durably. Fine when there is none. The index must not be open.
    pub fn remove(io: &dyn Io, dir: &Path) -> Result<()> {
        io.remove(Site::IndexRemove, &layout::redb_file(dir))?;
        io.sync_dir(Site::DirSync, dir)
    }

    /// After a write that failed redb takes and reads nothing until it is opened again. The file has the last commit whole.
    fn open_again(&self, database: &mut Option<Database>, verify: bool) -> Result<()> {
        close(database.take());
        let backend = Backend { file: Arc::clone(&self.file) };
        let is_small = self.file.len(Site::IndexRead)? <= VERIFIED_BYTES_MAX;
        let opened = guarded(|| {
            let mut opened = Database::builder().set_cache_size(self.cache_bytes).create_with_backend(backend)?;
            let is_whole = !verify || !is_small || opened.check_integrity()?;
            Ok(is_whole.then_some(opened))
        });
        let opened = opened?.ok_or_else(|| StorageError::Index("its pages are not what was written".into()))?;
        *self.snapshot.write() = Arc::new(Snapshot::of(&opened)?);
        *database = Some(opened);
        Ok(())
    }

    /// Whether a table can be reached whole, so that what is not found in it is not in it.
    fn check_whole(&self, snapshot: &Snapshot, table: Table) -> Result<()> {
        // Held while reading: who asks meanwhile has to wait for the answer in any case.
        let mut whole = self.whole.lock();
        if whole.contains(&table) {
            return Ok(());
        }
        let Some(opened) = snapshot.tables.get(&table) else { return Ok(()) };
        let mut sum = Sum::default();
        guarded(|| {
            for pair in opened.range::<&[u8]>(..)? {
                let (key, value) = pair?;
                sum.add(key.value(), value.value());
            }
            Ok(())
        })?;
        if snapshot.sums.get(&table) != Some(&sum) {
            return Err(damaged(table));
        }
        whole.insert(table);
        Ok(())
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Looks something up. While a commit fails for want of space redb reads nothing either, until it is opened again: then
    /// this waits for the snapshot that comes after, and looks once more.
    fn look_up<T>(&self, look: impl Fn(&Snapshot) -> Result<T>) -> Result<T> {
        look(&self.snapshot()).or_else(|_| {
            drop(self.database.lock());
            look(&self.snapshot())
        })
    }
}

impl Drop for RedbIndex {
    fn drop(&mut self) {
        // The snapshot's pages belong to the database and go first.
        *self.snapshot.get_mut() = Arc::default();
        close(self.database.get_mut().take());
    }
}

/// Closing writes, so it can fail; nothing is lost by it.
fn close(database: Option<Database>) {
    let _ = guarded(|| {
        drop(database);
        Ok(())
    });
}

impl Index for RedbIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.look_up(|snapshot| {
            let Some(opened) = snapshot.tables.get(&table) else { return Ok(None) };
            let found = guarded(|| Ok(opened.get(key)?.map(|value| value.value().to_vec())))?;
            if found.is_none() {
                self.check_whole(snapshot, table)?;
            }
            Ok(found)
        })
    }

    fn floor(&self, table: Table, prefix: &[u8], key: &[u8]) -> Result<Option<Pair>> {
        let Some((from, to)) = floor_bounds(prefix, key) else { return Ok(None) };
        let bounds = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        self.look_up(|snapshot| {
            let Some(opened) = snapshot.tables.get(&table) else { return Ok(None) };
            let found = guarded(|| {
                let last = opened.range::<&[u8]>(bounds)?.next_back().transpose()?;
                Ok(last.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
            })?;
            if found.is_none() {
                self.check_whole(snapshot, table)?;
            }
            Ok(found)
        })
    }

    fn range(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>> {
        self.look_up(|snapshot| {
            let Some(opened) = snapshot.tables.get(&table) else { return Ok(Vec::new()) };
            self.check_whole(snapshot, table)?;
            guarded(|| {
                let mut found = Vec::new();
                for pair in opened.range::<&[u8]>(prefix.max(from)..)?.take(limit) {
                    let (key, value) = pair?;
                    if !key.value().starts_with(prefix) {
                        break;
                    }
                    found.push((key.value().to_vec(), value.value().to_vec()));
                }
                Ok(found)
            })
        })
    }

    fn key_tables(&self) -> Result<Vec<Table>> {
        let mut tables: Vec<Table> = self.snapshot().tables.keys().filter(|table| matches!(table, Table::Keys { .. })).copied().collect();
        tables.sort_unstable();
        Ok(tables)
    }

    fn commit(&self, batch: IndexBatch) -> Result<()> {
        let mut database = self.database.lock();
        if database.is_none() {
            self.open_again(&mut database, false)?;
        }
        let opened = database.as_ref().ok_or(StorageError::Closed)?;
        let written = guarded(|| {
            let mut transaction = opened.begin_write()?;
            transaction.set_two_phase_commit(true);
            transaction.set_quick_repair(true);
            let made = apply(&transaction, batch)?;
            transaction.commit()?;
            Ok(made)
        });
        match written {
            Ok(made) => {
                let snapshot = Arc::new(Snapshot::of(opened)?);
                self.whole.lock().extend(made);
                *self.snapshot.write() = snapshot;
                Ok(())
            }
            Err(error) if is_full(&error) => {
                // Should this fail as well, the next commit tries it first.
                let _ = self.open_again(&mut database, false);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn bytes(&self) -> Result<u64> {
        self.file.len(Site::IndexRead)
    }
}

impl Snapshot {
    fn of(database: &Database) -> Result<Self> {
        let snapshot = guarded(|| {
            let transaction = database.begin_read()?;
            let (mut tables, mut sums) = (HashMap::new(), HashMap::new());
            for handle in transaction.list_tables()? {
                if let Some(table) = parse_table_name(handle.name()) {
                    tables.insert(table, transaction.open_table(definition(handle.name()))?);
                } else if handle.name() == SUMS {
                    for pair in transaction.open_table(definition(SUMS))?.range::<&[u8]>(..)? {
                        let (name, sum) = pair?;
                        let table = std::str::from_utf8(name.value()).ok().and_then(parse_table_name);
                        sums.insert(table, Sum::decode(sum.value()));
                    }
                }
            }
            Ok((tables, sums))
        });
        let (tables, sums): (HashMap<Table, Opened>, HashMap<Option<Table>, Option<Sum>>) = snapshot?;
        // Each table has its sum and each sum its table: one that is not reached any more would read as empty.
        let sums: HashMap<Table, Sum> =
            sums.into_iter().map(|(table, sum)| Some((table?, sum?))).collect::<Option<_>>().ok_or_else(unsummed)?;
        match tables.len() == sums.len() && tables.keys().all(|table| sums.contains_key(table)) {
            true => Ok(Self { tables, sums }),
            false => Err(unsummed()),
        }
    }
}

fn unsummed() -> StorageError {
    StorageError::Index("its tables are not those that were written; stop onelog, delete the index file and start again".into())
}

fn damaged(table: Table) -> StorageError {
    let why = format!("the table {table:?} is damaged; stop onelog, delete the index file and start again: it is rebuilt from the log");
    StorageError::Index(why)
}

/// Name of the table that holds the sums of the others, by their names.
const SUMS: &str = "sums";

/// Drops, then deletes, then puts. In the order of keys, which a tree likes best; of equal puts the last one stays. Answers
/// with the tables that were made.
fn apply(transaction: &WriteTransaction, mut batch: IndexBatch) -> Result<Vec<Table>, redb::Error> {
    let mut sums = transaction.open_table(definition(SUMS))?;
    let mut made = Vec::new();
    for table in batch.drops {
        transaction.delete_table(definition(&table_name(table)))?;
        sums.remove(table_name(table).as_bytes())?;
    }
    batch.deletes.sort();
    for same_table in batch.deletes.chunk_by(|(left, _), (right, _)| left == right) {
        let Some((table, _)) = same_table.first() else { continue };
        let name = table_name(*table);
        let mut opened = transaction.open_table(definition(&name))?;
        let (mut sum, _) = sum_of(&sums, &name)?;
        for (_, key) in same_table {
            if let Some(old) = opened.remove(key.as_slice())? {
                sum.take(key, old.value());
            }
        }
        sums.insert(name.as_bytes(), sum.encode().as_slice())?;
    }
    batch.puts.sort_by(|(left, left_key, _), (right, right_key, _)| (left, left_key).cmp(&(right, right_key)));
    for same_table in batch.puts.chunk_by(|(left, ..), (right, ..)| left == right) {
        let Some((table, ..)) = same_table.first() else { continue };
        let name = table_name(*table);
        let mut opened = transaction.open_table(definition(&name))?;
        let (mut sum, is_new) = sum_of(&sums, &name)?;
        for (_, key, value) in same_table {
            if let Some(old) = opened.insert(key.as_slice(), value.as_slice())? {
                sum.take(key, old.value());
            }
            sum.add(key, value);
        }
        sums.insert(name.as_bytes(), sum.encode().as_slice())?;
        made.extend(is_new.then_some(*table));
    }
    Ok(made)
}

/// The sum of a table so far, and whether it is a new one. A sum that cannot be read stays wrong, and is noticed.
fn sum_of(sums: &redb::Table<'_, Bytes, Bytes>, name: &str) -> Result<(Sum, bool), redb::Error> {
    let found = sums.get(name.as_bytes())?.map(|sum| Sum::decode(sum.value()).unwrap_or_default());
    Ok((found.unwrap_or_default(), found.is_none()))
}

/// How every table is typed: bytes to bytes, ordered bytewise.
fn definition(name: &str) -> TableDefinition<'_, Bytes, Bytes> {
    TableDefinition::new(name)
}

fn table_name(table: Table) -> String {
    match table {
        Table::Meta => "meta".to_owned(),
        Table::State => "state".to_owned(),
        Table::Offsets => "offsets".to_owned(),
        Table::Partitions => "partitions".to_owned(),
        Table::Keys { class, number } => format!("keys-{class}-{number:020}"),
    }
}

/// The inverse of [`table_name`]; `None` for names it never makes.
fn parse_table_name(name: &str) -> Option<Table> {
    let table = match name {
        "meta" => Table::Meta,
        "state" => Table::State,
        "offsets" => Table::Offsets,
        "partitions" => Table::Partitions,
        keys => {
            let (class, number) = keys.strip_prefix("keys-")?.split_once('-')?;
            Table::Keys { class: class.parse().ok()?, number: number.parse().ok()? }
        }
    };
    (table_name(table) == name).then_some(table)
}

/// Runs one use of redb and turns what it answers, or its panic, into our error.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    contained("redb", || work().map_err(ours))
}

/// An error of our own that passed through redb comes back as it was.
fn ours(error: redb::Error) -> StorageError {
    if let redb::Error::Io(io) = &error
        && let Some(passed) = io.get_ref().and_then(|inner| inner.downcast_ref::<StorageError>())
    {
        return passed.clone();
    }
    StorageError::Index(error.to_string())
}

/// What redb calls: a file of ours.
struct Backend {
    file: Arc<dyn IoFile>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len(Site::IndexRead).map_err(theirs)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let filled = self.file.read_at(Site::IndexRead, out, offset).map_err(theirs)?;
        if filled == out.len() { Ok(()) } else { Err(io::Error::new(ErrorKind::UnexpectedEof, "the index file ends too early")) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(Site::IndexResize, len).map_err(theirs)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync(Site::IndexSync).map_err(theirs)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(Site::IndexWrite, &[data], offset).map_err(theirs)
    }
}

/// Packs an error of ours for its way through redb; [`ours`] unpacks it.
fn theirs(error: StorageError) -> io::Error {
    let kind = if let StorageError::Io { kind, .. } = &error { *kind } else { ErrorKind::Other };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_round_trip_and_nothing_else_parses() {
        let keys = [(0, 0), (17, 3), (u8::MAX, u64::MAX)].map(|(class, number)| Table::Keys { class, number });
        for table in [Table::Meta, Table::State, Table::Offsets, Table::Partitions].into_iter().chain(keys) {
            assert_eq!(parse_table_name(&table_name(table)), Some(table));
        }
        for bad in ["", "keys", "keys-1", "keys-1-1", "keys-256-00000000000000000001", "keys-+1-00000000000000000001", "meta2"] {
            assert_eq!(parse_table_name(bad), None, "{bad}");
        }
    }
}
