//! What was asked of the broker and what it answered, each ok with the count of disk operations seen at that moment: a power
//! cut behind that count may not undo it. Only remembers; the judging is done in `check`.

use std::collections::HashMap;

use bytes::Bytes;
use onelog::NewRecord;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Topic, by its place in [`TOPICS`].
pub type Topic = usize;

pub const ORDERS: Topic = 0;
pub const AUDIT: Topic = 1;
/// Name and partitions.
pub const TOPICS: [(&str, u32); 2] = [("orders", 3), ("audit", 1)];
/// The queue group on each topic.
pub const GROUP: &str = "work";
/// The group that commits offsets of the orders.
pub const STREAM_GROUP: &str = "readers";

/// The number of a record says all about it: topic, size, whether it has an idempotency key, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Number(pub u64);

const KEYED: u64 = 1 << 62;
const AUDITED: u64 = 1 << 61;
const LARGE: u64 = 1 << 60;

impl Number {
    pub fn new(serial: u64, topic: Topic, keyed: bool, large: bool) -> Self {
        let flag = |is: bool, bit: u64| if is { bit } else { 0 };
        Self(serial | flag(keyed, KEYED) | flag(topic == AUDIT, AUDITED) | flag(large, LARGE))
    }

    pub const fn topic(self) -> Topic {
        if self.0 & AUDITED == 0 { ORDERS } else { AUDIT }
    }

    pub const fn keyed(self) -> bool {
        self.0 & KEYED != 0
    }

    /// Begins with the number; the rest follows from it.
    pub fn value(self) -> Bytes {
        let mut random = Random::new(self.0);
        let bytes = match random.below(100) {
            _ if self.0 & LARGE != 0 => 60_000 + random.below(140_000),
            0..90 => 20 + random.below(600),
            _ => 1_000 + random.below(7_000),
        };
        let bytes = usize::try_from(bytes).unwrap_or(0);
        let mut value = self.0.to_le_bytes().to_vec();
        while value.len() < bytes {
            value.extend(random.next().to_le_bytes());
        }
        value.into()
    }

    /// The number a value begins with.
    pub fn of(value: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(*value.first_chunk()?)))
    }

    pub fn key(self) -> String {
        format!("key-{}", Random::new(self.0).below(40))
    }

    pub fn id(self) -> String {
        format!("id-{:x}", self.0)
    }

    pub fn record(self) -> NewRecord {
        NewRecord {
            key: Some(self.key().into()),
            value: Some(self.value()),
            idempotency_key: self.keyed().then(|| self.id().into()),
            ..NewRecord::default()
        }
    }
}

/// Partition and offset.
pub type Place = (u32, i64);

/// Operations of the disk that had happened when an ok was in our hands.
pub type Seen = u64;

/// A publish: its records are stored together or not at all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publish {
    pub records: Vec<Number>,
    /// The ok: when, and where each record went. `None`: no answer yet, or a failure.
    pub ok: Option<(Seen, Vec<Place>)>,
}

/// One record of a group settled: acked, or dead-lettered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settle {
    pub topic: Topic,
    pub place: Place,
    pub dead: bool,
    pub ok: Option<Seen>,
}

/// A committed offset of the orders.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    pub place: Place,
    pub ok: Option<Seen>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    pub publishes: Vec<Publish>,
    pub settles: Vec<Settle>,
    pub commits: Vec<Commit>,
    /// Topics, and the group on each, made one after the other: when the nth was answered.
    pub topics: Vec<(String, Seen)>,
    /// Records that readers were shown: where, and when at the latest.
    pub served: Vec<(Number, Place, Seen)>,
    /// Per topic and partition, the highest log start seen: retention took nothing above.
    pub log_starts: Vec<(Topic, u32, i64)>,
}

impl History {
    /// What of this is known after a power cut when `at` operations had happened: later oks were never given.
    pub fn before_cut(&self, at: Seen) -> Self {
        let known = |seen: &Option<Seen>| seen.filter(|seen| *seen <= at).map(|_| 0);
        let mut before = self.clone();
        for publish in &mut before.publishes {
            publish.ok = publish.ok.take().filter(|(seen, _)| *seen <= at).map(|(_, places)| (0, places));
        }
        before.settles.iter_mut().for_each(|settle| settle.ok = known(&settle.ok));
        before.commits.iter_mut().for_each(|commit| commit.ok = known(&commit.ok));
        before.topics.retain(|(_, seen)| *seen <= at);
        before.topics.iter_mut().for_each(|(_, seen)| *seen = 0);
        before.served.retain(|(_, _, seen)| *seen <= at);
        before.served.iter_mut().for_each(|(_, _, seen)| *seen = 0);
        before
    }

    /// Where each record went that was ever answered ok, now or later.
    pub fn places(&self) -> HashMap<Number, Place> {
        let oks = self.publishes.iter().filter_map(|publish| Some((publish, publish.ok.as_ref()?)));
        oks.flat_map(|(publish, (_, places))| publish.records.iter().copied().zip(places.iter().copied())).collect()
    }

    /// The moments at which oks were given: the places where a cut hurts most.
    pub fn oks(&self) -> Vec<Seen> {
        let publishes = self.publishes.iter().filter_map(|publish| publish.ok.as_ref().map(|(seen, _)| *seen));
        let settles = self.settles.iter().filter_map(|settle| settle.ok);
        let mut all: Vec<Seen> = publishes.chain(settles).chain(self.commits.iter().filter_map(|commit| commit.ok)).collect();
        all.sort_unstable();
        all
    }
}
