//! A disk that fills up: publishing is refused whole, everything else works, and all is well again when there is space.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::machine::{self, LoopDisk, Need};
use crate::support::{Server, run};

/// A watchdog, longer than the time between two checkpoints of a broker that is not busy.
const PATIENCE: Duration = Duration::from_secs(150);
const SMALL: &[&str] = &["--segment-bytes", "4MiB", "--checkpoint-bytes", "1MiB"];

#[test]
fn a_full_disk_refuses_publishes_whole_and_serves_the_rest() {
    if !machine::has(&[Need::LoopMount]) {
        return;
    }
    let disk = LoopDisk::new(48).unwrap();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let data = disk.path().join("data");
    let server = Server::with(&data, SMALL);
    let mut api = Api::to(&server);
    api.create_topic("t", 1);
    api.create_group("t", "g", &json!({}));
    api.create_topic("not-needed", 1);

    let mut acked = publish_until_refused(&mut api, 0);
    assert!(acked > 100, "{acked}");
    let rest = fill_up(disk.path());
    assert_serves_on(&mut api, acked, 5);
    assert_eq!(api.send("DELETE", "/v1/topics/not-needed", b"").status, 204, "deletes work");
    server.kill();
    let check = run(&["check", data.to_str().unwrap()]);
    assert_eq!(check.code, 0, "{check:?}");

    // A start needs no more than what is left, and finds use for the last blocks of a step that was not finished.
    let server = Server::with(&data, SMALL);
    let mut api = Api::to(&server);
    assert_eq!(api.refused("GET", "/v1/topics/not-needed", b""), (404, "topic_not_found".to_owned()), "a delete is durable");
    acked = publish_until_refused(&mut api, acked);
    assert_serves_on(&mut api, acked, 10);
    std::fs::remove_file(ballast).unwrap();
    std::fs::remove_file(rest).unwrap();
    // The file system gives the blocks back with its next commit, not a moment later.
    std::fs::File::open(disk.path()).unwrap().sync_all().unwrap();
    let patience = Instant::now() + PATIENCE;
    while api.send("GET", "/health", b"").status != 200 {
        assert!(Instant::now() < patience, "nobody noticed that there is space, without anybody publishing");
    }
    publish(&mut api, acked).unwrap();
    acked += 2;
    acked = publish_until_refused(&mut api, acked);
    fill_up(disk.path());
    assert_serves_on(&mut api, acked, 15);
    server.stop();
    let check = run(&["check", data.to_str().unwrap()]);
    assert_eq!(check.code, 0, "{check:?}");
}

#[test]
fn a_checkpoint_that_finds_no_room_harms_nothing() {
    if !machine::has(&[Need::LoopMount]) {
        return;
    }
    let disk = LoopDisk::new(48).unwrap();
    let data = disk.path().join("data");
    let server = Server::with(&data, SMALL);
    let mut api = Api::to(&server);
    api.create_topic("t", 1);
    api.create_group("t", "g", &json!({}));
    let mut acked = 0;
    while acked < 100 {
        publish(&mut api, acked).unwrap();
        acked += 2;
    }
    // The log has blocks ahead of it; the index has none.
    let rest = fill_up(disk.path());
    acked = publish_until_refused(&mut api, acked);
    let patience = Instant::now() + PATIENCE;
    while !server.said().contains("checkpoint failed") {
        assert!(Instant::now() < patience, "no checkpoint was tried: {}", server.said());
        api.get("/v1/topics");
    }
    assert_serves_on(&mut api, acked, 5);

    std::fs::remove_file(rest).unwrap();
    std::fs::File::open(disk.path()).unwrap().sync_all().unwrap();
    let before = api.metric("onelog_checkpoints_total");
    while api.metric("onelog_checkpoints_total") == before {
        assert!(Instant::now() < patience, "no checkpoint succeeds: {}", server.said());
        publish(&mut api, acked).unwrap();
        acked += 2;
    }
    let ended = server.stop();
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    let server = Server::with(&data, SMALL);
    assert_eq!(Api::to(&server).partition("t", 0).len(), acked);
}

/// Takes the blocks that are left, to the last one. The file that holds them.
fn fill_up(disk: PathBuf) -> PathBuf {
    let rest = disk.join("rest");
    let mut file = std::fs::File::create(&rest).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; bytes]).and_then(|()| file.sync_all()).is_ok() {}
    }
    rest
}

/// Two records of 30 kB, numbered from `next`; `Err` is status and code.
fn publish(api: &mut Api, next: usize) -> Result<(), (u16, String)> {
    let record = |number: usize| json!({"key": number.to_string(), "value": "x".repeat(30_000), "id": number.to_string()});
    let answer = api.send("POST", "/v1/topics/t/records", json!([record(next), record(next + 1)]).to_string().as_bytes());
    if answer.status == 200 { Ok(()) } else { Err((answer.status, answer.problem())) }
}

/// Until it is refused and stays so: a file system finds a few more blocks when it has tidied up. How many records are
/// acknowledged then.
fn publish_until_refused(api: &mut Api, mut next: usize) -> usize {
    let mut refusals = 0;
    while refusals < 20 {
        match publish(api, next) {
            Ok(()) => (next, refusals) = (next + 2, 0),
            Err(refused) => {
                assert_eq!(refused, (503, "disk_full".to_owned()));
                refusals += 1;
            }
        }
    }
    next
}

/// Everything acknowledged is there, nothing else is, and a member can work until `acks` records are settled.
fn assert_serves_on(api: &mut Api, acked: usize, acks: u64) {
    assert_eq!(publish(api, acked), Err((503, "disk_full".to_owned())));
    let health = api.send("GET", "/health", b"");
    assert_eq!((health.status, &health.json()["parts"]["disk"]["status"]), (503, &json!("full")));
    let keys: Vec<Value> = api.partition("t", 0).into_iter().map(|mut record| record["key"].take()).collect();
    assert_eq!(keys, (0..acked).map(|number| json!(number.to_string())).collect::<Vec<_>>());
    let deliveries = api.receive("t", "g", &json!({"max": 5, "visibility_ms": 3_600_000}));
    api.ack("t", "g", &deliveries);
    assert_eq!(api.group("t", "g")["counts"]["acked"], acks);
}
