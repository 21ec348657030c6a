//! A store whose write failed: what cannot be written is not handed out either.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::{Broker, BrokerConfig, BrokerError, Delivery, ManualClock, ReceiveRequest, TimestampMs, TopicSettings};
use onelog_storage::io::Site;
use onelog_storage::io::sim::{Fault, SimDisk};

use crate::support::{GROUP, START_MS, TOPIC, VISIBILITY, record, settings};

async fn receive(broker: &Broker) -> Result<Vec<Delivery>, BrokerError> {
    let (topic, group, member) = (TOPIC.into(), GROUP.into(), "ann".into());
    broker.receive(ReceiveRequest { topic, group, member, records_max: 1, wait: Duration::ZERO, visibility_ms: None }).await
}

/// A broker that has given out its first record. What comes next is the next sync.
async fn with_a_lease() -> (SimDisk, Arc<ManualClock>, Broker, Delivery) {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
    let config = BrokerConfig { clock: Arc::clone(&clock) as _, io: Arc::new(disk.clone()), ..BrokerConfig::default() };
    let broker = Broker::open_with(Path::new("/data/here"), config).await.unwrap();
    broker.create_topic(TOPIC, TopicSettings::default()).await.unwrap();
    broker.create_group(TOPIC, GROUP, settings()).await.unwrap();
    broker.produce(TOPIC, vec![record("k", "first")]).await.unwrap();
    let held = receive(&broker).await.unwrap().remove(0);
    assert_eq!(held.attempt, 1);
    // Acknowledged behind the grant: the grant has been written, and the next sync is the one of what comes next.
    broker.produce(TOPIC, vec![record("k", "second")]).await.unwrap();
    (disk, clock, broker, held)
}

#[tokio::test]
async fn p9_an_ack_whose_sync_failed_is_not_answered_ok() {
    let (disk, _clock, broker, held) = with_a_lease().await;
    disk.fail(Site::LogSync, 1, Fault::Eio);
    let failed = broker.ack(TOPIC, GROUP, &[held.lease]).await;
    assert!(matches!(failed, Err(BrokerError::StorageFailed { .. })), "{failed:?}");
}

/// Attempts would count up in memory alone and start again from less after a restart.
#[tokio::test]
async fn p12_after_a_failed_sync_no_lease_is_granted() {
    let (disk, clock, broker, _held) = with_a_lease().await;
    disk.fail(Site::LogSync, 1, Fault::Eio);
    let failed = broker.produce(TOPIC, vec![record("k", "third")]).await;
    assert!(matches!(failed, Err(BrokerError::StorageFailed { .. })), "{failed:?}");
    clock.advance(VISIBILITY);
    let refused = receive(&broker).await;
    assert!(matches!(refused, Err(BrokerError::StorageFailed { .. })), "{refused:?}");
}
