//! Whole files: cut, gone, doubled, renamed, exchanged.

use std::path::{Path, PathBuf};

use onelog_storage::check::check_dir;
use onelog_storage::io::sim::SimDisk;
use onelog_storage::io::{Io, OpenMode, Site};
use onelog_storage::types::Position;
use onelog_storage::{Store, layout};
use std::sync::Arc;

use crate::world::{Contents, DIR, Seen, World, bytes_of, config, look, write};

const BYTES: u64 = layout::SEGMENT_BYTES_MIN;

fn segment(number: u64) -> PathBuf {
    layout::segment_file(Path::new(DIR), Position(number * BYTES))
}

fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open(Site::LogWrite, path, OpenMode::CreateOrWrite).unwrap();
    file.set_len(Site::LogWrite, 0).unwrap();
    file.write_at(Site::LogWrite, &[bytes], 0).unwrap();
    file.sync(Site::LogWrite).unwrap();
    disk.sync_dir(Site::DirSync, path.parent().unwrap()).unwrap();
}

fn remove(disk: &SimDisk, path: &Path) {
    disk.remove(Site::SegmentRemove, path).unwrap();
    disk.sync_dir(Site::DirSync, path.parent().unwrap()).unwrap();
}

/// Three segments of records, the last partly filled; with a checkpoint early on, so that most lies behind it, and without an index.
fn large() -> [World; 2] {
    let world = World::new(190, 24_000, Some(20));
    let segments = world.disk.list(Site::DirList, &layout::log_dir(Path::new(DIR))).unwrap();
    assert!(segments.len() >= 3, "{segments:?}");
    let bare = world.without_index();
    [world, bare]
}

/// The offline check agrees with the start about what is damaged.
fn assert_check_says(disk: &SimDisk, seen: Seen, contents: &Contents, what: &str) {
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    let damaged = match check_dir(&io, Path::new(DIR), "check") {
        Ok(report) => {
            let records = contents.partitions.values().map(Vec::len).sum::<usize>() as u64;
            assert!(!report.damages.is_empty() || report.records == records, "{what}: {} records, no damage", report.records);
            !report.damages.is_empty()
        }
        Err(_) => true,
    };
    assert_eq!(damaged, seen != Seen::Whole, "{what}: the check and the start disagree");
}

#[test]
fn a_log_cut_at_any_length_is_whole_or_refused() {
    // More than the first blocks, of which every store is known to have had them.
    for (world, index) in [World::new(60, 1_500, None), World::new(60, 1_500, Some(20))].into_iter().zip(["no index", "an index"]) {
        let bytes = bytes_of(&world.disk, &segment(0));
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        let lengths = (0..used + 2_048).step_by(1_024).chain((0..used).step_by(2_999)).chain([bytes.len() as u64 - 1, 300_000]);
        for length in lengths {
            let cut = world.copy();
            cut.open(Site::LogWrite, &segment(0), OpenMode::Write).unwrap().set_len(Site::LogWrite, length).unwrap();
            let what = format!("cut at {length} of {used} used, {index}");
            let seen = look(&cut, &world.contents, &what);
            // The mark behind the last commit may go: it is worth nothing.
            assert!(seen == Seen::Refused || length + 1_024 > used, "{what}: {seen:?}");
        }
    }
}

#[test]
fn a_cut_or_missing_segment_of_several_is_refused_or_told_where_it_is_read() {
    for world in large() {
        for number in 0..3 {
            let used = bytes_of(&world.disk, &segment(number)).iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
            for length in [0, 512, 100_000, used / 2 / 512 * 512, used - 2_000] {
                let cut = world.copy();
                cut.open(Site::LogWrite, &segment(number), OpenMode::Write).unwrap().set_len(Site::LogWrite, length).unwrap();
                let what = format!("segment {number} cut at {length}");
                let seen = look(&cut, &world.contents, &what);
                assert_ne!(seen, Seen::Whole, "{what}");
                assert_check_says(&cut, seen, &world.contents, &what);
            }
            let gone = world.copy();
            remove(&gone, &segment(number));
            let seen = look(&gone, &world.contents, &format!("segment {number} gone"));
            assert_eq!(seen, Seen::Refused, "segment {number}");
            assert_check_says(&gone, seen, &world.contents, &format!("segment {number} gone"));
        }
    }
}

#[test]
fn a_log_that_is_gone_altogether_is_refused() {
    for world in large() {
        let gone = world.copy();
        for listed in gone.list(Site::DirList, &layout::log_dir(Path::new(DIR))).unwrap() {
            remove(&gone, &layout::log_dir(Path::new(DIR)).join(listed.name));
        }
        assert_eq!(look(&gone, &world.contents, "no segment"), Seen::Refused);
        // The index alone does not begin a new log either.
        let without_directory = SimDisk::with_dir(3, Path::new(DIR));
        let store = layout::store_file(Path::new(DIR));
        put(&without_directory, &store, &bytes_of(&world.disk, &store));
        assert_eq!(look(&without_directory, &world.contents, "no log directory"), Seen::Refused);
    }
}

#[test]
fn segments_in_each_others_place_are_refused() {
    for world in large() {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            let (first, second) = (bytes_of(&world.disk, &segment(one)), bytes_of(&world.disk, &segment(other)));
            let swapped = world.copy();
            put(&swapped, &segment(one), &second);
            put(&swapped, &segment(other), &first);
            let what = format!("{one} and {other} swapped");
            let seen = look(&swapped, &world.contents, &what);
            assert_eq!(seen, Seen::Refused, "{what}");
            assert_check_says(&swapped, seen, &world.contents, &what);
            for (from, bytes, to) in [(one, &first, other), (other, &second, one)] {
                let copied = world.copy();
                put(&copied, &segment(to), bytes);
                let what = format!("{from} copied over {to}");
                assert_ne!(look(&copied, &world.contents, &what), Seen::Whole, "{what}");
                remove(&copied, &segment(from));
                assert_ne!(look(&copied, &world.contents, &format!("{from} renamed to {to}")), Seen::Whole, "{from} renamed to {to}");
            }
        }
    }
}

#[test]
fn a_segment_too_many_changes_nothing() {
    for world in large() {
        for (from, to) in [(0, 7), (2, 7), (1, 3)] {
            let more = world.copy();
            put(&more, &segment(to), &bytes_of(&world.disk, &segment(from)));
            // A copy of log that is still needed, far behind the end, is not taken for log; it may be refused as out of place.
            look(&more, &world.contents, &format!("a copy of {from} as {to}"));
        }
        let more = world.copy();
        put(&more, &layout::log_dir(Path::new(DIR)).join("notes.txt"), b"not a segment");
        assert_eq!(look(&more, &world.contents, "a foreign file"), Seen::Whole);
    }
}

#[test]
fn files_of_another_store_are_refused() {
    let [world, bare] = large();
    let other = World::new(190, 24_000, Some(150));
    let store = layout::store_file(Path::new(DIR));
    let index = layout::redb_file(Path::new(DIR));
    for (name, path) in [("STORE", &store), ("segment 0", &segment(0)), ("segment 1", &segment(1)), ("segment 2", &segment(2))] {
        for (mine, index) in [(&world, "an index"), (&bare, "no index")] {
            let mixed = mine.copy();
            put(&mixed, path, &bytes_of(&other.disk, path));
            let what = format!("{name} of another store, {index}");
            assert_ne!(look(&mixed, &mine.contents, &what), Seen::Whole, "{what}");
        }
    }
    let mixed = world.copy();
    put(&mixed, &index, &bytes_of(&other.disk, &index));
    assert_eq!(look(&mixed, &world.contents, "the index of another store"), Seen::Whole, "it is a cache and is built anew");
}

#[test]
fn an_older_copy_of_a_file_loses_nothing_in_silence() {
    let disk = SimDisk::with_dir(1, Path::new(DIR));
    write(&disk, 60, 24_000, Some(50));
    let old = World { disk: disk.crash_clone(0), contents: Contents::default() };
    drop(old.contents);
    let (index, log) = (layout::redb_file(Path::new(DIR)), segment(0));
    let (old_index, old_log) = (bytes_of(&old.disk, &index), bytes_of(&old.disk, &log));
    // The same store goes on; what it held before is written again under other offsets.
    let opening = Store::open(Arc::new(disk.clone()), crate::world::clock(), Path::new(DIR), config()).unwrap();
    let (store, _) = opening.finish().unwrap();
    let partition = store.partition(onelog_storage::types::PartitionId(0));
    let held = partition.high_watermark();
    for _ in 0..40 {
        let records = [crate::world::entry(&store, 0, &[b'n'; 24_000])].into_iter().collect();
        store.submit(onelog_storage::submission::Submission { records, ..Default::default() }).wait().unwrap();
    }
    store.finish_checkpoint(store.begin_checkpoint(), vec![(b"s".to_vec(), Some(b"60".to_vec()))]).unwrap();
    drop(store);
    let older_index = disk.crash_clone(0);
    put(&older_index, &index, &old_index);
    let (store, _) = crate::world::open(&older_index).unwrap();
    assert_eq!(store.partition(onelog_storage::types::PartitionId(0)).high_watermark(), held.plus(40), "more of the log is read");
    drop(store);
    let older_log = disk.crash_clone(0);
    put(&older_log, &log, &old_log);
    let refused = crate::world::open(&older_log).err().expect("an index that knows more than the log");
    crate::world::assert_names_the_place(&refused, "an older log");
}
