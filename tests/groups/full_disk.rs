//! A full disk, reserve and all: what cannot be written as a dead letter is not dead, and goes on when there is space again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::broker::{CommittedOffset, GroupCounts};
use onelog::testing::eventually;
use onelog::{
    Broker, BrokerConfig, BrokerError, DeadLetterFilter, Delivery, Failure, GroupSettings, ManualClock, ReceiveRequest, Settled,
    TimestampMs, TopicSettings,
};
use onelog_storage::io::sim::SimDisk;

use crate::support::{GROUP, START_MS, TOPIC, VISIBILITY, record, settings};

const RECORDS: usize = 40;
const CAPACITY_BYTES: u64 = 10 << 20;

struct Full {
    broker: Broker,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    held: Vec<Delivery>,
}

/// A broker with every record leased, on a disk without space for more.
async fn full() -> Full {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
    let config =
        BrokerConfig { segment_bytes: 4 << 20, clock: Arc::clone(&clock) as _, io: Arc::new(disk.clone()), ..BrokerConfig::default() };
    let broker = Broker::open_with(Path::new("/data/here"), config).await.unwrap();
    for topic in [TOPIC, "filler", &format!("{TOPIC}.dlq")] {
        broker.create_topic(topic, TopicSettings::default()).await.unwrap();
    }
    broker.create_group(TOPIC, GROUP, GroupSettings { max_deliveries: 1, ..settings() }).await.unwrap();
    let large = "x".repeat(60 * 1024);
    for _ in 0..RECORDS {
        broker.produce(TOPIC, vec![record("k", &large)]).await.unwrap();
    }
    let mut held = Vec::new();
    while held.len() < RECORDS {
        let (topic, group, member) = (TOPIC.into(), GROUP.into(), "ann".into());
        let request = ReceiveRequest { topic, group, member, records_max: RECORDS, wait: Duration::ZERO, visibility_ms: None };
        held.extend(broker.receive(request).await.unwrap());
    }
    disk.set_capacity(Some(CAPACITY_BYTES));
    while broker.produce("filler", vec![record("k", &large)]).await.is_ok() {}
    Full { broker, disk, clock, held }
}

impl Full {
    fn counts(&self) -> GroupCounts {
        self.broker.group(TOPIC, GROUP).unwrap().counts
    }

    /// Offsets of the records that have a dead letter.
    async fn buried(&self) -> HashSet<i64> {
        let letters = self.broker.dead_letters(TOPIC, &DeadLetterFilter::default(), None, 1_000).await.unwrap();
        let buried: HashSet<i64> = letters.iter().map(|letter| letter.origin_offset).collect();
        assert_eq!(buried.len(), letters.len(), "one letter for each");
        buried
    }

    async fn fail(&self, delivery: &Delivery) -> Result<Settled, BrokerError> {
        let failure = Failure { lease: Some(delivery.lease), reason: "no".into(), permanent: true, delay_ms: None };
        self.broker.nack(TOPIC, GROUP, &[failure]).await.map(|outcomes| outcomes[0].expect("the lease is good"))
    }
}

#[tokio::test]
async fn a_dead_letter_that_finds_no_space_is_refused_and_can_be_sent_again() {
    let full = full().await;
    let mut refused = Vec::new();
    for delivery in &full.held {
        match full.fail(delivery).await {
            Ok(settled) => assert_eq!(settled, Settled::DeadLettered),
            Err(error) => {
                assert_eq!(error, BrokerError::DiskFull);
                refused.push(delivery);
            }
        }
    }
    let (stats, letters) =
        (full.broker.storage_stats(), full.broker.dead_letters(TOPIC, &DeadLetterFilter::default(), None, 1_000).await.unwrap());
    let empty = letters.iter().filter(|letter| letter.record.value.is_none()).count();
    assert!(!refused.is_empty(), "the reserve is used up: {stats:?}, {empty} letters without their record");
    let counts = full.counts();
    assert_eq!((counts.dead, counts.leased), ((RECORDS - refused.len()) as u64, refused.len() as u64));
    assert_eq!(full.buried().await.len(), RECORDS - refused.len());

    full.disk.set_capacity(None);
    for delivery in refused {
        assert_eq!(full.fail(delivery).await, Ok(Settled::DeadLettered));
    }
    assert_eq!((full.counts().dead, full.buried().await.len()), (RECORDS as u64, RECORDS));
}

#[tokio::test]
async fn expired_records_wait_for_space_to_die() {
    let full = full().await;
    full.clock.advance(VISIBILITY);
    for _ in 0..5 {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        // Answered after what the sweep has submitted.
        assert!(full.broker.produce("filler", vec![record("k", &"x".repeat(60 * 1024))]).await.is_err());
    }
    assert_eq!(full.counts(), GroupCounts { ready: RECORDS as u64, ..GroupCounts::default() });
    full.disk.set_capacity(None);
    eventually("all are dead", || {
        full.clock.advance(Duration::from_secs(1));
        full.counts().dead == RECORDS as u64
    })
    .await;
    full.broker.produce("filler", vec![record("k", "x")]).await.unwrap();
    assert_eq!(full.buried().await.len(), RECORDS);
}

#[tokio::test]
async fn an_ack_is_not_forgotten_though_its_grant_found_no_space() {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
    let config =
        BrokerConfig { segment_bytes: 4 << 20, clock: Arc::clone(&clock) as _, io: Arc::new(disk.clone()), ..BrokerConfig::default() };
    let broker = Broker::open_with(Path::new("/data/here"), config.clone()).await.unwrap();
    broker.create_topic(TOPIC, TopicSettings::default()).await.unwrap();
    broker.create_topic("filler", TopicSettings::default()).await.unwrap();
    broker.create_group(TOPIC, GROUP, settings()).await.unwrap();
    broker.produce(TOPIC, vec![record("k", "once")]).await.unwrap();
    disk.set_capacity(Some(CAPACITY_BYTES));
    while broker.produce("filler", vec![record("k", &"x".repeat(60 * 1024))]).await.is_ok() {}
    let commit = |offset, metadata_bytes| {
        let metadata = Some("m".repeat(metadata_bytes));
        broker.commit_offsets("s", vec![CommittedOffset { topic: TOPIC.into(), partition: 0, offset, metadata }])
    };
    while commit(1, 4_000).await.is_ok() {}
    // Down to the last sector: a grant takes no more.
    while commit(1, 1).await.is_ok() {}

    let (topic, group, member) = (TOPIC.to_owned(), GROUP.to_owned(), "ann".to_owned());
    let request = ReceiveRequest { topic, group, member, records_max: 5, wait: Duration::ZERO, visibility_ms: None };
    let held = broker.receive(request.clone()).await.unwrap();
    // Settled after the grant was.
    assert!(commit(1, 1).await.is_err(), "there is no space");
    disk.set_capacity(None);
    assert_eq!(broker.ack(TOPIC, GROUP, &[held[0].lease]).await.unwrap(), [Ok(Settled::Acked)]);

    let after = SimDisk::crash_clone(&disk, 7);
    let config = BrokerConfig { io: Arc::new(after), ..config };
    let again = Broker::open_with(Path::new("/data/here"), config).await.unwrap();
    assert_eq!(again.receive(request).await.unwrap().len(), 0, "acked is final");
    assert_eq!(again.group(TOPIC, GROUP).unwrap().counts.acked, 1);
}
