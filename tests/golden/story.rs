//! What happened in the kept directories.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::broker::salvage::Salvager;
use onelog::broker::{CommittedOffset, TopicChange};
use onelog::testing::MANUAL_START_MS;
use onelog::{
    Broker, DeadLetterFilter, Delivery, Failure, GroupSettings, Header, ManualClock, NewRecord, Ordering, ReceiveRequest, RedriveRequest,
    SeekTo, TimestampMs, TopicSettings,
};
use onelog_storage::io::Io;
use onelog_storage::io::disk::Disk;
use onelog_storage::repair::Salvage;
use tempfile::TempDir;

use crate::open;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// A value whose sectors are zeros, so that a kept directory is small.
const ZEROS: usize = 1_000_000;

fn value(number: usize) -> NewRecord {
    NewRecord {
        key: Some("k".into()),
        value: Some(format!("value {number}").into()),
        headers: vec![Header { name: "n".into(), value: Some(number.to_string().into()) }, Header { name: "empty".into(), value: None }],
        timestamp_ms: Some(MANUAL_START_MS + number as i64),
        idempotency_key: Some(format!("id-{number}").into()),
        ..NewRecord::default()
    }
}

fn plain(partition: u32, value: &'static str) -> NewRecord {
    NewRecord { partition: Some(partition), value: Some(value.into()), ..NewRecord::default() }
}

async fn receive(broker: &Broker, topic: &str, group: &str, records_max: usize) -> Vec<Delivery> {
    let request = ReceiveRequest {
        topic: topic.into(),
        group: group.into(),
        member: "member".into(),
        records_max,
        wait: Duration::ZERO,
        visibility_ms: Some(7 * DAY_MS),
    };
    broker.receive(request).await.unwrap()
}

fn failure(delivery: &Delivery, permanent: bool) -> Failure {
    Failure { lease: Some(delivery.lease), delay_ms: Some(DAY_MS), reason: "did not work".into(), permanent }
}

/// Every kind of event once, in an index that is older than the log, with a clean end.
pub async fn everything_once() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let (broker, clock) = open(&dir, MANUAL_START_MS).await;
    first_day(&broker).await;
    clock.advance(Duration::from_secs(60));
    broker.close().await.unwrap();
    drop(broker);
    let older = std::fs::read(dir.join("index.redb")).unwrap();
    let (broker, clock) = open(&dir, MANUAL_START_MS + 120_000).await;
    second_day(&broker, &clock).await;
    broker.close().await.unwrap();
    drop(broker);
    std::fs::write(dir.join("index.redb"), older).unwrap();
    place
}

async fn first_day(broker: &Broker) {
    let forever = TopicSettings { retention_ms: None, dedup_window_ms: 30 * DAY_MS, ..TopicSettings::default() };
    broker.create_topic("orders", TopicSettings { partitions: 2, ..forever.clone() }).await.unwrap();
    broker.create_topic("gone", forever.clone()).await.unwrap();
    broker.create_topic("logs", TopicSettings { retention_bytes: Some(3_000_000), ..forever }).await.unwrap();
    broker.produce("gone", vec![plain(0, "of a deleted topic")]).await.unwrap();
    for number in 0..3 {
        broker.produce("orders", vec![value(number)]).await.unwrap();
    }
    let both = vec![("orders".to_owned(), plain(0, "with the next")), ("orders".to_owned(), plain(1, "with the one before"))];
    broker.produce_atomic(both).await.unwrap();
    broker.produce("orders", (10..40).map(value).collect()).await.unwrap();
    let settings = GroupSettings { start: SeekTo::Earliest, ..GroupSettings::default() };
    broker.create_group("orders", "work", settings.clone()).await.unwrap();
    broker.create_group("orders", "keyed", GroupSettings { ordering: Ordering::Key, ..settings.clone() }).await.unwrap();
    broker.create_group("orders", "dropped", settings).await.unwrap();
    let given = receive(broker, "orders", "work", 12).await;
    broker.ack("orders", "work", &[given[0].lease, given[2].lease]).await.unwrap();
    broker.nack("orders", "work", &[failure(&given[1], false), failure(&given[3], true), failure(&given[4], true)]).await.unwrap();
    broker.release("orders", "work", &[given[5].lease]).await.unwrap();
    broker.extend("orders", "work", &[given[6].lease], 6 * DAY_MS).await.unwrap();
    receive(broker, "orders", "keyed", 5).await;
    let committed = |offset| CommittedOffset { topic: "orders".into(), partition: 0, offset, metadata: Some("note".into()) };
    broker.commit_offsets("readers", vec![committed(2)]).await.unwrap();
    broker.commit_offsets("forgotten", vec![committed(1)]).await.unwrap();
    broker.delete_topic("gone").await.unwrap();
}

async fn second_day(broker: &Broker, clock: &ManualClock) {
    for number in 0..9 {
        let zeros = NewRecord { value: Some(vec![0; ZEROS].into()), timestamp_ms: Some(MANUAL_START_MS + number), ..NewRecord::default() };
        broker.produce("logs", vec![zeros]).await.unwrap();
    }
    broker.produce("orders", vec![value(3)]).await.unwrap();
    let given = receive(broker, "orders", "work", 3).await;
    broker.ack("orders", "work", &[given[1].lease]).await.unwrap();
    broker
        .redrive("orders", RedriveRequest { filter: DeadLetterFilter::default(), dry_run: false, rate: None, limit: Some(1) })
        .await
        .unwrap();
    broker.seek_group("orders", "keyed", Some(1), SeekTo::Latest).await.unwrap();
    broker.delete_group("orders", "dropped").await.unwrap();
    broker.delete_stream_group("forgotten").await.unwrap();
    broker.alter_topic("logs", TopicChange { record_bytes_max: Some(2_000_000), ..TopicChange::default() }).await.unwrap();
    clock.advance(Duration::from_secs(60));
    broker.apply_retention().await.unwrap();
}

/// The oldest segments are given back, and what was in them is said again.
pub async fn given_back() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let (broker, _) = open(&dir, MANUAL_START_MS).await;
    let settings = TopicSettings { retention_ms: None, retention_bytes: Some(3_000_000), ..TopicSettings::default() };
    broker.create_topic("logs", settings).await.unwrap();
    broker.create_group("logs", "work", GroupSettings { start: SeekTo::Earliest, ..GroupSettings::default() }).await.unwrap();
    let given =
        broker.commit_offsets("readers", vec![CommittedOffset { topic: "logs".into(), partition: 0, offset: 0, metadata: None }]).await;
    given.unwrap();
    for number in 0..14 {
        let zeros = NewRecord { value: Some(vec![0; ZEROS].into()), timestamp_ms: Some(MANUAL_START_MS + number), ..NewRecord::default() };
        broker.produce("logs", vec![zeros]).await.unwrap();
        let given = receive(&broker, "logs", "work", 1).await;
        broker.ack("logs", "work", &[given[0].lease]).await.unwrap();
    }
    // What a checkpoint has not moved to the index yet keeps its log.
    broker.checkpoint().await.unwrap();
    broker.apply_retention().await.unwrap();
    assert!(broker.storage_stats().log_start > 0, "{:?}", broker.storage_stats());
    broker.close().await.unwrap();
    drop(broker);
    place
}

/// The first story with a bit flipped in the commit of ten records, as `onelog repair` left it.
pub async fn repaired() -> TempDir {
    let damaged = everything_once().await;
    let segment = damaged.path().join("data/log/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let needle = b"value 21";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let place = tempfile::tempdir().unwrap();
    repair(&damaged.path().join("data"), &place.path().join("data"));
    place
}

fn repair(from: &Path, into: &Path) {
    let io: Arc<dyn Io> = Arc::new(Disk);
    let salvage = Salvage::open(&io, from, into, "golden").unwrap().unwrap();
    salvage.run(&mut Salvager::new(MANUAL_START_MS), TimestampMs(MANUAL_START_MS)).unwrap();
}
