//! Every call site crossed with every fault that can happen there: the operation is refused with an error that names the site,
//! or goes on; nothing acknowledged is lost; after a failed write or sync of the log nothing is acknowledged until reopened.
//!
//! Prints the table: `cargo test -p onelog-storage --test sites -- --nocapture`. A new site does not compile without its row,
//! and a cell that no run exercised fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use onelog_storage::Store;
use onelog_storage::clock::ManualClock;
use onelog_storage::error::{Result, StorageError};
use onelog_storage::io::Site;
use onelog_storage::io::sim::{Fault, SimDisk};
use onelog_storage::layout;
use onelog_storage::submission::{NewEntry, Submission};
use onelog_storage::types::{Offset, PartitionId};
use support::{DIR, answer, body, clock, try_open, values};

/// Columns of the table.
const FAULTS: &[Fault] = &[Fault::Eio, Fault::Enospc, Fault::Short, Fault::ShortThenError, Fault::Interrupted, Fault::PowerOff];
/// Which calls of a site faults are tried at: its first ones, its last, and some between.
fn calls_tried(calls: u64) -> BTreeSet<u64> {
    [1, 2, 3, calls / 3, calls / 2, calls].into_iter().filter(|call| (1..=calls).contains(call)).collect()
}

/// What calls of a site can be met by. A new site needs its line here.
fn applicable(site: Site) -> &'static [Fault] {
    use Fault::{Eio, Enospc, Interrupted, PowerOff, Short, ShortThenError};
    match site {
        // Names that take no space.
        Site::DirList | Site::SegmentOpen | Site::SegmentRemove | Site::IndexRemove | Site::RecoveryEvict | Site::SpaceQuery => {
            &[Eio, PowerOff]
        }
        // Names and lengths that may need a block.
        Site::LockFile
        | Site::StoreRename
        | Site::DirCreate
        | Site::SegmentCreate
        | Site::SegmentRecycle
        | Site::IndexOpen
        | Site::IndexResize => &[Eio, Enospc, PowerOff],
        Site::StoreRead | Site::LogRead | Site::RecoveryRead | Site::IndexRead => &[Eio, Short, Interrupted, PowerOff],
        Site::StoreWrite | Site::SegmentZero | Site::LogWrite | Site::IndexWrite => {
            &[Eio, Enospc, Short, ShortThenError, Interrupted, PowerOff]
        }
        Site::StoreSync | Site::DirSync | Site::SegmentZeroSync | Site::LogSync | Site::RecoverySync | Site::IndexSync => {
            &[Eio, Enospc, Interrupted, PowerOff]
        }
    }
}

/// Whether it is a fault nobody may notice: the loops over short calls deal with it.
fn is_harmless(site: Site, fault: Fault) -> bool {
    let is_sync = applicable(site).contains(&Fault::Interrupted) && !applicable(site).contains(&Fault::Short);
    fault == Fault::Short || fault == Fault::Interrupted && !is_sync
}

/// What a fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Nobody was told.
    GoesOn,
    /// The operation failed, the store works on.
    Refused,
    /// The store takes nothing more until it is opened again.
    Stops,
    /// It was not opened.
    NotOpened,
    /// The power went.
    Off,
}

/// A life of a store that visits every site, and what it has been promised.
struct Script {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    store: Option<Store>,
    /// Offset and length of each acknowledged record.
    acknowledged: Vec<(i64, usize)>,
    trimmed: i64,
    sent: usize,
    errors: Vec<StorageError>,
    happened: Vec<(Site, Fault)>,
    outcome: Outcome,
    restarts: u64,
}

impl Script {
    fn new() -> Self {
        Self {
            disk: SimDisk::with_dir(1, Path::new(DIR)),
            clock: clock(),
            store: None,
            acknowledged: Vec::new(),
            trimmed: 0,
            sent: 0,
            errors: Vec::new(),
            happened: Vec::new(),
            outcome: Outcome::GoesOn,
            restarts: 0,
        }
    }

    fn run(mut self) -> Self {
        self.open();
        self.publish(3, 100);
        self.with(|script, store| {
            store.idle();
            store.fill(layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS);
            let failure = store.stats().failure;
            if let Some(reason) = failure {
                script.failed(StorageError::Poisoned { reason });
            }
            Ok(())
        });
        self.publish(13, 20_000);
        self.checkpoint(10);
        self.read();
        self.give_up_log();
        self.publish(5, 20_000);
        self.with(|_, store| store.available().map(drop));
        self.checkpoint(60_000);
        self.publish(2, 100);
        self.close();
        self.restart();
        self.publish(2, 100);
        self.read();
        self.close();
        // Again, with an index that cannot be read.
        self.restart_with(|disk| disk.damage(&layout::redb_file(Path::new(DIR)), &[0x55; 400], 0));
        self.publish(2, 100);
        self.close();
        self.happened.extend(self.disk.happened());
        self
    }

    /// A clean stop. A failure of its last commit, which holds nothing, is told to nobody.
    fn close(&mut self) {
        let Some(store) = self.store.take() else { return };
        store.close();
        if store.stats().failure.is_some() {
            self.outcome = self.outcome.max(if self.disk.is_off() { Outcome::Off } else { Outcome::Stops });
        }
    }

    /// The next process: on what the cache holds, or on what a power cut left.
    fn restart(&mut self) {
        self.restart_with(|_| {});
    }

    fn restart_with(&mut self, change: impl FnOnce(&SimDisk)) {
        self.restarts += 1;
        if self.disk.is_off() || !self.disk.happened().is_empty() {
            // The fault has happened: no more of it on the next disk.
            self.happened.extend(self.disk.happened());
            self.disk = if self.disk.is_off() { self.disk.crash_clone(self.restarts) } else { self.disk.kill_clone(self.restarts) };
        }
        change(&self.disk);
        self.open();
    }

    fn open(&mut self) {
        match try_open(&self.disk, &self.clock) {
            Ok(opened) => self.store = Some(opened.store),
            Err(error) => {
                self.failed(error);
                self.outcome = self.outcome.max(if self.disk.is_off() { Outcome::Off } else { Outcome::NotOpened });
                assert!(self.restarts < 9, "it cannot be opened any more: {:?}", self.errors);
                self.restart();
            }
        }
    }

    fn failed(&mut self, error: StorageError) {
        let outcome = if self.disk.is_off() { Outcome::Off } else { Outcome::Refused };
        self.outcome = self.outcome.max(outcome);
        self.errors.push(error);
    }

    /// One operation. A store that stopped must refuse everything; then it is opened again.
    fn with(&mut self, work: impl FnOnce(&mut Self, &Store) -> Result<()>) {
        let store = self.store.take().expect("an open store");
        if let Err(error) = work(self, &store) {
            self.failed(error);
        }
        if store.stats().failure.is_none() && !self.disk.is_off() {
            self.store = Some(store);
            return;
        }
        if !self.disk.is_off() {
            self.outcome = self.outcome.max(Outcome::Stops);
        }
        for _ in 0..2 {
            assert!(self.put(&store, 50).is_err(), "an ok after {:?}", store.stats().failure);
            assert!(store.finish_checkpoint(store.begin_checkpoint(), vec![]).is_err(), "a checkpoint after a failure");
        }
        drop(store);
        self.restart();
    }

    fn put(&mut self, store: &Store, len: usize) -> Result<i64> {
        let entry = NewEntry { partition: store.partition(PartitionId(0)), body: body(&vec![7; len]), key: None, expected: None };
        let mut ticket = store.submit(Submission { records: [entry].into_iter().collect(), ..Submission::default() });
        self.sent += 1;
        store.turn();
        answer(&mut ticket).expect("a turn answers").map(|receipt| receipt.appended[0].offset.0)
    }

    fn publish(&mut self, times: usize, len: usize) {
        for _ in 0..times {
            self.with(|script, store| {
                let offset = script.put(store, len)?;
                script.acknowledged.push((offset, len));
                Ok(())
            });
        }
    }

    fn checkpoint(&mut self, state_bytes: usize) {
        let value = vec![0; state_bytes.max(16)];
        self.with(|_, store| store.finish_checkpoint(store.begin_checkpoint(), vec![(vec![0, 0, 0, 1], Some(value))]));
    }

    fn read(&mut self) {
        self.with(|_, store| values(store, 0).map(drop));
    }

    fn give_up_log(&mut self) {
        let to = self.acknowledged.last().map_or(0, |(offset, _)| *offset);
        self.trimmed = to;
        self.with(|_, store| {
            let trims = vec![(store.partition(PartitionId(0)), Offset(to))];
            let mut ticket = store.submit(Submission { trims, ..Submission::default() });
            store.turn();
            answer(&mut ticket).expect("a turn answers").map(drop)
        });
        self.checkpoint(10);
        self.with(|_, store| {
            let end = store.droppable_end()?;
            let mut ticket = store.submit(Submission { retold: store.told_below(end), ..Submission::default() });
            store.turn();
            answer(&mut ticket).expect("a turn answers")?;
            store.drop_below(end)
        });
    }

    /// Everything acknowledged is there, in a store that was opened once more without a fault.
    fn check(&self) {
        let again = try_open(&self.disk.kill_clone(77), &self.clock).unwrap();
        let start = again.store.partition(PartitionId(0)).log_start().0;
        assert!(start <= self.trimmed, "more is gone than was trimmed");
        let found = values(&again.store, 0).unwrap();
        assert!(found.len() <= self.sent);
        for (offset, len) in self.acknowledged.iter().filter(|(offset, _)| *offset >= start) {
            let value = found.get(usize::try_from(offset - start).unwrap());
            assert!(value.is_some_and(|value| *value == vec![7; *len]), "offset {offset} was acknowledged");
        }
    }
}

/// Whether the first error says which call failed.
fn names(error: &StorageError, site: Site, fault: Fault) -> bool {
    match error {
        StorageError::Io { site: named, .. } => *named == site,
        // Of a full disk people hear that it is full.
        StorageError::Full { .. } => fault == Fault::Enospc,
        other => other.to_string().contains(&site.to_string()),
    }
}

/// Runs the script with one fault; what came of it, if the fault happened.
fn run(site: Site, nth: u64, fault: Fault) -> Option<Outcome> {
    let script = Script::new();
    script.disk.fail(site, nth, fault);
    let script = script.run();
    if !script.happened.contains(&(site, fault)) {
        return None;
    }
    let cell = format!("{site} ({site:?}), call {nth}, {fault:?}");
    // Nobody hears the last words of a machine that is off.
    if let Some(first) = script.errors.first().filter(|_| fault != Fault::PowerOff) {
        assert!(names(first, site, fault), "{cell}: the error does not name it: {first}");
    }
    assert!(!is_harmless(site, fault) || script.outcome == Outcome::GoesOn, "{cell}: {:?}", script.errors);
    let is_of_log = matches!(site, Site::LogWrite | Site::LogSync) && fault != Fault::PowerOff && !is_harmless(site, fault);
    let poisons = matches!(script.outcome, Outcome::Stops | Outcome::NotOpened);
    assert!(!is_of_log || poisons, "{cell}: {:?} {:?}", script.outcome, script.errors);
    script.check();
    Some(script.outcome)
}

/// The cells of every second row, as many processors as there are: a test each.
fn every_fault_at_every_second_site(from: usize) {
    let whole = Script::new().run();
    assert_eq!((whole.errors.len(), whole.outcome), (0, Outcome::GoesOn), "{:?}", whole.errors);
    whole.check();
    let mut table: BTreeMap<(Site, usize), BTreeSet<Outcome>> = BTreeMap::new();
    for site in Site::ALL.iter().skip(from).step_by(2) {
        let calls = whole.disk.calls_of(*site);
        assert!(calls > 0, "the script never comes to {site:?}");
        for fault in applicable(*site) {
            let column = FAULTS.iter().position(|known| known == fault).unwrap();
            for nth in calls_tried(calls) {
                let outcome = run(*site, nth, *fault);
                table.entry((*site, column)).or_default().extend(outcome);
            }
            assert!(!table[&(*site, column)].is_empty(), "{fault:?} at {site:?} was never exercised");
        }
    }
    println!("{}", render(&table));
}

#[test]
fn every_fault_at_every_site_is_refused_by_name_or_survived() {
    every_fault_at_every_second_site(0);
}

#[test]
fn every_fault_at_every_other_site_is_refused_by_name_or_survived() {
    every_fault_at_every_second_site(1);
}

fn render(table: &BTreeMap<(Site, usize), BTreeSet<Outcome>>) -> String {
    let mut text = "| site |".to_owned();
    for fault in FAULTS {
        let _ = write!(text, " {fault:?} |");
    }
    text += "\n|---|---|---|---|---|---|---|\n";
    let rows: BTreeSet<Site> = table.keys().map(|(site, _)| *site).collect();
    for site in &rows {
        let _ = write!(text, "| {site} |");
        for column in 0..FAULTS.len() {
            let words = |outcomes: &BTreeSet<Outcome>| outcomes.iter().map(|outcome| format!("{outcome:?}")).collect::<Vec<_>>().join(", ");
            let _ = write!(text, " {} |", table.get(&(*site, column)).map(words).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}
