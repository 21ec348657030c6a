//! Real webhook events through the command line and a crash, byte for byte.

use serde_json::Value;

use crate::machine::scratch;
use crate::support::{Server, data_file};

#[test]
fn real_events_are_byte_identical_after_a_kill_with_and_without_the_index() {
    let file = data_file("github-webhooks.ndjson");
    let events = std::fs::read_to_string(&file).unwrap();
    assert_eq!(events.lines().count(), 329);
    let data = scratch();
    let server = Server::on(data.path());
    let produced = server.run(&["produce", "webhooks", file.to_str().unwrap(), "--create"]);
    assert_eq!(produced.code, 0, "{produced:?}");
    server.kill();

    let server = Server::on(data.path());
    assert_eq!(consume(&server), events);
    server.kill();
    std::fs::remove_file(data.path().join("index.redb")).unwrap();
    let server = Server::on(data.path());
    assert_eq!(consume(&server), events);
}

/// The values, each on a line.
fn consume(server: &Server) -> String {
    let consumed = server.run(&["consume", "webhooks", "--from-beginning", "--exit-at-end", "--json"]);
    assert_eq!(consumed.code, 0, "{consumed:?}");
    let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["value"].as_str().unwrap().to_owned() + "\n";
    consumed.out.lines().map(value).collect()
}
