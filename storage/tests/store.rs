//! The store through its facade: what is acknowledged is there after a reopening, a lost index and a power cut.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use onelog_storage::batch::{BatchView, RecordBody};
use onelog_storage::check::check_dir;
use onelog_storage::clock::{Clock, ManualClock};
use onelog_storage::error::StorageError;
use onelog_storage::io::sim::{Fault, SimDisk};
use onelog_storage::io::{Io, OpenMode, Site};
use onelog_storage::layout;
use onelog_storage::submission::{NewEntry, NewEvent, Receipt, Submission};
use onelog_storage::types::{Offset, PartitionId, Position, TimestampMs};
use onelog_storage::{RecoveryReport, Store, StoreConfig};

const DIR: &str = "/data";
const WINDOW_MS: u64 = 60_000;

struct Opened {
    store: Store,
    events: Vec<Vec<u8>>,
    state: Vec<(Vec<u8>, Vec<u8>)>,
    report: RecoveryReport,
}

fn config() -> StoreConfig {
    StoreConfig { segment_bytes: layout::SEGMENT_BYTES_MIN, cache_bytes: 64 * 1024, ..StoreConfig::default() }
}

fn try_open(disk: &SimDisk, clock: &Arc<ManualClock>) -> Result<Opened, StorageError> {
    let mut opening = Store::open(Arc::new(disk.clone()), Arc::clone(clock) as Arc<dyn Clock>, Path::new(DIR), config())?;
    let state = opening.state()?;
    let mut events = Vec::new();
    while let Some(event) = opening.next_event()? {
        events.push(event.payload.to_vec());
    }
    let (store, report) = opening.finish()?;
    Ok(Opened { store, events, state, report })
}

fn open(disk: &SimDisk, clock: &Arc<ManualClock>) -> Opened {
    try_open(disk, clock).unwrap()
}

fn start() -> (SimDisk, Arc<ManualClock>) {
    (SimDisk::with_dir(1, Path::new(DIR)), Arc::new(ManualClock::at(TimestampMs(1_000_000))))
}

fn entry(store: &Store, partition: u32, value: &[u8], at: i64) -> NewEntry {
    let none: [(&str, Option<&[u8]>); 0] = [];
    let body = RecordBody::encode(TimestampMs(at), Some(b"key"), Some(value), none.into_iter());
    NewEntry { partition: store.partition(PartitionId(partition)), body, key: None, expected: None }
}

fn keyed(store: &Store, key: &[u8], value: &[u8]) -> NewEntry {
    let key = store.dedup_key(7, key, &[value], WINDOW_MS).unwrap();
    NewEntry { key: Some(Box::new(key)), ..entry(store, 0, value, 5) }
}

fn put(store: &Store, entries: impl IntoIterator<Item = NewEntry>) -> Result<Receipt, StorageError> {
    store.submit(Submission { records: entries.into_iter().collect(), ..Submission::default() }).wait()
}

/// All values of a partition from its log start on.
fn values(store: &Store, partition: u32) -> Vec<Vec<u8>> {
    let partition = store.partition(PartitionId(partition));
    let mut next = partition.log_start();
    let mut out = Vec::new();
    while next < partition.high_watermark() {
        for batch in store.read(&partition, next, 100_000).unwrap() {
            let view = BatchView::parse(&batch.bytes).unwrap();
            view.verify_crc().unwrap();
            assert_eq!(view.base_offset(), batch.base_offset);
            for record in view.records().unwrap() {
                let record = record.unwrap();
                if batch.base_offset.plus(i64::from(record.offset_delta)) >= next {
                    out.push(record.value.unwrap().to_vec());
                }
            }
            next = batch.last_offset.plus(1);
        }
    }
    out
}

#[test]
fn records_of_several_partitions_come_back_in_order_after_reopening() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    assert!(first.report.created);
    for round in 0..300u32 {
        let value = vec![u8::try_from(round % 251).unwrap(); 1_000];
        let receipt = put(&first.store, [entry(&first.store, 0, &value, 1), entry(&first.store, 1, &value[..7], 1)]).unwrap();
        assert_eq!(receipt.appended[0].offset, Offset(round.into()));
    }
    let before = (values(&first.store, 0), values(&first.store, 1));
    assert_eq!(before.0.len(), 300);
    drop(first);
    let again = open(&disk, &clock);
    assert_eq!((values(&again.store, 0), values(&again.store, 1)), before);
    assert_eq!(put(&again.store, [entry(&again.store, 1, b"x", 1)]).unwrap().appended[0].offset, Offset(300));
}

#[test]
fn the_index_can_be_deleted_at_any_time() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for round in 0..200u32 {
        put(&first.store, [keyed(&first.store, &round.to_le_bytes(), &vec![1; 3_000])]).unwrap();
        if round == 120 {
            let begun = first.store.begin_checkpoint();
            first.store.finish_checkpoint(begun, vec![(b"topic".to_vec(), Some(b"state".to_vec()))]).unwrap();
        }
    }
    let before = values(&first.store, 0);
    drop(first);
    for delete in [false, true] {
        if delete {
            disk.remove(Site::IndexRemove, &layout::redb_file(Path::new(DIR))).unwrap();
        }
        let again = open(&disk, &clock);
        assert_eq!(again.report.index_rebuilt.is_some(), delete, "{:?}", again.report);
        assert_eq!(values(&again.store, 0), before);
        for round in [0u32, 119, 120, 121, 199] {
            let receipt = put(&again.store, [keyed(&again.store, &round.to_le_bytes(), &vec![1; 3_000])]).unwrap();
            assert_eq!((receipt.appended[0].duplicate, receipt.appended[0].offset), (true, Offset(round.into())), "round {round}");
        }
    }
}

#[test]
fn a_repeat_answers_with_the_first_offset_and_another_body_is_a_conflict() {
    let (disk, clock) = start();
    let Opened { store, .. } = open(&disk, &clock);
    put(&store, [keyed(&store, b"a", b"one")]).unwrap();
    let repeat = put(&store, [keyed(&store, b"a", b"one"), keyed(&store, b"b", b"two"), keyed(&store, b"b", b"two")]).unwrap();
    let seen: Vec<_> = repeat.appended.iter().map(|a| (a.offset.0, a.duplicate)).collect();
    assert_eq!(seen, [(0, true), (1, false), (1, true)]);
    let conflict = put(&store, [keyed(&store, b"c", b"three"), keyed(&store, b"a", b"other")]);
    assert!(matches!(conflict, Err(StorageError::IdempotencyConflict { index: 1, offset: Offset(0), .. })), "{conflict:?}");
    assert_eq!(values(&store, 0).len(), 2, "a refused submission stores nothing");
    clock.advance(std::time::Duration::from_millis(WINDOW_MS + 1));
    let later = put(&store, [keyed(&store, b"a", b"other")]).unwrap();
    assert_eq!((later.appended[0].offset, later.appended[0].duplicate), (Offset(2), false), "the window has passed");
}

#[test]
fn a_conditional_append_is_refused_unless_it_is_next() {
    let (disk, clock) = start();
    let Opened { store, .. } = open(&disk, &clock);
    let expecting = |offset| NewEntry { expected: Some(Offset(offset)), ..entry(&store, 0, b"v", 1) };
    assert!(put(&store, [expecting(0)]).is_ok());
    assert!(matches!(put(&store, [expecting(0)]), Err(StorageError::UnexpectedOffset { actual: Offset(1), .. })));
    assert_eq!(values(&store, 0).len(), 1);
}

#[test]
fn a_time_is_found_to_the_record() {
    let (disk, clock) = start();
    let Opened { store, .. } = open(&disk, &clock);
    for at in 0..500i64 {
        put(&store, [entry(&store, 0, &[9; 2_000], at * 10)]).unwrap();
    }
    let partition = store.partition(PartitionId(0));
    for checkpointed in [false, true] {
        if checkpointed {
            store.finish_checkpoint(store.begin_checkpoint(), vec![]).unwrap();
        }
        for target in [-1i64, 0, 1, 10, 11, 2_345, 4_989, 4_990, 4_991] {
            let want = (target <= 4_990).then(|| (target.max(0) + 9) / 10);
            let found = store.offset_for_time(&partition, TimestampMs(target)).unwrap().map(|(offset, _)| offset.0);
            assert_eq!(found, want, "time {target}");
        }
    }
}

#[test]
fn a_power_cut_keeps_every_acknowledged_record_and_event() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    let mut acknowledged = 0;
    let mut checkpointed = 0;
    for seed in 0..150u64 {
        for _ in 0..3 {
            let event = NewEvent { tag: 9, payload: acknowledged.to_string().into_bytes() };
            let records = [entry(&first.store, 0, acknowledged.to_string().as_bytes(), 1)].into_iter().collect();
            first.store.submit(Submission { records, events: [event].into_iter().collect(), ..Submission::default() }).wait().unwrap();
            acknowledged += 1;
        }
        if seed % 40 == 20 {
            checkpointed = acknowledged;
            first.store.finish_checkpoint(first.store.begin_checkpoint(), vec![]).unwrap();
        }
        // More is under way when the power goes.
        let _waiting =
            first.store.submit(Submission { records: [entry(&first.store, 0, b"u", 1)].into_iter().collect(), ..Submission::default() });
        let cut = disk.crash_clone(seed);
        let again = open(&cut, &clock);
        let found = values(&again.store, 0);
        let mut kept = found.iter().filter(|value| value.as_slice() != b"u");
        for number in 0..acknowledged {
            let next = kept.next().map(|value| String::from_utf8_lossy(value).into_owned());
            assert_eq!(next, Some(number.to_string()), "seed {seed} of {acknowledged}, {:?}", again.report);
        }
        assert!(again.events.len() >= acknowledged - checkpointed, "seed {seed}");
        let next = put(&again.store, [entry(&again.store, 0, b"after", 1)]).unwrap().appended[0].offset;
        assert_eq!(next, Offset(i64::try_from(found.len()).unwrap()), "offsets go on without a gap");
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_reopened() {
    let (disk, clock) = start();
    let Opened { store, .. } = open(&disk, &clock);
    put(&store, [entry(&store, 0, b"safe", 1)]).unwrap();
    disk.fail(Site::LogSync, 1, Fault::Eio);
    assert!(put(&store, [entry(&store, 0, b"lost", 1)]).is_err());
    for _ in 0..3 {
        assert!(matches!(put(&store, [entry(&store, 0, b"later", 1)]), Err(StorageError::Poisoned { .. })));
    }
    assert_eq!(values(&store, 0), [b"safe".to_vec()]);
    drop(store);
    let again = open(&disk, &clock);
    assert_eq!(values(&again.store, 0).first(), Some(&b"safe".to_vec()));
    put(&again.store, [entry(&again.store, 0, b"again", 1)]).unwrap();
}

/// Found with real power cuts: a disk that had failed the index's sync lost a commit it then claimed to have synced.
#[test]
fn after_a_failed_sync_of_the_index_nothing_is_acknowledged() {
    let (disk, clock) = start();
    let Opened { store, .. } = open(&disk, &clock);
    put(&store, [entry(&store, 0, b"safe", 1)]).unwrap();
    disk.fail(Site::IndexSync, 1, Fault::Eio);
    store.finish_checkpoint(store.begin_checkpoint(), Vec::new()).unwrap_err();
    assert!(matches!(put(&store, [entry(&store, 0, b"later", 1)]), Err(StorageError::Poisoned { .. })));
    drop(store);
    let again = open(&disk, &clock);
    assert_eq!(values(&again.store, 0), [b"safe".to_vec()]);
    put(&again.store, [entry(&again.store, 0, b"again", 1)]).unwrap();
}

#[test]
fn a_full_disk_refuses_records_whole_and_takes_urgent_events() {
    let (disk, clock) = start();
    let Opened { store, .. } = open(&disk, &clock);
    disk.set_capacity(Some(1_500_000));
    let mut stored = 0;
    // Small ones at last: what is left then is kept for what is urgent.
    for bytes in [20_000, 10] {
        let refused = loop {
            match put(&store, [entry(&store, 0, &vec![1; bytes], 1)]) {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 4_000);
        };
        assert!(matches!(refused, StorageError::Full { .. }), "{refused}");
    }
    for _ in 0..300 {
        let event = NewEvent { tag: 1, payload: b"ack".to_vec() };
        store.submit(Submission { events: [event].into_iter().collect(), urgent: true, ..Submission::default() }).wait().unwrap();
    }
    assert_eq!(values(&store, 0).len(), stored);
    disk.set_capacity(None);
    put(&store, [entry(&store, 0, b"room again", 1)]).unwrap();
    assert_eq!(values(&store, 0).len(), stored + 1);
}

#[test]
fn damage_below_the_end_is_refused_and_named() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for _ in 0..20 {
        put(&first.store, [entry(&first.store, 0, &[5; 700], 1)]).unwrap();
    }
    drop(first);
    let segment = layout::segment_file(Path::new(DIR), Position(0));
    disk.damage(&segment, &[0xff], 8 * 1024 + 300);
    let before = disk.open(Site::LogRead, &segment, OpenMode::Read).unwrap().len(Site::LogRead).unwrap();
    let refused = try_open(&disk, &clock).err();
    let Some(StorageError::Damage { file, position, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(file, segment);
    assert!(position.0 <= 8 * 1024 + 300 && position.0 > 7 * 1024, "{position}");
    assert_eq!(disk.open(Site::LogRead, &segment, OpenMode::Read).unwrap().len(Site::LogRead).unwrap(), before);
}

#[test]
fn a_log_of_many_segments_is_read_back_and_its_oldest_part_can_go() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for round in 0..300u32 {
        let value = [&round.to_le_bytes()[..], &vec![3; 50_000]].concat();
        put(&first.store, [entry(&first.store, 0, &value, round.into())]).unwrap();
    }
    put(&first.store, [entry(&first.store, 1, b"old and alone", 1)]).unwrap();
    assert!(first.store.stats().segments >= 4);
    let partition = first.store.partition(PartitionId(0));
    let keep = first.store.retention_start(&partition, Some(TimestampMs(250)), None).unwrap();
    assert!(keep > Offset(200) && keep <= Offset(250), "{keep}");
    first.store.submit(Submission { trims: vec![(Arc::clone(&partition), keep)], ..Submission::default() }).wait().unwrap();
    first.store.finish_checkpoint(first.store.begin_checkpoint(), vec![]).unwrap();
    let end = first.store.droppable_end().unwrap();
    assert!(end > Position(0));
    let retold = first.store.told_below(end);
    first.store.submit(Submission { retold, ..Submission::default() }).wait().unwrap();
    first.store.drop_below(end).unwrap();
    for round in 0..400u32 {
        put(&first.store, [entry(&first.store, 2, &vec![4; 50_000], round.into())]).unwrap();
    }
    let before = (values(&first.store, 0), values(&first.store, 1), values(&first.store, 2));
    assert_eq!(before.0.len(), usize::try_from(300 - keep.0).unwrap());
    drop(first);
    disk.remove(Site::IndexRemove, &layout::redb_file(Path::new(DIR))).unwrap();
    let again = open(&disk, &clock);
    assert_eq!((values(&again.store, 0), values(&again.store, 1), values(&again.store, 2)), before);
}

/// P25: retention by age and by size, at every limit there is a record for.
#[test]
fn retention_takes_no_record_above_its_limit() {
    let (disk, clock) = start();
    let Opened { store, .. } = open(&disk, &clock);
    for at in 0..60 {
        put(&store, [entry(&store, 0, &vec![3; 50_000], at)]).unwrap();
    }
    let partition = store.partition(PartitionId(0));
    let sizes: Vec<u64> = store.read(&partition, Offset(0), usize::MAX).unwrap().iter().map(|batch| batch.bytes.len() as u64).collect();
    assert_eq!(sizes.len(), 60);
    let (mut by_age, mut by_size) = (Offset(0), Offset(0));
    for limit in 0..60 {
        by_age = store.retention_start(&partition, Some(TimestampMs(limit)), None).unwrap();
        assert!(by_age <= Offset(limit), "{by_age} goes though it is as old as {limit}");
        let most = sizes[usize::try_from(59 - limit).unwrap()..].iter().sum();
        by_size = by_size.max(store.retention_start(&partition, None, Some(most)).unwrap());
        let kept: u64 = sizes[usize::try_from(store.retention_start(&partition, None, Some(most)).unwrap().0).unwrap()..].iter().sum();
        assert!(kept >= most, "{kept} of {most} bytes are kept");
    }
    assert!(by_age > Offset(50) && by_size > Offset(50), "{by_age} {by_size}: what is beyond the limit goes");
}

/// The checkpoint names the log start of its time; log that was given back since is not missing.
#[test]
fn a_crash_right_after_log_was_given_back_is_no_damage() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for _ in 0..400u32 {
        put(&first.store, [entry(&first.store, 0, &vec![3; 50_000], 1)]).unwrap();
    }
    let partition = first.store.partition(PartitionId(0));
    first.store.submit(Submission { trims: vec![(Arc::clone(&partition), Offset(395))], ..Submission::default() }).wait().unwrap();
    first.store.finish_checkpoint(first.store.begin_checkpoint(), vec![]).unwrap();
    let end = first.store.droppable_end().unwrap();
    assert!(end.0 / layout::SEGMENT_BYTES_MIN >= 3, "the spares alone would hide it");
    first.store.drop_below(end).unwrap();
    let again = open(&disk.crash_clone(1), &clock);
    assert_eq!(values(&again.store, 0).len(), 5);
    assert_eq!(again.store.log_start(), end);
}

/// Some old segments are kept for reuse: an index that is built anew must not point into them.
#[test]
fn an_index_built_after_log_was_given_back_points_into_no_spare_segment() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    let mut end = 0;
    while end < layout::SEGMENT_BYTES_MIN - 22_000 {
        end = put(&first.store, [entry(&first.store, 0, &vec![3; 20_000], 1)]).unwrap().end.0;
    }
    put(&first.store, [entry(&first.store, 1, b"at the end of the first segment", 1)]).unwrap();
    first.store.finish_checkpoint(first.store.begin_checkpoint(), vec![]).unwrap();
    drop(first);
    // Opened again it makes an index entry sooner than a fold of the whole log would.
    let second = open(&disk, &clock);
    put(&second.store, [entry(&second.store, 0, &vec![3; 22_000], 1)]).unwrap();
    put(&second.store, [entry(&second.store, 1, b"at the start of the second", 1)]).unwrap();
    let all = second.store.partition(PartitionId(0));
    let trims = vec![(Arc::clone(&all), all.high_watermark()), (second.store.partition(PartitionId(1)), Offset(1))];
    second.store.submit(Submission { trims, ..Submission::default() }).wait().unwrap();
    second.store.finish_checkpoint(second.store.begin_checkpoint(), vec![]).unwrap();
    let end = second.store.droppable_end().unwrap();
    assert_eq!(end, Position(layout::SEGMENT_BYTES_MIN));
    second.store.drop_below(end).unwrap();
    drop(second);
    disk.remove(Site::IndexRemove, &layout::redb_file(Path::new(DIR))).unwrap();
    let again = open(&disk, &clock);
    // The spare is used up.
    while again.store.stats().durable < Position(4 * layout::SEGMENT_BYTES_MIN) {
        put(&again.store, [entry(&again.store, 2, &vec![4; 50_000], 1)]).unwrap();
    }
    assert_eq!(values(&again.store, 1), [b"at the start of the second".to_vec()]);
}

#[test]
fn the_offline_check_counts_what_is_there_and_names_what_is_lost() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for _ in 0..40 {
        put(&first.store, [entry(&first.store, 0, &[5; 700], 1)]).unwrap();
    }
    drop(first);
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    let whole = check_dir(&io, Path::new(DIR), "check").unwrap();
    assert_eq!((whole.records, whole.damages.len()), (40, 0), "{whole:?}");
    disk.damage(&layout::segment_file(Path::new(DIR), Position(0)), &[0xff], 8 * 1024 + 300);
    let damaged = check_dir(&io, Path::new(DIR), "check").unwrap();
    let lost = damaged.damages.first().unwrap();
    assert!(lost.position.0 <= 8 * 1024 + 300 && lost.until.unwrap().0 > 8 * 1024 + 300, "{lost:?}");
    assert_eq!(damaged.records, 39);
    let ledger = &damaged.partitions[&PartitionId(0)];
    assert_eq!((ledger.lost.len(), ledger.lost[0].to.0 - ledger.lost[0].from.0, ledger.records), (1, 1, 39), "{ledger:?}");
}

/// Nothing behind the end says that there was more, but the index does.
#[test]
fn the_offline_check_believes_a_checkpoint_above_the_end_of_the_log() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for _ in 0..10 {
        put(&first.store, [entry(&first.store, 0, &[5; 700], 1)]).unwrap();
    }
    first.store.finish_checkpoint(first.store.begin_checkpoint(), vec![]).unwrap();
    drop(first);
    disk.damage(&layout::segment_file(Path::new(DIR), Position(0)), &vec![0; 64 * 1024], 8 * 1024);
    let io: Arc<dyn Io> = Arc::new(disk);
    let damaged = check_dir(&io, Path::new(DIR), "check").unwrap();
    assert!(damaged.records > 0 && damaged.records < 10, "{damaged:?}");
    let lost = damaged.damages.first().expect("the checkpoint was taken above the last commit that is left");
    assert!(lost.position.0 <= 8 * 1024 && lost.what.contains("was durable"), "{lost:?}");
}

#[test]
fn a_missing_first_segment_is_damage_also_without_an_index() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for _ in 0..200 {
        put(&first.store, [entry(&first.store, 0, &vec![3; 50_000], 1)]).unwrap();
    }
    assert!(first.store.stats().segments >= 3);
    drop(first);
    disk.remove(Site::IndexRemove, &layout::redb_file(Path::new(DIR))).unwrap();
    disk.remove(Site::SegmentRemove, &layout::segment_file(Path::new(DIR), Position(0))).unwrap();
    let refused = try_open(&disk, &clock).err();
    assert!(matches!(refused, Some(StorageError::Damage { position: Position(0), .. })), "{refused:?}");
}

#[test]
fn a_flipped_bit_in_the_index_changes_no_answer() {
    let (disk, clock) = start();
    let first = open(&disk, &clock);
    for round in 0..60u32 {
        put(&first.store, [keyed(&first.store, &round.to_le_bytes(), &vec![1; 3_000])]).unwrap();
    }
    first.store.finish_checkpoint(first.store.begin_checkpoint(), vec![(b"t".to_vec(), Some(vec![7; 400_000]))]).unwrap();
    let before = values(&first.store, 0);
    drop(first);
    let index = layout::redb_file(Path::new(DIR));
    let file = disk.open(Site::IndexRead, &index, OpenMode::Read).unwrap();
    let len = file.len(Site::IndexRead).unwrap();
    let mut rebuilt = 0;
    for seed in 0..300u64 {
        let cut = disk.crash_clone(seed);
        let at = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % len;
        let mut byte = [0];
        file.read_at(Site::IndexRead, &mut byte, at).unwrap();
        cut.damage(&index, &[byte[0] ^ 1 << (seed % 8)], at);
        let again = open(&cut, &clock);
        match &again.report.index_rebuilt {
            Some(_) => rebuilt += 1,
            None => assert_eq!(again.state, [(b"t".to_vec(), vec![7; 400_000])], "seed {seed}"),
        }
        let partition = again.store.partition(PartitionId(0));
        assert_eq!(partition.high_watermark(), Offset(60), "seed {seed}");
        // A damaged offset entry or key is an error; what is answered is right.
        match again.store.read(&partition, Offset(0), 1) {
            Ok(_) => assert_eq!(values(&again.store, 0), before, "seed {seed}"),
            Err(error) => assert!(matches!(error, StorageError::Index(_)), "seed {seed}: {error}"),
        }
        if let Ok(key) = again.store.dedup_key(7, &7u32.to_le_bytes(), &[&vec![1; 3_000]], WINDOW_MS) {
            let repeat = NewEntry { key: Some(Box::new(key)), ..entry(&again.store, 0, &vec![1; 3_000], 5) };
            assert!(put(&again.store, [repeat]).is_ok_and(|receipt| receipt.appended[0].duplicate), "seed {seed}");
        }
    }
    assert!(rebuilt > 0, "no flip met the index where it matters");
}
