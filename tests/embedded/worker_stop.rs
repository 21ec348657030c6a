//! How workers end: told to stop, cut off, dropped, or because the broker closes or refuses.

use std::time::Duration;

use onelog::testing::eventually;
use onelog::{BrokerError, Delivery, GroupSettings, Worker, WorkerHandle};

use crate::support::{GROUP, Stage, TOPIC, broker_with};

const GRACE: Duration = Duration::from_secs(5);

async fn start(test: &onelog::testing::TestBroker, stage: &Stage) -> WorkerHandle {
    let stage = stage.clone();
    let worker = Worker::new(test.broker(), TOPIC, GROUP).concurrency(2).prefetch(2).grace(GRACE);
    let handler = move |delivery: Delivery| {
        let stage = stage.clone();
        async move { stage.enter(&delivery).await }
    };
    worker.start(handler).await.unwrap()
}

#[tokio::test]
async fn a_stop_lets_running_handlers_finish_and_gives_the_rest_back_uncounted() {
    let test = broker_with(&["a", "b", "c", "d", "e"]).await;
    let stage = Stage::closed();
    let handle = start(&test, &stage).await;
    eventually("two run and two wait", || handle.counts().received == 4 && stage.seen().len() == 2).await;
    let stopping = tokio::spawn(handle.stop());
    eventually("what waited is back", || test.broker().group(TOPIC, GROUP).unwrap().counts.ready == 3).await;
    assert!(!stopping.is_finished());
    stage.let_through(2);
    let counts = stopping.await.unwrap().unwrap();
    assert_eq!((counts.done, counts.released), (2, 2));
    assert_eq!(stage.seen(), ["a#1", "b#1"]);

    let next = start(&test, &stage).await;
    stage.let_through(3);
    eventually("the next worker does the rest", || next.counts().done == 3).await;
    assert_eq!(stage.seen()[2..], ["c#1", "d#1", "e#1"], "their attempts were not counted");
    next.stop().await.unwrap();
}

#[tokio::test]
async fn handlers_that_outlast_the_grace_period_are_cut_off_and_their_records_given_back() {
    let test = broker_with(&["a", "b"]).await;
    let stage = Stage::closed();
    let handle = start(&test, &stage).await;
    eventually("both run", || stage.seen().len() == 2).await;
    let stopping = tokio::spawn(handle.stop());
    eventually("the stop has begun", || {
        test.advance(GRACE);
        stopping.is_finished()
    })
    .await;
    let counts = stopping.await.unwrap().unwrap();
    assert_eq!((counts.done, counts.released), (0, 2));
    let counts = test.broker().group(TOPIC, GROUP).unwrap().counts;
    assert_eq!((counts.ready, counts.leased), (2, 0));
}

#[tokio::test]
async fn a_dropped_handle_stops_the_worker() {
    let test = broker_with(&["a", "b", "c", "d", "e"]).await;
    let stage = Stage::closed();
    let handle = start(&test, &stage).await;
    eventually("two run and two wait", || handle.counts().received == 4 && stage.seen().len() == 2).await;
    drop(handle);
    eventually("what waited is back", || test.broker().group(TOPIC, GROUP).unwrap().counts.ready == 3).await;
    stage.let_through(2);
    eventually("what ran is acked", || test.broker().group(TOPIC, GROUP).unwrap().counts.acked == 2).await;
}

#[tokio::test]
async fn a_worker_ends_when_its_broker_closes() {
    let test = broker_with(&["a"]).await;
    let stage = Stage::open();
    let handle = start(&test, &stage).await;
    eventually("the record is done", || handle.counts().done == 1).await;
    test.broker().close().await.unwrap();
    assert_eq!(handle.ended().await.unwrap().done, 1);
}

#[tokio::test]
async fn a_worker_says_what_ended_it() {
    let test = broker_with(&[]).await;
    let handle = start(&test, &Stage::open()).await;
    eventually("it receives", || test.broker().group(TOPIC, GROUP).is_ok_and(|group| !group.members.is_empty())).await;
    test.broker().delete_topic(TOPIC).await.unwrap();
    let ended = handle.ended().await;
    assert!(matches!(ended, Err(BrokerError::TopicNotFound { .. } | BrokerError::GroupNotFound { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_worker_refuses_to_start_where_it_cannot_work() {
    let test = broker_with(&[]).await;
    let elsewhere = Worker::new(test.broker(), "nowhere", GROUP).start(|_: Delivery| async {}).await;
    assert!(matches!(elsewhere, Err(BrokerError::TopicNotFound { .. })));
    test.broker().create_group(TOPIC, GROUP, GroupSettings::default()).await.unwrap();
    let other = GroupSettings { max_deliveries: 99, ..GroupSettings::default() };
    let other = Worker::new(test.broker(), TOPIC, GROUP).settings(other).start(|_: Delivery| async {}).await;
    assert!(matches!(other, Err(BrokerError::GroupExists { .. })));
}

/// A receive that was given up while waiting for a partition kept the leases it had taken from others.
#[tokio::test]
async fn a_receive_that_is_given_up_has_leased_nothing() {
    let test = broker_with(&[]).await;
    test.broker().create_topic("wide", onelog::TopicSettings { partitions: 4, ..Default::default() }).await.unwrap();
    for number in 0..40 {
        let record = onelog::NewRecord { partition: Some(number % 4), value: Some("x".into()), ..Default::default() };
        test.broker().produce("wide", vec![record]).await.unwrap();
    }
    let request = || onelog::ReceiveRequest {
        topic: "wide".into(),
        group: GROUP.into(),
        member: "ann".into(),
        records_max: 100,
        wait: Duration::ZERO,
        visibility_ms: None,
    };
    test.broker().create_group("wide", GROUP, GroupSettings::default()).await.unwrap();
    let mut received = 0;
    for polls in 0..8 {
        let mut receive = Box::pin(test.broker().receive(request()));
        let mut deliveries = None;
        for _ in 0..polls {
            if deliveries.is_none() {
                deliveries = poll_once(&mut receive.as_mut()).await;
            }
        }
        drop(receive);
        let leases: Vec<_> = deliveries.map_or_else(Vec::new, Result::unwrap).iter().map(|delivery| delivery.lease).collect();
        assert_eq!(test.broker().group("wide", GROUP).unwrap().counts.leased, leases.len() as u64, "given up after {polls} polls");
        test.broker().release("wide", GROUP, &leases).await.unwrap();
        received += leases.len();
    }
    assert!(received > 0);
}

/// Polls with no budget left but one step, so that the future stops at its first place to wait and at each later one.
async fn poll_once<F: Future>(future: &mut std::pin::Pin<&mut F>) -> Option<F::Output> {
    for _ in 0..127 {
        tokio::task::coop::consume_budget().await;
    }
    let mut output = None;
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(ready) = future.as_mut().poll(context) {
            output = Some(ready);
        }
        std::task::Poll::Ready(())
    })
    .await;
    tokio::task::yield_now().await;
    output
}
