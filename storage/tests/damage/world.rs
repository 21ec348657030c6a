//! Directories with known contents, copies of them with damage, and what may be seen there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onelog_storage::batch::{BatchView, RecordBody};
use onelog_storage::clock::{Clock, ManualClock};
use onelog_storage::error::StorageError;
use onelog_storage::io::sim::SimDisk;
use onelog_storage::io::{Io, OpenMode, Site};
use onelog_storage::submission::{NewEntry, NewEvent, Submission};
use onelog_storage::types::{Offset, PartitionId, TimestampMs};
use onelog_storage::{Store, StoreConfig, layout};

pub const DIR: &str = "/data";
pub const WINDOW_MS: u64 = 600_000;
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a directory holds, by what was acknowledged.
#[derive(Clone, Default, Debug, PartialEq)]
pub struct Contents {
    pub partitions: BTreeMap<u32, Vec<Vec<u8>>>,
    pub events: usize,
}

pub struct World {
    pub disk: SimDisk,
    pub contents: Contents,
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(TimestampMs(1_000_000)))
}

pub fn config() -> StoreConfig {
    StoreConfig { segment_bytes: layout::SEGMENT_BYTES_MIN, cache_bytes: 64 * 1024, ..StoreConfig::default() }
}

pub fn open_at(disk: &SimDisk, dir: &str) -> Result<(Store, usize), StorageError> {
    let mut opening = Store::open(Arc::new(disk.clone()), clock() as Arc<dyn Clock>, Path::new(dir), config())?;
    let state = opening.state()?;
    // One row of state for every event below the checkpoint, so that they add up.
    let mut events: usize = state.first().map_or(0, |(_, value)| String::from_utf8_lossy(value).parse().unwrap());
    while let Some(event) = opening.next_event()? {
        events = events.max(String::from_utf8_lossy(&event.payload).parse::<usize>().unwrap() + 1);
    }
    let (store, _) = opening.finish()?;
    Ok((store, events))
}

pub fn open(disk: &SimDisk) -> Result<(Store, usize), StorageError> {
    open_at(disk, DIR)
}

pub fn entry(store: &Store, partition: u32, value: &[u8]) -> NewEntry {
    let none: [(&str, Option<&[u8]>); 0] = [];
    let body = RecordBody::encode(TimestampMs(7), Some(b"key"), Some(value), none.into_iter());
    NewEntry { partition: store.partition(PartitionId(partition)), body, key: None, expected: None }
}

/// A record whose idempotency key is its value.
pub fn keyed(store: &Store, partition: u32, value: &[u8]) -> Result<NewEntry, StorageError> {
    let key = store.dedup_key(7, value, &[value], WINDOW_MS)?;
    Ok(NewEntry { key: Some(Box::new(key)), ..entry(store, partition, value) })
}

/// Records with keys in three partitions and numbered events; `rounds` commits, a checkpoint in the middle unless `None`.
pub fn write(disk: &SimDisk, rounds: usize, value_bytes: usize, checkpoint_at: Option<usize>) -> Contents {
    let (store, _) = open(disk).unwrap();
    let mut contents = Contents::default();
    for round in 0..rounds {
        let mut records = Vec::new();
        for partition in [0, (round % 2) as u32 + 1] {
            let mut value = format!("{partition}-{round}-").into_bytes();
            value.resize(value_bytes, b'.');
            records.push(keyed(&store, partition, &value).unwrap());
            contents.partitions.entry(partition).or_default().push(value);
        }
        let event = NewEvent { tag: 9, payload: round.to_string().into_bytes() };
        let submission =
            Submission { records: records.into_iter().collect(), events: [event].into_iter().collect(), ..Submission::default() };
        store.submit(submission).wait().unwrap();
        contents.events += 1;
        if Some(round) == checkpoint_at {
            let state = (b"s".to_vec(), Some(contents.events.to_string().into_bytes()));
            store.finish_checkpoint(store.begin_checkpoint(), vec![state]).unwrap();
        }
    }
    store.close();
    contents
}

impl World {
    pub fn new(rounds: usize, value_bytes: usize, checkpoint_at: Option<usize>) -> Self {
        let disk = SimDisk::with_dir(1, Path::new(DIR));
        let contents = write(&disk, rounds, value_bytes, checkpoint_at);
        Self { disk, contents }
    }

    /// A copy that goes its own way.
    pub fn copy(&self) -> SimDisk {
        self.disk.crash_clone(0)
    }

    pub fn without_index(&self) -> Self {
        let disk = self.copy();
        disk.remove(Site::IndexRemove, &layout::redb_file(Path::new(DIR))).unwrap();
        disk.sync_dir(Site::DirSync, Path::new(DIR)).unwrap();
        Self { disk, contents: self.contents.clone() }
    }
}

pub fn files_below(disk: &SimDisk, dir: &Path) -> Files {
    let mut files = Files::new();
    for listed in disk.list(Site::DirList, dir).unwrap() {
        let path = dir.join(&listed.name);
        if listed.is_dir {
            files.extend(files_below(disk, &path));
        } else {
            files.insert(path.clone(), bytes_of(disk, &path));
        }
    }
    files
}

pub fn bytes_of(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(Site::LogRead, path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len(Site::LogRead).unwrap()).unwrap()];
    file.read_at(Site::LogRead, &mut bytes, 0).unwrap();
    bytes
}

/// Everything that a refused start must leave alone.
fn untouchable(disk: &SimDisk) -> Files {
    let mut files = files_below(disk, Path::new(DIR));
    files.retain(|path, _| !path.ends_with("LOCK"));
    files
}

/// What came of opening a damaged directory and reading all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Refused,
    /// Opened; some reads were errors that name the place.
    SomeErrors,
    Whole,
}

/// Opens and reads everything. Panics when anything is other than what was written, or missing without an error.
pub fn look(disk: &SimDisk, contents: &Contents, what: &str) -> Seen {
    let before = untouchable(disk);
    let (store, events) = match open(disk) {
        Ok(opened) => opened,
        Err(error) => {
            assert_names_the_place(&error, what);
            assert!(untouchable(disk) == before, "{what}: a refused start changed something: {error}");
            return Seen::Refused;
        }
    };
    assert!(events >= contents.events, "{what}: {events} events of {}", contents.events);
    let mut seen = Seen::Whole;
    for (number, values) in &contents.partitions {
        let partition = store.partition(PartitionId(*number));
        let (start, end) = (partition.log_start(), partition.high_watermark());
        assert_eq!((start.0, end.0), (0, i64::try_from(values.len()).unwrap()), "{what}: the ends of partition {number}");
        let mut next = 0;
        while next < values.len() {
            match read_one(&store, *number, next) {
                Ok(found) => {
                    assert!(!found.is_empty(), "{what}: nothing at {number}/{next}");
                    for value in found {
                        assert!(value == values[next], "{what}: another value at {number}/{next}");
                        next += 1;
                    }
                }
                Err(error) => {
                    assert_names_the_place(&error, what);
                    seen = Seen::SomeErrors;
                    next += 1;
                }
            }
        }
    }
    for number in [0, contents.partitions[&0].len() - 1] {
        let value = &contents.partitions[&0][number];
        match keyed(&store, 0, value) {
            Ok(repeat) => match store.submit(Submission { records: [repeat].into_iter().collect(), ..Submission::default() }).wait() {
                Ok(receipt) => assert!(receipt.appended[0].duplicate, "{what}: the key of record {number} was forgotten"),
                Err(error) => assert_names_the_place(&error, what),
            },
            Err(error) => assert_names_the_place(&error, what),
        }
    }
    seen
}

/// The values from an offset on, as far as one read goes.
pub fn read_one(store: &Store, partition: u32, offset: usize) -> Result<Vec<Vec<u8>>, StorageError> {
    let mut values = Vec::new();
    let from = Offset(i64::try_from(offset).unwrap());
    for batch in store.read(&store.partition(PartitionId(partition)), from, 1)? {
        let view = BatchView::parse(&batch.bytes)?;
        for record in view.records()? {
            let record = record?;
            if batch.base_offset.plus(i64::from(record.offset_delta)) >= from {
                values.push(record.value.unwrap().to_vec());
            }
        }
    }
    Ok(values)
}

/// Of the log: file and position. Of the index or `STORE`: the file, which has no positions.
pub fn assert_names_the_place(error: &StorageError, what: &str) {
    let is_named = match error {
        StorageError::Damage { file, .. } => file.starts_with(DIR),
        StorageError::NotAStore { .. } | StorageError::FormatTooNew { .. } => error.to_string().contains("/data"),
        StorageError::Index(why) => !why.is_empty(),
        _ => false,
    };
    assert!(is_named, "{what}: {error}");
}
