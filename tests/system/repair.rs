//! `onelog repair`: what is good of a damaged directory is served again, what is lost is told, and a queue group that meets
//! either is never stuck in silence.

use std::path::Path;

use serde_json::{Value, json};

use crate::api::Api;
use crate::damage::{DAMAGED, RECORDS, assert_names_the_place, contents, flip_a_bit, needle};
use crate::machine::scratch;
use crate::support::{Server, run};

/// How many records the group acked before the end.
const ACKED: usize = 3;

/// Records and a group that acked some, in a directory as a crash leaves it.
fn crashed_with_a_group(dir: &Path) {
    let server = Server::on(dir);
    let mut api = Api::to(&server);
    api.create_topic("t", 1);
    api.create_group("t", "g", &json!({"start": "earliest", "visibility_ms": 600_000}));
    for number in 0..RECORDS {
        api.publish("t", &json!({"value": needle(number), "id": number.to_string()}));
    }
    let deliveries = api.receive("t", "g", &json!({"max": ACKED, "member": "m"}));
    api.ack("t", "g", &deliveries);
    server.kill();
}

fn values(deliveries: &[Value]) -> Vec<String> {
    deliveries.iter().map(|delivery| delivery["value"].as_str().unwrap().to_owned()).collect()
}

fn all_but(lost: usize, from: usize) -> Vec<String> {
    (from..RECORDS).filter(|number| *number != lost).map(needle).collect()
}

#[test]
fn a_repaired_directory_serves_everything_but_what_is_reported_lost() {
    for with_index in [true, false] {
        let (data, place) = (scratch(), scratch());
        crashed_with_a_group(data.path());
        if with_index {
            Server::on(data.path()).stop();
        } else {
            let _ = std::fs::remove_file(data.path().join("index.redb"));
        }
        flip_a_bit(data.path());
        let mut before = contents(data.path());
        before.insert("index".into(), std::fs::read(data.path().join("index.redb")).unwrap_or_default());
        let new = place.path().join("new");
        let (from, into) = (data.path().to_str().unwrap(), new.to_str().unwrap());
        let ended = run(&["repair", from, "--into", into, "--json"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let mut after = contents(data.path());
        after.insert("index".into(), std::fs::read(data.path().join("index.redb")).unwrap_or_default());
        assert!(before == after, "the old directory was changed");
        let report: Value = serde_json::from_str(&ended.out).unwrap();
        let lost = json!([{"from": DAMAGED, "to": DAMAGED + 1}]);
        assert_eq!((&report["partitions"][0]["partition"], &report["partitions"][0]["lost"]), (&json!("t/0"), &lost), "{report}");
        assert_eq!((&report["records"], &report["state_from_checkpoint"]), (&json!(RECORDS - 1), &json!(with_index)), "{report}");
        let check = run(&["check", into]);
        assert_eq!(check.code, 0, "{check:?}");
        serves_the_rest(&new);
        assert_eq!(run(&["check", into]).code, 0);
        let again = run(&["repair", from, "--into", into]);
        assert!(again.code == 2 && again.err.contains("is not empty"), "{again:?}");
    }
}

fn serves_the_rest(dir: &Path) {
    let server = Server::on(dir);
    let mut api = Api::to(&server);
    let deliveries = api.receive("t", "g", &json!({"max": 100, "member": "m"}));
    let mut left = values(&deliveries);
    // Received in two parts: the first ends where the lost range begins.
    let more = api.receive("t", "g", &json!({"max": 100, "member": "m"}));
    left.extend(values(&more));
    assert_eq!(left, all_but(DAMAGED, ACKED), "acked stays acked, and the lost record holds up none behind it");
    api.ack("t", "g", &deliveries);
    api.ack("t", "g", &more);
    let counts = &api.group("t", "g")["counts"];
    assert_eq!((&counts["acked"], &counts["skipped"], &counts["ready"]), (&json!(RECORDS - 1), &json!(1), &json!(0)), "{counts}");
    let answer = api.send("GET", &format!("/v1/topics/t/partitions/0/records?offset={DAMAGED}"), b"");
    assert_eq!((answer.status, answer.problem().as_str()), (410, "records_lost"));
    assert!(answer.json()["detail"].as_str().unwrap().contains(&format!("go on at offset {}", DAMAGED + 1)), "{}", answer.text());
    let repeat = api.publish("t", &json!({"value": needle(1), "id": "1"}));
    assert_eq!((&repeat[0]["offset"], &repeat[0]["duplicate"]), (&json!(1), &json!(true)), "{repeat:?}");
    let anew = api.publish("t", &json!({"value": needle(DAMAGED), "id": DAMAGED.to_string()}));
    assert_eq!(
        (&anew[0]["offset"], &anew[0]["duplicate"]),
        (&json!(RECORDS), &json!(false)),
        "a lost record can be published again: {anew:?}"
    );
    server.stop();
}

#[test]
fn a_directory_that_is_whole_or_in_use_is_not_repaired() {
    let (data, place) = (scratch(), scratch());
    crashed_with_a_group(data.path());
    let (from, new) = (data.path().to_str().unwrap(), place.path().join("new"));
    let into = new.to_str().unwrap();
    let ended = run(&["repair", from, "--into", into]);
    assert!(ended.code == 2 && ended.err.contains("nothing is damaged") && !new.exists(), "{ended:?}");
    let inside = data.path().join("inside");
    let ended = run(&["repair", from, "--into", inside.to_str().unwrap()]);
    assert!(ended.code == 2 && !inside.exists(), "{ended:?}");
    let server = Server::on(data.path());
    let ended = run(&["repair", from, "--into", into]);
    assert!(ended.code == 1 && ended.err.contains("in use") && !new.exists(), "{ended:?}");
    server.stop();
}

#[test]
fn a_group_that_meets_damage_says_so_and_goes_on_behind_it_when_told_to() {
    let data = scratch();
    crashed_with_a_group(data.path());
    Server::on(data.path()).stop();
    let flipped = flip_a_bit(data.path());
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    let deliveries = api.receive("t", "g", &json!({"max": 100, "member": "m"}));
    assert_eq!(values(&deliveries), (ACKED..DAMAGED).map(needle).collect::<Vec<_>>(), "what lies before is given out");
    api.ack("t", "g", &deliveries);
    for _ in 0..2 {
        let answer = api.send("POST", "/v1/topics/t/groups/g/receive", br#"{"max": 100, "wait_ms": 30000, "member": "m"}"#);
        assert_eq!((answer.status, answer.problem().as_str()), (500, "damaged"), "{}", answer.text());
        assert_names_the_place(answer.json()["detail"].as_str().unwrap(), flipped);
    }
    let behind = DAMAGED + 1;
    let seek = server.run(&["group", "seek", "t", "g", "--to", &format!("offset:{behind}")]);
    assert_eq!(seek.code, 0, "{seek:?}");
    let deliveries = api.receive("t", "g", &json!({"max": 100, "member": "m"}));
    assert_eq!(values(&deliveries), (DAMAGED + 1..RECORDS).map(needle).collect::<Vec<_>>());
    server.stop();
}

#[test]
fn damage_to_one_partition_holds_up_no_other() {
    let data = scratch();
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    api.create_topic("t", 2);
    api.create_group("t", "g", &json!({"start": "earliest"}));
    for number in 0..RECORDS {
        api.publish("t", &json!({"value": needle(number), "partition": number % 2}));
    }
    server.stop();
    flip_a_bit(data.path());
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    let mut seen = Vec::new();
    // As many rounds as partitions and some: whichever comes first, the whole one is given out.
    for _ in 0..6 {
        let answer = api.send("POST", "/v1/topics/t/groups/g/receive", br#"{"max": 100, "member": "m"}"#);
        match answer.status {
            200 => seen.extend(values(answer.json()["deliveries"].as_array().unwrap())),
            status => assert_eq!((status, answer.problem().as_str()), (500, "damaged")),
        }
    }
    seen.sort();
    let mut whole: Vec<String> = (0..RECORDS).filter(|number| number % 2 == 0 || *number < DAMAGED).map(needle).collect();
    whole.sort();
    assert_eq!(seen, whole);
    server.stop();
}
