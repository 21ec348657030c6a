//! The broker for tests keeps its word: reachable, quick, restartable, gone when dropped.

use std::time::Duration;

use onelog::testing::{TestBroker, eventually};
use onelog::{Delivery, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{GROUP, TOPIC, broker_with};

async fn http(test: &TestBroker, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(test.http_address()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn http_and_the_embedded_broker_are_one() {
    let test = TestBroker::start().await;
    assert_eq!(test.http_url(), format!("http://{}", test.http_address()));
    let answer = http(&test, "POST", "/events", r#"{"event_type":"page_view","user_id":"u1","properties":{}}"#).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let handle = Worker::new(test.broker(), "events", GROUP).start(|_: Delivery| async {}).await.unwrap();
    eventually("the event is done", || handle.counts().done == 1).await;
    handle.stop().await.unwrap();
    test.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_what_was_published_and_the_port() {
    let test = broker_with(&["kept"]).await;
    let address = test.http_address();
    let test = test.restart().await;
    assert_eq!(test.http_address(), address);
    assert_eq!(test.broker().topic(TOPIC).unwrap().partitions[0].high_watermark, 1);
    assert!(http(&test, "GET", "/health", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_dropped_broker_leaves_nothing_behind() {
    let test = broker_with(&["gone"]).await;
    let (directory, address) = (test.directory().to_owned(), test.http_address());
    // A connection that stays open must not keep it alive.
    let _idle = TcpStream::connect(address).await.unwrap();
    assert!(directory.exists());
    drop(test);
    assert!(!directory.exists());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_brokers_do_not_meet() {
    let (ann, bob) = (broker_with(&["a"]).await, broker_with(&[]).await);
    assert_ne!(ann.http_address(), bob.http_address());
    assert_eq!(bob.broker().topic(TOPIC).unwrap().partitions[0].high_watermark, 0);
    ann.advance(Duration::from_secs(1));
    assert_ne!(ann.broker().clock().monotonic(), bob.broker().clock().monotonic());
}

#[tokio::test]
async fn a_broker_is_ready_in_milliseconds() {
    let begun = std::time::Instant::now();
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let before = begun.elapsed();
        drop(TestBroker::start().await);
        quickest = quickest.min(begun.elapsed() - before);
    }
    assert!(quickest < Duration::from_millis(250), "{quickest:?}");
}
