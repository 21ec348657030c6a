//! Moving groups: queue groups begin anew at a place, stream groups read on from it.

use std::time::Duration;

use onelog::broker::GroupCounts;
use onelog::{BrokerError, LeaseError, NewRecord, SeekTo};

use crate::support::{GROUP, Rig, START_MS, TOPIC, record, settings, values};

/// Five records, a second apart.
async fn rig() -> Rig {
    let rig = Rig::new(1, settings()).await;
    for value in ["a", "b", "c", "d", "e"] {
        rig.produce(vec![record("k", value)]).await;
        rig.advance(Duration::from_secs(1));
    }
    rig
}

#[tokio::test]
async fn a_queue_group_can_go_to_each_kind_of_place() {
    let rig = rig().await;
    for (place, expected) in [
        (SeekTo::Offset(3), &["d", "e"][..]),
        (SeekTo::Earliest, &["a", "b", "c", "d", "e"]),
        (SeekTo::Latest, &[]),
        (SeekTo::Time(START_MS + 1_000), &["b", "c", "d", "e"]),
        (SeekTo::Time(START_MS + 3_001), &["e"]),
        (SeekTo::Time(START_MS + 3_600_000), &[]),
    ] {
        rig.broker.seek_group(TOPIC, GROUP, None, place).await.unwrap();
        assert_eq!(values(&rig.receive("ann", 9).await), expected, "{place:?}");
    }
    let outside = rig.broker.seek_group(TOPIC, GROUP, None, SeekTo::Offset(6)).await;
    assert!(matches!(outside, Err(BrokerError::OffsetOutOfRange { end: 5, .. })), "{outside:?}");
}

#[tokio::test]
async fn leases_from_before_a_seek_are_void_and_counting_starts_over() {
    let rig = rig().await;
    let batch = rig.receive("ann", 3).await;
    rig.ack(&batch[0]).await.unwrap();
    rig.fail(&batch[1], "later").await.unwrap();
    rig.broker.seek_group(TOPIC, GROUP, None, SeekTo::Earliest).await.unwrap();
    assert_eq!(rig.counts(), GroupCounts { ready: 5, ..GroupCounts::default() });
    assert_eq!(rig.ack(&batch[2]).await, Err(LeaseError::Unknown));
    let again = rig.receive("ann", 9).await;
    assert_eq!(again.len(), 5);
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
    assert_eq!(rig.ack(&batch[2]).await, Err(LeaseError::Stale));
}

#[tokio::test]
async fn one_partition_can_be_moved_alone() {
    let rig = Rig::new(2, settings()).await;
    for number in 0..4 {
        rig.produce(vec![NewRecord { partition: Some(number % 2), ..record("k", &number.to_string()) }]).await;
    }
    let batch = rig.receive("ann", 9).await;
    for delivery in &batch {
        rig.ack(delivery).await.unwrap();
    }
    rig.broker.seek_group(TOPIC, GROUP, Some(1), SeekTo::Earliest).await.unwrap();
    assert_eq!(values(&rig.receive("ann", 9).await), ["1", "3"]);
    assert_eq!(rig.counts().acked, 2);
}

#[tokio::test]
async fn a_stream_group_can_go_to_each_kind_of_place() {
    let rig = rig().await;
    for (place, expected) in [
        (SeekTo::Latest, 5),
        (SeekTo::Earliest, 0),
        (SeekTo::Offset(2), 2),
        (SeekTo::Time(START_MS + 2_000), 2),
        (SeekTo::Time(START_MS + 2_001), 3),
    ] {
        let set = rig.broker.seek_stream("readers", TOPIC, None, place).await.unwrap();
        assert_eq!((set.len(), set[0].offset), (1, expected), "{place:?}");
        assert_eq!(rig.broker.committed_offsets("readers"), set);
    }
}
