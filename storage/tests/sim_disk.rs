//! What the simulated disk may and may not do. A disk that loses nothing would prove nothing, so each loss is seen here.
//!
//! Goes through `Io` alone, as the store does; runs many seeds and asks which outcomes occurred at all.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; the exemption for tests does not reach their helpers"
)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onelog_storage::error::{Result, StorageError};
use onelog_storage::io::sim::{Fault, PowerCut, SimDisk};
use onelog_storage::io::{Io, IoFile, OpenMode, Site};

const SECTOR: usize = 512;
const SEEDS: u64 = 400;

fn path() -> PathBuf {
    PathBuf::from("/data/file")
}

fn disk() -> SimDisk {
    SimDisk::with_dir(1, Path::new("/data"))
}

fn open(disk: &SimDisk) -> Arc<dyn IoFile> {
    disk.open(Site::SegmentOpen, &path(), OpenMode::CreateOrWrite).unwrap()
}

/// A disk whose file has a durable name and holds `sectors` durable sectors of `A`.
fn disk_with(sectors: usize) -> (SimDisk, Arc<dyn IoFile>) {
    let disk = disk();
    let file = open(&disk);
    write(&*file, b'A', 0, sectors);
    file.sync(Site::LogSync).unwrap();
    disk.sync_dir(Site::DirSync, Path::new("/data")).unwrap();
    (disk, file)
}

fn write(file: &dyn IoFile, letter: u8, sector: usize, sectors: usize) {
    file.write_at(Site::LogWrite, &[&vec![letter; sectors * SECTOR]], (sector * SECTOR) as u64).unwrap();
}

fn read(file: &dyn IoFile) -> Vec<u8> {
    let mut bytes = vec![0; 1024 * 1024];
    let filled = file.read_at(Site::LogRead, &mut bytes, 0).unwrap();
    bytes.truncate(filled);
    bytes
}

/// The file's bytes on `disk`, `None` when its name is gone.
fn found(disk: &SimDisk) -> Option<Vec<u8>> {
    disk.open(Site::SegmentOpen, &path(), OpenMode::Read).ok().map(|file| read(&*file))
}

fn raw<T>(result: Result<T>) -> Option<i32> {
    match result {
        Err(StorageError::Io { raw_os_error, .. }) => raw_os_error,
        _ => None,
    }
}

/// A letter for one sector: the letter it is full of, `t` when torn between `A` and `B`, `g` for anything else.
fn fate(sector: &[u8]) -> char {
    let first = sector[0];
    match first {
        b'A' | b'B' | b'C' | 0 if sector.iter().all(|byte| *byte == first) => char::from(first.max(b'0')),
        _ if sector.iter().all(|byte| b"AB".contains(byte)) => 't',
        _ => 'g',
    }
}

#[test]
fn the_same_seed_and_calls_give_the_same_trace_and_bytes() {
    let run = |seed| {
        let disk = SimDisk::with_dir(seed, Path::new("/data"));
        disk.fail(Site::LogSync, 2, Fault::Eio);
        disk.fail(Site::LogWrite, 4, Fault::ShortThenError);
        let file = open(&disk);
        for letter in b'A'..b'G' {
            let bytes = [letter; 5000];
            let _ = file.write_at(Site::LogWrite, &[&bytes], u64::from(letter - b'A') * 3000);
            let _ = file.sync(Site::LogSync);
        }
        file.evict(Site::RecoveryEvict).unwrap();
        let left = disk.crash_clone(seed);
        (disk.trace(), read(&*file), found(&left))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).1, run(8).1, "the seed decides what an error leaves");
    assert_eq!(run(7).0.iter().filter(|line| line.ends_with("failed")).count(), 2, "{:#?}", run(7).0);
}

#[test]
fn what_was_synced_is_never_lost() {
    let (disk, file) = disk_with(20);
    write(&*file, b'B', 4, 8);
    file.sync(Site::LogSync).unwrap();
    let kept = read(&*file);
    write(&*file, b'C', 20, 9);
    for seed in 0..SEEDS {
        let left = found(&disk.crash_clone(seed)).unwrap();
        assert_eq!(left[..20 * SECTOR], kept[..], "seed {seed}");
    }
}

#[test]
fn each_sector_that_was_not_synced_has_a_fate_of_its_own() {
    let (disk, file) = disk_with(8);
    write(&*file, b'B', 2, 4);
    let mut fates = BTreeSet::new();
    let mut mixed = 0;
    for seed in 0..SEEDS {
        let left = found(&disk.crash_clone(seed)).unwrap();
        assert_eq!(left.len(), 8 * SECTOR);
        let letters: Vec<char> = left.chunks(SECTOR).map(fate).collect();
        assert!(letters[..2].iter().chain(&letters[6..]).all(|letter| *letter == 'A'), "a sector nobody wrote changed");
        mixed += u32::from(letters[2..6].windows(2).any(|two| two[0] != two[1]));
        fates.extend(&letters[2..6]);
    }
    assert_eq!(fates, BTreeSet::from(['A', 'B', '0', 'g', 't']));
    assert!(mixed > 100, "sectors share their fate: {mixed}");
}

#[test]
fn some_cuts_lose_all_that_was_not_synced_and_some_lose_nothing() {
    let (disk, file) = disk_with(64);
    write(&*file, b'B', 0, 80);
    write(&*file, b'C', 0, 80);
    let left: Vec<Vec<u8>> = (0..SEEDS).map(|seed| found(&disk.crash_clone(seed)).unwrap()).collect();
    assert!(left.contains(&vec![b'A'; 64 * SECTOR]));
    assert!(left.contains(&vec![b'C'; 80 * SECTOR]));
}

#[test]
fn a_power_safe_cut_makes_no_bytes_up() {
    let (disk, file) = disk_with(8);
    write(&*file, b'B', 0, 8);
    let left = |seed| found(&disk.crash_clone_with(seed, PowerCut::SafeOverwrite)).unwrap();
    let fates: BTreeSet<char> = (0..SEEDS).flat_map(|seed| left(seed).chunks(SECTOR).map(fate).collect::<Vec<_>>()).collect();
    assert_eq!(fates, BTreeSet::from(['A', 'B', 't']));
}

#[test]
fn an_older_version_of_a_sector_may_be_the_one_that_arrived() {
    let (disk, file) = disk_with(1);
    write(&*file, b'B', 0, 1);
    write(&*file, b'C', 0, 1);
    let left: BTreeSet<char> = (0..SEEDS).map(|seed| fate(&found(&disk.crash_clone(seed)).unwrap())).collect();
    assert!(left.is_superset(&BTreeSet::from(['A', 'B', 'C'])), "{left:?}");
}

#[test]
fn a_length_that_was_not_synced_may_be_lost() {
    let (disk, file) = disk_with(2);
    write(&*file, b'B', 2, 1);
    write(&*file, b'B', 3, 1);
    let lens: BTreeSet<usize> = (0..SEEDS).map(|seed| found(&disk.crash_clone(seed)).unwrap().len() / SECTOR).collect();
    assert_eq!(lens, BTreeSet::from([2, 3, 4]));
    file.set_len(Site::SegmentRecycle, 0).unwrap();
    let lens: BTreeSet<usize> = (0..SEEDS).map(|seed| found(&disk.crash_clone(seed)).unwrap().len() / SECTOR).collect();
    assert_eq!(lens, BTreeSet::from([0, 2, 3, 4]));
    file.sync(Site::LogSync).unwrap();
    assert!((0..SEEDS).all(|seed| found(&disk.crash_clone(seed)).unwrap().is_empty()));
}

#[test]
fn a_file_cut_and_grown_again_reads_zeros_there() {
    let (disk, file) = disk_with(20);
    file.set_len(Site::SegmentRecycle, 700).unwrap();
    file.set_len(Site::SegmentRecycle, 9000).unwrap();
    let expected = [&[b'A'; 700][..], &[0; 8300]].concat();
    assert_eq!(read(&*file), expected);
    file.sync(Site::LogSync).unwrap();
    assert_eq!(found(&disk.crash_clone(1)), Some(expected), "what was cut off does not come back from the disk");
}

#[test]
fn a_name_is_lost_without_a_sync_of_its_directory() {
    let disk = disk();
    let file = open(&disk);
    write(&*file, b'A', 0, 1);
    file.sync(Site::LogSync).unwrap();
    let kept = |disk: &SimDisk| (0..SEEDS).filter(|seed| found(&disk.crash_clone(*seed)).is_some()).count() as u64;
    assert!((1..SEEDS).contains(&kept(&disk)));
    disk.sync_dir(Site::DirSync, Path::new("/data")).unwrap();
    assert_eq!(kept(&disk), SEEDS);
    disk.remove(Site::SegmentRemove, &path()).unwrap();
    assert!((1..SEEDS).contains(&kept(&disk)), "a removal is a change of a name too");
    disk.sync_dir(Site::DirSync, Path::new("/data")).unwrap();
    assert_eq!(kept(&disk), 0);
    assert_eq!(read(&*file).len(), SECTOR, "an open file outlives its name");
}

#[test]
fn a_directory_that_is_lost_takes_its_files_along() {
    let disk = disk();
    let inner = PathBuf::from("/data/log/segment");
    disk.create_dir(Site::DirCreate, Path::new("/data/log")).unwrap();
    disk.open(Site::SegmentCreate, &inner, OpenMode::CreateNew).unwrap();
    disk.sync_dir(Site::DirSync, Path::new("/data/log")).unwrap();
    let kept = |disk: &SimDisk| {
        let opens = |seed: &u64| disk.crash_clone(*seed).open(Site::SegmentOpen, &inner, OpenMode::Read).is_ok();
        (0..SEEDS).filter(opens).count() as u64
    };
    assert!((1..SEEDS).contains(&kept(&disk)));
    disk.sync_dir(Site::DirSync, Path::new("/data")).unwrap();
    assert_eq!(kept(&disk), SEEDS);
}

#[test]
fn a_rename_leaves_the_old_file_or_the_new_one() {
    let (disk, _file) = disk_with(1);
    let newer = PathBuf::from("/data/file.new");
    let file = disk.open(Site::StoreWrite, &newer, OpenMode::CreateNew).unwrap();
    write(&*file, b'B', 0, 1);
    file.sync(Site::StoreSync).unwrap();
    disk.rename(Site::StoreRename, &newer, &path()).unwrap();
    let left: BTreeSet<char> = (0..SEEDS).map(|seed| fate(&found(&disk.crash_clone(seed)).unwrap())).collect();
    assert_eq!(left, BTreeSet::from(['A', 'B']));
    disk.sync_dir(Site::DirSync, Path::new("/data")).unwrap();
    assert!((0..SEEDS).all(|seed| fate(&found(&disk.crash_clone(seed)).unwrap()) == 'B'));
    let names: Vec<String> = disk.list(Site::DirList, Path::new("/data")).unwrap().into_iter().map(|listed| listed.name).collect();
    assert_eq!(names, ["file"]);
}

#[test]
fn a_failed_sync_is_reported_once_and_loses_what_the_cache_still_shows() {
    let (disk, file) = disk_with(64);
    write(&*file, b'B', 0, 64);
    disk.fail(Site::LogSync, 1, Fault::Eio);
    assert_eq!(raw(file.sync(Site::LogSync)), Some(5));
    assert!(read(&*file).iter().all(|byte| *byte == b'B'), "the cache hides the loss");
    file.sync(Site::LogSync).unwrap();
    assert!(read(&*file).iter().all(|byte| *byte == b'B'), "and so does a second sync, which answers ok");
    let letters = |bytes: &[u8]| bytes.chunks(SECTOR).map(fate).collect::<Vec<_>>();
    let lost = letters(&found(&disk.crash_clone(3)).unwrap());
    assert_eq!(BTreeSet::from_iter(&lost), BTreeSet::from([&'A', &'B']));
    file.evict(Site::RecoveryEvict).unwrap();
    assert_eq!(letters(&read(&*file)), lost, "after eviction reads show what is on disk");
}

#[test]
fn each_open_description_is_told_of_a_failed_sync_once() {
    let (disk, first) = disk_with(1);
    let second = open(&disk);
    write(&*first, b'B', 0, 1);
    disk.fail(Site::LogSync, 1, Fault::Eio);
    assert_eq!(raw(first.sync(Site::LogSync)), Some(5));
    let later = open(&disk);
    assert_eq!(raw(second.sync(Site::LogSync)), Some(5));
    for file in [first, second, later] {
        file.sync(Site::LogSync).unwrap();
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_room_returns_with_a_removal() {
    let (disk, file) = disk_with(8);
    disk.set_capacity(Some(3 * 4096));
    assert_eq!(disk.available(Site::SpaceQuery, Path::new("/data")).unwrap(), 2 * 4096);
    let result = file.write_at(Site::LogWrite, &[&[b'B'; 5 * 4096]], 0);
    assert_eq!(raw(result), Some(28));
    assert_eq!(read(&*file), [b'B'; 3 * 4096]);
    write(&*file, b'C', 0, 8);
    assert_eq!(raw(file.write_at(Site::LogWrite, &[b"x"], 9 * 4096)), Some(28));
    file.set_len(Site::SegmentRecycle, 4096).unwrap();
    assert_eq!(disk.available(Site::SpaceQuery, Path::new("/data")).unwrap(), 2 * 4096);
    disk.remove(Site::SegmentRemove, &path()).unwrap();
    drop(file);
    assert_eq!(disk.available(Site::SpaceQuery, Path::new("/data")).unwrap(), 3 * 4096);
}

#[test]
fn a_fault_happens_at_its_call_and_once() {
    let (disk, file) = disk_with(1);
    disk.fail(Site::LogWrite, 2, Fault::Enospc);
    disk.fail(Site::LogRead, 1, Fault::Eio);
    write(&*file, b'B', 0, 1);
    assert_eq!(raw(file.write_at(Site::LogWrite, &[&[b'C'; SECTOR]], 0)), Some(28));
    assert_eq!(raw(file.read_at(Site::LogRead, &mut [0; 9], 0)), Some(5));
    assert_eq!(fate(&read(&*file)), 'B', "the refused write did nothing");
    disk.fail(Site::LogWrite, 1, Fault::ShortThenError);
    assert_eq!(raw(file.write_at(Site::LogWrite, &[&[b'C'; 100 * SECTOR]], 0)), Some(5));
    let after = read(&*file);
    assert!(after.len() < 100 * SECTOR && after[0] == b'C', "a part was written");
}

#[test]
fn short_and_interrupted_calls_are_made_whole_by_the_loops_above_them() {
    let (disk, file) = disk_with(8);
    for fault in [Fault::Short, Fault::Interrupted] {
        for site in [Site::LogWrite, Site::LogRead] {
            disk.fail(site, 1, fault);
        }
        disk.fail(Site::LogWrite, 2, fault);
        let letter = if fault == Fault::Short { b'B' } else { b'C' };
        let calls = disk.calls_of(Site::LogWrite);
        file.write_at(Site::LogWrite, &[&[letter; 1000], &[letter; 3096]], 0).unwrap();
        assert_eq!(disk.calls_of(Site::LogWrite) - calls, 3, "twice short, then the rest");
        // No more than there is: a short call falls short then.
        let mut bytes = [0; 4096];
        assert_eq!(file.read_at(Site::LogRead, &mut bytes, 0).unwrap(), 4096);
        assert_eq!(bytes, [letter; 4096]);
    }
    assert_eq!(disk.happened().len(), 6);
    disk.fail(Site::LogSync, 1, Fault::Interrupted);
    assert_eq!(raw(file.sync(Site::LogSync)), Some(4), "a sync is called once");
    assert_ne!(found(&disk.crash_clone(0)), found(&disk.crash_clone(3)), "and has made nothing durable");
}

#[test]
fn a_lost_write_shows_in_the_cache_and_never_reaches_the_disk() {
    let (disk, file) = disk_with(8);
    disk.fail(Site::LogWrite, 1, Fault::Lost);
    write(&*file, b'B', 2, 3);
    file.sync(Site::LogSync).unwrap();
    let letters = |bytes: &[u8]| bytes.chunks(SECTOR).map(fate).collect::<String>();
    assert_eq!(letters(&read(&*file)), "AABBBAAA");
    assert!((0..SEEDS).all(|seed| letters(&found(&disk.crash_clone(seed)).unwrap()) == "AAAAAAAA"));
    file.evict(Site::RecoveryEvict).unwrap();
    assert_eq!(letters(&read(&*file)), "AAAAAAAA");
    write(&*file, b'C', 3, 1);
    file.sync(Site::LogSync).unwrap();
    assert_eq!(letters(&found(&disk.crash_clone(1)).unwrap()), "AAACAAAA", "the next write arrives");
}

#[test]
fn a_misdirected_write_lands_on_other_sectors_of_the_disk() {
    let mut places = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::with_dir(seed, Path::new("/data"));
        let file = open(&disk);
        write(&*file, b'A', 0, 8);
        file.sync(Site::LogSync).unwrap();
        disk.sync_dir(Site::DirSync, Path::new("/data")).unwrap();
        disk.fail(Site::LogWrite, 1, Fault::Misdirected);
        write(&*file, b'B', 2, 1);
        file.sync(Site::LogSync).unwrap();
        assert_eq!(fate(&read(&*file)[2 * SECTOR..3 * SECTOR]), 'B', "the cache is as it should be");
        let left = found(&disk.crash_clone(seed)).unwrap();
        places.extend(left.chunks(SECTOR).position(|sector| fate(sector) == 'B'));
    }
    assert!(places.len() > 4, "{places:?}");
}

#[test]
fn the_death_of_a_process_loses_nothing_that_was_written_and_makes_nothing_durable() {
    let (disk, file) = disk_with(4);
    write(&*file, b'B', 1, 1);
    disk.lock(Site::LockFile, Path::new("/data/LOCK"), "the dead").map(std::mem::forget).unwrap();
    let next = disk.kill_clone(1);
    next.lock(Site::LockFile, Path::new("/data/LOCK"), "the next").unwrap();
    assert_eq!(fate(&found(&next).unwrap()[SECTOR..2 * SECTOR]), 'B');
    assert!((0..SEEDS).any(|seed| fate(&found(&next.crash_clone(seed)).unwrap()[SECTOR..2 * SECTOR]) == 'A'));
    next.remove(Site::SegmentRemove, &path()).unwrap();
    let later = next.kill_clone(2);
    assert_eq!(found(&later), None);
    assert!((0..SEEDS).any(|seed| found(&later.crash_clone(seed)).is_some()), "the removal was not durable");
}

#[test]
fn a_machine_that_is_off_answers_nothing_and_a_restart_finds_a_part() {
    let (disk, file) = disk_with(1);
    disk.power_off_after(2);
    write(&*file, b'B', 0, 1);
    let refused = file.write_at(Site::LogWrite, &[&[b'C'; SECTOR]], 0);
    assert!(matches!(&refused, Err(StorageError::Io { kind: ErrorKind::Other, .. })), "{refused:?}");
    assert!(file.sync(Site::LogSync).is_err());
    assert!(disk.list(Site::DirList, Path::new("/data")).is_err());
    let left: BTreeSet<char> = (0..SEEDS).map(|seed| fate(&found(&disk.crash_clone(seed)).unwrap())).collect();
    assert!(left.is_superset(&BTreeSet::from(['A', 'B', 'C'])), "{left:?}");
}

#[test]
fn a_lock_excludes_names_its_holder_and_ends_with_the_power() {
    let disk = disk();
    let lock = PathBuf::from("/data/LOCK");
    let first = disk.lock(Site::LockFile, &lock, "the first").unwrap();
    match disk.lock(Site::LockFile, &lock, "the second").map(|_| ()) {
        Err(StorageError::Locked { dir, holder }) => assert_eq!((dir, holder.as_str()), (PathBuf::from("/data"), "the first")),
        other => panic!("{other:?}"),
    }
    disk.crash_clone(1).lock(Site::LockFile, &lock, "after the cut").unwrap();
    drop(first);
    disk.lock(Site::LockFile, &lock, "the second").unwrap();
}

#[test]
fn a_file_opened_for_reading_is_not_written() {
    let (disk, _file) = disk_with(1);
    let reader = disk.open(Site::SegmentOpen, &path(), OpenMode::Read).unwrap();
    assert_eq!(raw(reader.write_at(Site::LogWrite, &[b"x"], 0)), Some(9));
    assert_eq!(raw(reader.set_len(Site::LogWrite, 0)), Some(9));
    assert_eq!(raw(disk.open(Site::SegmentCreate, &path(), OpenMode::CreateNew)), Some(17));
    assert_eq!(raw(disk.open(Site::SegmentOpen, Path::new("/data/none"), OpenMode::Write)), Some(2));
    assert_eq!(raw(disk.open(Site::SegmentOpen, Path::new("/none/file"), OpenMode::CreateOrWrite)), Some(2));
}

#[test]
fn damage_is_durable_and_seen_at_once() {
    let (disk, file) = disk_with(1);
    disk.damage(&path(), b"!", 100);
    assert_eq!(read(&*file)[99..102], *b"A!A");
    assert_eq!(found(&disk.crash_clone(5)).unwrap()[99..102], *b"A!A");
}

/// How many power cuts a second the simulation affords: `cargo test --release --test sim_disk -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measures the real time it takes")]
fn measure_crashes_per_second() {
    let start = std::time::Instant::now();
    let mut disk = disk_with(200).0;
    for seed in 0..5000 {
        let file = open(&disk);
        for sector in 0..50 {
            write(&*file, b'B', sector * 4, 4);
            if sector % 5 == 0 {
                file.sync(Site::LogSync).unwrap();
            }
        }
        disk = disk.crash_clone(seed);
        assert_eq!(found(&disk).unwrap().len(), 200 * SECTOR);
    }
    println!("{:.0} crashes a second", 5000.0 / start.elapsed().as_secs_f64());
}
