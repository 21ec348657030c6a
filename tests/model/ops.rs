//! What a sequence of the model test is made of. Operations name things by small numbers; the rig resolves them when they run.
//!
//! Owns the strategy that throws them. Knows neither the broker nor the model.

use onelog::{GroupSettings, Ordering, RetrySettings};
use proptest::prelude::*;

/// Topics users make, and the dead-letter topic of the first.
pub const TOPICS: [&str; 3] = ["a", "b", "a.dlq"];
pub const GROUPS: [&str; 2] = ["g", "h"];
pub const DAY_MS: i64 = 86_400_000;

/// A record to publish.
#[derive(Clone, Debug)]
pub struct Send {
    /// `None`: by key.
    pub partition: Option<u32>,
    pub key: u8,
    /// Idempotency key and the variant of the body that goes with it.
    pub once: Option<(u8, u8)>,
    pub padding: u16,
}

#[derive(Clone, Copy, Debug)]
pub enum Place {
    Earliest,
    Latest,
    /// So many behind the log start.
    Offset(i64),
    /// So many milliseconds before now.
    Ago(i64),
}

/// Which of the leases handed out so far: counted from the newest.
pub type Pick = u8;

#[derive(Clone, Debug)]
pub enum Op {
    CreateTopic {
        topic: u8,
        partitions: u32,
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
        window_ms: u64,
    },
    AlterTopic {
        topic: u8,
        more: u32,
        retention_bytes: Option<u64>,
        window_ms: Option<u64>,
    },
    DeleteTopic {
        topic: u8,
    },
    Produce {
        topic: u8,
        records: Vec<Send>,
    },
    /// All records over two topics or none.
    Atomic {
        records: Vec<(u8, Send)>,
    },
    /// With the right next offset, or this far beside it.
    Conditional {
        topic: u8,
        partition: u32,
        beside: i64,
    },
    /// One connection that does not wait for its answers.
    Pipeline {
        topic: u8,
        records: Vec<Send>,
    },
    Resolve {
        topic: u8,
        partition: u32,
        place: Place,
    },
    CreateGroup {
        topic: u8,
        group: u8,
        kind: u8,
    },
    AlterGroup {
        topic: u8,
        group: u8,
        max_deliveries: u32,
    },
    DeleteGroup {
        topic: u8,
        group: u8,
    },
    Receive {
        topic: u8,
        group: u8,
        most: usize,
        visibility_ms: Option<u64>,
    },
    Ack {
        picks: Vec<Pick>,
    },
    Nack {
        pick: Pick,
        delay_ms: Option<u64>,
        permanent: bool,
    },
    Extend {
        pick: Pick,
        visibility_ms: u64,
    },
    Release {
        pick: Pick,
    },
    Seek {
        topic: u8,
        group: u8,
        place: Place,
    },
    Redrive {
        topic: u8,
        group: Option<u8>,
        key: Option<u8>,
        limit: Option<u64>,
        dry: bool,
    },
    Purge {
        topic: u8,
        group: Option<u8>,
        dry: bool,
    },
    Commit {
        topic: u8,
        partition: u32,
        back: i64,
    },
    SeekStream {
        topic: u8,
        place: Place,
    },
    DeleteStream,
    Advance {
        ms: u64,
    },
    /// The wall clock alone.
    Jump {
        ms: i64,
    },
    Retention,
    Checkpoint,
    Reopen,
    /// The process dies; what it wrote is in the cache. Without its index the next one must come to the same state.
    Kill {
        without_index: bool,
    },
    /// The machine dies now, `depth` times again while the next process recovers.
    Cut {
        seed: u64,
        depth: u8,
    },
    /// The machine dies at a call of the next operation.
    CutDuring {
        call: u64,
        seed: u64,
        op: Box<Op>,
    },
}

impl Place {
    pub fn strategy() -> impl Strategy<Value = Self> {
        prop_oneof![
            Just(Self::Earliest),
            Just(Self::Latest),
            (-1i64..12).prop_map(Self::Offset),
            prop_oneof![-10i64..10_000, Just(0i64)].prop_map(Self::Ago),
        ]
    }
}

fn send() -> impl Strategy<Value = Send> {
    let partition = proptest::option::weighted(0.4, 0u32..2);
    let padding = prop_oneof![5 => 0u16..40, 1 => 1_000u16..6_000];
    (partition, 0u8..4, proptest::option::weighted(0.35, (0u8..4, 0u8..8)), padding).prop_map(|(partition, key, once, padding)| {
        // Mostly the same body again.
        let once = once.map(|(key, body)| (key, u8::from(body == 7)));
        Send { partition, key, once, padding }
    })
}

fn sends() -> impl Strategy<Value = Vec<Send>> {
    let many = proptest::collection::vec(send(), 16..20).prop_map(|mut records| {
        records.iter_mut().for_each(|record| record.once = None);
        records
    });
    prop_oneof![6 => proptest::collection::vec(send(), 1..5), 1 => many]
}

fn topic() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0u8), 1 => Just(1u8)]
}

fn group() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 1 => Just(1u8)]
}

fn ms() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(1_000u64), 3 => Just(5_000u64), 1 => 1u64..5_000, 2 => Just(30_000u64)]
}

fn topics() -> BoxedStrategy<Op> {
    let bytes = proptest::option::weighted(0.5, 0u64..12_000);
    let any = prop_oneof![6 => topic(), 1 => Just(2u8)];
    let window = prop_oneof![Just(0u64), Just(4_000u64), Just(60_000u64)];
    prop_oneof![
        3 => (topic(), 1u32..3, proptest::option::of(Just(20_000u64)), bytes.clone(), window.clone()).prop_map(
            |(topic, partitions, retention_ms, retention_bytes, window_ms)| Op::CreateTopic { topic, partitions, retention_ms, retention_bytes, window_ms }
        ),
        2 => (topic(), 0u32..2, bytes, proptest::option::of(window))
            .prop_map(|(topic, more, retention_bytes, window_ms)| Op::AlterTopic { topic, more, retention_bytes, window_ms }),
        1 => any.prop_map(|topic| Op::DeleteTopic { topic }),
    ]
    .boxed()
}

fn publishing() -> BoxedStrategy<Op> {
    prop_oneof![
        8 => (topic(), sends()).prop_map(|(topic, records)| Op::Produce { topic, records }),
        2 => proptest::collection::vec((0u8..2, send()), 2..6).prop_map(|records| Op::Atomic { records }),
        1 => (topic(), 0u32..2, prop_oneof![2 => Just(0i64), 1 => -1i64..2])
            .prop_map(|(topic, partition, beside)| Op::Conditional { topic, partition, beside }),
        2 => (topic(), proptest::collection::vec(send(), 2..6)).prop_map(|(topic, records)| Op::Pipeline { topic, records }),
        1 => (topic(), 0u32..2, Place::strategy()).prop_map(|(topic, partition, place)| Op::Resolve { topic, partition, place }),
        1 => (topic(), 0u32..3, -1i64..4).prop_map(|(topic, partition, back)| Op::Commit { topic, partition, back }),
        1 => (topic(), Place::strategy()).prop_map(|(topic, place)| Op::SeekStream { topic, place }),
    ]
    .boxed()
}

fn working() -> BoxedStrategy<Op> {
    let lasting = proptest::option::weighted(0.3, ms());
    prop_oneof![
        10 => (topic(), group(), 1usize..6, lasting)
            .prop_map(|(topic, group, most, visibility_ms)| Op::Receive { topic, group, most, visibility_ms }),
        6 => proptest::collection::vec(0u8..6, 1..4).prop_map(|picks| Op::Ack { picks }),
        1 => any::<u8>().prop_map(|pick| Op::Ack { picks: vec![pick] }),
        7 => (0u8..4, proptest::option::weighted(0.3, ms()), proptest::bool::weighted(0.2))
            .prop_map(|(pick, delay_ms, permanent)| Op::Nack { pick, delay_ms, permanent }),
        2 => (0u8..6, ms()).prop_map(|(pick, visibility_ms)| Op::Extend { pick, visibility_ms }),
        2 => (0u8..6).prop_map(|pick| Op::Release { pick }),
    ]
    .boxed()
}

fn managing() -> BoxedStrategy<Op> {
    prop_oneof![
        4 => (topic(), group(), 0u8..4).prop_map(|(topic, group, kind)| Op::CreateGroup { topic, group, kind }),
        2 => (topic(), group(), 0u32..4).prop_map(|(topic, group, max_deliveries)| Op::AlterGroup { topic, group, max_deliveries }),
        1 => (topic(), group()).prop_map(|(topic, group)| Op::DeleteGroup { topic, group }),
        1 => (topic(), group(), Place::strategy()).prop_map(|(topic, group, place)| Op::Seek { topic, group, place }),
        4 => (topic(), proptest::option::of(group()), proptest::option::weighted(0.3, 0u8..4), proptest::option::weighted(0.3, 1u64..3), proptest::bool::weighted(0.2))
            .prop_map(|(topic, group, key, limit, dry)| Op::Redrive { topic, group, key, limit, dry }),
        1 => (topic(), proptest::option::of(group()), proptest::bool::weighted(0.3)).prop_map(|(topic, group, dry)| Op::Purge { topic, group, dry }),
        1 => Just(Op::DeleteStream),
    ]
    .boxed()
}

fn passing() -> BoxedStrategy<Op> {
    let years = prop_oneof![Just(-5 * 365 * DAY_MS), Just(5 * 365 * DAY_MS), -60_000i64..60_000];
    prop_oneof![
        8 => prop_oneof![3 => ms(), 2 => Just(3_000u64), 1 => 2_000u64..5_000].prop_map(|ms| Op::Advance { ms }),
        1 => years.prop_map(|ms| Op::Jump { ms }),
        2 => Just(Op::Retention),
        3 => Just(Op::Checkpoint),
    ]
    .boxed()
}

fn ending() -> BoxedStrategy<Op> {
    prop_oneof![
        1 => Just(Op::Reopen),
        2 => any::<bool>().prop_map(|without_index| Op::Kill { without_index }),
        3 => (any::<u64>(), 0u8..4).prop_map(|(seed, depth)| Op::Cut { seed, depth }),
    ]
    .boxed()
}

/// Any operation, in the proportions of a day's work.
pub fn op() -> BoxedStrategy<Op> {
    let plain = prop_oneof![2 => topics(), 8 => publishing(), 14 => working(), 4 => managing(), 7 => passing()].boxed();
    let during = (1u64..14, any::<u64>(), plain.clone()).prop_map(|(call, seed, op)| Op::CutDuring { call, seed, op: Box::new(op) });
    prop_oneof![28 => plain, 3 => ending(), 2 => during].boxed()
}

/// The kinds of queue groups.
pub fn group_settings(kind: u8) -> GroupSettings {
    let retry = RetrySettings { initial_ms: 1_000, multiplier: 2.0, cap_ms: 3_000, jitter: if kind == 3 { 0.5 } else { 0.0 } };
    let ordering = match kind {
        1 => Ordering::Key,
        2 => Ordering::Partition,
        _ => Ordering::None,
    };
    GroupSettings {
        visibility_ms: 5_000,
        max_deliveries: 2 + u32::from(kind.is_multiple_of(3)),
        retry,
        ordering,
        ..GroupSettings::default()
    }
}
