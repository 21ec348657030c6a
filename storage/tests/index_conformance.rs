//! What every index backend must do, run over each of them: redb on the real disk, redb on the simulated one, sled.
//!
//! Owns the meaning of the `Index` trait as tests. Knows nothing of what the keys mean to the store.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; the exemption for tests does not reach their helpers"
)]

use std::path::{Path, PathBuf};

use onelog_storage::error::StorageError;
use onelog_storage::index::redb::RedbIndex;
use onelog_storage::index::{Index, IndexBatch, Pair, Table};
use onelog_storage::io::Site;
use onelog_storage::io::disk::Disk;
use onelog_storage::io::sim::{Fault, PowerCut, SimDisk};
use onelog_storage::layout;

const CACHE_BYTES: usize = 1024 * 1024;
const OLD_KEYS: Table = Table::Keys { class: 3, number: 7 };
const NEW_KEYS: Table = Table::Keys { class: 16, number: u64::MAX };

/// A place where an index can be opened again and again.
trait Home {
    fn open(&self) -> Box<dyn Index>;
}

struct RedbOnDisk(tempfile::TempDir);

impl Home for RedbOnDisk {
    fn open(&self) -> Box<dyn Index> {
        Box::new(RedbIndex::open(&Disk, self.0.path(), CACHE_BYTES).unwrap())
    }
}

struct RedbOnSim(SimDisk, PathBuf);

impl Home for RedbOnSim {
    fn open(&self) -> Box<dyn Index> {
        Box::new(RedbIndex::open(&self.0, &self.1, CACHE_BYTES).unwrap())
    }
}

#[cfg(feature = "sled")]
struct Sled(tempfile::TempDir);

#[cfg(feature = "sled")]
impl Home for Sled {
    fn open(&self) -> Box<dyn Index> {
        Box::new(onelog_storage::index::sled::SledIndex::open(&Disk, self.0.path(), CACHE_BYTES).unwrap())
    }
}

/// Runs each test of the suite in a home of its own.
macro_rules! conformance {
    ($backend:ident, $home:expr) => {
        mod $backend {
            use super::*;

            conformance!(@tests $home,
                an_empty_index_answers_nothing,
                what_was_put_is_found_in_its_table_only,
                floor_finds_the_greatest_key_not_above,
                floor_stays_within_the_prefix,
                range_ascends_within_prefix_and_limit,
                a_prefix_of_the_highest_bytes_has_no_end,
                one_commit_drops_then_deletes_then_puts,
                the_last_of_equal_puts_stays,
                key_tables_come_and_go,
                empty_keys_and_large_values_are_kept,
                a_reader_sees_one_commit_or_the_next,
                reopening_keeps_everything
            );
        }
    };
    (@tests $home:expr, $($test:ident),*) => {
        $(#[test]
        fn $test() {
            suite::$test(&$home);
        })*
    };
}

conformance!(redb_on_disk, RedbOnDisk(tempfile::tempdir().unwrap()));
conformance!(redb_on_simulated_disk, RedbOnSim(SimDisk::with_dir(1, Path::new("/data")), PathBuf::from("/data")));
#[cfg(feature = "sled")]
conformance!(sled, Sled(tempfile::tempdir().unwrap()));

fn pair(key: &[u8], value: &[u8]) -> Pair {
    (key.to_vec(), value.to_vec())
}

fn put(index: &dyn Index, table: Table, keys: &[&[u8]]) {
    let puts = keys.iter().map(|key| (table, key.to_vec(), key.to_vec())).collect();
    index.commit(IndexBatch { puts, ..IndexBatch::default() }).unwrap();
}

fn keys(pairs: Vec<Pair>) -> Vec<Vec<u8>> {
    pairs.into_iter().map(|(key, _)| key).collect()
}

/// The suite itself.
mod suite {
    use super::*;

    pub fn an_empty_index_answers_nothing(home: &dyn Home) {
        let index = home.open();
        for table in [Table::Meta, Table::State, Table::Offsets, Table::Partitions, OLD_KEYS] {
            assert_eq!(index.get(table, b"").unwrap(), None);
            assert_eq!(index.floor(table, b"", b"\xff").unwrap(), None);
            assert!(index.range(table, b"", b"", 9).unwrap().is_empty());
        }
        assert!(index.key_tables().unwrap().is_empty());
        index.commit(IndexBatch { drops: vec![OLD_KEYS, Table::Meta], ..IndexBatch::default() }).unwrap();
        index.commit(IndexBatch { deletes: vec![(Table::State, b"none".to_vec())], ..IndexBatch::default() }).unwrap();
        assert_eq!(index.get(Table::State, b"none").unwrap(), None);
    }

    pub fn what_was_put_is_found_in_its_table_only(home: &dyn Home) {
        let index = home.open();
        put(&*index, Table::State, &[b"a", b"ab", b"b"]);
        put(&*index, NEW_KEYS, &[b"c"]);
        assert_eq!(index.get(Table::State, b"ab").unwrap(), Some(b"ab".to_vec()));
        assert_eq!(index.get(Table::State, b"abc").unwrap(), None);
        assert_eq!(index.get(Table::State, b"c").unwrap(), None);
        assert_eq!(index.get(NEW_KEYS, b"c").unwrap(), Some(b"c".to_vec()));
        assert_eq!(index.get(NEW_KEYS, b"a").unwrap(), None);
        assert_eq!(index.get(OLD_KEYS, b"c").unwrap(), None);
        assert_eq!(index.floor(NEW_KEYS, b"", b"\xff").unwrap(), Some(pair(b"c", b"c")));
        assert_eq!(keys(index.range(Table::State, b"", b"", 9).unwrap()), [&b"a"[..], b"ab", b"b"]);
        assert!(index.bytes().unwrap() > 0);
    }

    pub fn floor_finds_the_greatest_key_not_above(home: &dyn Home) {
        let index = home.open();
        put(&*index, Table::Offsets, &[b"p1-10", b"p1-20", b"p1-30"]);
        let floor = |key: &[u8]| index.floor(Table::Offsets, b"p1-", key).unwrap();
        assert_eq!(floor(b"p1-09"), None);
        assert_eq!(floor(b"p1-10"), Some(pair(b"p1-10", b"p1-10")));
        assert_eq!(floor(b"p1-29"), Some(pair(b"p1-20", b"p1-20")));
        assert_eq!(floor(b"p1-99"), Some(pair(b"p1-30", b"p1-30")));
    }

    pub fn floor_stays_within_the_prefix(home: &dyn Home) {
        let index = home.open();
        put(&*index, Table::Offsets, &[b"p0-99", b"p1-10", b"p1-20", b"p2-00", b"q"]);
        assert_eq!(index.floor(Table::Offsets, b"p1-", b"p1-05").unwrap(), None, "the neighbour below is not ours");
        assert_eq!(index.floor(Table::Offsets, b"p1-", b"p2-00").unwrap(), Some(pair(b"p1-20", b"p1-20")));
        assert_eq!(index.floor(Table::Offsets, b"p1-", b"z").unwrap(), Some(pair(b"p1-20", b"p1-20")));
        assert_eq!(index.floor(Table::Offsets, b"p1-", b"a").unwrap(), None);
        assert_eq!(index.floor(Table::Offsets, b"p", b"q").unwrap(), Some(pair(b"p2-00", b"p2-00")));
        assert_eq!(index.floor(Table::Offsets, b"", b"p0-99x").unwrap(), Some(pair(b"p0-99", b"p0-99")));
        assert_eq!(index.floor(Table::Offsets, b"p3", b"z").unwrap(), None);
    }

    pub fn range_ascends_within_prefix_and_limit(home: &dyn Home) {
        let index = home.open();
        put(&*index, Table::Offsets, &[b"p0", b"p1c", b"p1a", b"p1b", b"p1", b"p2"]);
        let range = |prefix: &[u8], from: &[u8], limit| keys(index.range(Table::Offsets, prefix, from, limit).unwrap());
        assert_eq!(range(b"p1", b"", 9), [&b"p1"[..], b"p1a", b"p1b", b"p1c"]);
        assert_eq!(range(b"p1", b"p1b", 9), [b"p1b", b"p1c"]);
        assert_eq!(range(b"p1", b"p1a0", 9), [b"p1b", b"p1c"]);
        assert_eq!(range(b"p1", b"", 2), [&b"p1"[..], b"p1a"]);
        assert!(range(b"p1", b"p2", 9).is_empty());
        assert!(range(b"p1", b"", 0).is_empty());
        assert!(range(b"x", b"", 9).is_empty());
    }

    pub fn a_prefix_of_the_highest_bytes_has_no_end(home: &dyn Home) {
        let index = home.open();
        put(&*index, Table::Partitions, &[b"\x01", b"\x01\xff", b"\x01\xff\xff", b"\x02", b"\xff", b"\xff\xff\x01"]);
        assert_eq!(index.floor(Table::Partitions, b"\x01\xff", b"\xff").unwrap(), Some(pair(b"\x01\xff\xff", b"\x01\xff\xff")));
        assert_eq!(keys(index.range(Table::Partitions, b"\x01\xff", b"", 9).unwrap()), [&b"\x01\xff"[..], b"\x01\xff\xff"]);
        assert_eq!(index.floor(Table::Partitions, b"\xff", b"\xff\xff\xff").unwrap(), Some(pair(b"\xff\xff\x01", b"\xff\xff\x01")));
        assert_eq!(keys(index.range(Table::Partitions, b"\xff", b"\xff\x01", 9).unwrap()), [b"\xff\xff\x01"]);
    }

    pub fn one_commit_drops_then_deletes_then_puts(home: &dyn Home) {
        let index = home.open();
        put(&*index, OLD_KEYS, &[b"dropped", b"put again"]);
        put(&*index, Table::State, &[b"deleted", b"deleted and put", b"stays"]);
        index
            .commit(IndexBatch {
                puts: vec![
                    (OLD_KEYS, b"put again".to_vec(), b"2".to_vec()),
                    (Table::State, b"deleted and put".to_vec(), b"2".to_vec()),
                    (Table::Meta, b"applied".to_vec(), b"1".to_vec()),
                ],
                deletes: vec![(Table::State, b"deleted".to_vec()), (Table::State, b"deleted and put".to_vec())],
                drops: vec![OLD_KEYS],
            })
            .unwrap();
        assert_eq!(index.range(OLD_KEYS, b"", b"", 9).unwrap(), [pair(b"put again", b"2")]);
        let state = index.range(Table::State, b"", b"", 9).unwrap();
        assert_eq!(state, [pair(b"deleted and put", b"2"), pair(b"stays", b"stays")]);
        assert_eq!(index.get(Table::Meta, b"applied").unwrap(), Some(b"1".to_vec()));
    }

    pub fn the_last_of_equal_puts_stays(home: &dyn Home) {
        let index = home.open();
        let puts = [b"9", b"1", b"5"].map(|value| (Table::State, b"key".to_vec(), value.to_vec())).to_vec();
        index.commit(IndexBatch { puts, ..IndexBatch::default() }).unwrap();
        assert_eq!(index.get(Table::State, b"key").unwrap(), Some(b"5".to_vec()));
    }

    pub fn key_tables_come_and_go(home: &dyn Home) {
        let index = home.open();
        put(&*index, NEW_KEYS, &[b"n"]);
        put(&*index, OLD_KEYS, &[b"o"]);
        put(&*index, Table::State, &[b"s"]);
        let mut tables = index.key_tables().unwrap();
        tables.sort_unstable();
        assert_eq!(tables, [OLD_KEYS, NEW_KEYS]);
        index.commit(IndexBatch { drops: vec![OLD_KEYS], ..IndexBatch::default() }).unwrap();
        assert_eq!(index.key_tables().unwrap(), [NEW_KEYS]);
        assert_eq!(index.get(OLD_KEYS, b"o").unwrap(), None);
        assert_eq!(index.get(NEW_KEYS, b"n").unwrap(), Some(b"n".to_vec()));
    }

    pub fn empty_keys_and_large_values_are_kept(home: &dyn Home) {
        let index = home.open();
        let large = vec![7; 300_000];
        let puts = vec![(Table::State, Vec::new(), large.clone()), (Table::State, b"e".to_vec(), Vec::new())];
        index.commit(IndexBatch { puts, ..IndexBatch::default() }).unwrap();
        assert_eq!(index.get(Table::State, b"").unwrap(), Some(large));
        assert_eq!(index.get(Table::State, b"e").unwrap(), Some(Vec::new()));
    }

    pub fn a_reader_sees_one_commit_or_the_next(home: &dyn Home) {
        const KEYS: usize = 500;
        let index = home.open();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..50_u8 {
                    let puts = (0..KEYS).map(|key| (Table::State, key.to_be_bytes().to_vec(), vec![number])).collect();
                    index.commit(IndexBatch { puts, ..IndexBatch::default() }).unwrap();
                }
            });
            while !writer.is_finished() {
                let seen = index.range(Table::State, b"", b"", usize::MAX).unwrap();
                assert!(seen.windows(2).all(|two| two[0].1 == two[1].1), "half a commit was seen");
                assert!(seen.is_empty() || seen.len() == KEYS, "half a commit was seen");
            }
        });
    }

    pub fn reopening_keeps_everything(home: &dyn Home) {
        let index = home.open();
        put(&*index, OLD_KEYS, &[b"o"]);
        put(&*index, Table::Partitions, &[b"\x00", b"\x01"]);
        drop(index);
        let index = home.open();
        assert_eq!(index.key_tables().unwrap(), [OLD_KEYS]);
        assert_eq!(keys(index.range(Table::Partitions, b"", b"", 9).unwrap()), [b"\x00", b"\x01"]);
        assert_eq!(index.get(OLD_KEYS, b"o").unwrap(), Some(b"o".to_vec()));
    }
}

/// Commit `number`: two tables that must agree, a generation of keys that moves on, and enough bytes to split pages.
fn numbered(number: u8) -> IndexBatch {
    let keys = |number: u8| Table::Keys { class: 1, number: u64::from(number) };
    IndexBatch {
        puts: vec![
            (Table::Meta, b"number".to_vec(), vec![number]),
            (Table::State, vec![b's', number], vec![number; 700]),
            (Table::Offsets, b"latest".to_vec(), vec![number; 3000]),
            (keys(number), b"key".to_vec(), vec![number]),
        ],
        deletes: vec![(Table::State, vec![b's', number.wrapping_sub(3)])],
        drops: vec![keys(number.wrapping_sub(2))],
    }
}

/// The number of the commit an index shows, after checking that all of it is there and nothing of another.
fn number_shown(index: &dyn Index) -> u8 {
    let Some(number) = index.get(Table::Meta, b"number").unwrap().map(|value| value[0]) else {
        assert!(index.range(Table::State, b"", b"", 9).unwrap().is_empty() && index.key_tables().unwrap().is_empty());
        return 0;
    };
    let first = number.saturating_sub(2).max(1);
    let state: Vec<Pair> = (first..=number).map(|each| (vec![b's', each], vec![each; 700])).collect();
    assert_eq!(index.range(Table::State, b"", b"", 9).unwrap(), state);
    assert_eq!(index.get(Table::Offsets, b"latest").unwrap(), Some(vec![number; 3000]));
    let tables: Vec<Table> =
        (number.saturating_sub(1).max(1)..=number).map(|each| Table::Keys { class: 1, number: u64::from(each) }).collect();
    assert_eq!(index.key_tables().unwrap(), tables);
    number
}

/// Opens an index on the simulated disk and commits until the disk ends it; the number of the last commit answered ok.
fn commit_until_off(disk: &SimDisk, from: u8) -> Option<u8> {
    let index = RedbIndex::open(disk, Path::new("/data"), CACHE_BYTES).ok()?;
    assert_eq!(number_shown_or_off(&index)?, from);
    (from + 1..from + 9).take_while(|number| index.commit(numbered(*number)).is_ok()).last().or(Some(from))
}

fn number_shown_or_off(index: &RedbIndex) -> Option<u8> {
    index.range(Table::State, b"", b"", 9).is_ok().then(|| number_shown(index))
}

#[test]
fn a_power_cut_at_any_call_keeps_each_commit_answered_ok() {
    let dir = Path::new("/data");
    let calls = {
        let disk = SimDisk::with_dir(0, dir);
        assert_eq!(commit_until_off(&disk, 0), Some(8));
        disk.calls()
    };
    for at in 1..=calls {
        let disk = SimDisk::with_dir(at, dir);
        disk.power_off_after(at);
        let acknowledged = commit_until_off(&disk, 0);
        for seed in 0..6 {
            let left = disk.crash_clone_with(at * 100 + seed, PowerCut::SafeOverwrite);
            let index = match RedbIndex::open(&left, dir, CACHE_BYTES) {
                Ok(index) => index,
                // A file that was never whole holds nothing that was acknowledged; the caller rebuilds it.
                Err(error) => {
                    assert_eq!(acknowledged.unwrap_or(0), 0, "cut at call {at}, seed {seed}: {error}");
                    continue;
                }
            };
            let shown = number_shown(&index);
            let acknowledged = acknowledged.unwrap_or(0);
            assert!(
                (acknowledged..=acknowledged + 1).contains(&shown),
                "cut at call {at}, seed {seed}: {acknowledged} was ok, {shown} is there"
            );
            index.commit(numbered(shown + 1)).unwrap();
            assert_eq!(number_shown(&index), shown + 1);
        }
    }
}

#[test]
fn a_hostile_power_cut_keeps_the_index_or_makes_it_unusable_but_never_wrong() {
    let dir = Path::new("/data");
    let (mut kept, mut unusable) = (0, 0);
    for seed in 0..300 {
        let disk = SimDisk::with_dir(seed, dir);
        disk.power_off_after(30 + seed % 150);
        let acknowledged = commit_until_off(&disk, 0).unwrap_or(0);
        let left = disk.crash_clone(seed);
        match RedbIndex::open(&left, dir, CACHE_BYTES) {
            Ok(index) => {
                assert!(number_shown(&index) >= acknowledged);
                kept += 1;
            }
            Err(_) => {
                RedbIndex::remove(&left, dir).unwrap();
                assert_eq!(commit_until_off(&left, 0), Some(8));
                unusable += 1;
            }
        }
    }
    assert!(kept > 0 && unusable > 0, "{kept} kept, {unusable} unusable");
}

#[test]
fn an_error_of_the_disk_comes_back_as_it_was() {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let index = RedbIndex::open(&disk, Path::new("/data"), CACHE_BYTES).unwrap();
    index.commit(numbered(1)).unwrap();
    disk.fail(Site::IndexSync, 1, Fault::Eio);
    match index.commit(numbered(2)) {
        Err(StorageError::Io { site, path, raw_os_error, .. }) => {
            assert_eq!((site, path, raw_os_error), (Site::IndexSync, layout::redb_file(Path::new("/data")), Some(5)));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(index.commit(numbered(2)), Err(StorageError::Index(_))), "no commit after a failed sync");
}

#[test]
fn a_full_disk_refuses_a_commit_and_the_index_goes_on_when_there_is_space() {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let index = RedbIndex::open(&disk, Path::new("/data"), CACHE_BYTES).unwrap();
    index.commit(numbered(1)).unwrap();
    disk.set_capacity(Some(0));
    let large = || IndexBatch { puts: vec![(Table::Meta, b"large".to_vec(), vec![7; 4 << 20])], ..IndexBatch::default() };
    for _ in 0..2 {
        assert!(matches!(index.commit(large()), Err(StorageError::Io { kind: std::io::ErrorKind::StorageFull, .. })));
        assert_eq!(number_shown(&index), 1, "what was there is still read");
    }
    disk.set_capacity(None);
    index.commit(numbered(2)).unwrap();
    index.commit(large()).unwrap();
    assert_eq!(number_shown(&index), 2);
}

#[test]
fn damage_of_the_file_is_an_error_and_not_the_end_of_the_process() {
    let dir = Path::new("/data");
    let file = layout::redb_file(dir);
    let disk = SimDisk::with_dir(1, dir);
    assert_eq!(commit_until_off(&disk, 0), Some(8));
    let len = onelog_storage::io::Io::open(&disk, Site::IndexOpen, &file, onelog_storage::io::OpenMode::Read)
        .unwrap()
        .len(Site::IndexRead)
        .unwrap();
    let mut refused = 0;
    for seed in 0..200_u64 {
        let damaged = disk.crash_clone(seed);
        let at = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % len;
        damaged.damage(&file, &[0x5a; 300], if seed % 4 == 0 { seed } else { at });
        let Ok(index) = RedbIndex::open(&damaged, dir, CACHE_BYTES) else {
            refused += 1;
            continue;
        };
        let _ = index.range(Table::State, b"", b"", 9);
        let _ = index.get(Table::Offsets, b"latest");
        let _ = index.commit(numbered(9));
    }
    assert!(refused > 0);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "redb's debug assertions walk the file themselves; run with --release")]
fn opening_after_a_power_cut_does_not_walk_the_file() {
    let dir = Path::new("/data");
    let disk = SimDisk::with_dir(1, dir);
    let index = RedbIndex::open(&disk, dir, CACHE_BYTES).unwrap();
    let puts = (0..3000_u32).map(|key| (Table::Offsets, key.to_be_bytes().to_vec(), vec![7; 1000])).collect();
    index.commit(IndexBatch { puts, ..IndexBatch::default() }).unwrap();
    let left = disk.crash_clone(1);
    let reopened = RedbIndex::open(&left, dir, CACHE_BYTES).unwrap();
    assert_eq!(reopened.get(Table::Offsets, &2999_u32.to_be_bytes()).unwrap(), Some(vec![7; 1000]));
    let reads = left.trace().iter().filter(|line| line.starts_with("read index")).count();
    assert!(reads < 100, "{reads} reads");
}

#[test]
fn the_name_of_a_new_index_is_durable_once_it_is_open() {
    let dir = Path::new("/data");
    let disk = SimDisk::with_dir(1, dir);
    let index = RedbIndex::open(&disk, dir, CACHE_BYTES).unwrap();
    index.commit(numbered(1)).unwrap();
    for seed in 0..50 {
        let left = RedbIndex::open(&disk.crash_clone(seed), dir, CACHE_BYTES).unwrap();
        assert_eq!(number_shown(&left), 1);
    }
}

/// What a lookup costs: `cargo test --release --test index_conformance -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measures the real time it takes")]
fn measure_lookups_of_absent_keys() {
    const LOOKUPS: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let index = RedbIndex::open(&Disk, dir.path(), 64 * CACHE_BYTES).unwrap();
    let scattered = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let puts = (0..200_000).map(|number| (OLD_KEYS, scattered(number).to_vec(), vec![0; 16])).collect();
    let start = std::time::Instant::now();
    index.commit(IndexBatch { puts, ..IndexBatch::default() }).unwrap();
    println!("200,000 keys committed in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    for number in LOOKUPS..2 * LOOKUPS {
        assert_eq!(index.get(OLD_KEYS, &scattered(number)).unwrap(), None);
    }
    println!("{:?} a lookup", start.elapsed() / u32::try_from(LOOKUPS).unwrap());
    let start = std::time::Instant::now();
    for number in 0..100_u8 {
        index.commit(IndexBatch { puts: vec![(Table::Meta, b"n".to_vec(), vec![number])], ..IndexBatch::default() }).unwrap();
    }
    println!("{:?} a small commit", start.elapsed() / 100);
}
