//! The load that is recorded: publishers, repeats of what was published, batches over two topics, acks, dead letters, committed
//! offsets, checkpoints, retention, all at once. Notes each ok with the disk's count of operations at that moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use onelog::{Broker, TopicSettings};
use onelog_storage::io::Site;

use crate::broken::Watch;
use crate::counter::Counter;
use crate::door::{Door, Leased};
use crate::history::{AUDIT, Commit, History, Number, ORDERS, Place, Publish, Settle, TOPICS, Topic};
use crate::random::Random;

const PUBLISHERS: u64 = 4;
const CONSUMERS: u64 = 2;
/// Most records of one batch.
const BATCH_MAX: u64 = 12;
/// Checkpoints of one load.
const HOUSE_KEEPINGS: u64 = 6;

/// How much, and of what kind.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub seed: u64,
    /// Publishes in all.
    pub publishes: u64,
    /// Some records are large, so that segments fill up; retention gives them back.
    pub large: bool,
    /// Requests may fail because the disk does: the load ends then.
    pub may_fail: bool,
}

impl Shape {
    fn topic_settings(&self, partitions: u32) -> TopicSettings {
        TopicSettings { partitions, retention_bytes: self.large.then_some(512 * 1024), ..TopicSettings::default() }
    }
}

/// A history many write to, and the disk's counter.
#[derive(Clone)]
pub struct Notes {
    history: Arc<Mutex<History>>,
    ops: Counter,
    watch: Watch,
    /// Requests that began after the disk had failed and were answered ok: sentences.
    late: Arc<Mutex<Vec<String>>>,
}

impl Notes {
    pub fn new(history: History, ops: Counter) -> Self {
        Self { history: Arc::new(Mutex::new(history)), ops, watch: Watch::default(), late: Arc::default() }
    }

    /// The disk as `watch` sees it is the one under the broker.
    pub fn watching(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    /// What was answered ok though the disk had failed before it was asked.
    pub fn acknowledged_late(&self) -> Vec<String> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_late(&self, failed: Option<Site>, what: &str) {
        if let Some(site) = failed {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            late.push(format!("P20: {what} was acknowledged after `{site}` had failed"));
        }
    }

    pub fn now(&self) -> u64 {
        self.ops.get().load(SeqCst)
    }

    pub fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> History {
        std::mem::take(&mut self.lock())
    }

    /// Publishes, and notes it. A record that is known already must be where it was.
    pub async fn publish(&self, door: &Door, records: Vec<Number>) -> Result<Vec<Place>> {
        let at = {
            let mut history = self.lock();
            history.publishes.push(Publish { records: records.clone(), ok: None });
            history.publishes.len() - 1
        };
        let failed = self.watch.failed();
        let stored = door.publish(&records).await?;
        let seen = self.now();
        if stored.iter().any(|one| !one.duplicate) {
            self.note_late(failed, "a publish");
        }
        let places: Vec<Place> = stored.iter().map(|one| one.place).collect();
        self.lock().publishes[at].ok = Some((seen, places.clone()));
        Ok(places)
    }

    pub async fn settle(&self, door: &Door, topic: Topic, leased: &[Leased], dead: bool) -> Result<()> {
        let first = {
            let mut history = self.lock();
            let first = history.settles.len();
            history.settles.extend(leased.iter().map(|one| Settle { topic, place: one.place, dead, ok: None }));
            first
        };
        let leases: Vec<_> = leased.iter().map(|one| one.lease).collect();
        let failed = self.watch.failed();
        door.settle(topic, &leases, dead).await?;
        let seen = self.now();
        self.note_late(failed, "an ack");
        self.lock().settles[first..first + leased.len()].iter_mut().for_each(|settle| settle.ok = Some(seen));
        Ok(())
    }

    async fn commit_offset(&self, door: &Door, place: Place) -> Result<()> {
        let at = {
            let mut history = self.lock();
            history.commits.push(Commit { place, ok: None });
            history.commits.len() - 1
        };
        let failed = self.watch.failed();
        door.commit_offset(place).await?;
        let seen = self.now();
        self.note_late(failed, "a committed offset");
        self.lock().commits[at].ok = Some(seen);
        Ok(())
    }

    /// Makes the topics, again after a restart.
    pub async fn make_topics(&self, door: &Door, shape: &Shape) -> Result<()> {
        for (name, partitions) in TOPICS {
            door.make_topic(name, shape.topic_settings(partitions)).await?;
            let seen = self.now();
            let mut history = self.lock();
            if !history.topics.iter().any(|(known, _)| known == name) {
                history.topics.push((name.to_owned(), seen));
            }
        }
        Ok(())
    }
}

/// Runs the load to its end. With `Shape::may_fail`, an error ends it too and is answered as `Ok(Some(..))`.
pub async fn run(door: &Door, notes: &Notes, shape: Shape, serials: &Arc<AtomicU64>) -> Result<Option<String>> {
    notes.make_topics(door, &shape).await.or_else(|why| if shape.may_fail { Ok(()) } else { Err(why) })?;
    let over = Arc::new(AtomicBool::new(false));
    let end = serials.load(SeqCst) + shape.publishes;
    let mut tasks = tokio::task::JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (door, notes, serials) = (door.clone(), notes.clone(), Arc::clone(serials));
        let random = Random::of(shape.seed, publisher);
        tasks.spawn(async move { publish(&door, &notes, &shape, &serials, end, random).await });
    }
    let mut others = tokio::task::JoinSet::new();
    for consumer in 0..CONSUMERS {
        let (door, notes, over) = (door.clone(), notes.clone(), Arc::clone(&over));
        let random = Random::of(shape.seed, 100 + consumer);
        others.spawn(async move { consume(&door, &notes, &over, random, consumer == 0).await });
    }
    let mut failures = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        failures.extend(ended?.err());
    }
    over.store(true, SeqCst);
    while let Some(ended) = others.join_next().await {
        failures.extend(ended?.err());
    }
    match failures.into_iter().next() {
        Some(why) if !shape.may_fail => Err(why).context("a request was refused though nothing had failed"),
        why => Ok(why.map(|why| format!("{why:#}"))),
    }
}

async fn publish(door: &Door, notes: &Notes, shape: &Shape, serials: &AtomicU64, end: u64, mut random: Random) -> Result<()> {
    // Offered again now and then.
    let mut last: Option<(Number, Place)> = None;
    loop {
        let kind = random.below(100);
        let count = if kind < 70 { 1 } else { 2 + random.below(BATCH_MAX) };
        let serial = serials.fetch_add(count, SeqCst);
        if serial >= end {
            return Ok(());
        }
        let every = (shape.publishes / HOUSE_KEEPINGS).max(1);
        if serial / every != (serial + count) / every {
            keep_house(door, notes, shape).await?;
        }
        let (topic, keyed) = (if random.chance(1, 4) { AUDIT } else { ORDERS }, random.chance(1, 2));
        let large = shape.large && random.chance(1, 6);
        let number = |at: u64| {
            // Every fourth batch is for both topics.
            let topic = if kind > 92 && at % 2 == 1 { AUDIT } else { topic };
            Number::new(serial + at, topic, keyed, large && at == 0)
        };
        let records: Vec<Number> = (0..count).map(number).collect();
        if count == 1 && keyed && random.chance(1, 10) {
            // Twice at the same moment: one record, and both are told the same place.
            let (one, two) = tokio::join!(notes.publish(door, records.clone()), notes.publish(door, records.clone()));
            let (one, two) = (one?, two?);
            ensure!(one == two, "P14: two publishes of {} were answered {one:?} and {two:?}", records[0].id());
        } else {
            let places = notes.publish(door, records.clone()).await?;
            if keyed {
                last = places.first().map(|place| (records[0], *place));
            }
        }
        if let Some((number, place)) = last.filter(|_| random.chance(1, 10)) {
            let again = notes.publish(door, vec![number]).await?;
            ensure!(again == [place], "P14: {} went to {place:?} and a repeat was answered {again:?}", number.id());
        }
    }
}

/// Only one `commits` offsets: what it said last is what counts.
async fn consume(door: &Door, notes: &Notes, over: &AtomicBool, mut random: Random, commits: bool) -> Result<()> {
    let mut idle = 0;
    while !over.load(SeqCst) || idle < 2 {
        let topic = if random.chance(1, 4) { AUDIT } else { ORDERS };
        let leased = door.receive(topic, 1 + random.index(8)).await?;
        if leased.is_empty() {
            idle += 1;
            continue;
        }
        idle = 0;
        // Some stay leased.
        let (settled, _kept) = leased.split_at(if random.chance(1, 5) { leased.len() / 2 } else { leased.len() });
        if settled.is_empty() {
            continue;
        }
        let dead = random.chance(1, 12);
        notes.settle(door, topic, settled, dead).await?;
        if commits && topic == ORDERS && random.chance(1, 4) {
            let (partition, offset) = settled[settled.len() - 1].place;
            notes.commit_offset(door, (partition, offset + 1)).await?;
        }
    }
    Ok(())
}

/// Checkpoints and retention, more often than they come by themselves, while the others go on.
async fn keep_house(door: &Door, notes: &Notes, shape: &Shape) -> Result<()> {
    let Door::Crate(broker) = door else { return Ok(()) };
    broker.checkpoint().await?;
    if shape.large {
        broker.apply_retention().await?;
        note_log_starts(broker, notes)?;
    }
    Ok(())
}

pub fn note_log_starts(broker: &Broker, notes: &Notes) -> Result<()> {
    for (topic, (name, _)) in TOPICS.iter().enumerate() {
        for partition in broker.topic(name)?.partitions {
            notes.lock().log_starts.push((topic, partition.partition, partition.log_start));
        }
    }
    Ok(())
}
