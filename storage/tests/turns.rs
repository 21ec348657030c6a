//! The store without threads: one run is one run, and the moments between two steps of the writer can be visited.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use onelog_storage::Store;
use onelog_storage::io::sim::SimDisk;
use onelog_storage::layout;
use onelog_storage::submission::{NewEntry, NewEvent, Submission, Ticket};
use onelog_storage::types::{Durability, Offset, PartitionId};
use support::{DIR, EVENT_TAG, answer, body, clock, encode_event, try_open, values};

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
