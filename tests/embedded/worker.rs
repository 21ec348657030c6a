//! Workers: outcomes, panics, extension of leases, idempotency, order, batched acks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use onelog::testing::eventually;
use onelog::{DeadLetterFilter, Delivery, GroupSettings, Ordering, Outcome, Remembered, Worker};

use crate::support::{GROUP, Stage, TOPIC, broker_with, publish, steady_retry, text};

const VISIBILITY: Duration = Duration::from_secs(30);

fn settings() -> GroupSettings {
    GroupSettings { max_deliveries: 3, retry: steady_retry(1_000), ..GroupSettings::default() }
}

#[tokio::test]
async fn each_outcome_does_what_it_says() {
    let test = broker_with(&["done", "again", "hopeless"]).await;
    let worker = Worker::new(test.broker(), TOPIC, GROUP).member("ann").concurrency(3).settings(settings());
    let handle = worker
        .start(|delivery: Delivery| async move {
            match text(&delivery).as_str() {
                "again" if delivery.attempt == 1 => Outcome::retry("not yet"),
                "hopeless" => Outcome::dead_letter("no amount"),
                _ => Outcome::Done,
            }
        })
        .await
        .unwrap();
    eventually("the first round is settled", || {
        let counts = handle.counts();
        (counts.done, counts.retried, counts.dead_lettered) == (1, 1, 1)
    })
    .await;
    test.advance(Duration::from_millis(999));
    assert_eq!(test.broker().group(TOPIC, GROUP).unwrap().counts.deferred, 1);
    test.advance(Duration::from_millis(1));
    eventually("the retry is done", || handle.counts().done == 2).await;
    let counts = handle.stop().await.unwrap();
    assert_eq!((counts.received, counts.stale, counts.released), (4, 0, 0));
    let letters = test.broker().dead_letters(TOPIC, &DeadLetterFilter::default(), None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].attempts, letters[0].member.as_str()), ("no amount", 1, "ann"));
}

#[tokio::test]
async fn errors_and_panics_are_retried_with_their_words_until_the_last_attempt() {
    let test = broker_with(&["error", "panic"]).await;
    let worker = Worker::new(test.broker(), TOPIC, GROUP).concurrency(2).settings(GroupSettings { max_deliveries: 2, ..settings() });
    let handle = worker
        .start(|delivery: Delivery| async move {
            let text = text(&delivery);
            assert_ne!(text, "panic", "attempt {}", delivery.attempt);
            text.parse::<u32>().map(drop)
        })
        .await
        .unwrap();
    eventually("both failed once", || handle.counts().retried == 2).await;
    test.advance(Duration::from_secs(1));
    eventually("both died", || handle.counts().dead_lettered == 2).await;
    assert_eq!(handle.stop().await.unwrap().panicked, 2);
    let letters = test.broker().dead_letters(TOPIC, &DeadLetterFilter::default(), None, 10).await.unwrap();
    let mut reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    reasons.sort_unstable();
    assert!(reasons[0].starts_with("handler panicked: ") && reasons[0].contains("attempt 2"), "{reasons:?}");
    assert_eq!(reasons[1], "invalid digit found in string");
}

#[tokio::test]
async fn a_lease_is_extended_while_its_handler_runs() {
    let test = broker_with(&["slow"]).await;
    let stage = Stage::closed();
    let inside = stage.clone();
    let worker = Worker::new(test.broker(), TOPIC, GROUP).visibility(VISIBILITY);
    let handle = worker
        .start(move |delivery: Delivery| {
            let stage = inside.clone();
            async move { stage.enter(&delivery).await }
        })
        .await
        .unwrap();
    eventually("the handler runs", || stage.seen().len() == 1).await;
    for extended in 1..=5 {
        test.advance(VISIBILITY / 2);
        eventually("the lease is extended", || handle.counts().extended == extended).await;
    }
    let counts = test.broker().group(TOPIC, GROUP).unwrap().counts;
    assert_eq!((counts.leased, counts.ready), (1, 0), "two and a half visibilities later it is still leased");
    stage.let_through(1);
    eventually("it is done", || handle.counts().done == 1).await;
    test.advance(VISIBILITY);
    let counts = handle.stop().await.unwrap();
    assert_eq!((counts.received, counts.stale, counts.extended), (1, 0, 5));
}

#[tokio::test]
async fn records_that_wait_for_a_free_handler_are_extended_too() {
    let test = broker_with(&["a", "b"]).await;
    let stage = Stage::closed();
    let inside = stage.clone();
    let worker = Worker::new(test.broker(), TOPIC, GROUP).visibility(VISIBILITY).prefetch(1);
    let handle = worker
        .start(move |delivery: Delivery| {
            let stage = inside.clone();
            async move { stage.enter(&delivery).await }
        })
        .await
        .unwrap();
    eventually("one runs and one waits", || handle.counts().received == 2 && stage.seen().len() == 1).await;
    test.advance(VISIBILITY / 2);
    eventually("both are extended", || handle.counts().extended == 2).await;
    stage.let_through(2);
    eventually("both are done", || handle.counts().done == 2).await;
    assert_eq!(stage.seen(), ["a#1", "b#1"]);
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn no_more_is_leased_than_runs_and_waits() {
    let test = broker_with(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]).await;
    let stage = Stage::closed();
    let inside = stage.clone();
    let worker = Worker::new(test.broker(), TOPIC, GROUP).concurrency(2).prefetch(3);
    let handle = worker
        .start(move |delivery: Delivery| {
            let stage = inside.clone();
            async move { stage.enter(&delivery).await }
        })
        .await
        .unwrap();
    eventually("the worker is full", || handle.counts().received == 5).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let counts = test.broker().group(TOPIC, GROUP).unwrap().counts;
    assert_eq!((counts.leased, counts.ready, stage.seen().len()), (5, 4, 2));
    stage.let_through(9);
    eventually("all are done", || handle.counts().done == 9).await;
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn what_the_hook_knows_is_acked_without_running_the_handler() {
    let test = broker_with(&["a", "a", "b", "a"]).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let inside = Arc::clone(&runs);
    let hook = Remembered::new(100, |delivery: &Delivery| delivery.record.value.clone().unwrap_or_default());
    let worker = Worker::new(test.broker(), TOPIC, GROUP).idempotency(hook).settings(settings());
    let handle = worker
        .start(move |delivery: Delivery| {
            let run = inside.fetch_add(1, Relaxed);
            async move { if run == 0 { Outcome::retry(text(&delivery)) } else { Outcome::Done } }
        })
        .await
        .unwrap();
    // The first `a` failed, so the second one runs; the third and the retry are known.
    eventually("the rest is done", || handle.counts().done == 3).await;
    test.advance(Duration::from_secs(1));
    eventually("the retry is done", || handle.counts().done == 4).await;
    assert_eq!((runs.load(Relaxed), handle.stop().await.unwrap().already_done), (3, 2));
}

#[tokio::test]
async fn a_partition_in_order_stays_in_order_with_many_handlers_and_failures() {
    let test = broker_with(&["a", "b", "c", "d"]).await;
    let stage = Stage::open();
    let inside = stage.clone();
    let in_order = GroupSettings { ordering: Ordering::Partition, ..settings() };
    let worker = Worker::new(test.broker(), TOPIC, GROUP).concurrency(4).settings(in_order);
    let handle = worker
        .start(move |delivery: Delivery| {
            let stage = inside.clone();
            async move {
                stage.enter(&delivery).await;
                if text(&delivery) == "b" && delivery.attempt == 1 { Err("not yet") } else { Ok(()) }
            }
        })
        .await
        .unwrap();
    eventually("b failed and the rest went back", || handle.counts().retried == 1 && handle.counts().released == 2).await;
    assert_eq!(stage.seen(), ["a#1", "b#1"]);
    test.advance(Duration::from_secs(1));
    eventually("all are done", || handle.counts().done == 4).await;
    assert_eq!(stage.seen(), ["a#1", "b#1", "b#2", "c#1", "d#1"], "released records keep their attempt");
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn acks_that_come_together_share_commits() {
    const RECORDS: usize = 500;
    let values: Vec<String> = (0..RECORDS).map(|number| number.to_string()).collect();
    let test = broker_with(&values.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let stage = Stage::closed();
    let inside = stage.clone();
    let worker = Worker::new(test.broker(), TOPIC, GROUP).concurrency(RECORDS).batch(RECORDS);
    let handle = worker
        .start(move |delivery: Delivery| {
            let stage = inside.clone();
            async move { stage.enter(&delivery).await }
        })
        .await
        .unwrap();
    eventually("all run", || stage.seen().len() == RECORDS).await;
    let commits_before = test.broker().storage_stats().commits_total;
    stage.let_through(RECORDS);
    eventually("all are done", || handle.counts().done == RECORDS as u64).await;
    let commits = test.broker().storage_stats().commits_total - commits_before;
    assert!(commits <= 20, "{commits} commits for {RECORDS} acks");
    handle.stop().await.unwrap();
}

#[tokio::test]
async fn two_workers_share_the_work_and_new_records_wake_them() {
    let test = broker_with(&[]).await;
    let start = |member: &str| Worker::new(test.broker(), TOPIC, GROUP).member(member).start(|_: Delivery| async {});
    let (ann, bob) = (start("ann").await.unwrap(), start("bob").await.unwrap());
    for number in 0..50 {
        publish(&test, &[&number.to_string()]).await;
    }
    eventually("all are done", || ann.counts().done + bob.counts().done == 50).await;
    let (ann, bob) = (ann.stop().await.unwrap(), bob.stop().await.unwrap());
    assert_eq!((ann.stale, bob.stale, ann.received + bob.received), (0, 0, 50 + ann.released + bob.released));
}
