//! What the tests ask of a broker, one method per question. Each panics on an answer that is not the good one, unless its
//! name begins with `try`.

use std::io;

use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::support::Server;

pub const JSON: &str = "application/json";
pub const LINES: &str = "application/x-ndjson";
/// A long poll that is allowed to take its time.
pub const PATIENT_MS: u64 = 30_000;

/// A connection to a broker.
pub struct Api {
    client: Client,
}

impl Api {
    pub fn to(server: &Server) -> Self {
        Self::at(server.address())
    }

    pub fn at(address: &str) -> Self {
        Self { client: Client::new(address) }
    }

    pub fn try_send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        self.client.send(method, path, if body.is_empty() { "" } else { JSON }, body)
    }

    pub fn send_as(&mut self, content_type: &str, method: &str, path: &str, body: &[u8]) -> Answer {
        self.client.send(method, path, content_type, body).unwrap()
    }

    /// The answer, whatever it says.
    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.try_send(method, path, body).unwrap()
    }

    /// The code of the problem that is answered.
    pub fn refused(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let answer = self.send(method, path, body);
        (answer.status, answer.problem())
    }

    pub fn get(&mut self, path: &str) -> Value {
        good(self.send("GET", path, b""))
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Value {
        good(self.send("POST", path, body.to_string().as_bytes()))
    }

    pub fn create_topic(&mut self, topic: &str, partitions: u32) {
        self.post("/v1/topics", &json!({"name": topic, "partitions": partitions}));
    }

    pub fn publish(&mut self, topic: &str, records: &Value) -> Vec<Value> {
        list(self.post(&format!("/v1/topics/{topic}/records"), records), "records")
    }

    pub fn create_group(&mut self, topic: &str, group: &str, settings: &Value) {
        let path = format!("/v1/topics/{topic}/groups/{group}");
        good(self.send("PUT", &path, settings.to_string().as_bytes()));
    }

    pub fn group(&mut self, topic: &str, group: &str) -> Value {
        self.get(&format!("/v1/topics/{topic}/groups/{group}"))
    }

    pub fn receive(&mut self, topic: &str, group: &str, request: &Value) -> Vec<Value> {
        list(self.post(&format!("/v1/topics/{topic}/groups/{group}/receive"), request), "deliveries")
    }

    pub fn ack(&mut self, topic: &str, group: &str, deliveries: &[Value]) {
        if deliveries.is_empty() {
            return;
        }
        let leases: Vec<&Value> = deliveries.iter().map(|delivery| &delivery["lease"]).collect();
        let answer = self.post(&format!("/v1/topics/{topic}/groups/{group}/ack"), &json!({"leases": leases}));
        assert!(list(answer, "outcomes").iter().all(|outcome| outcome["result"] == "acked"));
    }

    /// Fails deliveries for good.
    pub fn bury(&mut self, topic: &str, group: &str, deliveries: &[Value], reason: &str) {
        if deliveries.is_empty() {
            return;
        }
        let failure = |delivery: &Value| json!({"lease": delivery["lease"], "reason": reason, "permanent": true});
        let failures: Vec<Value> = deliveries.iter().map(failure).collect();
        let answer = self.post(&format!("/v1/topics/{topic}/groups/{group}/nack"), &json!({"failures": failures}));
        assert!(list(answer, "outcomes").iter().all(|outcome| outcome["result"] == "dead_lettered"));
    }

    pub fn dead_letters(&mut self, topic: &str) -> Vec<Value> {
        list(self.get(&format!("/v1/topics/{topic}/dead-letters?limit=1000")), "dead_letters")
    }

    /// Every record of a partition, in order.
    pub fn partition(&mut self, topic: &str, partition: u64) -> Vec<Value> {
        self.partition_from(topic, partition, 0)
    }

    /// Those from an offset on.
    pub fn partition_from(&mut self, topic: &str, partition: u64, offset: i64) -> Vec<Value> {
        let mut records = Vec::new();
        let mut next = offset;
        loop {
            let path = format!("/v1/topics/{topic}/partitions/{partition}/records?offset={next}&max_records=10000&max_bytes=8000000");
            let page = self.get(&path);
            next = page["next_offset"].as_i64().unwrap();
            let done = page["next_offset"] == page["high_watermark"];
            records.extend(list(page, "records"));
            if done {
                return records;
            }
        }
    }

    /// Every record of a topic, partition by partition.
    pub fn records(&mut self, topic: &str) -> Vec<Value> {
        let partitions = self.get(&format!("/v1/topics/{topic}"))["partitions"].as_array().unwrap().len() as u64;
        (0..partitions).flat_map(|partition| self.partition(topic, partition)).collect()
    }

    /// The value of a metric without labels.
    pub fn metric(&mut self, name: &str) -> f64 {
        let page = self.send("GET", "/metrics", b"");
        let line = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }
}

fn good(answer: Answer) -> Value {
    assert!((200..300).contains(&answer.status), "{} {}", answer.status, answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn list(mut answer: Value, field: &str) -> Vec<Value> {
    match answer[field].take() {
        Value::Array(values) => values,
        other => panic!("{field}: {other}"),
    }
}
