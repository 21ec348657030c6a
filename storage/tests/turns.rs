//! The store without threads: one run is one run, and the moments between two steps of the writer can be visited.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use onelog_storage::error::StorageError;
use onelog_storage::io::sim::{Fault, SimDisk};
use onelog_storage::io::{Io, OpenMode, Site};
use onelog_storage::layout;
use onelog_storage::submission::{NewEntry, NewEvent, Submission, Ticket};
use onelog_storage::types::{Durability, Offset, PartitionId, Position};
use onelog_storage::{Store, StoreConfig};
use support::{DIR, EVENT_TAG, WINDOW_MS, answer, body, clock, config, encode_event, try_open, try_open_with, values};

fn disk() -> SimDisk {
    SimDisk::with_dir(1, Path::new(DIR))
}

fn submit(store: &Store, value: &[u8]) -> Ticket {
    let entry = NewEntry { partition: store.partition(PartitionId(0)), body: body(value), key: None, expected: None };
    store.submit(Submission { records: [entry].into_iter().collect(), ..Submission::default() })
}

#[test]
fn what_waits_is_one_commit_and_answered_with_it() {
    let (disk, clock) = (disk(), clock());
    let store = try_open(&disk, &clock).unwrap().store;
    let before = store.stats();
    let mut tickets: Vec<Ticket> = (0..5).map(|_| submit(&store, b"value")).collect();
    assert!(tickets.iter_mut().all(|ticket| answer(ticket).is_none()), "nothing happens without a turn");
    assert!(store.turn());
    let offsets: Vec<_> = tickets.iter_mut().map(|ticket| answer(ticket).unwrap().unwrap().appended[0].offset).collect();
    assert_eq!(offsets, (0..5).map(Offset).collect::<Vec<_>>());
    let after = store.stats();
    assert_eq!((after.commits - before.commits, after.syncs - before.syncs), (1, 1));
    assert!(!store.turn());
}

#[test]
fn nobody_sees_a_record_between_its_sync_and_its_publication() {
    let (disk, clock) = (disk(), clock());
    let store = Arc::new(try_open(&disk, &clock).unwrap().store);
    let mut ticket = submit(&store, b"value");
    let seen = Arc::new(Mutex::new(None));
    let (in_store, in_seen) = (Arc::clone(&store), Arc::clone(&seen));
    let durable_before = store.stats().durable;
    let turned = store.turn_with(Box::new(move || {
        let partition = in_store.partition(PartitionId(0));
        *in_seen.lock().unwrap() = Some((partition.high_watermark(), in_store.stats().durable > durable_before));
    }));
    assert!(turned && answer(&mut ticket).unwrap().is_ok());
    assert_eq!(*seen.lock().unwrap(), Some((Offset(0), true)));
    assert_eq!(store.partition(PartitionId(0)).high_watermark(), Offset(1));
}

/// Lazy events up to the last byte of the first segment.
fn fill_first_segment(store: &Store) {
    let segment = layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS;
    let mut filled = 0;
    while filled < segment {
        let payload = vec![7; usize::try_from((segment - filled).min(8_192)).unwrap() - 100];
        let events = [NewEvent { tag: EVENT_TAG, payload: [&encode_event((1, 2, filled + 1))[..], &payload].concat() }];
        let durability = Durability::Lazy;
        let mut ticket = store.submit(Submission { events: events.into_iter().collect(), durability, ..Submission::default() });
        assert!(store.turn());
        filled = answer(&mut ticket).unwrap().unwrap().end.0;
    }
    assert_eq!(filled, segment, "the last commit ends with its segment");
}

/// P6: what the cache still held when the process died is made durable before anybody is told of it, whichever file it is in.
#[test]
fn what_recovery_found_survives_the_next_power_cut() {
    let (disk, clock) = (disk(), clock());
    let store = try_open(&disk, &clock).unwrap().store;
    fill_first_segment(&store);
    let killed = disk.kill_clone(1);
    let found = try_open(&killed, &clock).unwrap().map;
    assert_eq!(found.len(), 1, "the cache outlived the process");
    for seed in 0..20 {
        assert_eq!(try_open(&killed.crash_clone(seed), &clock).unwrap().map, found, "seed {seed}");
    }
}

/// After a failed sync the cache shows what the disk does not hold, and counts it as written: recovery must not believe it.
#[test]
fn what_a_failed_sync_lost_is_not_served_after_a_restart() {
    for seed in 0..40 {
        let (disk, clock) = (SimDisk::with_dir(seed, Path::new(DIR)), clock());
        let store = try_open(&disk, &clock).unwrap().store;
        let mut safe = submit(&store, b"safe");
        store.turn();
        disk.fail(Site::LogSync, 1, Fault::Eio);
        let mut lost = submit(&store, &[7; 20_000]);
        store.turn();
        assert!(answer(&mut safe).unwrap().is_ok() && answer(&mut lost).unwrap().is_err());
        let next = disk.kill_clone(seed);
        let again = try_open(&next, &clock).unwrap().store;
        let served = values(&again, 0).unwrap();
        assert_eq!(served[0], b"safe");
        let later = try_open(&next.crash_clone(seed), &clock).unwrap();
        assert_eq!(values(&later.store, 0).unwrap(), served, "seed {seed}");
    }
}

/// The new name of a recycled segment is durable before a commit in it is answered.
#[test]
fn a_commit_in_a_recycled_segment_survives_a_power_cut() {
    let (disk, clock) = (disk(), clock());
    let bytes = layout::SEGMENT_BYTES_MIN;
    let store = try_open_with(&disk, &clock, config(bytes)).unwrap().store;
    let put = || {
        let mut ticket = submit(&store, &[7; 600_000]);
        assert!(store.turn() && answer(&mut ticket).unwrap().is_ok());
        store.stats().durable.0 / bytes
    };
    while put() < 2 {}
    let partition = store.partition(PartitionId(0));
    let keep = Offset(partition.high_watermark().0 - 1);
    store.submit(Submission { trims: vec![(Arc::clone(&partition), keep)], ..Submission::default() });
    store.turn();
    store.finish_checkpoint(store.begin_checkpoint(), vec![]).unwrap();
    store.drop_below(store.droppable_end().unwrap()).unwrap();
    // The next segment is made in time for this one's end; then the log goes on in it.
    while put() < 3 {}
    assert_eq!(disk.calls_of(Site::SegmentRecycle), 1);
    let written = values(&store, 0).unwrap().len();
    for seed in 0..20 {
        let again = try_open(&disk.crash_clone(seed), &clock).unwrap();
        assert_eq!(values(&again.store, 0).unwrap().len(), written, "seed {seed}");
    }
}

/// P6: a repeat that asks to be durable is answered once what it repeats is.
#[test]
fn a_repeat_of_a_lazy_record_is_answered_when_that_is_durable() {
    let (disk, clock) = (disk(), clock());
    let store = try_open(&disk, &clock).unwrap().store;
    let put = |durability| {
        let key = store.dedup_key(1, b"key", &[b"value"], WINDOW_MS).unwrap();
        let entry = NewEntry { partition: store.partition(PartitionId(0)), body: body(b"value"), key: Some(Box::new(key)), expected: None };
        let mut ticket = store.submit(Submission { records: [entry].into_iter().collect(), durability, ..Submission::default() });
        store.turn();
        answer(&mut ticket).unwrap().unwrap().appended[0].duplicate
    };
    assert!(!put(Durability::Lazy));
    assert!(put(Durability::Sync));
    for seed in 0..20 {
        let again = try_open(&disk.crash_clone(seed), &clock).unwrap();
        assert_eq!(values(&again.store, 0).unwrap(), [b"value".to_vec()], "seed {seed}");
    }
}

/// Files go only after the log start above them is durable.
#[test]
fn a_power_cut_while_log_is_given_back_leaves_the_old_start_or_the_new_one() {
    for (call, seed) in (1..9).flat_map(|call| (0..8).map(move |seed| (call, seed))) {
        let (disk, clock) = (SimDisk::with_dir(seed, Path::new(DIR)), clock());
        let store = try_open(&disk, &clock).unwrap().store;
        for _ in 0..12 {
            submit(&store, &[7; 30_000]);
            store.turn();
        }
        let partition = store.partition(PartitionId(0));
        store.submit(Submission { trims: vec![(Arc::clone(&partition), Offset(11))], ..Submission::default() });
        store.turn();
        store.finish_checkpoint(store.begin_checkpoint(), vec![]).unwrap();
        let end = store.droppable_end().unwrap();
        assert!(end.0 >= 4 * layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS, "more than is kept for reuse");
        disk.power_off_after(call);
        let _ = store.drop_below(end);
        let again = try_open(&disk.crash_clone(seed), &clock).unwrap_or_else(|error| panic!("call {call}, seed {seed}: {error}"));
        assert_eq!(values(&again.store, 0).unwrap().len(), 1, "call {call}, seed {seed}");
    }
}

/// Nothing seals a segment that a commit fills to its last byte: the sync of the next segment's commit did not cover a lazy one.
#[test]
fn a_lazy_commit_that_fills_its_segment_is_durable_before_the_next_segment_is_begun() {
    let (disk, clock) = (disk(), clock());
    let store = try_open(&disk, &clock).unwrap().store;
    fill_first_segment(&store);
    let mut ticket = submit(&store, b"synced");
    assert!(store.turn() && answer(&mut ticket).unwrap().is_ok());
    for seed in 0..20 {
        let again = try_open(&disk.crash_clone(seed), &clock).unwrap();
        assert_eq!(values(&again.store, 0).unwrap(), [b"synced".to_vec()], "seed {seed}");
    }
}

/// Nothing follows the one commit that the exchanged file holds: only that it is whole, as young as the last one and follows
/// another tells it from old bytes.
#[test]
fn a_segment_of_another_store_with_a_single_commit_is_refused() {
    let two_segments = |id: [u8; 16]| {
        let (disk, clock) = (disk(), clock());
        let config = StoreConfig { new_id: Some(id), ..config(layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS) };
        let store = try_open_with(&disk, &clock, config).unwrap().store;
        fill_first_segment(&store);
        let mut ticket = submit(&store, &id);
        assert!(store.turn() && answer(&mut ticket).unwrap().is_ok());
        disk.kill_clone(1)
    };
    let (mine, other) = (two_segments(*b"a store of tests"), two_segments(*b"the other's name"));
    let second = layout::segment_file(Path::new(DIR), Position(layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS));
    let file = other.open(Site::SegmentOpen, &second, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len(Site::SegmentOpen).unwrap()).unwrap()];
    file.read_at(Site::LogRead, &mut bytes, 0).unwrap();
    assert_eq!(values(&try_open(&mine.kill_clone(1), &clock()).unwrap().store, 0).unwrap(), [b"a store of tests".to_vec()]);
    mine.damage(&second, &bytes, 0);
    let refused = try_open(&mine, &clock()).err();
    assert!(matches!(refused, Some(StorageError::Damage { .. })), "{refused:?}");
}

/// The tip moves at the sync, the views a moment later: a checkpoint begun in between that promised the tip would have
/// lost the commit at the next opening.
#[test]
fn a_checkpoint_begun_between_sync_and_publication_promises_no_commit_it_misses() {
    let (disk, clock) = (disk(), clock());
    let store = Arc::new(try_open(&disk, &clock).unwrap().store);
    let _early = submit(&store, b"early");
    assert!(store.turn());
    let mut late = submit(&store, b"late");
    let taken = Arc::new(Mutex::new(None));
    let (in_store, in_taken) = (Arc::clone(&store), Arc::clone(&taken));
    store.turn_with(Box::new(move || {
        let start = in_store.begin_checkpoint();
        *in_taken.lock().unwrap() = Some(in_store.take_checkpoint(start, vec![]));
    }));
    assert!(answer(&mut late).unwrap().is_ok());
    store.write_checkpoint(taken.lock().unwrap().take().unwrap()).unwrap();
    let again = try_open(&disk.crash_clone(7), &clock).unwrap();
    assert_eq!(values(&again.store, 0).unwrap(), [b"early".to_vec(), b"late".to_vec()]);
}
