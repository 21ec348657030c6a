//! Testing a program against a real broker: its own directory, a free port, a clock the test moves.
//!
//! `cargo test --example in_tests` runs the tests below; `cargo run --example in_tests` does the same work once.

use std::time::Duration;

use onelog::testing::{TestBroker, eventually};
use onelog::{Broker, Delivery, GroupSettings, NewRecord, Outcome, TopicSettings, Worker, WorkerHandle};

/// The program under test: charges orders, and tries again in ten seconds when the bank is away.
async fn charge_orders(broker: &Broker) -> onelog::broker::Result<WorkerHandle> {
    let worker = Worker::new(broker, "orders", "billing").settings(GroupSettings::default());
    let charge = |order: Delivery| async move {
        if order.attempt == 1 { Outcome::retry_after(Duration::from_secs(10), "the bank is away") } else { Outcome::Done }
    };
    worker.start(charge).await
}

async fn an_order_is_charged_when_the_bank_is_back() {
    let test = TestBroker::start_manual().await;
    test.broker().create_topic("orders", TopicSettings::default()).await.unwrap();
    let billing = charge_orders(test.broker()).await.unwrap();

    let order = NewRecord { value: Some("two lamps".into()), ..NewRecord::default() };
    test.broker().produce("orders", vec![order]).await.unwrap();
    eventually("the first attempt fails", || billing.counts().retried == 1).await;

    // Ten seconds pass at once.
    test.advance(Duration::from_secs(10));
    eventually("the order is charged", || billing.counts().done == 1).await;

    // A restart forgets nothing: the order is not charged again.
    billing.stop().await.unwrap();
    let test = test.restart().await;
    assert_eq!(test.broker().group("orders", "billing").unwrap().counts.acked, 1);
    println!("programs in other languages would talk to {}", test.http_url());
}

#[tokio::main]
async fn main() {
    an_order_is_charged_when_the_bank_is_back().await;
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn an_order_is_charged_when_the_bank_is_back() {
        super::an_order_is_charged_when_the_bank_is_back().await;
    }
}
