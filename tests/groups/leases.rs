//! One record, one lease (P8); acked is final (P9); stale tokens change nothing (P10); nothing before its time (P13); attempts.

use std::task::Poll;
use std::time::Duration;

use onelog::broker::GroupCounts;
use onelog::{Failure, GroupSettings, LeaseError, Settled, TimestampMs};

use crate::support::{GROUP, RETRY, Rig, START_MS, TOPIC, VISIBILITY, attempts, receive_hour, record, settings, values};

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

#[tokio::test]
async fn p8_a_record_has_one_lease_at_a_time_and_tokens_rise() {
    let rig = Rig::with(&["a", "b", "c"]).await;
    let ann = rig.receive("ann", 2).await;
    let bob = rig.receive("bob", 9).await;
    assert_eq!((values(&ann), values(&bob)), (vec!["a".into(), "b".into()], vec!["c".into()]));
    assert!(rig.receive("cat", 9).await.is_empty());
    rig.advance(VISIBILITY);
    let again = rig.receive("cat", 9).await;
    assert_eq!(values(&again), ["a", "b", "c"]);
    let newest_before = ann.iter().chain(&bob).map(|delivery| delivery.lease.token).max().unwrap();
    assert!(again.iter().all(|delivery| delivery.lease.token > newest_before));
    assert!(again.windows(2).all(|pair| pair[0].lease.token < pair[1].lease.token));
}

#[tokio::test]
async fn p9_acked_is_final() {
    let rig = Rig::with(&["a"]).await;
    let first = rig.one("ann").await;
    assert_eq!(rig.ack(&first).await, Ok(Settled::Acked));
    for outcome in [rig.ack(&first).await, rig.fail(&first, "no").await, rig.release(&first).await, rig.extend(&first, VISIBILITY).await] {
        assert_eq!(outcome, Err(LeaseError::Unknown));
    }
    rig.advance(VISIBILITY * 10);
    assert!(rig.receive("bob", 9).await.is_empty());
    assert_eq!(rig.counts(), GroupCounts { acked: 1, ..GroupCounts::default() });
}

#[tokio::test]
async fn p10_a_stale_token_changes_nothing_and_gets_an_error() {
    let rig = Rig::with(&["a"]).await;
    let stale = rig.one("ann").await;
    rig.advance(VISIBILITY);
    let valid = rig.one("bob").await;
    let before = rig.counts();
    for outcome in [
        rig.ack(&stale).await,
        rig.fail(&stale, "no").await,
        rig.fail_for_good(&stale, "no").await,
        rig.release(&stale).await,
        rig.extend(&stale, VISIBILITY * 9).await,
    ] {
        assert_eq!(outcome, Err(LeaseError::Stale));
        assert_eq!(rig.counts(), before);
    }
    rig.advance(VISIBILITY - Duration::from_millis(1));
    assert!(rig.receive("cat", 1).await.is_empty(), "bob's lease still holds");
    assert_eq!(rig.ack(&valid).await, Ok(Settled::Acked));
}

#[tokio::test]
async fn p10_a_request_with_good_and_bad_leases_says_which_is_which() {
    let rig = Rig::with(&["a", "b"]).await;
    let stale = rig.receive("ann", 2).await;
    rig.ack(&stale[1]).await.unwrap();
    rig.advance(VISIBILITY);
    let valid = rig.one("bob").await;
    let nowhere = onelog::broker::LeaseId { partition: 7, offset: 0, token: 1 };
    let leases = [stale[0].lease, valid.lease, stale[1].lease, nowhere];
    let outcomes = rig.broker.ack(TOPIC, GROUP, &leases).await.unwrap();
    assert_eq!(outcomes, [Err(LeaseError::Stale), Ok(Settled::Acked), Err(LeaseError::Unknown), Err(LeaseError::Unknown)]);
}

#[tokio::test]
async fn an_expired_lease_that_nobody_took_is_still_good() {
    let rig = Rig::with(&["a"]).await;
    let late = rig.one("ann").await;
    rig.advance(VISIBILITY * 2);
    assert_eq!(rig.ack(&late).await, Ok(Settled::Acked));
}

#[tokio::test]
async fn p13_a_delayed_nack_comes_at_its_time_whatever_the_wall_clock_does() {
    let rig = Rig::with(&["a"]).await;
    let delivery = rig.one("ann").await;
    let delay = Failure { delay_ms: Some(10_000), reason: "later".into(), ..Failure::default() };
    assert_eq!(rig.nack(&delivery, delay).await, Ok(Settled::Deferred { delay_ms: 10_000 }));
    for wall in [START_MS + YEAR_MS, START_MS - YEAR_MS, START_MS + 10 * YEAR_MS] {
        rig.clock.set_wall(TimestampMs(wall));
        assert!(rig.receive("bob", 1).await.is_empty());
    }
    rig.advance(Duration::from_millis(9_999));
    rig.clock.set_wall(TimestampMs(START_MS + YEAR_MS));
    assert!(rig.receive("bob", 1).await.is_empty());
    rig.clock.set_wall(TimestampMs(START_MS - YEAR_MS));
    rig.advance(Duration::from_millis(1));
    assert_eq!(rig.one("bob").await.attempt, 2, "and with the wall clock a year behind it comes all the same");
}

#[tokio::test]
async fn p13_a_lease_lasts_its_time_whatever_the_wall_clock_does() {
    let rig = Rig::with(&["a"]).await;
    rig.one("ann").await;
    rig.clock.set_wall(TimestampMs(START_MS + YEAR_MS));
    assert!(rig.receive("bob", 1).await.is_empty());
    rig.advance(VISIBILITY - Duration::from_millis(1));
    assert!(rig.receive("bob", 1).await.is_empty());
    rig.clock.set_wall(TimestampMs(0));
    rig.advance(Duration::from_millis(1));
    assert_eq!(rig.one("bob").await.attempt, 2);
}

#[tokio::test]
async fn a_long_poll_wakes_when_a_record_is_published_comes_back_or_falls_due() {
    let rig = Rig::with(&[]).await;
    let waiting = rig.wait_for("ann", 1);
    rig.others_run().await;
    rig.produce(vec![record("k", "a")]).await;
    let published = waiting.await.unwrap().remove(0);

    let waiting = rig.wait_for("ann", 1);
    rig.others_run().await;
    rig.release(&published).await.unwrap();
    let released = waiting.await.unwrap().remove(0);

    let waiting = rig.wait_for("ann", 1);
    rig.others_run().await;
    rig.fail(&released, "later").await.unwrap();
    rig.advance(RETRY);
    let retried = waiting.await.unwrap().remove(0);

    let waiting = rig.wait_for("ann", 1);
    rig.others_run().await;
    rig.advance(VISIBILITY);
    let expired = waiting.await.unwrap().remove(0);
    assert_eq!(attempts(&[published, released, retried, expired]), [1, 1, 2, 3]);
}

/// A receiver that waited while the group had as much in flight as it may was not woken when an ack made room.
#[tokio::test]
async fn an_ack_that_makes_room_wakes_a_waiting_receiver() {
    for command in 0..3 {
        let rig = Rig::new(1, GroupSettings { in_flight_max: 1, ..settings() }).await;
        rig.produce(vec![record("k", "a"), record("k", "b")]).await;
        let first = rig.one("ann").await;
        let waiting = rig.wait_for("bob", 1);
        rig.others_run().await;
        match command {
            0 => rig.ack(&first).await.unwrap(),
            1 => rig.fail_for_good(&first, "never").await.unwrap(),
            _ => rig.fail(&first, "later").await.unwrap(),
        };
        let next = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("bob is woken").unwrap();
        assert_eq!(values(&next), ["b"]);
    }
}

/// New records wake one receiver; when they were more bytes than it takes at once, the others slept on.
#[tokio::test]
async fn what_one_receiver_leaves_behind_wakes_the_next() {
    let rig = Rig::new(1, settings()).await;
    let mut ann = std::pin::pin!(receive_hour(&rig.broker, "ann", 100));
    let mut bob = std::pin::pin!(receive_hour(&rig.broker, "bob", 100));
    // Polled by hand: neither can run while the commits come.
    let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(ann.as_mut().poll(&mut nobody).is_pending() && bob.as_mut().poll(&mut nobody).is_pending());
    let large = "x".repeat(900 * 1024);
    for _ in 0..4 {
        rig.produce((0..3).map(|_| record("k", &large)).collect()).await;
    }
    let mut received = 0;
    for receiver in [&mut ann, &mut bob] {
        let Poll::Ready(deliveries) = receiver.as_mut().poll(&mut nobody) else {
            panic!("a receiver sleeps beside {received} taken of 12")
        };
        assert!((1..12).contains(&deliveries.len()));
        received += deliveries.len();
    }
}

#[tokio::test]
async fn attempts_count_deliveries_failed_or_expired_but_not_released() {
    let rig = Rig::new(1, GroupSettings { max_deliveries: 0, ..settings() }).await;
    rig.produce(vec![record("k", "a")]).await;
    let mut seen = Vec::new();
    for round in 0..6 {
        let delivery = rig.one("ann").await;
        seen.push(delivery.attempt);
        match round % 3 {
            0 => rig.advance(VISIBILITY),
            1 => {
                rig.release(&delivery).await.unwrap();
            }
            _ => {
                rig.fail(&delivery, "no").await.unwrap();
                rig.advance(RETRY);
            }
        }
    }
    assert_eq!(seen, [1, 2, 2, 3, 4, 4]);
}

#[tokio::test]
async fn backoff_grows_to_its_cap() {
    let retry = onelog::RetrySettings { initial_ms: 1_000, multiplier: 3.0, cap_ms: 20_000, jitter: 0.0 };
    let rig = Rig::new(1, GroupSettings { max_deliveries: 0, retry, ..settings() }).await;
    rig.produce(vec![record("k", "a")]).await;
    for expected_ms in [1_000, 3_000, 9_000, 20_000, 20_000] {
        let delivery = rig.one("ann").await;
        assert_eq!(rig.fail(&delivery, "no").await, Ok(Settled::Deferred { delay_ms: expected_ms }));
        rig.advance(Duration::from_millis(expected_ms));
    }
}

#[tokio::test]
async fn a_killed_consumer_with_ten_leases_gives_back_exactly_those_ten() {
    let rig = Rig::new(3, settings()).await;
    rig.produce((0..100).map(|number| record(&format!("k{}", number % 17), &number.to_string())).collect()).await;
    let lost = rig.receive("killed", 10).await;
    let mut done = 0;
    loop {
        let batch = rig.receive("healthy", 7).await;
        for delivery in &batch {
            assert_eq!((delivery.attempt, rig.ack(delivery).await), (1, Ok(Settled::Acked)));
        }
        done += batch.len();
        if batch.is_empty() {
            break;
        }
    }
    assert_eq!((lost.len(), done), (10, 90));
    rig.advance(VISIBILITY);
    let again = rig.receive("healthy", 100).await;
    let place = |deliveries: &[onelog::Delivery]| {
        let mut places: Vec<_> = deliveries.iter().map(|delivery| (delivery.record.partition, delivery.record.offset)).collect();
        places.sort_unstable();
        places
    };
    assert_eq!(place(&again), place(&lost));
    assert!(again.iter().all(|delivery| delivery.attempt == 2));
    let leases: Vec<_> = again.iter().map(|delivery| delivery.lease).collect();
    assert!(rig.broker.ack(TOPIC, GROUP, &leases).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(rig.counts(), GroupCounts { acked: 100, ..GroupCounts::default() });
}

#[tokio::test]
async fn members_are_known_with_their_leases_and_idleness() {
    let rig = Rig::with(&["a", "b", "c"]).await;
    rig.receive("ann", 2).await;
    rig.advance(Duration::from_secs(5));
    rig.receive("bob", 1).await;
    let members = rig.broker.group(TOPIC, GROUP).unwrap().members;
    let seen: Vec<_> = members.iter().map(|member| (member.member.as_str(), member.leased, member.idle_ms)).collect();
    assert_eq!(seen, [("ann", 2, 5_000), ("bob", 1, 0)]);
}

#[tokio::test]
async fn the_last_attempt_that_runs_out_is_a_dead_letter_without_anybody_asking() {
    let rig = Rig::new(1, GroupSettings { max_deliveries: 1, ..settings() }).await;
    rig.produce(vec![record("k", "a")]).await;
    rig.one("ann").await;
    rig.advance(VISIBILITY);
    let letters = rig.until_dead(1).await;
    assert_eq!((letters[0].reason.as_str(), letters[0].attempts, letters[0].member.as_str()), ("lease expired", 1, "ann"));
}
