//! The machine: random work on a store over a simulated disk, the power cut at any call, also while recovering, and a check of
//! everything after each opening. One seed is one run.
//!
//! Owns no expectation of its own beyond the promises: what was answered is there, what was not is there whole or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;

use onelog_storage::Store;
use onelog_storage::batch::BatchBuilder;
use onelog_storage::clock::ManualClock;
use onelog_storage::error::{Result, StorageError};
use onelog_storage::io::sim::{Fault, SimDisk};
use onelog_storage::io::{Io, Site};
use onelog_storage::layout;
use onelog_storage::store::{CheckpointStart, CheckpointTaken};
use onelog_storage::submission::{NewBatch, NewEntry, NewEvent, Receipt, Submission, Ticket};
use onelog_storage::types::{Durability, Offset, PartitionId, Position};

use crate::support::{DIR, Dice, EVENT_TAG, Opened, WINDOW_MS, answer, body, clock, encode_event, encode_pair, fold, try_open, values};
use crate::world::{Outcome, PARTITIONS, Plan, World, id_of, keyed_id, value_of};

const KEYS: u64 = 24;
const SCOPE: u32 = 7;
/// Lives of one store; then a new one is begun, so that no check reads much.
const LIVES: u64 = 24;

/// What one run met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub cycles: u64,
    pub openings: u64,
    /// The most crashes of one recovery, one after the other.
    pub deepest: u64,
    /// Recoveries that were interrupted at least three times.
    pub three_deep: u64,
    pub answered: u64,
    pub repeats: u64,
    pub conflicts: u64,
    /// Submissions without an answer that were found in the log, and that were not.
    pub found: u64,
    pub not_found: u64,
    pub checkpoints: u64,
    pub dropped: u64,
    pub rebuilt: u64,
    pub faults: u64,
    pub poisoned: u64,
    pub index_deleted: u64,
    pub compared: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.cycles += other.cycles;
        self.openings += other.openings;
        self.deepest = self.deepest.max(other.deepest);
        self.three_deep += other.three_deep;
        self.answered += other.answered;
        self.repeats += other.repeats;
        self.conflicts += other.conflicts;
        self.found += other.found;
        self.not_found += other.not_found;
        self.checkpoints += other.checkpoints;
        self.dropped += other.dropped;
        self.rebuilt += other.rebuilt;
        self.faults += other.faults;
        self.poisoned += other.poisoned;
        self.index_deleted += other.index_deleted;
        self.compared += other.compared;
    }
}

/// Numbers, events and records of an opened store.
type Summary = (Vec<(i64, i64)>, std::collections::BTreeMap<u32, (u64, u64)>, Vec<Vec<u64>>);

pub struct Machine {
    dice: Dice,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    /// What must be there.
    sure: World,
    /// With what was answered though it may still be lost: lazy submissions.
    shown: World,
    /// May be there, in this order: submissions that no sync covered or that were not answered, by their commit.
    unsure: Vec<Vec<Plan>>,
    /// Nothing of it may be missing: the process was killed, the machine went on.
    cached: bool,
    numbers: u64,
    /// Idempotency keys and giving up old log exclude each other: without an index, keys live as long as their log.
    keys: bool,
    /// How a recovery that nothing interrupted ended, until an interrupted one has ended as well.
    reference: Option<Summary>,
    depth: u64,
    pub tally: Tally,
    /// Every call of every disk, when somebody asks.
    pub trace: Option<Vec<String>>,
}

/// An open store and what a broker would know of it.
struct Life {
    store: Arc<Store>,
    map: std::collections::BTreeMap<u32, (u64, u64)>,
    dirty: BTreeSet<u32>,
    begun: Option<CheckpointStart>,
    taken: Option<(CheckpointTaken, BTreeSet<u32>)>,
    poisoned: bool,
}

enum End {
    PowerCut,
    Killed,
    Closed,
}

pub fn run(seed: u64, traced: bool) -> Machine {
    let mut dice = Dice(seed);
    let disk = SimDisk::with_dir(dice.next(), std::path::Path::new(DIR));
    let keys = !dice.one_in(3);
    let mut machine = Machine {
        dice,
        disk,
        clock: clock(),
        sure: World::default(),
        shown: World::default(),
        unsure: Vec::new(),
        cached: false,
        numbers: 0,
        keys,
        reference: None,
        depth: 0,
        tally: Tally::default(),
        trace: traced.then(Vec::new),
    };
    for _ in 0..LIVES {
        machine.live();
    }
    machine
}

impl Machine {
    /// From one opening to the end of the process.
    fn live(&mut self) {
        self.plan_faults();
        self.tally.openings += 1;
        match try_open(&self.disk, &self.clock) {
            Ok(opened) => self.work(opened),
            Err(error) => {
                let explained = self.disk.is_off() || !self.disk.happened().is_empty();
                assert!(explained, "a start was refused for no reason: {error}");
                assert!(!matches!(error, StorageError::Damage { .. }) || self.disk.is_off(), "undamaged, yet: {error}");
                self.depth += 1;
                let end = if self.disk.is_off() { End::PowerCut } else { End::Killed };
                self.restart(&end);
            }
        }
    }

    fn plan_faults(&mut self) {
        let off = match self.dice.below(8) {
            0..4 => Some(1 + self.dice.below(50)),
            4..6 => Some(1 + self.dice.below(150)),
            6 => Some(1 + self.dice.below(400)),
            _ => None,
        };
        if let Some(off) = off {
            self.disk.power_off_after(off);
        }
        if self.dice.one_in(5) {
            let site = Site::ALL[usize::try_from(self.dice.below(Site::ALL.len() as u64)).unwrap()];
            let faults = [Fault::Eio, Fault::Enospc, Fault::ShortThenError, Fault::Short, Fault::Interrupted];
            let fault = faults[usize::try_from(self.dice.below(5)).unwrap()];
            self.disk.fail(site, 1 + self.dice.below(6), fault);
        }
    }

    /// The end of a process, and the disk the next one finds.
    fn restart(&mut self, end: &End) {
        if let Some(trace) = &mut self.trace {
            trace.extend(self.disk.trace());
        }
        self.tally.faults += self.disk.happened().len() as u64;
        let seed = self.dice.next();
        match end {
            End::PowerCut => {
                self.tally.cycles += 1;
                self.cached = false;
                self.disk = self.disk.crash_clone(seed);
                if self.reference.is_none() && self.dice.one_in(6) {
                    let whole = try_open(&self.disk.kill_clone(seed), &self.clock).unwrap();
                    self.reference = Some(summary(&whole).unwrap());
                }
            }
            // What the cache holds may yet be lost by a cut before the next recovery has synced it.
            End::Killed | End::Closed => {
                self.reference = None;
                self.disk = self.disk.kill_clone(seed);
            }
        }
    }

    fn work(&mut self, opened: Opened) {
        self.tally.rebuilt += u64::from(opened.report.index_rebuilt.is_some());
        let checked = self.check_recovered(&opened);
        self.tally.deepest = self.tally.deepest.max(self.depth);
        self.tally.three_deep += u64::from(self.depth >= 3);
        self.depth = 0;
        let Opened { store, map, replayed, .. } = opened;
        let mut life = Life { store: Arc::new(store), map, dirty: replayed, begun: None, taken: None, poisoned: false };
        let mut steps = 8 + self.dice.below(24);
        while checked.is_ok() && steps > 0 && !self.disk.is_off() {
            steps -= 1;
            self.step(&mut life);
        }
        let end = match self.dice.below(4) {
            _ if self.disk.is_off() => End::PowerCut,
            0 | 1 => {
                // In the middle of a commit.
                self.disk.power_off_after(1 + self.dice.below(3));
                self.publish(&mut life);
                End::PowerCut
            }
            2 => End::Killed,
            _ => End::Closed,
        };
        self.end(life, &end);
    }

    fn end(&mut self, life: Life, end: &End) {
        let whole = !life.poisoned && !self.disk.is_off();
        match end {
            End::Closed => {
                drop(life);
                // Closing may meet a planned fault; then what was lazy stays unsure.
                if whole && self.disk.happened().is_empty() && !self.disk.is_off() {
                    self.all_sure();
                }
                let end = if self.disk.is_off() { End::PowerCut } else { End::Closed };
                self.restart(&end);
            }
            End::Killed => {
                // The cache outlives the process, though not a power cut before it is synced.
                self.cached = whole && self.disk.happened().is_empty();
                self.restart(end);
            }
            End::PowerCut => self.restart(end),
        }
    }

    fn all_sure(&mut self) {
        self.sure = self.shown.clone();
        self.unsure.clear();
    }

    /// P1, P3, P5, P14, P15, P16, P17, P18.
    fn check_recovered(&mut self, opened: &Opened) -> Result<()> {
        let found = (numbers(&opened.store), &opened.map);
        let reference = self.reference.take();
        let mut world = self.sure.clone();
        let unsure = std::mem::take(&mut self.unsure);
        let mut taken = 0;
        while (world.numbers(), &world.map) != found {
            let Some(group) = unsure.get(taken) else {
                panic!(
                    "no prefix of what was submitted explains {found:?}; sure {:?} {:?}, unsure {unsure:?}",
                    self.sure.numbers(),
                    self.sure.map
                );
            };
            group.iter().for_each(|plan| drop(world.apply(plan)));
            taken += 1;
        }
        if self.cached {
            let mut all = world.clone();
            unsure[taken..].iter().flatten().for_each(|plan| drop(all.apply(plan)));
            assert_eq!((all.numbers(), &all.map), found, "the death of a process took what it had answered: {unsure:?}");
        }
        self.cached = false;
        self.tally.found += taken as u64;
        self.tally.not_found += (unsure.len() - taken) as u64;
        self.shown = world.clone();
        self.sure = world;
        // From here on the disk may refuse: what was found is durable all the same.
        for partition in 0..PARTITIONS {
            self.check_partition(&opened.store, partition)?;
        }
        if let Some(reference) = reference {
            self.tally.compared += 1;
            assert_eq!(summary(opened)?, reference, "an interrupted recovery ended in another state");
        }
        if self.dice.one_in(8) {
            self.check_without_index(opened)?;
        }
        Ok(())
    }

    fn check_partition(&self, store: &Store, partition: u32) -> Result<()> {
        let found = values(store, partition)?;
        let wanted = self.shown.readable(partition);
        assert_eq!(found.len(), wanted.len(), "partition {partition}");
        for (at, (value, id)) in found.iter().zip(wanted).enumerate() {
            assert!(*value == value_of(*id), "partition {partition}: record {at} is not what was written");
        }
        Ok(())
    }

    /// P15 and P17: the checkpoint and the tail are worth as much as the whole log.
    fn check_without_index(&mut self, opened: &Opened) -> Result<()> {
        let with = summary(opened)?;
        let copy = self.disk.kill_clone(1);
        copy.remove(Site::IndexRemove, &layout::redb_file(std::path::Path::new(DIR)))?;
        let without = try_open(&copy, &self.clock).unwrap();
        assert!(without.report.index_rebuilt.is_some());
        assert_eq!(summary(&without).unwrap(), with, "the index knew something else than the log");
        self.tally.index_deleted += 1;
        for (key, (partition, offset, id)) in self.sure.keys.iter().take(4) {
            let entry = entry(&without.store, *partition, *id, Some(*key)).unwrap();
            let mut ticket = without.store.submit(Submission { records: [entry].into_iter().collect(), ..Submission::default() });
            without.store.turn();
            let receipt = answer(&mut ticket).unwrap().unwrap();
            let appended = receipt.appended[0];
            assert_eq!((appended.partition.0, appended.offset.0, appended.duplicate), (*partition, *offset, true), "key {key}");
        }
        Ok(())
    }

    fn step(&mut self, life: &mut Life) {
        match self.dice.below(20) {
            0..11 => self.publish(life),
            11..15 => self.checkpoint(life),
            15 => life.store.idle(),
            16 => life.store.fill(layout::SEGMENT_BYTES_MIN_WITHOUT_THREADS),
            17 | 18 => {
                let partition = u32::try_from(self.dice.below(u64::from(PARTITIONS))).unwrap();
                let read = self.check_partition(&life.store, partition);
                self.explained(read.err());
            }
            _ => self.give_up_log(life),
        }
        self.clock.advance(std::time::Duration::from_millis(3));
    }

    /// An error needs a fault that was planned, or the power to be off. What waits may be too much for a small segment.
    fn explained(&self, error: Option<StorageError>) {
        if let Some(error) = error.filter(|error| !matches!(error, StorageError::TooLarge { .. })) {
            assert!(self.disk.is_off() || !self.disk.happened().is_empty(), "an error for no reason: {error}");
        }
    }

    fn publish(&mut self, life: &mut Life) {
        let count = 1 + self.dice.below(3);
        let plans: Vec<Plan> = (0..count).map(|_| self.plan()).collect();
        self.submit(life, plans);
    }

    fn plan(&mut self) -> Plan {
        let mut plan = Plan { lazy: self.dice.one_in(5), ..Plan::default() };
        for _ in 0..self.dice.below(4) {
            plan.records.push(self.record());
        }
        if plan.records.len() == 1 && plan.records[0].2.is_none() && self.dice.one_in(3) {
            plan.expected = Some(self.shown.next(plan.records[0].0) + i64::from(self.dice.one_in(4)));
        }
        if self.dice.one_in(6) {
            let ids = (0..1 + self.dice.below(4)).map(|_| self.fresh_id()).collect();
            plan.batch = Some((self.partition(), ids));
        }
        if plan.records.is_empty() || self.dice.one_in(3) {
            self.numbers += 1;
            plan.events.push((u32::try_from(self.dice.below(12)).unwrap(), self.dice.next(), self.numbers));
        }
        if self.dice.one_in(12) {
            let partition = self.partition();
            let to = self.dice.below(u64::try_from(self.shown.next(partition)).unwrap() + 1);
            plan.trim = Some((partition, i64::try_from(to).unwrap()));
        }
        plan
    }

    fn partition(&mut self) -> u32 {
        u32::try_from(self.dice.below(u64::from(PARTITIONS))).unwrap()
    }

    fn record(&mut self) -> (u32, u64, Option<u32>) {
        if self.keys && self.dice.one_in(3) {
            let key = u32::try_from(self.dice.below(KEYS)).unwrap();
            return (key % PARTITIONS, keyed_id(key, self.dice.one_in(8)), Some(key));
        }
        (self.partition(), self.fresh_id(), None)
    }

    fn fresh_id(&mut self) -> u64 {
        self.numbers += 1;
        let len = match self.dice.below(24) {
            0 => 9_000 + self.dice.below(6_000),
            1..4 => 600 + self.dice.below(3_000),
            _ => 8 + self.dice.below(300),
        };
        id_of(self.numbers, len)
    }

    /// Submits all of them, gives the writer its turn, and compares each answer with what was foretold.
    fn submit(&mut self, life: &mut Life, plans: Vec<Plan>) {
        let mut tickets: Vec<(Plan, Ticket)> = Vec::new();
        for plan in plans {
            match submission(&life.store, &plan) {
                Ok(submission) => tickets.push((plan, life.store.submit(submission))),
                Err(error) => self.explained(Some(error)),
            }
        }
        let was_poisoned = life.poisoned;
        self.turn(life);
        let mut group = Vec::new();
        let mut synced = false;
        let mut staged = self.shown.clone();
        for (plan, mut ticket) in tickets {
            let answer = answer(&mut ticket).expect("a turn answers all that waited");
            if self.settled(life, &mut staged, &plan, answer, was_poisoned) {
                synced |= !plan.lazy && !life.poisoned;
                group.push(plan);
            }
        }
        if !group.is_empty() {
            self.unsure.push(group);
        }
        if synced {
            self.all_sure();
        }
    }

    fn turn(&mut self, life: &mut Life) {
        if life.begun.is_some() || life.taken.is_some() || !self.dice.one_in(6) {
            life.store.turn();
        } else {
            // A checkpoint that begins at the worst moment.
            let begun = Arc::new(Mutex::new(None));
            let (store, to) = (Arc::clone(&life.store), Arc::clone(&begun));
            life.store.turn_with(Box::new(move || *to.lock().unwrap() = Some(store.begin_checkpoint())));
            life.begun = *begun.lock().unwrap();
            if life.begun.is_some() && self.dice.one_in(2) {
                self.take(life);
            }
        }
        assert!(!life.store.turn(), "more than one commit");
    }

    /// Whether the submission may be in the log. P14, P20, P26.
    /// `staged` is the world the writer has seen: also what was staged before it and failed with the same commit.
    fn settled(&mut self, life: &mut Life, staged: &mut World, plan: &Plan, answer: Result<Receipt>, was_poisoned: bool) -> bool {
        match answer {
            Ok(receipt) => {
                assert!(!was_poisoned, "an ok after a storage failure");
                let foretold = staged.apply(plan);
                self.shown.apply(plan);
                let Outcome::Done(_, batch) = &foretold else { panic!("should have been refused: {plan:?}") };
                let appended = receipt.appended.iter().map(|at| (at.partition.0, at.offset.0, at.duplicate)).collect();
                assert_eq!(Outcome::Done(appended, receipt.batches.first().map(|base| base.0)), foretold, "{plan:?} {batch:?}");
                self.tally.answered += 1;
                self.tally.repeats += receipt.appended.iter().filter(|at| at.duplicate).count() as u64;
                for event in &plan.events {
                    fold(&mut life.map, *event);
                    life.dirty.insert(event.0);
                }
                true
            }
            Err(StorageError::IdempotencyConflict { .. } | StorageError::UnexpectedOffset { .. }) => {
                self.tally.conflicts += 1;
                assert_eq!(staged.apply(plan), Outcome::Refused, "{plan:?}");
                false
            }
            Err(error) => {
                let failed = life.store.stats().failure.is_some();
                self.tally.poisoned += u64::from(failed && !life.poisoned);
                life.poisoned |= failed;
                self.explained(Some(error));
                let staged_at_all = failed && !was_poisoned;
                if staged_at_all {
                    staged.apply(plan);
                }
                staged_at_all
            }
        }
    }

    /// One step of a checkpoint. Work may go on between any two.
    fn checkpoint(&mut self, life: &mut Life) {
        if let Some((taken, dirty)) = life.taken.take() {
            match life.store.write_checkpoint(taken) {
                Ok(()) => {
                    assert!(!life.poisoned, "a checkpoint after a storage failure");
                    self.tally.checkpoints += 1;
                    // It made everything durable first.
                    self.all_sure();
                }
                Err(error) => {
                    life.dirty.extend(dirty);
                    life.poisoned |= life.store.stats().failure.is_some();
                    self.explained(Some(error));
                }
            }
        } else if life.begun.is_some() {
            self.take(life);
        } else {
            life.begun = Some(life.store.begin_checkpoint());
        }
    }

    fn take(&mut self, life: &mut Life) {
        let Some(start) = life.begun.take() else { return };
        let dirty = std::mem::take(&mut life.dirty);
        let changes = dirty.iter().map(|key| (key.to_be_bytes().to_vec(), life.map.get(key).map(|pair| encode_pair(*pair)))).collect();
        life.taken = Some((life.store.take_checkpoint(start, changes), dirty));
    }

    /// Retention: trims, checkpoints, tells again what the oldest log alone tells, drops it.
    fn give_up_log(&mut self, life: &mut Life) {
        if self.keys || life.poisoned {
            return;
        }
        let trims = (0..PARTITIONS).map(|partition| {
            let next = self.shown.next(partition);
            Plan { trim: Some((partition, (next - 2).max(0))), ..Plan::default() }
        });
        let trims = trims.collect();
        self.submit(life, trims);
        while life.begun.is_some() || life.taken.is_some() {
            self.checkpoint(life);
        }
        for _ in 0..3 {
            self.checkpoint(life);
        }
        if life.poisoned || self.disk.is_off() || !life.dirty.is_empty() {
            return;
        }
        let end = match life.store.droppable_end() {
            Ok(end) if end > life.store.log_start() => end,
            other => return self.explained(other.err()),
        };
        let retold = life.store.told_below(end).iter().map(|partition| partition.id.0).collect();
        let events = life.map.iter().map(|(key, (value, number))| (*key, *value, *number)).collect();
        let before = self.tally.answered;
        self.submit(life, vec![Plan { retold, events, ..Plan::default() }]);
        if self.tally.answered == before {
            return;
        }
        self.drop_log(life, end);
    }

    fn drop_log(&mut self, life: &mut Life, end: Position) {
        match life.store.drop_below(end) {
            Ok(()) => {
                self.tally.dropped += 1;
                self.all_sure();
            }
            Err(error) => {
                life.poisoned |= life.store.stats().failure.is_some();
                self.explained(Some(error));
            }
        }
    }
}

fn numbers(store: &Store) -> Vec<(i64, i64)> {
    let numbers = |partition| {
        let partition = store.partition(PartitionId(partition));
        (partition.log_start().0, partition.high_watermark().0)
    };
    (0..PARTITIONS).map(numbers).collect()
}

fn summary(opened: &Opened) -> Result<Summary> {
    let mut ids = Vec::new();
    for partition in 0..PARTITIONS {
        let id = |value: &Vec<u8>| u64::from_le_bytes(value[..8].try_into().unwrap());
        ids.push(values(&opened.store, partition)?.iter().map(id).collect());
    }
    Ok((numbers(&opened.store), opened.map.clone(), ids))
}

fn entry(store: &Store, partition: u32, id: u64, key: Option<u32>) -> Result<NewEntry> {
    let value = value_of(id);
    let key = match key {
        Some(key) => Some(Box::new(store.dedup_key(SCOPE, &key.to_be_bytes(), &[&value], WINDOW_MS)?)),
        None => None,
    };
    Ok(NewEntry { partition: store.partition(PartitionId(partition)), body: body(&value), key, expected: None })
}

fn submission(store: &Store, plan: &Plan) -> Result<Submission> {
    let mut records = Vec::new();
    for (partition, id, key) in &plan.records {
        records.push(entry(store, *partition, *id, *key)?);
    }
    if let (Some(expected), Some(first)) = (plan.expected, records.first_mut()) {
        first.expected = Some(Offset(expected));
    }
    let batches = plan.batch.iter().map(|(partition, ids)| {
        let mut builder = BatchBuilder::default();
        ids.iter().for_each(|id| builder.push(&body(&value_of(*id))));
        NewBatch::new(store.partition(PartitionId(*partition)), builder)
    });
    let events = plan.events.iter().map(|event| NewEvent { tag: EVENT_TAG, payload: encode_event(*event) });
    Ok(Submission {
        records: records.into_iter().collect(),
        batches: batches.collect(),
        events: events.collect(),
        trims: plan.trim.iter().map(|(partition, to)| (store.partition(PartitionId(*partition)), Offset(*to))).collect(),
        retold: plan.retold.iter().map(|partition| store.partition(PartitionId(*partition))).collect(),
        durability: if plan.lazy { Durability::Lazy } else { Durability::Sync },
        urgent: false,
    })
}
