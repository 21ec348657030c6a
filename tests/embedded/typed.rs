//! Typed producers and receivers.

use std::time::Duration;

use onelog::testing::TestBroker;
use onelog::{BrokerError, DeadLetterFilter, LeaseError, Outcome, Producer, Receiver, SettleError, TopicSettings, Worker};
use serde::{Deserialize, Serialize};

use crate::support::{GROUP, TOPIC, broker_with, publish};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    number: u64,
    customer: String,
}

fn order(number: u64, customer: &str) -> Order {
    Order { number, customer: customer.into() }
}

fn orders(test: &TestBroker) -> Producer<Order> {
    Producer::new(test.broker(), TOPIC).key(|order: &Order| order.customer.clone()).id(|order: &Order| order.number.to_string())
}

fn receiver(test: &TestBroker) -> Receiver<Order> {
    Receiver::new(test.broker(), TOPIC, GROUP, "ann")
}

#[tokio::test]
async fn values_go_round_with_key_and_id() {
    let test = broker_with(&[]).await;
    let produced = orders(&test).send_all(&[order(1, "ann"), order(2, "bob")]).await.unwrap();
    assert_eq!(produced.len(), 2);
    let repeat = orders(&test).send(&order(1, "ann")).await.unwrap();
    assert!(repeat.duplicate && repeat.offset == produced[0].offset);
    let conflict = orders(&test).send(&order(1, "eve")).await;
    assert!(matches!(conflict, Err(BrokerError::IdempotencyConflict { .. })));

    let received = receiver(&test).receive(10, Duration::ZERO).await.unwrap();
    let values: Vec<_> = received.iter().map(|received| received.value.clone()).collect();
    assert_eq!(values, [order(1, "ann"), order(2, "bob")]);
    assert_eq!(received[0].delivery.record.key.as_deref(), Some(&b"ann"[..]));
    for received in received {
        received.ack().await.unwrap();
    }
    assert!(receiver(&test).next(Duration::ZERO).await.unwrap().is_none());
}

#[tokio::test]
async fn a_value_that_cannot_be_decoded_goes_to_the_dead_letters_and_never_to_the_caller() {
    let test = broker_with(&["not json", r#"{"number":1}"#]).await;
    orders(&test).send(&order(3, "cat")).await.unwrap();
    // One at a time: the receiver must go on past what it cannot read.
    let next = receiver(&test).next(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(next.value, order(3, "cat"));
    let letters = test.broker().dead_letters(TOPIC, &DeadLetterFilter::default(), None, 10).await.unwrap();
    let reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons.iter().all(|reason| reason.starts_with("the value cannot be decoded: ")), "{reasons:?}");
    assert!(reasons[1].contains("missing field `customer`"), "{reasons:?}");
    assert!(letters.iter().all(|letter| letter.attempts == 1 && letter.member == "ann"));
}

#[tokio::test]
async fn a_received_value_is_settled_in_each_way() {
    let test = broker_with(&[]).await;
    let receiver = receiver(&test).visibility(Duration::from_secs(10));
    orders(&test).send(&order(1, "ann")).await.unwrap();

    let first = receiver.next(Duration::ZERO).await.unwrap().unwrap();
    first.extend(Duration::from_secs(60)).await.unwrap();
    test.advance(Duration::from_secs(59));
    assert!(receiver.next(Duration::ZERO).await.unwrap().is_none(), "extended");
    first.release().await.unwrap();

    let again = receiver.next(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(again.attempt(), 1, "a released attempt does not count");
    again.retry_after(Duration::from_secs(5), "later").await.unwrap();
    test.advance(Duration::from_millis(4_999));
    assert!(receiver.next(Duration::ZERO).await.unwrap().is_none());
    test.advance(Duration::from_millis(1));

    let slow = receiver.next(Duration::ZERO).await.unwrap().unwrap();
    test.advance(Duration::from_secs(10));
    let quick = receiver.next(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!((slow.attempt(), quick.attempt()), (2, 3));
    assert_eq!(slow.ack().await, Err(SettleError::Lease(LeaseError::Stale)));
    quick.dead_letter("enough").await.unwrap();
    let letters = test.broker().dead_letters(TOPIC, &DeadLetterFilter::default(), None, 10).await.unwrap();
    assert_eq!((letters.len(), letters[0].attempts), (1, 3));
}

#[tokio::test]
async fn other_encodings_have_their_own_words() {
    let test = TestBroker::start_manual().await;
    test.broker().create_topic("numbers", TopicSettings::default()).await.unwrap();
    let encode = |value: &u32| if *value < 1_000 { Ok(value.to_be_bytes().to_vec().into()) } else { Err("too large".to_owned()) };
    let numbers = Producer::with_encoding(test.broker(), "numbers", encode);
    numbers.send(&7).await.unwrap();
    let refused = numbers.send_all(&[8, 1_000]).await;
    assert_eq!(refused, Err(BrokerError::InvalidRequest("record 1 cannot be encoded: too large".into())));
    let decode = |record: &onelog::Record| {
        let bytes = record.value.as_deref().unwrap_or_default().try_into().map_err(|_| "not four bytes".to_owned())?;
        Ok(u32::from_be_bytes(bytes))
    };
    let receiver = Receiver::with_decoding(test.broker(), "numbers", GROUP, "ann", decode);
    let received = receiver.receive(10, Duration::ZERO).await.unwrap();
    assert_eq!(received.iter().map(|received| received.value).collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn a_json_worker_gets_values_and_never_sees_what_cannot_be_read() {
    let test = broker_with(&[]).await;
    orders(&test).send(&order(1, "ann")).await.unwrap();
    publish(&test, &["not json"]).await;
    let handle = Worker::new(test.broker(), TOPIC, GROUP)
        .start_json(|order: Order, _| async move { if order.number == 1 { Outcome::Done } else { Outcome::dead_letter("?") } })
        .await
        .unwrap();
    onelog::testing::eventually("both are settled", || (handle.counts().done, handle.counts().dead_lettered) == (1, 1)).await;
    handle.stop().await.unwrap();
}
