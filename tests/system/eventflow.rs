//! An event platform's whole day: every event sent twice, the invalid ones buried at once, mended, and sent back.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::api::Api;
use crate::machine::{self, Need};
use crate::support::Server;
use crate::workload;

const TOPIC: &str = "events";
const GROUP: &str = "workers";

#[test]
fn events_sent_twice_are_stored_once_and_the_invalid_ones_are_buried_and_redriven() {
    if !machine::has(&[Need::Python]) {
        return;
    }
    let data = machine::scratch();
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    let events: Vec<String> = workload::lines("W2", 1_000).into_iter().map(|line| line.value).collect();
    let distinct: HashSet<&String> = events.iter().collect();

    for event in events.iter().chain(&events) {
        assert_eq!(api.send("POST", "/events", event.as_bytes()).status, 202, "{event}");
    }
    let stored = api.records(TOPIC);
    assert_eq!((stored.len(), distinct.len()), (987, 987));
    assert!(stored.iter().all(|record| distinct.contains(&record["value"].as_str().unwrap().to_owned())), "each as it was sent");
    assert_eq!(api.metric("events_received_total"), 2_000.0);
    assert_eq!(api.metric("events_duplicate_total"), 1_013.0);

    assert_eq!(work(&mut api, is_valid), (976, 11));
    assert_eq!(counts(&mut api), (0, 976, 11));
    let letters = api.dead_letters(TOPIC);
    assert_eq!(letters.len(), 11);
    for letter in &letters {
        assert_eq!((&letter["attempts"], &letter["reason"]), (&json!(1), &json!("purchase without amount")));
        let payload = letter["record"]["value"].as_str().unwrap();
        assert!(distinct.contains(&payload.to_owned()) && payload.contains("prod_0000"), "{payload}");
        assert_eq!((&letter["origin_topic"], &letter["group"], &letter["member"]), (&json!(TOPIC), &json!(GROUP), &json!("worker-1")));
    }

    let redrive = format!("/v1/topics/{TOPIC}/dead-letters/redrive");
    let counted = api.post(&redrive, &json!({"dry_run": true}));
    assert_eq!((&counted["matched"], &counted["done"], &counted["left"]), (&json!(11), &json!(0), &json!(11)));
    let sent = api.post(&redrive, &json!({}));
    assert_eq!((&sent["matched"], &sent["done"], &sent["left"]), (&json!(11), &json!(11), &json!(0)));
    assert_eq!(work(&mut api, |_| true), (11, 0), "the worker was mended: it takes them now");
    assert_eq!(api.dead_letters(TOPIC).len(), 0);
    assert_eq!(counts(&mut api), (0, 987, 11));
    server.stop();
}

fn is_valid(event: &Value) -> bool {
    event["event_type"] != "purchase" || event["properties"]["amount"].is_number()
}

/// Works until nothing is ready; how many were done and how many buried.
fn work(api: &mut Api, is_good: impl Fn(&Value) -> bool) -> (usize, usize) {
    let (mut done, mut buried) = (0, 0);
    loop {
        let deliveries = api.receive(TOPIC, GROUP, &json!({"member": "worker-1", "max": 100}));
        if deliveries.is_empty() {
            return (done, buried);
        }
        assert!(deliveries.iter().all(|delivery| delivery["attempt"] == 1));
        let is_good = |delivery: &Value| is_good(&serde_json::from_str(delivery["value"].as_str().unwrap()).unwrap());
        let (good, bad): (Vec<Value>, Vec<Value>) = deliveries.into_iter().partition(is_good);
        api.ack(TOPIC, GROUP, &good);
        api.bury(TOPIC, GROUP, &bad, "purchase without amount");
        done += good.len();
        buried += bad.len();
    }
}

/// Not settled, acked, dead.
fn counts(api: &mut Api) -> (u64, u64, u64) {
    let counts = &api.group(TOPIC, GROUP)["counts"];
    let of = |state: &str| counts[state].as_u64().unwrap();
    (of("ready") + of("leased") + of("deferred"), of("acked"), of("dead"))
}
