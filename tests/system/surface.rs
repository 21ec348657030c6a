//! What people script against and no other test looks at: names and shapes that must not change.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::Api;
use crate::machine::scratch;
use crate::support::Server;

#[test]
fn the_metrics_have_their_names() {
    let data = scratch();
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    let event = json!({"event_type": "x", "event_id": "799b45f2-2b23-4e9f-af76-32fb5587e5a7"});
    api.post("/events", &event);
    api.post("/events", &event);
    let deliveries = api.receive("events", "sink", &json!({}));
    api.ack("events", "sink", &deliveries);
    assert_eq!((api.metric("events_received_total"), api.metric("events_duplicate_total")), (2.0, 1.0));

    let page = api.send("GET", "/metrics", b"");
    assert!(page.header("content-type").starts_with("text/plain; version=0.0.4"), "{page:?}");
    let sink = r#"{topic="events",sink="sink"}"#;
    for sample in ["events_processed_total", "events_failed_total", "queue_depth", "pending_messages", "error_rate"] {
        assert!(page.text().lines().any(|line| line.starts_with(&format!("{sample}{sink} "))), "{sample}");
    }
    for histogram in ["event_processing_duration_seconds", "event_processing_duration", "processing_latency_seconds"] {
        assert!(page.text().contains(&format!("{histogram}_count{sink} 1\n")), "{histogram}");
    }
    let summary = api.get("/metrics/summary");
    assert_eq!((&summary["events_received"], &summary["queue_length"], &summary["pending_messages"]), (&json!(2), &json!(1), &json!(0)));
}

#[test]
fn the_house_says_how_it_is_and_what_it_takes() {
    let data = scratch();
    let server = Server::with(data.path(), &["--kafka", "off", "--redis", "off"]);
    let mut api = Api::to(&server);
    let health = api.get("/health");
    assert_eq!(health["status"], "ok");
    for part in ["log", "writer", "index", "disk"] {
        assert_eq!(health["parts"][part]["status"], "ok", "{health}");
    }
    assert_eq!(api.send("GET", "/health/live", b"").status, 200);
    assert_eq!(api.send("GET", "/health/ready", b"").status, 200);

    let document = api.get("/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    for path in ["/events", "/health", "/metrics", "/v1/topics/{topic}/records", "/v1/topics/{topic}/groups/{group}/receive"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert_references_lead_somewhere(&document, &document);
    let docs = api.send("GET", "/docs", b"");
    assert!(docs.header("content-type").starts_with("text/html"));
    for outside in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!docs.text().contains(outside), "the page must load without internet, it has {outside}");
    }
}

/// Every `$ref` of the document names a part of it.
fn assert_references_lead_somewhere(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
            fields.values().for_each(|field| assert_references_lead_somewhere(document, field));
        }
        Value::Array(items) => items.iter().for_each(|item| assert_references_lead_somewhere(document, item)),
        _ => {}
    }
}

#[test]
fn produced_keys_go_where_kafka_clients_put_them_and_ids_are_stored_once() {
    let data = scratch();
    let server = Server::on(data.path());
    let golden = BTreeMap::from([
        ("5814067a-2bbd-4cbd-96d0-d31ed9d56ba2", 1),
        ("e27b59bc-f20f-483f-8435-f5ae86d30c70", 2),
        ("75694c74-bec0-4b66-bf13-294ce5dab153", 2),
        ("9386f37e-f650-4707-ac78-ed37e62399e6", 0),
        ("f07a948d-4c28-4b32-94a6-e106c24c6da9", 1),
    ]);
    let lines: String = golden.keys().map(|key| format!("{{\"user\": {{\"id\":\"{key}\"}}, \"n\":\"id of {key}\"}}\n")).collect();
    let produce = ["produce", "keyed", "-", "--create-partitions", "3", "--key-field", "user.id", "--id-field", "n"];
    let first = server.run_with_input(&produce, &lines);
    assert_eq!((first.code, first.err.as_str()), (0, "published 5 records (0 duplicates)\n"));
    let again = server.run_with_input(&produce, &lines);
    assert_eq!((again.code, again.err.as_str()), (0, "published 5 records (5 duplicates)\n"));

    let consumed = server.run(&["consume", "keyed", "--from-beginning", "--exit-at-end", "--json"]);
    let records: Vec<Value> = consumed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 5);
    for record in &records {
        let names: Vec<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["headers", "key", "offset", "partition", "timestamp", "topic", "value"]);
        let key = record["key"].as_str().unwrap();
        assert_eq!(record["partition"], golden[key], "{key}");
        assert!(lines.contains(&(record["value"].as_str().unwrap().to_owned() + "\n")), "byte for byte");
    }
}
