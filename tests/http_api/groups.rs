//! Queue groups, dead letters and stream groups.

use serde_json::{Value, json};

use super::client::Server;

const GROUP: &str = "/v1/topics/t/groups/g";

async fn with_records(count: usize) -> Server {
    let server = Server::start().await;
    server.topic("t").await;
    let records: Vec<Value> =
        (0..count).map(|n| json!({"key": format!("k{n}"), "value": {"n": n}, "headers": {"h": n.to_string()}})).collect();
    server.post("/v1/topics/t/records", &json!({ "records": records })).await.expect(200);
    server
}

async fn receive(server: &Server, max: usize) -> Vec<Value> {
    let received = server.post(&format!("{GROUP}/receive"), &json!({"member": "m", "max": max})).await.expect(200);
    received["deliveries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_delivery_is_leased_then_acked_for_ever() {
    let server = with_records(3).await;
    let deliveries = receive(&server, 2).await;
    assert_eq!(deliveries.len(), 2);
    assert_eq!((&deliveries[0]["attempt"], &deliveries[0]["value"]), (&json!(1), &json!("{\"n\":0}")));
    let leases: Vec<&Value> = deliveries.iter().map(|delivery| &delivery["lease"]).collect();
    let extended = server.post(&format!("{GROUP}/extend"), &json!({"leases": leases, "visibility_ms": 60_000})).await.expect(200);
    assert_eq!(extended["outcomes"][0]["result"], "extended");
    let acked = server.post(&format!("{GROUP}/ack"), &json!({ "leases": leases })).await.expect(200);
    assert_eq!(acked["outcomes"][1], json!({"lease": leases[1], "result": "acked"}));
    let stale = server.post(&format!("{GROUP}/ack"), &json!({ "leases": leases })).await;
    assert_eq!(stale.status, 409);
    let problem = stale.json();
    assert_eq!(problem["outcomes"].as_array().unwrap().len(), 2);
    assert!(["lease_stale", "lease_unknown"].contains(&problem["code"].as_str().unwrap()));
    server.post(&format!("{GROUP}/ack"), &json!({"leases": ["0-x"]})).await.problem(422, "invalid_body");
    let group = server.get(GROUP).await.expect(200);
    assert_eq!((&group["counts"]["acked"], &group["counts"]["ready"]), (&json!(2), &json!(1)));
    let partly = receive(&server, 1).await;
    let mixed = server.post(&format!("{GROUP}/ack"), &json!({"leases": [leases[0], partly[0]["lease"]]})).await.expect(200);
    assert!(mixed["outcomes"][0]["error"].is_string());
    assert_eq!(mixed["outcomes"][1]["result"], "acked");
}

#[tokio::test]
async fn a_released_record_comes_again_as_the_same_attempt() {
    let server = with_records(1).await;
    let first = receive(&server, 1).await;
    server.post(&format!("{GROUP}/release"), &json!({"leases": [first[0]["lease"]]})).await.expect(200);
    let second = receive(&server, 1).await;
    assert_eq!(second[0]["attempt"], 1);
    assert_ne!(second[0]["lease"], first[0]["lease"]);
}

#[tokio::test]
async fn a_group_has_settings_and_can_be_moved() {
    let server = with_records(4).await;
    let created = server.json("PUT", GROUP, &json!({"visibility_ms": 5_000, "start": {"offset": 2}})).await.expect(200);
    assert_eq!(created["settings"]["visibility_ms"], 5_000);
    server.json("PUT", GROUP, &json!({"visibility_ms": 6_000})).await.problem(409, "group_exists");
    let changed = server.json("PATCH", GROUP, &json!({"max_deliveries": 2, "retry": {"cap_ms": 100, "initial_ms": 10}})).await.expect(200);
    assert_eq!((&changed["settings"]["visibility_ms"], &changed["settings"]["retry"]["cap_ms"]), (&json!(5_000), &json!(100)));
    assert_eq!(receive(&server, 10).await.len(), 2);
    server.post(&format!("{GROUP}/seek"), &json!({"to": "earliest"})).await.expect(200);
    assert_eq!(receive(&server, 10).await.len(), 4);
    server.post(&format!("{GROUP}/seek"), &json!({"to": "yesterday"})).await.problem(422, "invalid_body");
    assert_eq!(server.get("/v1/topics/t/groups").await.expect(200)["groups"][0]["group"], "g");
    server.send("DELETE", GROUP, &[], "").await.expect(204);
    server.get(GROUP).await.problem(404, "group_not_found");
}

#[tokio::test]
async fn deliveries_come_as_lines_too() {
    let server = with_records(2).await;
    let answer = server.send("POST", &format!("{GROUP}/receive"), &[("accept", "application/x-ndjson")], "").await;
    assert_eq!(answer.text().lines().count(), 2);
    assert!(answer.text().lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["lease"].is_string()));
}

#[tokio::test]
async fn a_dead_letter_tells_its_story_and_goes_back_mended() {
    let server = with_records(3).await;
    let deliveries = receive(&server, 3).await;
    let failures: Vec<Value> =
        deliveries.iter().map(|d| json!({"lease": d["lease"], "reason": format!("bad {}", d["key"]), "permanent": true})).collect();
    let nacked = server.post(&format!("{GROUP}/nack"), &json!({ "failures": failures })).await.expect(200);
    assert_eq!(nacked["outcomes"][0]["result"], "dead_lettered");

    let base = "/v1/topics/t/dead-letters";
    let list = server.get(base).await.expect(200);
    let letter = &list["dead_letters"][0];
    assert_eq!((&letter["attempts"], &letter["group"], &letter["origin_offset"]), (&json!(1), &json!("g"), &json!(0)));
    assert_eq!(letter["record"]["value"], "{\"n\":0}");
    let one = server.get(&format!("{base}?key=k1")).await.expect(200);
    assert_eq!(one["dead_letters"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(&format!("{base}?header=h:2")).await.expect(200)["dead_letters"][0]["record"]["key"], "k2");
    let paged = server.get(&format!("{base}?limit=2")).await.expect(200);
    let rest = server.get(&format!("{base}?after={}", paged["next"].as_str().unwrap())).await.expect(200);
    assert_eq!(rest["dead_letters"].as_array().unwrap().len(), 1);

    let place = format!("{base}/{}/{}", letter["partition"], letter["offset"]);
    assert_eq!(server.get(&place).await.expect(200)["reason"], letter["reason"]);
    server.get(&format!("{base}/0/999")).await.problem(404, "dead_letter_not_found");
    server.post(&format!("{place}/redrive"), &json!({"value": {"n": "mended"}})).await.expect(200);
    let mended = receive(&server, 1).await;
    assert_eq!((&mended[0]["value"], &mended[0]["key"]), (&json!("{\"n\":\"mended\"}"), &json!("k0")));

    let dry = server.post(&format!("{base}/redrive"), &json!({"dry_run": true})).await.expect(200);
    assert_eq!((&dry["matched"], &dry["done"], &dry["left"]), (&json!(2), &json!(0), &json!(2)));
    let done = server.post(&format!("{base}/redrive"), &json!({"filter": {"key": "k1"}})).await.expect(200);
    assert_eq!((&done["done"], &done["left"]), (&json!(1), &json!(1)));
    let purged = server.post(&format!("{base}/purge"), &json!({})).await.expect(200);
    assert_eq!((&purged["done"], &purged["left"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn stream_groups_keep_offsets() {
    let server = with_records(5).await;
    let offsets = json!({"offsets": [{"topic": "t", "partition": 0, "offset": 3}]});
    let committed = server.json("PUT", "/v1/stream-groups/s/offsets", &offsets).await.expect(200);
    assert_eq!(committed, offsets);
    assert_eq!(server.get("/v1/stream-groups").await.expect(200)["groups"], json!(["s"]));
    let moved = server.post("/v1/stream-groups/s/seek", &json!({"topic": "t", "to": "latest"})).await.expect(200);
    assert_eq!(moved["offsets"][0]["offset"], 5);
    server.send("DELETE", "/v1/stream-groups/s", &[], "").await.expect(204);
    assert_eq!(server.get("/v1/stream-groups/s/offsets").await.expect(200)["offsets"], json!([]));
}
