//! What the tests of the store without threads share: opening, dice, values and reading everything back.

#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "each test uses a part, and fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use onelog_storage::batch::{BatchView, RecordBody};
use onelog_storage::clock::{Clock, ManualClock};
use onelog_storage::error::{Result, StorageError};
use onelog_storage::io::sim::SimDisk;
use onelog_storage::layout;
use onelog_storage::submission::{Receipt, Ticket};
use onelog_storage::types::{PartitionId, TimestampMs};
use onelog_storage::{RecoveryReport, Store, StoreConfig, Threads};

pub const DIR: &str = "/data";
pub const WINDOW_MS: u64 = 3_600_000;

/// Bytes as an event of these tests: a key, a value, and a number that only grows.
pub type Event = (u32, u64, u64);

pub struct Opened {
    pub store: Store,
    /// The broker of these tests: a map folded from the checkpoint and the events behind it.
    pub map: BTreeMap<u32, (u64, u64)>,
    /// What events changed since the checkpoint.
    pub replayed: BTreeSet<u32>,
    pub report: RecoveryReport,
}

/// splitmix64: the same seed, the same run.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// True once in `many` throws.
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(TimestampMs(1_700_000_000_000)))
}

pub fn config(segment_bytes: u64) -> StoreConfig {
    StoreConfig {
        segment_bytes,
        cache_bytes: 64 * 1024,
        index_cache_bytes: 256 * 1024,
        threads: Threads::None,
        new_id: Some(*b"a store of tests"),
        ..StoreConfig::default()
    }
}

pub fn try_open(disk: &SimDisk, clock: &Arc<ManualClock>) -> Result<Opened> {
    try_open_with(disk, clock, config(layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS))
}

pub fn try_open_with(disk: &SimDisk, clock: &Arc<ManualClock>, config: StoreConfig) -> Result<Opened> {
    let mut opening = Store::open(Arc::new(disk.clone()), Arc::clone(clock) as Arc<dyn Clock>, Path::new(DIR), config)?;
    let (mut map, mut replayed) = (BTreeMap::new(), BTreeSet::new());
    for (key, value) in opening.state()? {
        map.insert(u32::from_be_bytes(key.try_into().unwrap()), decode_pair(&value));
    }
    while let Some(event) = opening.next_event()? {
        if event.tag == EVENT_TAG {
            let (key, value, number) = decode_event(&event.payload);
            fold(&mut map, (key, value, number));
            replayed.insert(key);
        }
    }
    let (store, report) = opening.finish()?;
    Ok(Opened { store, map, replayed, report })
}

pub const EVENT_TAG: u8 = 9;

/// Folding an event twice, or an old one late, changes nothing.
pub fn fold(map: &mut BTreeMap<u32, (u64, u64)>, (key, value, number): Event) {
    let known = map.entry(key).or_insert((value, number));
    if number > known.1 {
        *known = (value, number);
    }
}

pub fn encode_event((key, value, number): Event) -> Vec<u8> {
    [&key.to_be_bytes()[..], &value.to_be_bytes(), &number.to_be_bytes()].concat()
}

fn decode_event(bytes: &[u8]) -> Event {
    let (value, number) = decode_pair(&bytes[4..]);
    (u32::from_be_bytes(bytes[..4].try_into().unwrap()), value, number)
}

pub fn encode_pair((value, number): (u64, u64)) -> Vec<u8> {
    [value.to_be_bytes(), number.to_be_bytes()].concat()
}

fn decode_pair(bytes: &[u8]) -> (u64, u64) {
    (u64::from_be_bytes(bytes[..8].try_into().unwrap()), u64::from_be_bytes(bytes[8..16].try_into().unwrap()))
}

pub fn body(value: &[u8]) -> RecordBody {
    let none: [(&str, Option<&[u8]>); 0] = [];
    RecordBody::encode(TimestampMs(1_700_000_000_000), None, Some(value), none.into_iter())
}

/// The answer, if there is one by now.
pub fn answer(ticket: &mut Ticket) -> Option<Result<Receipt, StorageError>> {
    match Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// All values of a partition from its log start on; fails where offsets are not contiguous.
pub fn values(store: &Store, partition: u32) -> Result<Vec<Vec<u8>>> {
    let partition = store.partition(PartitionId(partition));
    let mut next = partition.log_start();
    let mut out = Vec::new();
    while next < partition.high_watermark() {
        for batch in store.read(&partition, next, 100_000)? {
            let view = BatchView::parse(&batch.bytes)?;
            view.verify_crc()?;
            assert_eq!(view.base_offset(), batch.base_offset);
            assert!(batch.base_offset <= next, "a gap before offset {}", batch.base_offset);
            for record in view.records()? {
                let record = record?;
                if batch.base_offset.plus(i64::from(record.offset_delta)) >= next {
                    out.push(record.value.unwrap().to_vec());
                }
            }
            assert!(batch.last_offset >= next);
            next = batch.last_offset.plus(1);
        }
    }
    Ok(out)
}
