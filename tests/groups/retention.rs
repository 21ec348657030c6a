//! Retention and log that is given back: what may go goes, what is still promised stays, also without the index.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::broker::{CommittedOffset, FetchRequest, GroupCounts};
use onelog::{Broker, BrokerConfig, GroupSettings, ManualClock, NewRecord, SeekTo, TimestampMs, TopicSettings};

use crate::support::{GROUP, START_MS, TOPIC};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a segment of the smallest size, four fit.
const VALUE_BYTES: usize = 900_000;
const RECORDS: i64 = 14;

async fn open(directory: &Path, clock: &Arc<ManualClock>) -> Broker {
    let config = BrokerConfig { segment_bytes: 4 << 20, clock: Arc::clone(clock) as _, ..BrokerConfig::default() };
    Broker::open_with(directory, config).await.unwrap()
}

fn large() -> NewRecord {
    NewRecord { value: Some(vec![b'x'; VALUE_BYTES].into()), ..NewRecord::default() }
}

fn with_id(id: &str) -> NewRecord {
    NewRecord { value: Some("once".into()), idempotency_key: Some(id.to_owned().into()), ..NewRecord::default() }
}

/// Offsets that can be read, with the time they were published.
async fn left(broker: &Broker) -> Vec<(i64, i64)> {
    let mut left = Vec::new();
    let info = broker.topic(TOPIC).unwrap();
    let (mut next, end) = (info.partitions[0].log_start, info.partitions[0].high_watermark);
    while next < end {
        let request =
            FetchRequest { topic: TOPIC.into(), partition: 0, offset: next, records_max: 100, bytes_max: 1 << 20, wait: Duration::ZERO };
        let fetched = broker.fetch(request).await.unwrap();
        left.extend(fetched.records.iter().map(|record| (record.offset, record.timestamp_ms)));
        next = fetched.next_offset;
    }
    left
}

/// Closed, without its index, and opened again: only the log tells.
async fn reopened_without_index(broker: Broker, directory: &Path, clock: &Arc<ManualClock>) -> Broker {
    broker.close().await.unwrap();
    drop(broker);
    std::fs::remove_file(directory.join("index.redb")).unwrap();
    open(directory, clock).await
}

#[tokio::test]
async fn p25_retention_takes_old_records_and_none_within_their_age() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
    let broker = open(directory.path(), &clock).await;
    let age_ms = 10 * u64::try_from(DAY.as_millis()).unwrap();
    broker.create_topic(TOPIC, TopicSettings { retention_ms: Some(age_ms), ..TopicSettings::default() }).await.unwrap();
    for _ in 0..RECORDS {
        broker.produce(TOPIC, vec![large()]).await.unwrap();
        clock.advance(DAY);
    }
    for _ in 0..RECORDS {
        broker.apply_retention().await.unwrap();
        let oldest_kept_ms = onelog::Clock::wall(&*clock).0 - i64::try_from(age_ms).unwrap();
        let left = left(&broker).await;
        let within = (0..RECORDS).filter(|day| START_MS + day * i64::try_from(DAY.as_millis()).unwrap() >= oldest_kept_ms).count();
        assert!(left.iter().filter(|(_, at)| *at >= oldest_kept_ms).count() == within, "{within} are young enough, left: {left:?}");
        assert!(left.len() <= within + 2, "what is too old goes, up to a step of the index: {within}, {left:?}");
        clock.advance(DAY);
    }
}

#[tokio::test]
async fn what_stood_in_given_back_log_is_known_without_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
    let broker = open(directory.path(), &clock).await;
    let settings = TopicSettings { retention_ms: None, retention_bytes: Some(2_000_000), ..TopicSettings::default() };
    broker.create_topic(TOPIC, settings).await.unwrap();
    broker.create_group(TOPIC, GROUP, GroupSettings { start: SeekTo::Earliest, ..GroupSettings::default() }).await.unwrap();
    let offsets = vec![CommittedOffset { topic: TOPIC.into(), partition: 0, offset: 0, metadata: Some("note".into()) }];
    broker.commit_offsets("readers", offsets.clone()).await.unwrap();
    broker.produce(TOPIC, vec![large()]).await.unwrap();
    let request = onelog::ReceiveRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        member: "ann".into(),
        records_max: 1,
        wait: Duration::ZERO,
        visibility_ms: None,
    };
    let held = broker.receive(request).await.unwrap();
    broker.ack(TOPIC, GROUP, &[held[0].lease]).await.unwrap();
    for _ in 1..RECORDS {
        broker.produce(TOPIC, vec![large()]).await.unwrap();
    }
    broker.checkpoint().await.unwrap();
    broker.apply_retention().await.unwrap();
    assert!(broker.storage_stats().log_start > 0, "log was given back: {:?}", broker.storage_stats());
    let before = broker.group(TOPIC, GROUP).unwrap().counts;
    assert_eq!(before.acked, 1);

    let broker = reopened_without_index(broker, directory.path(), &clock).await;
    assert_eq!(broker.group(TOPIC, GROUP).unwrap().counts, GroupCounts { ..before });
    assert_eq!(broker.committed_offsets("readers"), offsets);
}

#[tokio::test]
async fn p14_no_log_is_given_back_whose_keys_are_within_their_window() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
    let broker = open(directory.path(), &clock).await;
    let settings = TopicSettings {
        retention_ms: None,
        retention_bytes: Some(2_000_000),
        dedup_window_ms: u64::try_from(DAY.as_millis()).unwrap(),
        ..TopicSettings::default()
    };
    broker.create_topic(TOPIC, settings).await.unwrap();
    let first = broker.produce(TOPIC, vec![with_id("a")]).await.unwrap();
    for _ in 0..RECORDS {
        broker.produce(TOPIC, vec![large()]).await.unwrap();
    }
    clock.advance(DAY / 2);
    broker.checkpoint().await.unwrap();
    broker.apply_retention().await.unwrap();
    let broker = reopened_without_index(broker, directory.path(), &clock).await;
    let repeat = broker.produce(TOPIC, vec![with_id("a")]).await.unwrap();
    assert_eq!((repeat[0].offset, repeat[0].duplicate), (first[0].offset, true), "half a day later it is a repeat");

    clock.advance(DAY);
    broker.produce(TOPIC, vec![large()]).await.unwrap();
    broker.checkpoint().await.unwrap();
    broker.apply_retention().await.unwrap();
    assert!(broker.storage_stats().log_start > 0, "after the window it goes: {:?}", broker.storage_stats());
}
