//! Directories that earlier versions wrote, kept for ever: every one is whole to the offline check, opens, and holds every
//! kind of entry. What they hold for users is compared by the test program of the same name one level up, which also made them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods, reason = "a test fails by panicking")]

mod pack;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use onelog_storage::check::{Nobody, check_dir};
use onelog_storage::clock::{Clock, ManualClock};
use onelog_storage::error::StorageError;
use onelog_storage::io::Io;
use onelog_storage::io::disk::Disk;
use onelog_storage::log::commit::{Commit, EntryKind, Header};
use onelog_storage::repair::Salvage;
use onelog_storage::types::{Position, TimestampMs};
use onelog_storage::{Store, StoreConfig, layout};

const SECTOR: usize = 512;

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(TimestampMs(1_800_000_000_000)))
}

/// How often each thing stands in the log: read sector by sector, with nothing but the framing of commits.
fn survey(dir: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut count = |what: String| *counts.entry(what).or_insert(0) += 1;
    for (name, bytes) in pack::files(&dir.join("log")) {
        let first = layout::parse_segment_name(&name).unwrap();
        for at in (0..bytes.len()).step_by(SECTOR) {
            let position = Position(first.0 + at as u64);
            let Ok((header, _)) = Header::decode(&bytes[at..], position) else { continue };
            let end = bytes.len().min(at + header.length as usize);
            let commit = Commit::decode(&bytes[at..end].to_vec().into(), position).unwrap();
            match commit.header.entries {
                0 if commit.header.is_pad() => count("pad".into()),
                0 => count("mark".into()),
                _ => {}
            }
            for entry in commit.entries() {
                let entry = entry.unwrap();
                match entry.kind {
                    EntryKind::Event => count(format!("event {}", entry.tag)),
                    kind => count(format!("{kind:?}").to_lowercase()),
                }
            }
        }
    }
    counts
}

#[test]
fn every_kept_directory_is_whole_and_opens() {
    let io: Arc<dyn Io> = Arc::new(Disk);
    let mut held = BTreeMap::new();
    for (name, kept) in pack::all(&pack::golden(env!("CARGO_MANIFEST_DIR"))) {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("data");
        pack::unpack(&kept, &dir);
        held.extend(survey(&dir));
        let report = check_dir(&io, &dir, "check").unwrap();
        assert!(report.damages.is_empty() && report.records > 0, "{name}: {:?}", report.damages);
        for without_index in [false, true] {
            if without_index {
                fs::remove_file(dir.join("index.redb")).unwrap();
            }
            let mut opening = Store::open(Arc::clone(&io), clock(), &dir, StoreConfig::default()).unwrap();
            while opening.next_event().unwrap().is_some() {}
            let (store, opened) = opening.finish().unwrap();
            assert!(!opened.created && opened.torn_tail.is_none(), "{name}: {opened:?}");
            assert_eq!(opened.index_rebuilt.is_some(), without_index || !kept_with_index(&kept), "{name}: {opened:?}");
            store.finish_checkpoint(store.begin_checkpoint(), Vec::new()).unwrap();
        }
    }
    let kinds = ["records", "keys", "partition", "boot", "pad", "mark"].map(str::to_owned);
    let wanted: Vec<String> = kinds.into_iter().chain((0..=10).map(|tag| format!("event {tag}"))).collect();
    let missing: Vec<&String> = wanted.iter().filter(|what| !held.contains_key(*what)).collect();
    assert!(missing.is_empty(), "no kept directory holds {missing:?}; they hold {held:?}");
}

fn kept_with_index(kept: &Path) -> bool {
    fs::read_to_string(kept.join("manifest")).unwrap().contains("index.redb")
}

#[test]
fn a_newer_format_is_refused_by_every_door_without_a_byte_written() {
    let io: Arc<dyn Io> = Arc::new(Disk);
    for (name, kept) in pack::all(&pack::golden(env!("CARGO_MANIFEST_DIR"))) {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("data");
        pack::unpack(&kept, &dir);
        let store = fs::read_to_string(dir.join("STORE")).unwrap();
        // Nothing but the first two lines can be relied on: a newer version may have changed the others.
        for text in [store.replace("format 1\n", "format 2\n"), "onelog store\nformat 4000000000\nall is new here\n".to_owned()] {
            fs::write(dir.join("STORE"), text).unwrap();
            let before = pack::files(&dir);
            let refusals = [
                Store::open(Arc::clone(&io), clock(), &dir, StoreConfig::default()).map(drop),
                check_dir(&io, &dir, "check").map(drop),
                Salvage::open(&io, &dir, &place.path().join("new"), "repair").and_then(|salvage| match salvage {
                    Some(salvage) => salvage.run(&mut Nobody, TimestampMs(0)).map(drop),
                    None => Ok(()),
                }),
            ];
            for refused in refusals {
                let error = refused.err().unwrap_or_else(|| panic!("{name}: a newer format was taken"));
                assert!(matches!(error, StorageError::FormatTooNew { known: 1, .. }), "{name}: {error}");
                assert!(error.to_string().contains("use a newer onelog"), "{error}");
            }
            assert!(pack::files(&dir) == before, "{name}: something was written");
            assert!(!place.path().join("new").exists());
        }
    }
}
