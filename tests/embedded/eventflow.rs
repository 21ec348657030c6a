//! The pipeline of `examples/eventflow_worker.rs` over a thousand events, sent once, twice, and redriven after a fix.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use onelog::testing::TestBroker;
use onelog::{DeadLetterFilter, RedriveRequest};

#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../examples/eventflow_worker.rs"]
mod pipeline;

use pipeline::Summary;

/// A thousand events: 13 exact repeats, 11 purchases without an amount.
fn events() -> Vec<u8> {
    let workload = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/workload.py");
    let output = Command::new("python3").arg(workload).args(["W2", "1000"]).output().expect("python3 makes the workload");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn ids(sink: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(sink).unwrap();
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["event_id"].as_str().unwrap().to_owned();
    text.lines().map(id).collect()
}

#[tokio::test]
async fn a_thousand_events_go_through_once_however_often_they_are_sent() {
    let (test, events) = (TestBroker::start().await, events());
    let sink = test.directory().join("sink.ndjson");
    let once = pipeline::run(test.broker(), Cursor::new(&events), &sink).await.unwrap();
    assert_eq!(once, Summary { processed: 976, duplicates: 13, dead_letters: 11 });
    assert_eq!(once.to_string(), "processed=976 duplicates=13 dead_letters=11");

    let twice = pipeline::run(test.broker(), Cursor::new(&events), &sink).await.unwrap();
    assert_eq!(twice, Summary { processed: 976, duplicates: 1_000, dead_letters: 11 });
    let persisted = ids(&sink);
    assert_eq!((persisted.len(), persisted.iter().collect::<HashSet<_>>().len()), (976, 976));

    let letters = test.broker().dead_letters("event_queue", &DeadLetterFilter::default(), None, 100).await.unwrap();
    assert_eq!(letters.len(), 11);
    for letter in &letters {
        assert_eq!((letter.reason.as_str(), letter.attempts), ("purchase without amount", 1));
        assert!(letter.record.value.as_ref().is_some_and(|value| value.windows(9).any(|part| part == b"prod_0000")));
    }
}

/// The same events twice in one stream, and after a restart in between nothing is known less.
#[tokio::test]
async fn repeats_are_known_in_one_stream_and_after_a_restart() {
    let (test, events) = (TestBroker::start().await, events());
    let sink = test.directory().join("sink.ndjson");
    let doubled = [events.as_slice(), events.as_slice()].concat();
    let summary = pipeline::run(test.broker(), Cursor::new(doubled), &sink).await.unwrap();
    assert_eq!(summary, Summary { processed: 976, duplicates: 1_013, dead_letters: 11 });
    let test = test.restart().await;
    let summary = pipeline::run(test.broker(), Cursor::new(&events), &sink).await.unwrap();
    assert_eq!(summary, Summary { processed: 976, duplicates: 1_000, dead_letters: 11 });
    assert_eq!(ids(&sink).len(), 976);
}

#[tokio::test]
async fn redriven_after_a_fix_nothing_is_left() {
    let test = TestBroker::start().await;
    let sink = test.directory().join("sink.ndjson");
    pipeline::run(test.broker(), Cursor::new(events()), &sink).await.unwrap();
    let report = test.broker().redrive("event_queue", RedriveRequest::default()).await.unwrap();
    assert_eq!((report.matched, report.done, report.left), (11, 11, 0));
    let fixed = onelog::Worker::new(test.broker(), "event_queue", "eventflow").concurrency(4);
    let fixed = fixed.start(|_: onelog::Delivery| async {}).await.unwrap();
    onelog::testing::eventually("the fixed worker did the rest", || fixed.counts().done == 11).await;
    fixed.stop().await.unwrap();
    let counts = test.broker().group("event_queue", "eventflow").unwrap().counts;
    assert_eq!((counts.acked, counts.ready, counts.leased, counts.deferred), (987, 0, 0, 0));
}
