//! Damage, and what opening makes of it (P19): every acknowledged record is read as it was written or an error names the place,
//! and a start that is refused leaves every byte of the directory as it found it.
//!
//! The text in `LOCK` is left out: it names who tried.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onelog_storage::Store;
use onelog_storage::check::check_dir;
use onelog_storage::error::StorageError;
use onelog_storage::io::sim::{Fault, SimDisk};
use onelog_storage::io::{Io, OpenMode, Site};
use onelog_storage::layout;
use onelog_storage::submission::{NewEntry, NewEvent, Submission};
use onelog_storage::types::{PartitionId, Position};
use support::{DIR, Dice, EVENT_TAG, answer, body, clock, encode_event, encode_pair, try_open, values};

const RECORDS: usize = 120;
const SAMPLES: u64 = 500;

fn value(number: usize) -> Vec<u8> {
    let mut value = vec![u8::try_from(number % 251).unwrap(); 700 + number * 13 % 2_000];
    value[..8].copy_from_slice(&(number as u64).to_le_bytes());
    value
}

fn put(store: &Store, number: usize) -> Result<(), StorageError> {
    let entry = NewEntry { partition: store.partition(PartitionId(0)), body: body(&value(number)), key: None, expected: None };
    let event = NewEvent { tag: EVENT_TAG, payload: encode_event((number as u32 % 5, number as u64, number as u64 + 1)) };
    let submission = Submission { records: [entry].into_iter().collect(), events: [event].into_iter().collect(), ..Submission::default() };
    let mut ticket = store.submit(submission);
    store.turn();
    answer(&mut ticket).expect("a turn answers").map(drop)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    Clean,
    Killed,
    PowerCut,
}

/// A directory with a checkpoint in the middle of its log. The last commit is proven by the mark behind it.
fn filled(stop: Stop) -> SimDisk {
    let disk = SimDisk::with_dir(1, Path::new(DIR));
    let store = try_open(&disk, &clock()).unwrap().store;
    for number in 0..RECORDS {
        put(&store, number).unwrap();
        if number == RECORDS / 2 {
            store.finish_checkpoint(store.begin_checkpoint(), vec![]).unwrap();
        }
    }
    store.idle();
    match stop {
        Stop::Clean => {
            drop(store);
            disk.kill_clone(2)
        }
        Stop::Killed => disk.kill_clone(2),
        Stop::PowerCut => disk.crash_clone(2),
    }
}

fn without_lock(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = disk.files();
    files.remove(&layout::lock_file(Path::new(DIR)));
    files
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    disk.files().into_keys().filter(is_segment).collect()
}

/// Does one thing to the directory; says what.
fn harm(disk: &SimDisk, dice: &mut Dice) -> String {
    let segments = segments(disk);
    // Only these hold commits; the others are zeros ahead of the tail.
    let written = 3;
    let one = segments[usize::try_from(dice.below(written)).unwrap()].clone();
    let other = segments[usize::try_from(dice.below(written)).unwrap()].clone();
    let files = disk.files();
    let at = dice.below(files[&one].len() as u64);
    match dice.below(8) {
        0 => {
            disk.remove(Site::SegmentRemove, &one).unwrap();
            format!("{} is gone", one.display())
        }
        1 => {
            disk.open(Site::SegmentOpen, &one, OpenMode::Write).unwrap().set_len(Site::SegmentOpen, at).unwrap();
            format!("{} is cut to {at}", one.display())
        }
        2 if one != other => {
            disk.damage(&one, &files[&other], 0);
            disk.damage(&other, &files[&one], 0);
            format!("{} and {} are swapped", one.display(), other.display())
        }
        3 => {
            disk.damage(&one, &[0; 512], at.min(files[&one].len() as u64 - 512));
            format!("{} has zeros at {at}", one.display())
        }
        _ => {
            let byte = files[&one][usize::try_from(at).unwrap()] ^ 1 << dice.below(8);
            disk.damage(&one, &[byte], at);
            format!("{} has another bit at {at}", one.display())
        }
    }
}

#[test]
fn damage_is_an_error_or_the_original_and_a_refusal_changes_nothing() {
    let (mut refused, mut opened, mut rebuilt) = (0, 0, 0);
    for stop in [Stop::Clean, Stop::Killed, Stop::PowerCut] {
        let whole = filled(stop);
        for seed in 0..SAMPLES / 3 {
            let mut dice = Dice(seed);
            let disk = whole.kill_clone(seed);
            let mut what = harm(&disk, &mut dice);
            match dice.below(4) {
                0 => disk.remove(Site::IndexRemove, &layout::redb_file(Path::new(DIR))).unwrap(),
                1 => disk.damage(&layout::redb_file(Path::new(DIR)), &[0x77; 300], 0),
                _ => {}
            }
            what = format!("{stop:?}, seed {seed}: {what}");
            let before = without_lock(&disk);
            match try_open(&disk, &clock()) {
                Ok(again) => {
                    opened += 1;
                    rebuilt += u32::from(again.report.index_rebuilt.is_some());
                    match values(&again.store, 0) {
                        Ok(found) => assert_eq!(found, (0..RECORDS).map(value).collect::<Vec<_>>(), "{what}"),
                        Err(StorageError::Damage { .. }) => {}
                        Err(error) => panic!("{what}: {error}"),
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, StorageError::Damage { .. }), "{what}: {error}");
                    assert!(without_lock(&disk) == before, "{what}: a refused start changed the directory ({error})");
                }
            }
        }
    }
    assert!(refused > 50 && opened > 50 && rebuilt > 10, "refused {refused}, opened {opened}, rebuilt {rebuilt}");
}

/// A store has its first segment before it has its STORE file: without any it has lost everything, and is not new.
#[test]
fn a_store_without_a_segment_is_damaged_and_not_empty() {
    for without_index in [false, true] {
        let disk = filled(Stop::Clean);
        for segment in segments(&disk) {
            disk.remove(Site::SegmentRemove, &segment).unwrap();
        }
        if without_index {
            disk.remove(Site::IndexRemove, &layout::redb_file(Path::new(DIR))).unwrap();
        }
        let before = without_lock(&disk);
        let refused = try_open(&disk, &clock()).err();
        assert!(matches!(refused, Some(StorageError::Damage { position: Position(0), .. })), "{refused:?}");
        assert!(without_lock(&disk) == before);
    }
}

/// The power may go at any moment of the first opening: what is left is a store or becomes one.
#[test]
fn an_interrupted_creation_is_completed_by_the_next_opening() {
    for (call, seed) in (1..60).flat_map(|call| (0..6).map(move |seed| (call, seed))) {
        let disk = SimDisk::with_dir(seed, Path::new(DIR));
        disk.power_off_after(call);
        let interrupted = try_open(&disk, &clock());
        let left = disk.crash_clone(seed);
        drop(interrupted);
        let store = try_open(&left, &clock()).unwrap_or_else(|error| panic!("call {call}, seed {seed}: {error}")).store;
        put(&store, 0).unwrap();
        drop(store);
        assert_eq!(values(&try_open(&left, &clock()).unwrap().store, 0).unwrap(), [value(0)], "call {call}, seed {seed}");
    }
}

#[test]
fn the_offline_check_changes_nothing() {
    for stop in [Stop::Clean, Stop::Killed, Stop::PowerCut] {
        let disk = filled(stop);
        let before = without_lock(&disk);
        let io: Arc<dyn Io> = Arc::new(disk.clone());
        let report = check_dir(&io, Path::new(DIR), "check").unwrap();
        assert_eq!((report.records, report.damages.len(), report.checkpoint.is_some()), (RECORDS as u64, 0, true), "{stop:?}: {report:?}");
        assert!(without_lock(&disk) == before, "{stop:?}");
    }
}

/// A disk that answers ok and has not written, or has written elsewhere: as long as one later commit arrived, that is noticed.
#[test]
fn a_write_that_was_lost_or_misplaced_is_an_error_or_changes_nothing() {
    let (mut noticed, mut harmless) = (0, 0);
    for (fault, nth) in [Fault::Lost, Fault::Misdirected].into_iter().flat_map(|fault| (1..60).map(move |nth| (fault, nth))) {
        let disk = SimDisk::with_dir(nth, Path::new(DIR));
        let store = try_open(&disk, &clock()).unwrap().store;
        disk.fail(Site::LogWrite, nth, fault);
        for number in 0..80 {
            put(&store, number).unwrap();
        }
        store.idle();
        let wanted: Vec<_> = (0..80).map(value).collect();
        assert_eq!(values(&store, 0).unwrap(), wanted, "the page cache shows what was written");
        assert_eq!(disk.happened(), [(Site::LogWrite, fault)]);
        let left = disk.crash_clone(nth);
        let before = without_lock(&left);
        match try_open(&left, &clock()) {
            Ok(again) => {
                harmless += 1;
                match values(&again.store, 0) {
                    Ok(found) => assert_eq!(found, wanted, "{fault:?} of write {nth}"),
                    Err(error) => assert!(matches!(error, StorageError::Damage { .. }), "{fault:?} of write {nth}: {error}"),
                }
            }
            Err(StorageError::Damage { file, position, .. }) => {
                noticed += 1;
                assert_eq!(file, layout::segment_file(Path::new(DIR), Position(position.0 - position.0 % 65_536)));
                assert!(without_lock(&left) == before);
            }
            Err(error) => panic!("{fault:?} of write {nth}: {error}"),
        }
    }
    assert!(noticed > 20 && harmless > 5, "noticed {noticed}, harmless {harmless}");
}

/// The same for the index: it is a cache, so the answer is the original also when its own checksums do not notice.
#[test]
fn an_index_write_that_was_lost_or_misplaced_changes_no_answer() {
    let mut met = 0;
    for (fault, nth) in [Fault::Lost, Fault::Misdirected].into_iter().flat_map(|fault| (1..70).map(move |nth| (fault, nth))) {
        let disk = SimDisk::with_dir(nth, Path::new(DIR));
        let store = try_open(&disk, &clock()).unwrap().store;
        disk.fail(Site::IndexWrite, nth, fault);
        for number in 0..60 {
            put(&store, number).unwrap();
            if number % 20 == 19 {
                let state = (0_u32..5).map(|key| (key.to_be_bytes().to_vec(), Some(encode_pair((u64::from(key), number as u64 - 5)))));
                store.finish_checkpoint(store.begin_checkpoint(), state.collect()).unwrap();
            }
        }
        drop(store);
        met += usize::from(!disk.happened().is_empty());
        let again = match try_open(&disk.crash_clone(nth), &clock()) {
            Ok(again) => again,
            Err(error) => panic!("{fault:?} of index write {nth}: {error}"),
        };
        match values(&again.store, 0) {
            Ok(found) => assert_eq!(found.len(), 60, "{fault:?} of index write {nth}: {:?}", again.report),
            Err(error) => assert!(matches!(error, StorageError::Index(_)), "{fault:?} of index write {nth}: {error}"),
        }
    }
    assert!(met > 60, "{met}");
}
