//! The `onelog` program as people and scripts use it: flags, exit codes, messages, and whole round trips against a real server.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::Value;
use support::{Ended, Server, data_file, onelog, run, run_with_input};

/// The webhook events, one to a line.
fn events() -> Vec<String> {
    let text = std::fs::read_to_string(data_file("github-webhooks.ndjson")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn help_shows_examples_and_leaves_with_0() {
    let main = run(&["--help"]);
    assert_eq!(main.code, 0);
    assert!(main.out.contains("Examples:") && main.out.contains("onelog quickstart"), "{}", main.out);
    let serve = run(&["serve", "--help"]);
    assert!(serve.out.contains("ONELOG_HTTP") && serve.out.contains("[default: 127.0.0.1:7070]"), "{}", serve.out);
    assert!(run(&["--version"]).out.starts_with("onelog "));
}

#[test]
fn a_wrong_flag_leaves_with_2_and_a_hint() {
    let wrong = run(&["serve", "--htpp", "127.0.0.1:0"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("'--http'"), "{}", wrong.err);
    assert_eq!(run(&[]).code, 2);
    assert_eq!(run(&["consume", "t", "--offset", "3"]).code, 2, "an offset needs its partition");
    assert_eq!(run(&["topic", "list", "--server", "https://example.com"]).code, 2);
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).out.contains("quickstart"), "{shell}");
    }
}

#[test]
fn settings_that_cannot_be_are_refused_with_2_before_anything_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("onelog.toml");
    std::fs::write(&file, "segmet_bytes = \"64MiB\"\n").unwrap();
    let data_text = data.to_str().unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["--config", file.to_str().unwrap()], "did you mean `segment_bytes`"),
        (&["--kafka", "127.0.0.1:9092"], "not in this version yet"),
        (&["--redis", "127.0.0.1:6379"], "not in this version yet"),
        (&["--http", "0.0.0.0:0"], "--insecure"),
        (&["--http", "nowhere"], "--http: `nowhere` is not an address"),
        (&["--segment-bytes", "1KiB"], "4 MiB at least"),
    ];
    for (flags, message) in cases {
        let ended = run(&[&["serve", "--data", data_text], flags].concat());
        assert_eq!(ended.code, 2, "{flags:?}: {}", ended.err);
        assert!(ended.err.contains(message), "{flags:?}: {}", ended.err);
    }
    assert!(!data.exists());
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("onelog.toml");
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(&file, format!("data = {:?}\nhttp = \"127.0.0.1:0\"\n", place("file"))).unwrap();
    let started = |environment: Option<&str>, flag: Option<&str>| {
        let mut command = onelog();
        command.args(["serve", "--config"]).arg(&file);
        if let Some(name) = environment {
            command.env("ONELOG_DATA", place(name));
        }
        if let Some(name) = flag {
            command.args(["--data", &place(name)]);
        }
        Server::spawn(command).ready.clone()
    };
    assert!(started(None, None).contains(&format!("data={} ", place("file"))));
    assert!(started(Some("environment"), None).contains(&format!("data={} ", place("environment"))));
    assert!(started(Some("environment"), Some("flag")).contains(&format!("data={} ", place("flag"))));
}

#[test]
fn the_example_file_is_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("onelog.toml");
    std::fs::write(&file, run(&["serve", "--print-config"]).out).unwrap();
    let mut command = onelog();
    command.args(["serve", "--http", "127.0.0.1:0", "--config"]).arg(&file).arg("--data").arg(dir.path().join("data"));
    Server::spawn(command).stop();
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let ended = run(&["serve", "--http", &address, "--data", dir.path().to_str().unwrap()]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains(&address) && ended.err.contains("in use"), "{}", ended.err);
}

#[test]
fn a_second_process_on_the_directory_is_told_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Server::on(dir.path());
    let second = run(&["serve", "--http", "127.0.0.1:0", "--data", dir.path().to_str().unwrap()]);
    assert_eq!(second.code, 1);
    assert!(second.err.contains(&first.pid().to_string()), "{}", second.err);
    first.stop();
}

#[test]
fn the_ready_line_has_its_form_and_stays_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    let expected = format!(
        "onelog ready http={} kafka=off redis=off data={} pid={}",
        server.url.trim_start_matches("http://"),
        dir.path().display(),
        server.pid()
    );
    assert_eq!(server.ready, expected);
    let ended = server.stop();
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{}", ended.err);
}

#[test]
fn commands_without_a_server_say_how_to_start_one() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for command in [&["topic", "list"][..], &["produce", "t"], &["consume", "t"], &["dlq", "list", "t"], &["bench", "--records", "1"]] {
        let ended = run_with_input(&[command, &["--server", &format!("http://{free}")]].concat(), "{}\n");
        assert_eq!(ended.code, 1, "{command:?}");
        assert!(ended.err.contains("onelog serve"), "{command:?}: {}", ended.err);
    }
}

#[test]
fn real_events_come_back_byte_identical_after_a_restart() {
    let (dir, file) = (tempfile::tempdir().unwrap(), data_file("github-webhooks.ndjson"));
    let server = Server::on(dir.path());
    let publish = ["produce", "hooks", file.to_str().unwrap(), "--key-field", "key", "--id-field", "event_id", "--create-partitions", "3"];
    let published = server.run(&publish);
    assert_eq!((published.code, published.err.as_str()), (0, "published 329 records (0 duplicates)\n"));
    assert_eq!(server.run(&publish).err, "published 329 records (329 duplicates)\n");
    server.stop();

    let server = Server::on(dir.path());
    let consumed = server.run(&["consume", "hooks", "--from-beginning", "--exit-at-end", "--json"]);
    assert_eq!(consumed.code, 0, "{}", consumed.err);
    let mut per_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in json_lines(&consumed.out) {
        for field in ["topic", "partition", "offset", "timestamp", "key", "headers", "value"] {
            assert!(record.get(field).is_some(), "{field}");
        }
        per_key.entry(record["key"].as_str().unwrap().to_owned()).or_default().push(record["value"].as_str().unwrap().to_owned());
    }
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events() {
        let key = serde_json::from_str::<Value>(&event).unwrap()["key"].as_str().unwrap().to_owned();
        expected.entry(key).or_default().push(event);
    }
    assert!(per_key == expected, "every event once, byte for byte, in order within its key");
    server.stop();
}

#[test]
fn produce_tells_what_is_wrong_and_how_far_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    let missing = server.run_with_input(&["produce", "orders"], "{}\n");
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("onelog topic create orders"), "{}", missing.err);
    let broken = server.run_with_input(&["produce", "orders", "-", "--create", "--key-field", "a"], "{\"a\":1}\n\n{oops\n");
    assert_eq!(broken.code, 1);
    assert!(broken.err.contains("stdin, line 3: not JSON") && broken.err.contains("after 1 acknowledged"), "{}", broken.err);
    let nameless = server.run_with_input(&["produce", "orders", "--id-field", "id"], "{\"id\":1}\n{\"a\":1}\n");
    assert!(nameless.err.contains("line 2: field `id` is missing"), "{}", nameless.err);
    assert!(server.run(&["produce", "orders", "no-such-file"]).err.contains("no-such-file"));
    server.stop();
}

#[test]
fn headers_and_bytes_that_are_no_text_survive() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    assert_eq!(server.run(&["topic", "create", "t"]).code, 0);
    let produced = server.run_with_input(&["produce", "t", "--header", "source=test"], "{\"n\": 1.0}\nplain\n");
    assert_eq!(produced.code, 0, "{}", produced.err);
    let binary = dir.path().join("binary");
    std::fs::write(&binary, b"\xff\xfe\n").unwrap();
    assert_eq!(server.run(&["produce", "t", binary.to_str().unwrap()]).code, 0);
    let records = json_lines(&server.run(&["consume", "t", "--from-beginning", "--exit-at-end", "--json"]).out);
    assert_eq!(records[0]["value"], "{\"n\": 1.0}");
    assert_eq!(records[0]["headers"]["source"], "test");
    assert_eq!((&records[1]["value"], &records[2]["value_base64"]), (&"plain".into(), &"//4=".into()));
    server.stop();
}

#[test]
fn consume_starts_and_stops_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    let lines: String = (0..10).map(|number| format!("{number}\n")).collect();
    assert_eq!(server.run_with_input(&["produce", "t", "--create"], &lines).code, 0);
    let values = |flags: &[&str]| -> Vec<String> {
        let ended = server.run(&[&["consume", "t", "--json"], flags].concat());
        assert_eq!(ended.code, 0, "{}", ended.err);
        json_lines(&ended.out).iter().map(|record| record["value"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(values(&["--from-beginning", "--max", "2"]), ["0", "1"]);
    assert_eq!(values(&["--partition", "0", "--offset", "8", "--exit-at-end"]), ["8", "9"]);
    assert_eq!(values(&["--time", "2000-01-01T00:00:00Z", "--max", "1"]), ["0"]);
    assert!(values(&["--exit-at-end"]).is_empty(), "without a start only what is new");
    assert!(server.run(&["consume", "t", "--partition", "7", "--from-beginning"]).err.contains("partitions 0 to 0"));
    server.stop();
}

#[test]
fn a_closed_stdout_is_a_quiet_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    let file = data_file("github-webhooks.ndjson");
    assert_eq!(server.run(&["produce", "hooks", file.to_str().unwrap(), "--create"]).code, 0);
    let mut command = server.command(&["consume", "hooks", "--from-beginning", "--exit-at-end", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    // Three megabytes do not fit the pipe: the rest is still to be written when the reader leaves.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
    assert!(first.starts_with("{\"topic\":\"hooks\""));
    server.stop();
}

#[test]
fn a_group_gets_each_record_once_and_acks_what_it_printed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    assert_eq!(server.run_with_input(&["produce", "t", "--create"], "a\nb\nc\n").code, 0);
    let receive =
        |flags: &[&str]| json_lines(&server.run(&[&["consume", "t", "--group", "g", "--json", "--exit-at-end"], flags].concat()).out);
    let taken = receive(&["--no-ack", "--max", "1", "--member", "m"]);
    assert_eq!((taken.len(), &taken[0]["attempt"]), (1, &1.into()));
    assert_eq!(receive(&[]).len(), 2, "one is still leased");
    let group: Value = serde_json::from_str(&server.run(&["group", "show", "t", "g", "--json"]).out).unwrap();
    assert_eq!((&group["counts"]["acked"], &group["counts"]["leased"]), (&2.into(), &1.into()));
    assert_eq!(server.run(&["group", "seek", "t", "g", "--to", "earliest"]).code, 0);
    assert_eq!(receive(&[]).len(), 3);
    server.stop();
}

#[test]
fn topics_live_and_die() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    let ok = |arguments: &[&str]| -> String {
        let ended = server.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.err);
        ended.out
    };
    ok(&["topic", "create", "orders", "--partitions", "3", "--retention", "none"]);
    ok(&["topic", "alter", "orders", "--partitions", "4", "--dedup-window", "7d"]);
    let topic: Value = serde_json::from_str(&ok(&["topic", "show", "orders", "--json"])).unwrap();
    assert_eq!((&topic["settings"]["partitions"], &topic["settings"]["retention_ms"]), (&4.into(), &Value::Null));
    assert_eq!(topic["settings"]["dedup_window_ms"], 604_800_000);
    assert!(ok(&["topic", "list"]).contains("orders"));
    ok(&["group", "create", "orders", "billing", "--max-deliveries", "8", "--ordering", "key", "--retry-cap", "5m"]);
    ok(&["group", "alter", "orders", "billing", "--visibility", "2m"]);
    let group: Value = serde_json::from_str(&ok(&["group", "show", "orders", "billing", "--json"])).unwrap();
    assert_eq!((&group["settings"]["retry"]["cap_ms"], &group["settings"]["visibility_ms"]), (&300_000.into(), &120_000.into()));
    assert!(ok(&["group", "list"]).contains("billing"));
    ok(&["group", "delete", "orders", "billing"]);
    assert_eq!(server.run(&["topic", "delete", "orders"]).code, 2, "not without --yes");
    ok(&["topic", "delete", "orders", "--yes"]);
    assert!(!ok(&["topic", "list"]).contains("orders"));
    server.stop();
}

#[test]
fn the_quickstart_tells_its_story_twice() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let tell = || -> Ended { run(&["quickstart", "--exit", "--http", "127.0.0.1:0", "--data", data.to_str().unwrap()]) };
    for (stored, group) in
        [("329 stored and on disk, 0 duplicates", "group quickstart:"), ("0 stored and on disk, 329 duplicates", "group quickstart-2:")]
    {
        let told = tell();
        assert_eq!(told.code, 0, "{}", told.err);
        for part in [stored, group, "321 acked, 8 dead, 0 left to do", "redriven 8, processed 8, dead letters left: 0"] {
            assert!(told.out.contains(part), "`{part}` is missing in:\n{}", told.out);
        }
        assert!(!told.out.contains('\u{1b}'), "no colours where there is no terminal");
    }
}

#[test]
fn dead_letters_can_be_listed_and_purged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    assert_eq!(server.run_with_input(&["produce", "t", "--create"], "a\n").code, 0);
    assert_eq!(server.run(&["dlq", "purge", "t"]).code, 2, "everything only with --all");
    let dry = server.run(&["dlq", "redrive", "t", "--dry-run"]);
    assert!(dry.out.starts_with("0 dead letters match"), "{}{}", dry.out, dry.err);
    assert_eq!(server.run(&["dlq", "list", "t", "--json"]).out, "");
    assert_eq!(server.run(&["dlq", "show", "t", "0-41"]).code, 1);
    server.stop();
}

#[test]
fn the_load_generator_counts_every_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path());
    let measure = |flags: &[&str]| -> Value {
        let ended = server.run(&[&["bench", "--json", "--connections", "4"], flags].concat());
        assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
        serde_json::from_str(&ended.out).unwrap()
    };
    let single = measure(&["--records", "200"]);
    assert_eq!((&single["records"], &single["requests"], &single["errors"]), (&200.into(), &200.into(), &0.into()));
    assert!(single["latency_ms"]["p99"].as_f64().unwrap() > 0.0 && single["syncs"].as_u64().unwrap() > 0);
    let batches = measure(&["--records", "2000", "--batch", "100", "--topic", "load", "--ids"]);
    assert_eq!((&batches["records"], &batches["requests"]), (&2_000.into(), &20.into()));
    assert_eq!(measure(&["--mode", "consume", "--topic", "load", "--batch", "100", "--records", "2000"])["errors"], 0);
    assert_eq!(measure(&["--mode", "end-to-end", "--records", "100", "--rate", "2000"])["records"], 100);
    assert_eq!(server.run(&["bench", "--records", "4", "--path", "/nothing-here"]).code, 1);
    server.stop();
}
