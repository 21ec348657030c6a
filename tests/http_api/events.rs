//! The plain doors: events in, health and numbers out.

use serde_json::{Value, json};

use super::client::Server;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn event(id: &str, amount: f64) -> String {
    format!(
        "{{\"event_id\": \"{id}\", \"event_type\": \"purchase\", \"user_id\": \"user_1\", \"timestamp\": \"2024-01-15T10:30:00.001\", \"properties\": {{\"amount\": {amount}}}, \"extra\": [1]}}"
    )
}

#[tokio::test]
async fn an_event_is_stored_once_and_as_it_was_sent() {
    let server = Server::start().await;
    let id = "380daac0-5b75-2273-5731-4ed170a91a4b";
    let first = server.send("POST", "/events", JSON, event(id, 1.5)).await.expect(202);
    assert_eq!((&first["event_id"], &first["status"], &first["duplicate"]), (&json!(id), &json!("accepted"), &json!(false)));
    let repeat = server.send("POST", "/events", JSON, event(id, 1.5)).await.expect(202);
    assert_eq!((&repeat["duplicate"], &repeat["offset"]), (&json!(true), &first["offset"]));
    server.send("POST", "/events", JSON, event(id, 2.5)).await.problem(409, "idempotency_conflict");
    let records = server.records("events").await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["value"], event(id, 1.5));
    assert_eq!(records[0]["key"], "user_1");
    let summary = server.get("/metrics/summary").await.expect(200);
    assert_eq!(
        (&summary["events_received"], &summary["events_duplicate"], &summary["queue_length"], &summary["pending_messages"]),
        (&json!(2), &json!(1), &json!(1), &json!(0))
    );
    let metrics = server.get("/metrics").await;
    assert!(metrics.text().contains("\nevents_received_total 2\n") && metrics.text().contains("\nevents_duplicate_total 1\n"));
}

#[tokio::test]
async fn an_id_is_made_when_there_is_none() {
    let server = Server::start().await;
    let accepted = server.post("/events", &json!({"event_type": "anything"})).await.expect(202);
    let stored: Value = serde_json::from_str(server.records("events").await[0]["value"].as_str().unwrap()).unwrap();
    assert_eq!(stored, json!({"event_id": accepted["event_id"], "event_type": "anything"}));
}

#[tokio::test]
async fn several_events_are_taken_together() {
    let server = Server::start().await;
    let accepted = server.post("/events", &json!([{"event_type": "a"}, {"event_type": "b"}])).await.expect(202);
    assert_eq!(accepted["events"].as_array().unwrap().len(), 2);
    assert_eq!(server.records("events").await.len(), 2);
}

#[tokio::test]
async fn bad_events_are_refused_and_the_next_good_one_is_taken() {
    let server = Server::start().await;
    let problem = server.post("/events", &json!({"event_type": "x", "timestamp": "soon"})).await.problem(422, "invalid_body");
    assert_eq!(problem["field"], "timestamp");
    server.send("POST", "/events", JSON, "{\"event_type\":").await.problem(400, "malformed_json");
    let deep = format!("{{\"event_type\":\"x\",\"properties\":{}{}}}", "{\"a\":".repeat(1000), "}".repeat(1000));
    server.send("POST", "/events", JSON, deep).await.problem(400, "malformed_json");
    server.send("POST", "/events", JSON, vec![b' '; 10_000_000]).await.problem(413, "body_too_large");
    server.send("POST", "/events", &[("content-type", "text/plain")], "x").await.problem(415, "unsupported_media_type");
    server.get("/events").await.problem(405, "method_not_allowed");
    server.post("/events", &json!({"event_type": "x"})).await.expect(202);
}

#[tokio::test]
async fn correlation_goes_from_request_to_record_and_back() {
    let server = Server::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("content-type", "application/json"), ("x-correlation-id", "order-7"), ("traceparent", trace)];
    let answer = server.send("POST", "/events", &headers, json!({"event_type": "x"}).to_string()).await;
    assert_eq!(
        (&answer.headers["x-correlation-id"], &answer.headers["traceparent"]),
        (&"order-7".parse().unwrap(), &trace.parse().unwrap())
    );
    let record = &server.records("events").await[0];
    assert_eq!(record["headers"], json!({"correlation-id": "order-7", "traceparent": trace}));
    assert!(server.get("/health").await.headers.contains_key("x-correlation-id"));
}

#[tokio::test]
async fn the_house_tells_how_it_is() {
    let server = Server::start().await;
    assert_eq!(server.get("/").await.expect(200)["name"], "onelog");
    let health = server.get("/health").await.expect(200);
    for part in ["log", "writer", "index", "disk"] {
        assert_eq!(health["parts"][part]["status"], "ok", "{part}");
    }
    server.get("/health/live").await.expect(200);
    server.get("/health/ready").await.expect(200);
    assert_eq!(server.get("/openapi.json").await.expect(200)["openapi"], "3.1.0");
    assert!(server.get("/docs").await.text().contains("/openapi.json"));
    server.get("/nowhere").await.problem(404, "route_not_found");
}
