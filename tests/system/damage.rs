//! Damage is told, with file and position, and never made worse: a refused start leaves every byte as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::Api;
use crate::machine::scratch;
use crate::support::{Ended, Server, onelog, run, serve};

pub const RECORDS: usize = 12;
/// The offset of the record that is damaged, and its segment.
pub const DAMAGED: usize = 5;
const SEGMENT: &str = "log/00000000000000000000.seg";

pub fn needle(number: usize) -> String {
    format!("needle-{number}")
}

/// A directory with some records after the last checkpoint.
fn crashed_store(dir: &Path) {
    let server = Server::on(dir);
    let mut api = Api::to(&server);
    api.create_topic("t", 1);
    for number in 0..RECORDS {
        api.publish("t", &json!({"value": needle(number)}));
    }
    server.kill();
}

/// Flips one bit in the middle of a record. Its position.
pub fn flip_a_bit(dir: &Path) -> usize {
    let path = dir.join(SEGMENT);
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = needle(DAMAGED);
    let at = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap() + 3;
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
    at
}

/// Every file byte for byte, but the lock and the index: that one is a cache, which repairs itself before the log is read.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if path.file_name().is_some_and(|name| name != "LOCK" && name != "index.redb") {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

/// The start is refused and nothing was touched; what it said.
fn refused(dir: &Path) -> Ended {
    let before = contents(dir);
    let ended = Server::try_spawn(serve(onelog(), dir, &[])).err().expect("a refusal");
    assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{ended:?}");
    let after = contents(dir);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before), "no file came or went");
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "changed by a refused start: {changed:?}");
    ended
}

/// Says which file, and a position within the sectors of the flipped bit's commit.
pub fn assert_names_the_place(said: &str, flipped: usize) {
    assert!(said.contains(SEGMENT), "{said}");
    let digits = said.split("position ").nth(1).unwrap_or_else(|| panic!("no position: {said}"));
    let position: usize = digits.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap();
    assert!(position <= flipped && flipped - position < 4096, "{position} for a flip at {flipped}: {said}");
}

#[test]
fn a_flipped_bit_below_the_end_is_refused_with_its_place_and_check_explains_it() {
    let data = scratch();
    crashed_store(data.path());
    let flipped = flip_a_bit(data.path());
    assert_names_the_place(&refused(data.path()).err, flipped);

    let check = run(&["check", data.path().to_str().unwrap()]);
    assert_eq!(check.code, 1, "{check:?}");
    let told = check.out.lines().find(|line| line.starts_with("DAMAGE ")).unwrap_or_else(|| panic!("{check:?}"));
    assert_names_the_place(told, flipped);
    let check = run(&["check", data.path().to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_str(&check.out).unwrap();
    let lost = json!([{"from": DAMAGED, "to": DAMAGED + 1}]);
    assert!(check.code == 1 && report["partitions"][0]["partition"] == "t/0" && report["partitions"][0]["lost"] == lost, "{report}");
    assert_eq!(report["damages"][0]["good_records_before"], DAMAGED, "{report}");
    assert_eq!(report["good_records_after"], RECORDS - DAMAGED - 1, "{report}");
}

#[test]
fn a_flipped_bit_is_refused_without_an_index_too() {
    let data = scratch();
    crashed_store(data.path());
    std::fs::remove_file(data.path().join("index.redb")).unwrap();
    let flipped = flip_a_bit(data.path());
    assert_names_the_place(&refused(data.path()).err, flipped);
}

#[test]
fn a_flipped_bit_below_the_checkpoint_is_told_where_it_is_read_and_not_before() {
    let data = scratch();
    crashed_store(data.path());
    Server::on(data.path()).stop();
    let flipped = flip_a_bit(data.path());
    let server = Server::on(data.path());
    let mut api = Api::to(&server);
    let read = |api: &mut Api, offset: usize| api.send("GET", &format!("/v1/topics/t/partitions/0/records?offset={offset}"), b"");
    for offset in 0..DAMAGED {
        let answer = read(&mut api, offset);
        assert_eq!(answer.status, 200, "what lies before the damage is whole: {}", answer.text());
        let values: Vec<Value> = answer.json()["records"].as_array().unwrap().iter().map(|record| record["value"].clone()).collect();
        assert_eq!(values, (offset..DAMAGED).map(needle).collect::<Vec<_>>());
    }
    let answer = read(&mut api, DAMAGED);
    assert_eq!((answer.status, answer.problem().as_str()), (500, "damaged"));
    assert_names_the_place(answer.json()["detail"].as_str().unwrap(), flipped);
    for offset in DAMAGED + 1..RECORDS {
        let answer = read(&mut api, offset);
        assert_eq!(answer.json()["records"][0]["value"], needle(offset), "what lies behind is whole too: {}", answer.text());
    }
    let health = api.get("/health");
    assert_eq!((&health["status"], &health["parts"]["log"]["status"]), (&json!("ok"), &json!("damaged")));
    assert_names_the_place(health["parts"]["log"]["damage"].as_str().unwrap(), flipped);
    assert!(api.metric("onelog_damaged_reads_total") >= 1.0);
    server.stop();
    assert_eq!(run(&["check", data.path().to_str().unwrap()]).code, 1);
}

#[test]
fn a_missing_segment_is_refused() {
    let data = scratch();
    crashed_store(data.path());
    Server::on(data.path()).stop();
    std::fs::remove_file(data.path().join(SEGMENT)).unwrap();
    let said = refused(data.path()).err;
    assert!(said.contains("missing") && said.contains(SEGMENT), "{said}");
}

#[test]
fn a_store_file_that_is_cut_short_is_refused() {
    let data = scratch();
    crashed_store(data.path());
    let store = data.path().join("STORE");
    let whole = std::fs::read(&store).unwrap();
    for length in [0, 5, whole.len() / 2, whole.len() - 2] {
        std::fs::write(&store, &whole[..length]).unwrap();
        let said = refused(data.path()).err;
        assert!(said.contains("not an onelog directory"), "{length}: {said}");
        assert_eq!(run(&["check", data.path().to_str().unwrap()]).code, 1);
    }
    std::fs::write(&store, whole).unwrap();
    Server::on(data.path()).stop();
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let data = scratch();
    crashed_store(data.path());
    let store = data.path().join("STORE");
    let text = std::fs::read_to_string(&store).unwrap();
    std::fs::write(&store, text.replace("format 1\n", "format 999\n")).unwrap();
    let said = refused(data.path()).err;
    assert!(said.contains("format version 999") && said.contains("newer"), "{said}");
}
