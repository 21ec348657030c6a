//! Repair: what is provably good goes over, what is lost is told, and no offset is given out twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use onelog_storage::check::{CheckReport, Nobody, check_dir};
use onelog_storage::error::StorageError;
use onelog_storage::io::sim::SimDisk;
use onelog_storage::io::{Io, OpenMode, Site};
use onelog_storage::layout;
use onelog_storage::log::entry::LostRange;
use onelog_storage::repair::{RepairReport, Salvage};
use onelog_storage::submission::Submission;
use onelog_storage::types::{Offset, PartitionId, Position, TimestampMs};

use crate::world::{Contents, DIR, World, bytes_of, files_below, keyed, open_at, read_one};

const NEW: &str = "/data.new";

fn segment(number: u64) -> PathBuf {
    layout::segment_file(Path::new(DIR), Position(number * layout::SEGMENT_BYTES_MIN))
}

/// Flips a bit within the record that holds `value`.
fn flip(disk: &SimDisk, value: &[u8]) {
    for number in 0.. {
        let bytes = bytes_of(disk, &segment(number));
        let needle = &value[..value.len().min(24)];
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            disk.damage(&segment(number), &[bytes[at] ^ 4], at as u64);
            return;
        }
    }
}

fn check(disk: &SimDisk, dir: &str) -> CheckReport {
    check_dir(&(Arc::new(disk.clone()) as Arc<dyn Io>), Path::new(dir), "check").unwrap()
}

fn repair(disk: &SimDisk, from: &str, into: &str) -> Option<RepairReport> {
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    let salvage = Salvage::open(&io, Path::new(from), Path::new(into), "repair").unwrap()?;
    Some(salvage.run(&mut Nobody, TimestampMs(5)).unwrap())
}

/// Repairs; the old directory is as it was, the new one is whole and serves what the report says is kept.
fn repaired(disk: &SimDisk, contents: &Contents) -> RepairReport {
    let old = |disk: &SimDisk| {
        let mut files = files_below(disk, Path::new(DIR));
        files.retain(|path, _| !path.ends_with("LOCK"));
        files
    };
    let before = old(disk);
    let report = repair(disk, DIR, NEW).unwrap();
    assert!(old(disk) == before, "the old directory was changed");
    assert_serves(disk, NEW, &report, contents);
    report
}

fn assert_serves(disk: &SimDisk, dir: &str, report: &RepairReport, contents: &Contents) {
    let found = check(disk, dir);
    assert!(found.damages.is_empty() && found.torn_tail.is_none(), "{:?} {:?}", found.damages, found.torn_tail);
    assert!(found.partitions.values().all(|partition| partition.lost.is_empty()), "{:?}", found.partitions);
    for reopened in [false, true] {
        if reopened {
            // From the checkpoint too, not only folded from the log.
            let (store, _) = open_at(disk, dir).unwrap();
            store.finish_checkpoint(store.begin_checkpoint(), vec![]).unwrap();
        }
        let (store, _) = open_at(disk, dir).unwrap();
        for (number, values) in &contents.partitions {
            let ledger = &report.found.partitions[&PartitionId(*number)];
            let partition = store.partition(PartitionId(*number));
            let is_lost =
                |offset: Offset| ledger.lost.iter().chain(&ledger.lost_before).any(|range| range.from <= offset && offset < range.to);
            assert!(
                partition.high_watermark().0 >= i64::try_from(values.len()).unwrap(),
                "offsets of partition {number} would be given out twice"
            );
            let mut kept = 0;
            for (offset, value) in values.iter().enumerate() {
                let at = Offset(i64::try_from(offset).unwrap());
                match read_one(&store, *number, offset) {
                    Ok(found) => assert!(!is_lost(at) && found.first() == Some(value), "{number}/{offset}"),
                    Err(StorageError::RecordsLost { from, to }) => assert!(is_lost(at) && from <= at && at < to, "{number}/{offset}"),
                    Err(StorageError::OffsetOutOfRange { start, .. }) => assert!(ledger.kept.is_empty() && at < start, "{number}/{offset}"),
                    Err(error) => panic!("{number}/{offset}: {error}"),
                }
                kept += u64::from(!is_lost(at));
            }
            assert_eq!(kept, ledger.records, "partition {number}");
        }
        let first = contents.partitions[&0].len() as i64;
        for (offset, value) in contents.partitions[&0].iter().enumerate() {
            if reopened {
                break;
            }
            let is_there = read_one(&store, 0, offset).is_ok();
            let record = keyed(&store, 0, value).unwrap();
            let receipt = store.submit(Submission { records: [record].into_iter().collect(), ..Submission::default() }).wait().unwrap();
            let appended = receipt.appended[0];
            assert_eq!(appended.duplicate, is_there, "the key of record {offset}");
            assert!(if is_there { appended.offset.0 == offset as i64 } else { appended.offset.0 >= first }, "{appended:?}");
        }
    }
}

fn lost(report: &RepairReport, partition: u32) -> Vec<(i64, i64)> {
    let ranges = &report.found.partitions[&PartitionId(partition)].lost;
    ranges.iter().map(|LostRange { from, to }| (from.0, to.0)).collect()
}

#[test]
fn damaged_commits_become_lost_ranges_and_everything_else_goes_over() {
    for checkpoint_at in [Some(30), None] {
        let world = World::new(60, 200, checkpoint_at);
        let disk = world.copy();
        for offset in [5, 20, 21, 40] {
            flip(&disk, &world.contents.partitions[&0][offset]);
        }
        let report = repaired(&disk, &world.contents);
        assert_eq!(lost(&report, 0), [(5, 6), (20, 22), (40, 41)]);
        assert_eq!((lost(&report, 1), lost(&report, 2)), (vec![(10, 11), (20, 21)], vec![(2, 3), (10, 11)]));
        assert_eq!(report.found.damages.len(), 3, "{:?}", report.found.damages);
        let between: Vec<u64> = report.found.damages.iter().map(|damage| damage.good_records_before).collect();
        assert_eq!((between, report.found.good_records_after), (vec![10, 28, 36], 38));
        assert_eq!(report.keys_forgotten, checkpoint_at.map(|_| 0));
    }
}

#[test]
fn a_lost_end_takes_no_offset_that_may_have_been_given_out() {
    for checkpoint_at in [Some(55), Some(10), None] {
        let world = World::new(60, 200, checkpoint_at);
        let disk = world.copy();
        let used = bytes_of(&disk, &segment(0)).iter().rposition(|byte| *byte != 0).unwrap() as u64;
        disk.open(Site::LogWrite, &segment(0), OpenMode::Write).unwrap().set_len(Site::LogWrite, used / 2).unwrap();
        let report = repaired(&disk, &world.contents);
        let ledger = &report.found.partitions[&PartitionId(0)];
        assert!(ledger.assumed > 0, "{ledger:?}");
        assert!(ledger.records < 40 && ledger.records > 20, "{ledger:?}");
    }
}

#[test]
fn a_missing_segment_is_a_lost_range_wherever_it_was() {
    let world = World::new(190, 24_000, Some(150));
    for world in [&world, &world.without_index()] {
        for number in 0..3 {
            let disk = world.copy();
            disk.remove(Site::SegmentRemove, &segment(number)).unwrap();
            disk.sync_dir(Site::DirSync, &layout::log_dir(Path::new(DIR))).unwrap();
            let report = repaired(&disk, &world.contents);
            assert_eq!(lost(&report, 0).len(), 1, "segment {number}: {:?}", lost(&report, 0));
            assert_eq!(report.found.damages.len(), 1, "segment {number}: {:?}", report.found.damages);
        }
    }
}

#[test]
fn what_an_earlier_repair_found_lost_stays_lost_in_the_next() {
    let world = World::new(60, 200, None);
    let disk = world.copy();
    flip(&disk, &world.contents.partitions[&0][20]);
    let first = repaired(&disk, &world.contents);
    assert_eq!(lost(&first, 0), [(20, 21)]);
    let again = disk.crash_clone(0);
    let path = layout::segment_file(Path::new(NEW), Position(0));
    let bytes = bytes_of(&again, &path);
    let needle = &world.contents.partitions[&0][40][..24];
    let at = bytes.windows(24).position(|window| window == needle).unwrap();
    again.damage(&path, &[bytes[at] ^ 1], at as u64);
    let second = repair(&again, NEW, "/data.third").unwrap();
    let ledger = &second.found.partitions[&PartitionId(0)];
    assert_eq!(ledger.lost, [LostRange { from: Offset(40), to: Offset(41) }]);
    assert_eq!(ledger.lost_before, [LostRange { from: Offset(20), to: Offset(21) }]);
    let (store, _) = open_at(&again, "/data.third").unwrap();
    for offset in [20, 40] {
        assert!(matches!(read_one(&store, 0, offset), Err(StorageError::RecordsLost { .. })), "{offset}");
    }
    assert!(read_one(&store, 0, 41).is_ok());
}

#[test]
fn a_whole_directory_a_used_one_and_a_full_target_are_refused() {
    let world = World::new(10, 200, Some(5));
    assert!(repair(&world.copy(), DIR, NEW).is_none(), "nothing is damaged");
    let disk = world.copy();
    flip(&disk, &world.contents.partitions[&0][3]);
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    let open = |into: &str| Salvage::open(&io, Path::new(DIR), Path::new(into), "repair").map(drop);
    assert!(matches!(open(DIR), Err(StorageError::Invalid(_))), "a target that is not empty");
    let held = disk.lock(Site::LockFile, &layout::lock_file(Path::new(DIR)), "somebody").unwrap();
    assert!(matches!(open(NEW), Err(StorageError::Locked { .. })));
    drop(held);
    open(NEW).unwrap();
}

#[test]
fn a_repair_that_was_cut_off_left_no_store() {
    let world = World::new(30, 200, Some(10));
    let damaged = world.copy();
    flip(&damaged, &world.contents.partitions[&0][3]);
    let whole = damaged.crash_clone(0);
    let before = whole.calls();
    repair(&whole, DIR, NEW).unwrap();
    let calls = whole.calls() - before;
    let mut finished = 0;
    for nth in (1..calls).step_by(3) {
        let disk = damaged.crash_clone(0);
        disk.power_off_after(nth);
        let io: Arc<dyn Io> = Arc::new(disk.clone());
        let run = Salvage::open(&io, Path::new(DIR), Path::new(NEW), "repair")
            .and_then(|salvage| salvage.unwrap().run(&mut Nobody, TimestampMs(5)));
        assert!(run.is_err(), "call {nth}");
        let after = disk.crash_clone(nth);
        match open_at(&after, NEW) {
            // Only once everything was there.
            Ok((store, _)) if store.partition(PartitionId(0)).high_watermark() > Offset(0) => {
                finished += 1;
                assert_eq!(store.partition(PartitionId(0)).high_watermark(), Offset(30), "call {nth}");
            }
            // Nothing durable was there yet: an empty directory is begun.
            Ok((store, _)) => assert!(after.list(Site::DirList, Path::new(NEW)).is_ok() && store.epoch().0 == 1, "call {nth}"),
            Err(error) => assert!(matches!(error, StorageError::NotAStore { .. }), "call {nth}: {error}"),
        }
    }
    assert!(finished < calls / 3 / 2, "{finished} of {calls} calls");
}
