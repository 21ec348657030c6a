//! SIGTERM: requests in flight are answered, everything that was answered is there, and the program ends with 0.

use serde_json::json;

use crate::api::{Api, PATIENT_MS};
use crate::client::connect;
use crate::machine::scratch;
use crate::publishers::{Ledger, PARTITIONS, Publishers, TOPIC};
use crate::support::Server;

use std::io::Write;

#[test]
fn sigterm_under_load_drains_and_ends_with_0() {
    let data = scratch();
    let server = Server::on(data.path());
    Api::to(&server).create_topic(TOPIC, PARTITIONS);
    let mut ledger = Ledger::default();
    let publishers = Publishers::start(server.address(), "busy", 8);
    publishers.wait_for(100, &mut ledger);
    let stopped = server.stop();
    assert_eq!(stopped.out, "", "stdout has the ready line and nothing else");
    for refusal in publishers.finish(&mut ledger) {
        assert_eq!(refusal, (503, "closing".to_owned()));
    }

    let server = Server::on(data.path());
    ledger.verify(&mut Api::to(&server));
}

#[test]
fn sigterm_ends_waits_at_once_and_a_second_one_ends_everything() {
    let data = scratch();
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    api.create_topic("t", 1);
    // A body that never ends keeps the drain from finishing.
    let mut stuck = connect(server.address()).unwrap();
    stuck.write_all(b"POST /v1/topics/t/records HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let address = server.address().to_owned();
    let waiting = std::thread::spawn(move || Api::at(&address).receive("t", "g", &json!({"member": "patient", "wait_ms": PATIENT_MS})));
    // The waiting member shows once its request has arrived.
    while api.send("GET", "/v1/topics/t/groups/g", b"").status != 200 {}

    server.signal("TERM");
    assert!(waiting.join().unwrap().is_empty(), "the drain answers those who wait");
    server.signal("TERM");
    let ended = server.end();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("again"), "{ended:?}");
    drop(stuck);
    Server::on(data.path()).stop();
}
