//! What a group knows survives: closing and opening, and being killed at any moment.

use std::time::Duration;

use onelog::broker::{CommittedOffset, GroupCounts};
use onelog::{BrokerError, Failure, GroupSettings, LeaseError, Ordering, SeekTo, Settled, TimestampMs};

use crate::support::{GROUP, Outcome, RETRY, Rig, START_MS, TOPIC, VISIBILITY, attempts, ordered_by, record, settings, value, values};

const MOMENT: Duration = Duration::from_millis(1);

/// Runs `check` on what is found after a close and after a kill.
async fn after_each<F: Future<Output = ()>>(rig: Rig, check: impl Fn(Rig) -> F) {
    check(rig.killed().await).await;
    check(rig.reopen().await).await;
}

#[tokio::test]
async fn an_answered_ack_is_durable() {
    let rig = Rig::with(&["a", "b", "c"]).await;
    let batch = rig.receive("ann", 3).await;
    rig.ack(&batch[0]).await.unwrap();
    rig.ack(&batch[2]).await.unwrap();
    after_each(rig, |rig| async move {
        assert_eq!(rig.counts().acked, 2);
        rig.advance(VISIBILITY);
        assert_eq!(values(&rig.receive("bob", 9).await), ["b"]);
    })
    .await;
}

#[tokio::test]
async fn leases_hold_and_their_attempts_are_kept() {
    let rig = Rig::with(&["a", "b"]).await;
    let held = rig.one("ann").await;
    rig.advance(VISIBILITY / 2);
    after_each(rig, |rig| {
        let held = held.clone();
        async move {
            assert_eq!(rig.counts(), GroupCounts { ready: 1, leased: 1, ..GroupCounts::default() });
            rig.advance(VISIBILITY / 2 - MOMENT);
            assert_eq!(values(&rig.receive("bob", 9).await), ["b"], "a is ann's until its time is up");
            rig.advance(VISIBILITY / 2 + MOMENT);
            let again = rig.one("bob").await;
            assert_eq!((value(&again), again.attempt), ("a".into(), 2));
            assert_eq!(rig.ack(&held).await, Err(LeaseError::Stale));
            assert!(again.lease.token > held.lease.token, "P8: tokens rise over restarts");
        }
    })
    .await;
}

/// The directory was copied, and both go on: whoever holds a lease of one must not settle records of the other.
#[tokio::test]
async fn p8_a_lease_granted_after_a_copy_was_taken_means_nothing_to_the_copy() {
    let rig = Rig::with(&["a", "b"]).await;
    rig.advance(MOMENT);
    let copy = rig.killed().await;
    let (of_original, of_copy) = (rig.one("ann").await, copy.one("bob").await);
    assert_eq!(of_original.record.offset, of_copy.record.offset);
    assert_eq!(copy.ack(&of_original).await, Err(LeaseError::Stale));
    assert_eq!(copy.ack(&of_copy).await, Ok(Settled::Acked));
}

/// The clock is years behind what it was: the tokens in the directory count.
#[tokio::test]
async fn p8_tokens_rise_over_a_restart_though_the_clock_went_back() {
    let rig = Rig::with(&["a"]).await;
    let held = rig.one("ann").await;
    rig.clock.set_wall(TimestampMs(START_MS / 2));
    after_each(rig, |rig| {
        let held = held.clone();
        async move {
            rig.advance(VISIBILITY);
            assert!(rig.one("bob").await.lease.token > held.lease.token);
            assert_eq!(rig.ack(&held).await, Err(LeaseError::Stale));
        }
    })
    .await;
}

#[tokio::test]
async fn a_lease_from_before_can_be_acked_after() {
    let rig = Rig::with(&["a"]).await;
    let held = rig.one("ann").await;
    after_each(rig, |rig| {
        let held = held.clone();
        async move { assert_eq!(rig.ack(&held).await, Ok(Settled::Acked)) }
    })
    .await;
}

#[tokio::test]
async fn deferred_records_do_not_come_early() {
    let rig = Rig::with(&["a"]).await;
    let delivery = rig.one("ann").await;
    let delay = Failure { delay_ms: Some(60_000), reason: "later".into(), ..Failure::default() };
    rig.nack(&delivery, delay).await.unwrap();
    rig.advance(Duration::from_secs(20));
    after_each(rig, |rig| async move {
        assert_eq!(rig.counts().deferred, 1);
        rig.advance(Duration::from_secs(40) - MOMENT);
        assert!(rig.receive("bob", 1).await.is_empty());
        rig.advance(Duration::from_secs(20) + MOMENT);
        assert_eq!(rig.one("bob").await.attempt, 2);
    })
    .await;
}

#[tokio::test]
async fn attempts_go_on_until_the_last_over_several_kills() {
    let mut rig = Rig::with(&["a"]).await;
    for attempt in 1..=2 {
        let delivery = rig.one("ann").await;
        assert_eq!(delivery.attempt, attempt);
        rig.fail(&delivery, &format!("failure {attempt}")).await.unwrap();
        rig = rig.killed().await;
        rig.advance(RETRY);
    }
    let last = rig.one("ann").await;
    assert_eq!((last.attempt, rig.fail(&last, "failure 3").await), (3, Ok(Settled::DeadLettered)));
    let rig = rig.killed().await;
    let letter = rig.all_letters().await.remove(0);
    assert_eq!((letter.attempts, letter.reason.as_str(), letter.last_failure_ms - letter.first_failure_ms), (3, "failure 3", 2_000));
    assert_eq!(rig.counts(), GroupCounts { dead: 1, ..GroupCounts::default() });
}

#[tokio::test]
async fn a_released_record_keeps_its_attempt_uncounted() {
    let rig = Rig::with(&["a"]).await;
    let delivery = rig.one("ann").await;
    rig.release(&delivery).await.unwrap();
    after_each(rig, |rig| async move { assert_eq!(rig.one("bob").await.attempt, 1) }).await;
}

#[tokio::test]
async fn a_record_that_ran_out_of_attempts_while_nobody_was_there_dies_after_opening() {
    let rig = Rig::new(1, GroupSettings { max_deliveries: 1, ..settings() }).await;
    rig.produce(vec![record("k", "a")]).await;
    rig.one("ann").await;
    after_each(rig, |rig| async move {
        rig.advance(VISIBILITY);
        assert_eq!(rig.until_dead(1).await[0].member, "ann");
    })
    .await;
}

#[tokio::test]
async fn busy_keys_stay_busy() {
    let rig = Rig::new(1, ordered_by(Ordering::Key)).await;
    rig.produce(vec![record("a", "a1"), record("a", "a2"), record("b", "b1")]).await;
    let first = rig.receive("ann", 9).await;
    assert_eq!(values(&first), ["a1", "b1"]);
    after_each(rig, |rig| {
        let first = first.clone();
        async move {
            rig.produce(vec![record("a", "a3"), record("c", "c1")]).await;
            assert_eq!(values(&rig.receive("bob", 9).await), ["c1"]);
            rig.ack(&first[0]).await.unwrap();
            assert_eq!(values(&rig.receive("bob", 9).await), ["a2"]);
        }
    })
    .await;
}

#[tokio::test]
async fn settings_survive_and_so_does_a_deletion() {
    let rig = Rig::with(&["a"]).await;
    let changed = GroupSettings { max_deliveries: 7, ..settings() };
    rig.broker.alter_group(TOPIC, GROUP, changed.clone()).await.unwrap();
    rig.broker.create_group(TOPIC, "gone", settings()).await.unwrap();
    rig.broker.delete_group(TOPIC, "gone").await.unwrap();
    after_each(rig, |rig| {
        let changed = changed.clone();
        async move {
            assert_eq!(rig.broker.group(TOPIC, GROUP).unwrap().settings, changed);
            assert!(matches!(rig.broker.group(TOPIC, "gone"), Err(BrokerError::GroupNotFound { .. })));
        }
    })
    .await;
}

#[tokio::test]
async fn everything_survives_also_after_a_checkpoint() {
    let rig = Rig::with(&["acked", "leased", "deferred", "dead", "fresh"]).await;
    let batch = rig.receive("ann", 4).await;
    rig.ack(&batch[0]).await.unwrap();
    rig.broker.checkpoint().await.unwrap();
    rig.fail(&batch[2], "later").await.unwrap();
    rig.fail_for_good(&batch[3], "never").await.unwrap();
    after_each(rig, |rig| async move {
        let expected = GroupCounts { ready: 1, leased: 1, deferred: 1, acked: 1, dead: 1, skipped: 0 };
        assert_eq!(rig.counts(), expected);
        rig.advance(VISIBILITY);
        let again = rig.receive("bob", 9).await;
        assert_eq!((values(&again), attempts(&again)), (vec!["leased".into(), "deferred".into(), "fresh".into()], vec![2, 2, 1]));
        assert_eq!(rig.all_letters().await.len(), 1);
    })
    .await;
}

/// P17: what one opening found in the log belongs to the next checkpoint, from which the opening after that begins.
#[tokio::test]
async fn what_was_replayed_is_in_the_next_checkpoint() {
    let rig = Rig::with(&["a"]).await;
    let offsets = vec![CommittedOffset { topic: TOPIC.into(), partition: 0, offset: 1, metadata: None }];
    rig.broker.commit_offsets("readers", offsets.clone()).await.unwrap();
    let replayed = rig.killed().await;
    replayed.broker.checkpoint().await.unwrap();
    after_each(replayed, |rig| {
        let offsets = offsets.clone();
        async move {
            assert_eq!(rig.broker.committed_offsets("readers"), offsets);
            assert_eq!(rig.counts(), GroupCounts { ready: 1, ..GroupCounts::default() });
        }
    })
    .await;
}

#[tokio::test]
async fn a_sought_group_stays_where_it_was_put() {
    let rig = Rig::with(&["a", "b", "c"]).await;
    let batch = rig.receive("ann", 3).await;
    rig.ack(&batch[0]).await.unwrap();
    rig.broker.seek_group(TOPIC, GROUP, None, SeekTo::Offset(1)).await.unwrap();
    after_each(rig, |rig| {
        let stale = batch[1].clone();
        async move {
            let outcome: Outcome = rig.ack(&stale).await;
            assert_eq!(outcome, Err(LeaseError::Unknown));
            assert_eq!(values(&rig.receive("bob", 9).await), ["b", "c"]);
        }
    })
    .await;
}

#[tokio::test]
async fn committed_offsets_of_stream_groups_survive() {
    let rig = Rig::new(2, settings()).await;
    rig.produce((0..40).map(|number| record(&format!("k{number}"), "x")).collect()).await;
    let at = |partition, offset, metadata: Option<&str>| CommittedOffset {
        topic: TOPIC.into(),
        partition,
        offset,
        metadata: metadata.map(str::to_owned),
    };
    rig.broker.commit_offsets("readers", vec![at(0, 3, None), at(1, 5, Some("batch 9"))]).await.unwrap();
    rig.broker.commit_offsets("readers", vec![at(0, 4, None)]).await.unwrap();
    rig.broker.commit_offsets("gone", vec![at(0, 1, None)]).await.unwrap();
    rig.broker.delete_stream_group("gone").await.unwrap();
    after_each(rig, |rig| async move {
        assert_eq!(rig.broker.committed_offsets("readers"), [at(0, 4, None), at(1, 5, Some("batch 9"))]);
        assert_eq!(rig.broker.stream_groups(), ["readers"]);
    })
    .await;
}
