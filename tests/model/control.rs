//! Checkpoints and control operations side by side: what is durable and not in memory yet must not be passed over.
//!
//! Regression tests. A call is held at the very moment its commit is durable and its caller does not know; a checkpoint or
//! retention runs then; the process is killed after both are done.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onelog::broker::TopicChange;
use onelog::{Broker, BrokerError, NewRecord, TopicSettings};

use crate::rig::Rig;

const TOPIC: &str = "jobs";
/// Work beside a held call that has not ended by then waits for that call, as it should. Work that does not wait ends sooner.
const PATIENCE: Duration = Duration::from_millis(300);
const DAY_MS: u64 = 86_400_000;

/// One step of a call, by hand.
fn poll<T>(call: &mut Pin<Box<dyn Future<Output = T>>>) -> Poll<T> {
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Begins `call`, makes it durable, lets `beside` run as far as it can, and only then tells the caller.
async fn overtake<T>(
    broker: &Broker,
    call: impl Future<Output = Result<T, BrokerError>> + 'static,
    beside: impl Future<Output = Result<(), BrokerError>> + Send + 'static,
) {
    let mut call: Pin<Box<dyn Future<Output = Result<T, BrokerError>>>> = Box::pin(call);
    assert!(poll(&mut call).is_pending());
    assert!(broker.turn(), "the call is handed over");
    let mut beside = tokio::spawn(beside);
    let ended = tokio::time::timeout(PATIENCE, &mut beside).await;
    assert!(call.await.is_ok());
    let ended = match ended {
        Ok(ended) => ended,
        Err(_) => beside.await,
    };
    ended.unwrap().unwrap();
}

/// What a process finds that opens what this one leaves when it is killed.
fn killed(rig: &Rig) -> Rig {
    let mut next = rig.copy(false);
    next.open().unwrap();
    next
}

#[test]
fn p17_a_checkpoint_does_not_pass_over_a_topic_that_is_durable_and_not_in_memory_yet() {
    let rig = Rig::new();
    let broker = rig.broker().clone();
    rig.block_on(async move {
        let creator = broker.clone();
        let create = async move { creator.create_topic(TOPIC, TopicSettings::default()).await };
        let writer = broker.clone();
        overtake(&broker, create, async move { writer.checkpoint().await }).await;
    });
    assert!(killed(&rig).broker().topic(TOPIC).is_ok(), "P1: an acknowledged topic is gone");
}

#[test]
fn p17_what_is_told_again_is_not_older_than_a_change_that_is_durable_and_not_in_memory_yet() {
    let rig = Rig::new();
    let settings = TopicSettings { retention_ms: Some(DAY_MS), ..TopicSettings::default() };
    let broker = rig.broker().clone();
    let first = broker.clone();
    rig.run(async move { first.create_topic(TOPIC, settings).await.unwrap() });
    // Several segments of old records, so that there is log to give back.
    for _ in 0..8 {
        let producer = broker.clone();
        let record = NewRecord { value: Some(vec![b'x'; 30_000].into()), ..NewRecord::default() };
        rig.run(async move { producer.produce(TOPIC, vec![record]).await.unwrap() });
    }
    rig.clock.advance(Duration::from_millis(2 * DAY_MS));
    let before = broker.storage_stats().log_start;
    // The first only moves log starts and checkpoints; so the second is at the log at once.
    rig.block_on(broker.checkpoint()).unwrap();
    let (changer, keeper) = (broker.clone(), broker.clone());
    rig.block_on(async move {
        let change = TopicChange { record_bytes_max: Some(77), ..TopicChange::default() };
        let alter = async move { changer.alter_topic(TOPIC, change).await };
        let retain = keeper.clone();
        overtake(&keeper, alter, async move { retain.apply_retention().await }).await;
    });
    assert!(broker.storage_stats().log_start > before, "the test is about log that is given back");
    let next = killed(&rig);
    assert_eq!(next.broker().topic(TOPIC).unwrap().settings.record_bytes_max, 77, "P1: an acknowledged change is gone");
}
