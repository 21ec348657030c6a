//! Peers that misbehave, and the end.

use std::time::{Duration, Instant};

use onelog::http::HttpConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Server;

async fn talk(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end as good as any.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("the server let go");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn garbage_is_refused_and_others_are_served() {
    let server = Server::start().await;
    assert!(talk(&server, b"\x00\x01\x02 garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let endless = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    assert!(talk(&server, endless.as_bytes()).await.starts_with("HTTP/1.1 431"));
    server.get("/health/live").await.expect(200);
}

#[tokio::test]
async fn headers_and_bodies_that_never_end_are_cut_off() {
    let brief = Duration::from_millis(200);
    let server = Server::start_with(HttpConfig { header_timeout: brief, body_timeout: brief, ..HttpConfig::default() }).await;
    let begun = Instant::now();
    talk(&server, b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    let answer = talk(&server, b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_wait_longer_than_a_rest_may_be_is_answered() {
    let server = Server::start_with(HttpConfig { idle_timeout: Duration::from_millis(100), ..HttpConfig::default() }).await;
    server.topic("t").await;
    let request = b"GET /v1/topics/t/partitions/0/records?wait_ms=500 HTTP/1.1\r\nhost: x\r\n\r\n";
    assert!(talk(&server, request).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_announced_giant_is_refused_before_it_is_sent() {
    let server = Server::start().await;
    let head = b"POST /events HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10000000\r\nconnection: close\r\n\r\n";
    let answer = talk(&server, head).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn who_sends_a_giant_gets_to_read_why_it_is_refused() {
    let server = Server::start().await;
    let mut request = b"POST /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10000000\r\n\r\n".to_vec();
    request.resize(request.len() + 10_000_000, b' ');
    let answer = talk(&server, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
}

/// Each piece is small enough, all together are not, and nothing announces how many there will be.
#[tokio::test]
async fn a_giant_in_pieces_is_refused() {
    let server = Server::start_with(HttpConfig { body_bytes_max: 1_000, ..HttpConfig::default() }).await;
    let mut request = b"POST /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..3 {
        request.extend([b"258\r\n".as_slice(), &[b' '; 600], b"\r\n"].concat());
    }
    request.extend(b"0\r\n\r\n");
    let answer = talk(&server, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let server =
        Server::start_with(HttpConfig { connections_max: 1, idle_timeout: Duration::from_millis(300), ..HttpConfig::default() }).await;
    server.get("/health/live").await.expect(200);
    // The client above keeps its connection: this one is served when that one has rested too long.
    let answer = talk(&server, b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn stopping_ends_waits_at_once_and_requests_in_flight_in_peace() {
    let mut server = Server::start().await;
    server.topic("t").await;
    let mut tail = TcpStream::connect(server.address).await.unwrap();
    tail.write_all(b"GET /v1/topics/t/tail HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    assert!(tail.read(&mut buffer).await.unwrap() > 0);
    let begun = Instant::now();
    let address = server.address;
    let poll = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = r#"{"wait_ms":30000}"#;
        let head = format!("POST /v1/topics/t/groups/g/receive HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    // The request that waits makes the group.
    while server.get("/v1/topics/t/groups/g").await.status != 200 {}
    server.begin_stop();
    assert!(poll.await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(server.stop_within(Duration::from_secs(3)).await);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_request_that_does_not_end_does_not_hold_up_the_stop_for_ever() {
    let grace = Duration::from_millis(500);
    let server = Server::start_with(HttpConfig { stop_grace: grace, ..HttpConfig::default() }).await;
    let mut stuck = TcpStream::connect(server.address).await.unwrap();
    stuck.write_all(b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    server.post("/events", &json!({"event_type": "x"})).await.expect(202);
    assert!(server.stop_within(Duration::from_secs(2)).await);
    let mut rest = Vec::new();
    // Reset or closed: either way it is over, and long before its body's time is.
    let _ = tokio::time::timeout(Duration::from_secs(2), stuck.read_to_end(&mut rest)).await.expect("the connection was cut");
}
