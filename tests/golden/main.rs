//! Directories of each format version, kept for ever under `storage/tests/golden`: a copy of each is opened, and everything a
//! user can see is compared with `description.json` beside it.
//!
//! They were made by `cargo test --test golden -- --ignored make_the_directories`, which is only run when there is a new
//! format version or a new kind of entry: a directory that is made anew proves nothing about the ones users have.

mod describe;
#[path = "../../storage/tests/golden/pack.rs"]
mod pack;
mod story;

use std::path::Path;
use std::sync::Arc;

use onelog::testing::MANUAL_START_MS;
use onelog::{Broker, BrokerConfig, ManualClock, TimestampMs};

/// When the directories were made, by their own clock; they are opened a second after the last thing happened.
const OPENED_AFTER_MS: i64 = 3 * 24 * 3600 * 1000;

async fn open(dir: &Path, at_ms: i64) -> (Broker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(TimestampMs(at_ms)));
    let config = BrokerConfig { segment_bytes: 4 * 1024 * 1024, clock: clock.clone(), ..BrokerConfig::default() };
    (Broker::open_with(dir, config).await.unwrap(), clock)
}

async fn described(dir: &Path) -> serde_json::Value {
    let (broker, _) = open(dir, MANUAL_START_MS + OPENED_AFTER_MS).await;
    let description = describe::everything(&broker).await;
    broker.close().await.unwrap();
    description
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kept_directory_shows_what_it_showed_when_it_was_made() {
    let kept = pack::all(&pack::golden(env!("CARGO_MANIFEST_DIR")));
    assert!(kept.len() >= 3, "{kept:?}");
    for (name, place) in kept {
        let expected: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(place.join("description.json")).unwrap()).unwrap();
        for without_index in [false, true] {
            let scratch = tempfile::tempdir().unwrap();
            let dir = scratch.path().join("data");
            pack::unpack(&place, &dir);
            if without_index {
                let _ = std::fs::remove_file(dir.join("index.redb"));
            }
            let found = described(&dir).await;
            assert_eq!(found, expected, "{name}, without its index: {without_index}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the kept directories anew"]
async fn make_the_directories() {
    let golden = pack::golden(env!("CARGO_MANIFEST_DIR"));
    for (name, made) in [
        ("v1-story", story::everything_once().await),
        ("v1-given-back", story::given_back().await),
        ("v1-repaired", story::repaired().await),
    ] {
        let into = golden.join(name);
        let _ = std::fs::remove_dir_all(&into);
        pack::pack(&made.path().join("data"), &into);
        let copy = tempfile::tempdir().unwrap();
        pack::unpack(&into, &copy.path().join("data"));
        let text = serde_json::to_string_pretty(&described(&copy.path().join("data")).await).unwrap();
        std::fs::write(into.join("description.json"), text + "\n").unwrap();
    }
}
