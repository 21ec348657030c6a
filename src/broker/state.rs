//! How the broker's state comes back: checkpoint, then the events of the log folded over it; and how a checkpoint is taken.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use event_listener::Event;
use onelog_storage::types::Offset;
use onelog_storage::{StateChange, Store, StoreConfig, Threads, codec};
use parking_lot::{Mutex, RwLock};

use super::dead_letter::Resolution;
use super::error::{BrokerError, Result};
use super::event::{BrokerEvent, NextIds, StateKey, StoredGroup, StoredLease, StoredOffset, StoredQueue, StoredTopic};
use super::group::{QueueGroup, lease};
use super::streams::StreamGroup;
use super::timer::Timer;
use super::topic::Topic;
use super::{BrokerConfig, Counters, Inner, TopicsById, groups_of};

/// Lease tokens begin at the milliseconds of the opening times this: greater than those of any earlier run, also one that
/// went on from a copy of the directory.
const TOKENS_PER_MS: u64 = 1 << 20;

/// State as it is folded.
struct Fold {
    now: Duration,
    topics: BTreeMap<u32, StoredTopic>,
    groups: BTreeMap<u32, StoredGroup>,
    queues: BTreeMap<(u32, u32), super::group::QueueState>,
    streams: BTreeMap<String, StreamGroup>,
    resolutions: HashMap<u32, Resolution>,
    ids: NextIds,
    /// What the log said after the checkpoint; the next checkpoint must take it.
    changed: Vec<StateKey>,
}

pub(super) fn open(dir: &Path, config: &BrokerConfig, temporary: Option<tempfile::TempDir>) -> Result<Inner> {
    let store_config = StoreConfig {
        segment_bytes: config.segment_bytes,
        ahead_bytes: config.ahead_bytes,
        cache_bytes: config.cache_bytes,
        index_cache_bytes: config.index_cache_bytes,
        holder: format!("onelog (process {})", std::process::id()),
        threads: if config.without_threads.is_some() { Threads::None } else { Threads::Own },
        new_id: config.without_threads,
        ..StoreConfig::default()
    };
    let mut opening = Store::open(Arc::clone(&config.io), Arc::clone(&config.clock), dir, store_config)?;
    let mut fold = Fold::new(config.clock.monotonic());
    for (key, value) in opening.state()? {
        fold.load(&key, &value)?;
    }
    while let Some(event) = opening.next_event()? {
        if let Some(event) = BrokerEvent::decode(event.tag, &event.payload)? {
            fold.apply(event);
        }
    }
    let (store, report) = opening.finish()?;
    Ok(fold.finish(store, report, config, temporary))
}

impl Fold {
    fn new(now: Duration) -> Self {
        Self {
            now,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            queues: BTreeMap::new(),
            streams: BTreeMap::new(),
            resolutions: HashMap::new(),
            ids: NextIds::default(),
            changed: Vec::new(),
        }
    }

    /// One pair of a checkpoint.
    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let bad = |error: onelog_storage::error::StorageError| BrokerError::Damaged { what: format!("checkpoint: {error}") };
        match StateKey::decode(key) {
            Some(StateKey::Ids) => self.raise_ids(codec::decode(value).map_err(bad)?),
            Some(StateKey::Topic(_)) => self.insert_topic(codec::decode(value).map_err(bad)?),
            Some(StateKey::Group(id)) => drop(self.groups.insert(id, codec::decode(value).map_err(bad)?)),
            Some(StateKey::Queue(..)) => self.restore(&codec::decode(value).map_err(bad)?),
            Some(StateKey::StreamGroup(name)) => {
                let offsets: Vec<StoredOffset> = codec::decode(value).map_err(bad)?;
                self.set_offsets(name, offsets);
            }
            Some(StateKey::Resolved(topic, partition)) => {
                self.resolutions.entry(topic).or_default().add(partition, &codec::decode(value).map_err(bad)?);
            }
            None => return Err(BrokerError::Damaged { what: "the checkpoint holds an unknown key".into() }),
        }
        Ok(())
    }

    fn raise_ids(&mut self, ids: NextIds) {
        self.ids.topic = self.ids.topic.max(ids.topic);
        self.ids.partition = self.ids.partition.max(ids.partition);
        self.ids.group = self.ids.group.max(ids.group);
    }

    /// Its numbers are taken, whatever else is known of numbers: two topics with one partition would be the end of both.
    fn insert_topic(&mut self, topic: StoredTopic) {
        self.ids.topic = self.ids.topic.max(topic.id);
        let newest = topic.partitions.iter().map(|partition| partition.0).max().unwrap_or(0);
        self.ids.partition = self.ids.partition.max(newest);
        self.topics.insert(topic.id, topic);
    }

    fn apply(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::TopicSet(topic) => {
                // The numbers too: those of partitions that were added stand in no other event.
                self.changed.extend([StateKey::Topic(topic.id), StateKey::Ids]);
                self.insert_topic(topic);
            }
            BrokerEvent::TopicDeleted(id) => {
                self.changed.push(StateKey::Topic(id));
                self.topics.remove(&id);
            }
            BrokerEvent::GroupSet(group) => {
                self.changed.push(StateKey::Group(group.id));
                self.ids.group = self.ids.group.max(group.id);
                self.groups.insert(group.id, group);
            }
            BrokerEvent::GroupDeleted(id) => {
                self.changed.push(StateKey::Group(id));
                self.groups.remove(&id);
                let gone: Vec<_> = self.queues.range((id, 0)..=(id, u32::MAX)).map(|(key, _)| *key).collect();
                for key in gone {
                    self.changed.push(StateKey::Queue(key.0, key.1));
                    self.queues.remove(&key);
                }
            }
            BrokerEvent::Lease(stored) => self.replay(&stored),
            BrokerEvent::Queue(stored) => self.restore(&stored),
            BrokerEvent::OffsetsSet(group, offsets) => {
                self.changed.push(StateKey::StreamGroup(group.clone()));
                self.set_offsets(group, offsets);
            }
            BrokerEvent::StreamGroupDeleted(group) => {
                self.streams.remove(&group);
                self.changed.push(StateKey::StreamGroup(group));
            }
            BrokerEvent::Resolved(topic, partition, ranges) => {
                self.changed.push(StateKey::Resolved(topic, partition));
                self.resolutions.entry(topic).or_default().add(partition, &ranges);
            }
            BrokerEvent::Ids(ids) => {
                self.changed.push(StateKey::Ids);
                self.raise_ids(ids);
            }
        }
    }

    fn queue(&mut self, group: u32, partition: u32) -> &mut super::group::QueueState {
        self.queues.entry((group, partition)).or_insert_with(|| super::group::QueueState::new(Offset(0)))
    }

    fn replay(&mut self, stored: &StoredLease) {
        let now = self.now;
        self.queue(stored.group, stored.partition).replay(stored, now);
    }

    fn restore(&mut self, stored: &StoredQueue) {
        let now = self.now;
        self.queue(stored.group, stored.partition).restore(stored, now);
    }

    fn set_offsets(&mut self, group: String, offsets: Vec<StoredOffset>) {
        let known = self.streams.entry(group).or_default();
        known.extend(offsets.into_iter().map(|offset| ((offset.topic, offset.partition), offset)));
    }

    /// The broker over the opened store.
    fn finish(
        mut self,
        store: Store,
        report: onelog_storage::RecoveryReport,
        config: &BrokerConfig,
        temporary: Option<tempfile::TempDir>,
    ) -> Inner {
        let token = self.next_token(&store);
        let mut by_id = TopicsById::new();
        for stored in self.topics.values() {
            let partitions = stored.partitions.iter().map(|id| store.partition(*id)).collect();
            let count = u32::try_from(stored.partitions.len()).unwrap_or(u32::MAX);
            let settings = stored.settings.clone().with_partitions(count);
            let topic = Topic::new(stored.id, &stored.name, stored.created_ms, settings, partitions);
            if let Some(resolution) = self.resolutions.remove(&stored.id) {
                *topic.resolution.lock() = resolution;
            }
            by_id.insert(stored.id, Arc::new(topic));
        }
        for stored in self.groups.values() {
            let Some(topic) = by_id.get(&stored.topic) else { continue };
            let group = Arc::new(QueueGroup::new(stored, &topic.name));
            topic.partitions().iter().for_each(|partition| group.listen_to(partition));
            topic.groups.write().insert(stored.name.clone(), group);
        }
        self.place_queues(&by_id);
        Inner {
            store,
            topics: RwLock::new(by_id.into_values().map(|topic| (topic.name.to_string(), topic)).collect()),
            streams: Mutex::new(self.streams),
            control: tokio::sync::Mutex::new(()),
            ids: Mutex::new(self.ids),
            dirty: Mutex::new(self.changed.into_iter().collect()),
            next_token: AtomicU64::new(token),
            queue_bytes_max: config.queue_bytes_max as u64,
            timer: Arc::new(Timer::new(Arc::clone(&config.clock))),
            clock: Arc::clone(&config.clock),
            counters: Counters::default(),
            checkpoint_bytes: config.checkpoint_bytes,
            batch_bytes_max: (config.segment_bytes / 4 * 3).min(super::produce::BATCH_BYTES_LIMIT),
            closing: AtomicBool::new(false),
            closed: Event::new(),
            report,
            checkpointing: Mutex::new(()),
            _temporary: temporary,
        }
    }

    /// Nobody waits for a grant, so the log may have lost some: going on right behind those it knows is not enough. The time of
    /// opening moves on also when the clock does not. Where tokens have run ahead of it, the number of the opening keeps two
    /// openings apart.
    fn next_token(&self, store: &Store) -> u64 {
        let used = self.queues.values().map(|state| state.queue.last_token().0).max().unwrap_or(0);
        let by_time = u64::try_from(store.opened().0).unwrap_or(0).saturating_mul(TOKENS_PER_MS);
        if used < by_time { by_time } else { used.saturating_add(u64::from(store.epoch().0).saturating_mul(TOKENS_PER_MS)) }
    }

    fn place_queues(&mut self, by_id: &TopicsById) {
        let groups: HashMap<u32, Arc<QueueGroup>> =
            by_id.values().flat_map(|topic| groups_of(topic)).map(|group| (group.id, group)).collect();
        for ((group, partition), state) in std::mem::take(&mut self.queues) {
            if let Some(group) = groups.get(&group) {
                *group.partition(partition, |_| Offset(0)).state.lock() = state;
            }
        }
    }
}

impl Inner {
    /// Writes all views to the index. Blocks: not to be called from a task.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let _one_at_a_time = self.checkpointing.lock();
        // A creation or change is in the log before it is in memory; between the two the position would promise too much.
        let control = self.control.blocking_lock();
        let start = self.store.begin_checkpoint();
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let mut taken = Vec::new();
        let collected = self.collect(&dirty, &mut taken);
        drop(control);
        let result = collected.and_then(|changes| Ok(self.store.finish_checkpoint(start, changes)?));
        if result.is_err() {
            self.dirty.lock().extend(dirty);
            for partition in taken {
                partition.state.lock().changed = true;
            }
        }
        result
    }

    fn collect(
        &self,
        dirty: &std::collections::HashSet<StateKey>,
        taken: &mut Vec<Arc<super::group::GroupPartition>>,
    ) -> Result<Vec<StateChange>> {
        let topics: TopicsById = self.topics.read().values().map(|topic| (topic.id, Arc::clone(topic))).collect();
        let groups: HashMap<u32, Arc<QueueGroup>> =
            topics.values().flat_map(|topic| groups_of(topic)).map(|group| (group.id, group)).collect();
        let mut changes = Vec::new();
        for key in dirty {
            let value = match key {
                StateKey::Ids => Some(codec::encode(&*self.ids.lock())?),
                StateKey::Topic(id) => topics.get(id).map(|topic| codec::encode(&topic.stored())).transpose()?,
                StateKey::Group(id) => groups.get(id).map(|group| codec::encode(&group.stored())).transpose()?,
                StateKey::Queue(group, _) if groups.contains_key(group) => continue,
                StateKey::Queue(..) => None,
                StateKey::StreamGroup(name) => {
                    let offsets: Option<Vec<StoredOffset>> = self.streams.lock().get(name).map(|group| group.values().cloned().collect());
                    offsets.map(|offsets| codec::encode(&offsets)).transpose()?
                }
                StateKey::Resolved(topic, partition) => {
                    let ranges: Option<lease::Ranges> = topics.get(topic).map(|topic| topic.resolution.lock().ranges(*partition));
                    ranges.map(|ranges| codec::encode(&ranges)).transpose()?
                }
            };
            changes.push((key.encode(), value));
        }
        let now = self.timer.now();
        for group in groups.values() {
            for partition in group.partitions() {
                let mut state = partition.state.lock();
                if std::mem::take(&mut state.changed) {
                    let stored = state.stored(group.id, partition.number, now);
                    drop(state);
                    taken.push(Arc::clone(&partition));
                    changes.push((StateKey::Queue(group.id, partition.number).encode(), Some(codec::encode(&stored)?)));
                }
            }
        }
        Ok(changes)
    }

    /// Everything the log must say again before its oldest part may go.
    pub(super) fn restate(&self) -> Result<Vec<onelog_storage::submission::Ticket>> {
        // What is said again must not be older than a change that is in the log already.
        let _control = self.control.blocking_lock();
        let mut tickets = Vec::new();
        let mut say = |event: BrokerEvent| -> Result<()> {
            let events = [event.encode()?].into_iter().collect();
            tickets.push(self.store.submit(onelog_storage::submission::Submission { events, urgent: true, ..Default::default() }));
            Ok(())
        };
        say(BrokerEvent::Ids(*self.ids.lock()))?;
        let topics: Vec<Arc<Topic>> = self.topics.read().values().cloned().collect();
        for topic in &topics {
            say(BrokerEvent::TopicSet(topic.stored()))?;
            let resolution = topic.resolution.lock();
            for partition in resolution.partitions() {
                say(BrokerEvent::Resolved(topic.id, partition, resolution.ranges(partition)))?;
            }
        }
        let now = self.timer.now();
        for group in topics.iter().flat_map(|topic| groups_of(topic)) {
            say(BrokerEvent::GroupSet(group.stored()))?;
            for partition in group.partitions() {
                let state = partition.state.lock();
                say(BrokerEvent::Queue(state.stored(group.id, partition.number, now)))?;
            }
        }
        let streams = self.streams.lock();
        for (name, offsets) in streams.iter() {
            say(BrokerEvent::OffsetsSet(name.clone(), offsets.values().cloned().collect()))?;
        }
        Ok(tickets)
    }
}
