//! What these tests share: a broker with a topic, records to publish, handlers that can be held back.

use std::sync::Arc;

use onelog::testing::TestBroker;
use onelog::{NewRecord, RetrySettings, TopicSettings};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub const TOPIC: &str = "work";
pub const GROUP: &str = "workers";

/// A broker with a manual clock and `values` published to [`TOPIC`].
pub async fn broker_with(values: &[&str]) -> TestBroker {
    let test = TestBroker::start_manual().await;
    test.broker().create_topic(TOPIC, TopicSettings::default()).await.unwrap();
    publish(&test, values).await;
    test
}

pub async fn publish(test: &TestBroker, values: &[&str]) {
    let records = values.iter().map(|value| record(value)).collect::<Vec<_>>();
    if !records.is_empty() {
        test.broker().produce(TOPIC, records).await.unwrap();
    }
}

/// A record whose key is its value up to the first `:`.
pub fn record(value: &str) -> NewRecord {
    let key = value.split(':').next().unwrap_or(value).to_owned();
    NewRecord { key: Some(key.into()), value: Some(value.to_owned().into()), ..NewRecord::default() }
}

pub fn text(delivery: &onelog::Delivery) -> String {
    String::from_utf8(delivery.record.value.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Backoff that tests can foresee.
pub fn steady_retry(ms: u64) -> RetrySettings {
    RetrySettings { initial_ms: ms, multiplier: 1.0, cap_ms: ms, jitter: 0.0 }
}

/// What handlers were given, in order, and a gate that holds them.
#[derive(Clone)]
pub struct Stage {
    seen: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
}

impl Stage {
    pub fn closed() -> Self {
        Self { seen: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    pub fn open() -> Self {
        let stage = Self::closed();
        stage.let_through(10_000);
        stage
    }

    pub fn let_through(&self, handlers: usize) {
        self.gate.add_permits(handlers);
    }

    /// Notes the delivery and waits at the gate.
    pub async fn enter(&self, delivery: &onelog::Delivery) {
        self.seen.lock().push(format!("{}#{}", text(delivery), delivery.attempt));
        self.gate.acquire().await.unwrap().forget();
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }
}
