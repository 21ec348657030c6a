//! A log as it may be found on a disk: raw bytes, and well-framed commits whose entries hold anything.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use onelog_fuzz::{ALWAYS_BYTES, Counting, capped};
use onelog_storage::check::check_dir;
use onelog_storage::io::sim::SimDisk;
use onelog_storage::io::{Io, OpenMode, Site};
use onelog_storage::log::commit::{Commit, CommitBuilder, EntryKind, Header};
use onelog_storage::log::entry::{Keys, PartitionTold, Records};
use onelog_storage::types::{Epoch, Position, TimestampMs};
use onelog_storage::{Store, StoreConfig, Threads};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIR: &str = "/data";

/// A commit with a right checksum and the bytes as its entries.
fn framed(bytes: &[u8], position: Position) -> Commit {
    let kinds = [EntryKind::Records, EntryKind::Keys, EntryKind::Partition, EntryKind::Event, EntryKind::Boot];
    let mut builder = CommitBuilder::default();
    let mut rest = bytes;
    while let Some(([kind, tag, len], more)) = rest.split_first_chunk() {
        let (payload, more) = more.split_at(usize::from(*len).min(more.len()));
        builder.entry(kinds[usize::from(*kind) % kinds.len()], *tag, |out| out.extend_from_slice(payload));
        rest = more;
    }
    builder.finish(Header {
        flags: 0,
        length: 0,
        entries: 0,
        position,
        durable: position,
        log_start: Position(0),
        timestamp: TimestampMs(1),
        epoch: Epoch(1),
        previous_crc: 0,
        ahead_sectors: 0,
    })
}

fn walk(commit: &Commit) {
    for entry in commit.entries() {
        let Ok(entry) = entry else { return };
        let _ = Records::decode(&entry.payload);
        let _ = Keys::decode(&entry.payload);
        let _ = PartitionTold::decode_entry(&entry.payload);
    }
}

/// Opens a directory whose log begins with `bytes`, and checks it offline. Either may refuse; neither may panic.
fn open(bytes: &[u8]) {
    let disk = SimDisk::with_dir(1, Path::new(DIR));
    let io: Arc<dyn Io> = Arc::new(disk);
    let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    let clock = Arc::new(onelog_storage::clock::ManualClock::at(TimestampMs(1)));
    {
        let opening = Store::open(Arc::clone(&io), clock.clone(), Path::new(DIR), StoreConfig { threads: Threads::None, ..config.clone() });
        drop(opening);
    }
    let segment = onelog_storage::layout::segment_file(Path::new(DIR), Position(0));
    let file = io.open(Site::SegmentCreate, &segment, OpenMode::CreateOrWrite).expect("a segment");
    file.write_at(Site::LogWrite, &[bytes], 0).expect("written");
    file.sync(Site::LogSync).expect("synced");
    drop(file);
    let _ = check_dir(&io, Path::new(DIR), "fuzz");
    if let Ok(mut opening) = Store::open(io, clock, Path::new(DIR), StoreConfig { threads: Threads::None, ..config }) {
        while let Ok(Some(_)) = opening.next_event() {}
        let _ = opening.finish();
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, bytes)) = bytes.split_first() else { return };
    let position = Position(512);
    match mode % 4 {
        0 => {
            let bytes = Bytes::copy_from_slice(bytes);
            capped(bytes.len(), 4, ALWAYS_BYTES, || {
                if let Ok(commit) = Commit::decode(&bytes, position) {
                    walk(&commit);
                }
            });
        }
        1 => {
            let commit = framed(bytes, position);
            let read = Commit::decode(&commit.bytes, position).expect("a commit that was just made");
            capped(bytes.len(), 4, ALWAYS_BYTES, || walk(&read));
        }
        2 => open(bytes),
        _ => open(&framed(bytes, Position(0)).bytes),
    }
});
