//! A store whose write failed: what cannot be written is not handed out either.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::{Broker, BrokerConfig, BrokerError, ManualClock, ReceiveRequest, TimestampMs, TopicSettings};
use onelog_storage::io::Site;
use onelog_storage::io::sim::{Fault, SimDisk};

use crate::support::{GROUP, START_MS, TOPIC, VISIBILITY, record, settings};

/// Attempts would count up in memory alone and start again from less after a restart.
#[tokio::test]
async fn p12_after_a_failed_sync_no_lease_is_granted() {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
    let config = BrokerConfig { clock: Arc::clone(&clock) as _, io: Arc::new(disk.clone()), ..BrokerConfig::default() };
    let broker = Broker::open_with(Path::new("/data/here"), config).await.unwrap();
    broker.create_topic(TOPIC, TopicSettings::default()).await.unwrap();
    broker.create_group(TOPIC, GROUP, settings()).await.unwrap();
    broker.produce(TOPIC, vec![record("k", "first")]).await.unwrap();
    let receive = || {
        let (topic, group, member) = (TOPIC.into(), GROUP.into(), "ann".into());
        broker.receive(ReceiveRequest { topic, group, member, records_max: 1, wait: Duration::ZERO, visibility_ms: None })
    };
    assert_eq!(receive().await.unwrap()[0].attempt, 1);
    // Acknowledged behind the grant: the grant has been written, and the next sync is the one of what comes next.
    broker.produce(TOPIC, vec![record("k", "second")]).await.unwrap();

    disk.fail(Site::LogSync, 1, Fault::Eio);
    let failed = broker.produce(TOPIC, vec![record("k", "third")]).await;
    assert!(matches!(failed, Err(BrokerError::StorageFailed { .. })), "{failed:?}");
    clock.advance(VISIBILITY);
    let refused = receive().await;
    assert!(matches!(refused, Err(BrokerError::StorageFailed { .. })), "{refused:?}");
}
