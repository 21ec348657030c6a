//! What must not be: each wrong request has its own stable code, none of it is stored, and everybody else is served on.

use std::io::{BufReader, ErrorKind, Read, Write};

use serde_json::{Value, json};

use crate::api::{Api, JSON, LINES, PATIENT_MS};
use crate::client::{connect, read_answer};
use crate::machine::scratch;
use crate::support::Server;

const RECORDS: &str = "/v1/topics/t/records";

/// A server with the topic `t`, that has one partition and no records.
fn server_with_topic(data: &tempfile::TempDir) -> (Server, Api) {
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    api.create_topic("t", 1);
    (server, api)
}

/// Nothing was stored so far, and the next good request is.
fn assert_unharmed(server: &Server) {
    let mut api = Api::to(server);
    assert_eq!(api.records("t"), Vec::<Value>::new());
    assert_eq!(api.send("GET", "/v1/topics/events", b"").status, 404, "no event was stored either");
    assert_eq!(api.publish("t", &json!({"value": "good"}))[0]["offset"], 0);
    assert_eq!(api.send("GET", "/health", b"").status, 200);
}

#[test]
fn wrong_requests_are_refused_by_code_and_nothing_of_them_is_stored() {
    let data = scratch();
    let (server, mut api) = server_with_topic(&data);
    let deep = format!(r#"{{"value":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
    let deep_event = format!(r#"{{"event_type":"x","properties":{}1{}}}"#, r#"{"a":"#.repeat(1_000), "}".repeat(1_000));
    let giant = format!(r#"{{"value":"{}"}}"#, "x".repeat(10 << 20));
    let large = format!(r#"{{"value":"{}"}}"#, "x".repeat((1 << 20) + 1));
    let half_good = r#"[{"value":"a"},{"value":"b","partition":7}]"#;
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str, u16, &str)] = &[
        ("POST", RECORDS, JSON, "{\"value\":", 400, "malformed_json"),
        ("POST", RECORDS, JSON, "", 400, "malformed_json"),
        ("POST", RECORDS, JSON, "\u{fffd}\u{0}", 400, "malformed_json"),
        ("POST", RECORDS, JSON, &deep, 400, "malformed_json"),
        ("POST", "/events", JSON, &deep_event, 400, "malformed_json"),
        ("POST", RECORDS, LINES, "{\"value\":1}\n{\"value\":", 400, "malformed_json"),
        ("POST", RECORDS, JSON, &giant, 413, "body_too_large"),
        ("POST", "/events", JSON, &giant, 413, "body_too_large"),
        ("POST", RECORDS, JSON, &large, 413, "record_too_large"),
        ("POST", RECORDS, JSON, "{\"valeu\":1}", 422, "invalid_body"),
        ("POST", RECORDS, JSON, "{\"value\":1,\"key\":2}", 422, "invalid_body"),
        ("POST", RECORDS, JSON, "{\"value_base64\":\"?\"}", 422, "invalid_body"),
        ("POST", RECORDS, JSON, half_good, 404, "partition_not_found"),
        ("POST", "/events", JSON, "{\"event_type\":7}", 422, "invalid_body"),
        ("POST", "/events", JSON, "{\"event_type\":\"x\",\"event_id\":\"7\"}", 422, "invalid_body"),
        ("POST", RECORDS, "text/plain", "{\"value\":1}", 415, "unsupported_media_type"),
        ("POST", "/events", LINES, "{\"event_type\":\"x\"}", 415, "unsupported_media_type"),
        ("POST", "/v1/topics/nowhere/records", JSON, "{\"value\":1}", 404, "topic_not_found"),
        ("POST", "/v1/batch", JSON, "[{\"topic\":\"t\",\"value\":1},{\"topic\":\"nowhere\",\"value\":1}]", 404, "topic_not_found"),
        ("GET", "/v1/topics/t/partitions/9/records", "", "", 404, "partition_not_found"),
        ("GET", "/v1/topics/t/partitions/x/records", "", "", 400, "invalid_path"),
        ("GET", "/v1/topics/t/partitions/0/records?offset=99", "", "", 416, "offset_out_of_range"),
        ("GET", "/v1/topics/t/partitions/0/records?offset=-1", "", "", 416, "offset_out_of_range"),
        ("GET", "/v1/topics/t/partitions/0/records?offset=soon", "", "", 400, "invalid_query"),
        ("GET", "/v1/topics/t/partitions/0/records?ofset=0", "", "", 400, "invalid_query"),
        ("DELETE", RECORDS, "", "", 405, "method_not_allowed"),
        ("PUT", "/events", JSON, "{\"event_type\":\"x\"}", 405, "method_not_allowed"),
        ("GET", "/nowhere", "", "", 404, "route_not_found"),
        ("POST", "/v1/topics", JSON, "{\"name\":\"../t\"}", 422, "invalid_name"),
        ("POST", "/v1/topics", JSON, "{\"name\":\"u\",\"partitions\":0}", 422, "invalid_setting"),
        ("POST", "/v1/topics", JSON, "{\"name\":\"t\"}", 409, "topic_exists"),
        ("POST", "/v1/topics/t/groups/g/ack", JSON, "{\"leases\":[\"x\"]}", 422, "invalid_body"),
    ];
    for (method, path, content_type, body, status, code) in cases {
        let answer = api.send_as(content_type, method, path, body.as_bytes());
        let shown = &body[..body.len().min(60)];
        assert_eq!((answer.status, answer.problem().as_str()), (*status, *code), "{method} {path} {shown}: {}", answer.text());
    }
    assert_unharmed(&server);
}

#[test]
fn a_stale_lease_changes_nothing() {
    let data = scratch();
    let (server, mut api) = server_with_topic(&data);
    api.publish("t", &json!({"value": "once"}));
    let first = api.receive("t", "g", &json!({"visibility_ms": 1, "wait_ms": PATIENT_MS}));
    let second = api.receive("t", "g", &json!({"visibility_ms": 3_600_000, "wait_ms": PATIENT_MS}));
    assert_eq!((&first[0]["attempt"], &second[0]["attempt"]), (&json!(1), &json!(2)));

    let stale = json!({"leases": [first[0]["lease"]]}).to_string();
    for verb in ["ack", "extend", "release"] {
        assert_eq!(api.refused("POST", &format!("/v1/topics/t/groups/g/{verb}"), stale.as_bytes()), (409, "lease_stale".to_owned()));
    }
    let nack = json!({"failures": [{"lease": first[0]["lease"], "permanent": true}]}).to_string();
    assert_eq!(api.refused("POST", "/v1/topics/t/groups/g/nack", nack.as_bytes()), (409, "lease_stale".to_owned()));
    let made_up = json!({"leases": ["0-7-99"]}).to_string();
    assert_eq!(api.refused("POST", "/v1/topics/t/groups/g/ack", made_up.as_bytes()), (409, "lease_unknown".to_owned()));

    assert_eq!(api.group("t", "g")["counts"]["leased"], 1, "the second member's lease still holds");
    api.ack("t", "g", &second);
    assert_eq!(api.group("t", "g")["counts"]["acked"], 1);
    server.stop();
}

#[test]
fn bytes_that_are_no_request_end_their_connection_and_no_other() {
    let data = scratch();
    let (server, mut other) = server_with_topic(&data);
    let long_header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let garbage: Vec<u8> = (0..10_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let cases: &[&[u8]] = &[
        &garbage,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET\r\n\r\n",
        b"POST /v1/topics/t/records HTTP/1.1\r\nhost: t\r\ncontent-length: 99999999999999999999\r\n\r\n{}",
        b"POST /v1/topics/t/records HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n{}",
        b"POST /v1/topics/t/records HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"POST /v1/topics/t/records HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\ncontent-length: 20\r\n\r\n{}",
        long_header.as_bytes(),
    ];
    for bytes in cases {
        let mut stream = connect(server.address()).unwrap();
        // The server may have heard enough before all was written.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        let told = String::from_utf8_lossy(&heard);
        assert!(heard.is_empty() || told.starts_with("HTTP/1.1 4"), "{told}");
        assert_eq!(other.send("GET", "/health/ready", b"").status, 200);
    }
    assert_unharmed(&server);
}

#[test]
fn a_body_that_breaks_off_is_not_stored() {
    let data = scratch();
    let (server, _) = server_with_topic(&data);
    let mut stream = connect(server.address()).unwrap();
    stream.write_all(b"POST /v1/topics/t/records HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{\"value\":1}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    if let Ok(answer) = read_answer(&mut BufReader::new(stream)) {
        assert_eq!(answer.status, 400);
    }
    assert_unharmed(&server);
}

#[test]
fn headers_that_trickle_are_cut_off_while_others_are_served() {
    let data = scratch();
    let (server, mut other) = server_with_topic(&data);
    let mut slow = connect(server.address()).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nx-slow: ").unwrap();
    // One more byte whenever nothing was heard for a while.
    slow.set_read_timeout(Some(std::time::Duration::from_millis(250))).unwrap();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        assert!(std::time::Instant::now() < patience, "still connected");
        match slow.read(&mut [0; 64]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert_eq!(other.send("GET", "/health/ready", b"").status, 200);
                if slow.write_all(b"y").is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    assert_unharmed(&server);
}
