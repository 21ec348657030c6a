//! Topics, publishing, reading, following.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Server;

const NDJSON: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];

#[tokio::test]
async fn a_topic_lives_and_dies() {
    let server = Server::start().await;
    let created = server.post("/v1/topics", &json!({"name": "orders", "partitions": 3})).await.expect(201);
    assert_eq!(created["partitions"].as_array().unwrap().len(), 3);
    server.post("/v1/topics", &json!({"name": "orders"})).await.problem(409, "topic_exists");
    server.post("/v1/topics", &json!({"name": "no spaces"})).await.problem(422, "invalid_name");
    server.post("/v1/topics", &json!({"name": "x", "partition": 3})).await.problem(422, "invalid_body");
    assert_eq!(server.get("/v1/topics").await.expect(200)["topics"][0]["name"], "orders");
    let changed = server.json("PATCH", "/v1/topics/orders", &json!({"retention_ms": null})).await.expect(200);
    assert_eq!(changed["settings"]["retention_ms"], Value::Null);
    assert_eq!(changed["settings"]["partitions"], 3);
    server.send("DELETE", "/v1/topics/orders", &[], "").await.expect(204);
    server.get("/v1/topics/orders").await.problem(404, "topic_not_found");
}

#[tokio::test]
async fn topics_are_listed_a_page_at_a_time() {
    let server = Server::start().await;
    for name in ["a1", "a2", "a3", "b1"] {
        server.topic(name).await;
    }
    let first = server.get("/v1/topics?prefix=a&limit=2").await.expect(200);
    assert_eq!(first["next"], "a2");
    let second = server.get("/v1/topics?prefix=a&limit=2&after=a2").await.expect(200);
    assert_eq!(second["topics"][0]["name"], "a3");
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn values_come_back_as_they_were_sent() {
    let server = Server::start().await;
    server.topic("t").await;
    let body = r#"{"records":[{"key":"k","value":{"b": 1.50, "a":[ ]},"headers":{"h":"1"},"timestamp":5},{"value":"text"},{"value_base64":"/wA="},{"value":null}]}"#;
    let published = server.send("POST", "/v1/topics/t/records", &[("content-type", "application/json")], body).await.expect(200);
    assert_eq!(published["durability"], "sync");
    assert_eq!(published["records"][3]["offset"], 3);
    let records = server.records("t").await;
    assert_eq!(records[0]["value"], r#"{"b": 1.50, "a":[ ]}"#);
    assert_eq!((&records[0]["key"], &records[0]["timestamp"], &records[0]["headers"]["h"]), (&json!("k"), &json!(5), &json!("1")));
    assert_eq!(records[1]["value"], "text");
    assert_eq!(records[2]["value_base64"], "/wA=");
    assert_eq!(records[3]["value"], Value::Null);
}

#[tokio::test]
async fn raw_lines_are_stored_byte_for_byte_and_once_per_id() {
    let server = Server::start().await;
    server.topic("hooks").await;
    let lines = ["{\"id\": \"1\",  \"repo\":{\"name\":\"a\"}}", "{\"id\":\"2\",\"repo\":{\"name\":\"b\"}, \"u\":\"\\u00e9\"}"];
    let body = format!("{}\n\n{}\n", lines[0], lines[1]);
    let path = "/v1/topics/hooks/records?raw=true&key_field=repo.name&id_field=id";
    server.send("POST", path, NDJSON, body.clone()).await.expect(200);
    let again = server.send("POST", path, NDJSON, body).await.expect(200);
    assert_eq!(again["records"][1], json!({"topic":"hooks","partition":0,"offset":1,"duplicate":true,"durability":"sync"}));
    let records = server.records("hooks").await;
    assert_eq!(records.len(), 2);
    assert_eq!((records[0]["value"].as_str(), records[1]["value"].as_str()), (Some(lines[0]), Some(lines[1])));
    assert_eq!(records[1]["key"], "b");
    server.send("POST", path, &[("content-type", "application/json")], "{}").await.problem(400, "invalid_query");
    let missing = server.send("POST", path, NDJSON, "{\"id\":\"3\"}\n{\"repo\":{}}").await.problem(422, "invalid_body");
    assert_eq!((&missing["index"], &missing["field"]), (&json!(1), &json!("id")));
    assert_eq!(server.records("hooks").await.len(), 2, "all or none");
}

#[tokio::test]
async fn a_batch_is_all_or_none() {
    let server = Server::start().await;
    server.topic("a").await;
    server.topic("b").await;
    let both = json!({"records": [{"topic": "a", "value": 1}, {"topic": "b", "value": 2}]});
    server.post("/v1/batch", &both).await.expect(200);
    let broken = json!({"records": [{"topic": "a", "value": 1}, {"topic": "missing", "value": 2}]});
    server.post("/v1/batch", &broken).await.problem(404, "topic_not_found");
    assert_eq!((server.records("a").await.len(), server.records("b").await.len()), (1, 1));
}

#[tokio::test]
async fn a_conditional_publish_loses_to_who_came_first() {
    let server = Server::start().await;
    server.topic("t").await;
    let path = "/v1/topics/t/records?expected_offset=0";
    server.post(path, &json!({"partition": 0, "value": 1})).await.expect(200);
    server.post(path, &json!({"partition": 0, "value": 2})).await.problem(409, "unexpected_offset");
    server.post(path, &json!([{"value": 1}, {"value": 2}])).await.problem(400, "invalid_request");
}

#[tokio::test]
async fn reading_starts_anywhere() {
    let server = Server::start().await;
    server.topic("t").await;
    let records: Vec<Value> = (0..5).map(|n| json!({"value": n, "timestamp": n * 1000})).collect();
    server.post("/v1/topics/t/records", &json!(records)).await.expect(200);
    let base = "/v1/topics/t/partitions/0";
    for (query, first) in [("", 0), ("?offset=3", 3), ("?from=earliest", 0), ("?time=1500", 2), ("?time=1970-01-01T00:00:04Z", 4)] {
        let fetched = server.get(&format!("{base}/records{query}")).await.expect(200);
        assert_eq!(fetched["records"][0]["offset"], first, "{query}");
        assert_eq!((&fetched["next_offset"], &fetched["high_watermark"]), (&json!(5), &json!(5)));
    }
    let few = server.get(&format!("{base}/records?max_records=2")).await.expect(200);
    assert_eq!((few["records"].as_array().unwrap().len(), &few["next_offset"]), (2, &json!(2)));
    assert_eq!(server.get(&format!("{base}/offset?time=1500")).await.expect(200)["offset"], 2);
    assert_eq!(server.get(&format!("{base}/offset?at=latest")).await.expect(200)["offset"], 5);
    server.get(&format!("{base}/records?offset=99")).await.problem(416, "offset_out_of_range");
    server.get(&format!("{base}/records?offset=x")).await.problem(400, "invalid_query");
    server.get(&format!("{base}/records?from=earliest&offset=1")).await.problem(400, "invalid_query");
    server.get("/v1/topics/t/partitions/7/records").await.problem(404, "partition_not_found");
    server.get("/v1/topics/t/partitions/x/records").await.problem(400, "invalid_path");

    let lines = server.send("GET", &format!("{base}/records?offset=3"), &[("accept", "application/x-ndjson")], "").await;
    assert_eq!(lines.headers["onelog-next-offset"], "5");
    let offsets: Vec<i64> =
        lines.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, [3, 4]);
    server.send("GET", &format!("{base}/records"), &[("accept", "text/html")], "").await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn a_long_poll_ends_with_the_first_record() {
    let server = Server::start().await;
    server.topic("t").await;
    let begun = Instant::now();
    let later = async {
        // The one that waits is connected before there is anything to read.
        while server.get("/metrics").await.text().lines().all(|line| line != "onelog_http_connections 2") {}
        server.post("/v1/topics/t/records", &json!({"value": 1})).await.expect(200);
    };
    let (fetched, ()) = tokio::join!(server.get("/v1/topics/t/partitions/0/records?wait_ms=20000"), later);
    assert_eq!(fetched.expect(200)["records"].as_array().unwrap().len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_tail_tells_records_and_resumes_where_it_ended() {
    let server = Server::start().await;
    server.post("/v1/topics", &json!({"name": "t", "partitions": 2})).await.expect(201);
    server.post("/v1/topics/t/records", &json!([{"partition": 0, "value": "a"}, {"partition": 1, "value": "b"}])).await.expect(200);
    let mut tail = open_tail(&server, "?from=earliest", "").await;
    let seen = read_until(&mut tail, "\"b\"").await;
    assert!(seen.contains("\"a\"") && seen.contains("id: 0-1,1-1"), "{seen}");
    server.post("/v1/topics/t/records", &json!({"partition": 0, "value": "live"})).await.expect(200);
    read_until(&mut tail, "\"live\"").await;
    drop(tail);
    let mut resumed = open_tail(&server, "", "Last-Event-ID: 0-1,1-1\r\n").await;
    let seen = read_until(&mut resumed, "\"live\"").await;
    assert!(!seen.contains("\"a\"") && !seen.contains("\"b\""), "{seen}");
}

async fn open_tail(server: &Server, query: &str, header: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /v1/topics/t/tail{query} HTTP/1.1\r\nhost: x\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(wanted) {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.expect(&seen).unwrap();
        assert!(read > 0, "the stream ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    seen
}
