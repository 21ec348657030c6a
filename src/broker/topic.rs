//! A topic: a name, settings and partitions of the store. Owns which partition a record goes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use event_listener::Event;
use onelog_storage::partition::Partition;
use parking_lot::{Mutex, RwLock};

use super::dead_letter::Resolution;
use super::error::{BrokerError, Result};
use super::event::{StoredTopic, StoredTopicSettings};
use super::group::QueueGroup;
use super::partitioner::partition_for_key;
use super::types::{NAME_BYTES_MAX, PARTITIONS_MAX, PartitionInfo, RECORD_BYTES_LIMIT, TopicInfo, TopicSettings};

/// Records without a key stay with one partition for this many, so that they share batches.
const STICKY_RECORDS: u32 = 16;
/// Longest idempotency window.
const DEDUP_WINDOW_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// What a topic is right now. Read by every publish, so reading it takes no lock; replaced whole.
pub struct TopicView {
    pub settings: TopicSettings,
    pub partitions: Arc<[Arc<Partition>]>,
}

/// One topic.
pub struct Topic {
    pub id: u32,
    pub name: Arc<str>,
    pub created_ms: i64,
    view: ArcSwap<TopicView>,
    /// Rung when any partition has new records.
    pub bell: Arc<Event>,
    next: AtomicU32,
    pub groups: RwLock<BTreeMap<String, Arc<QueueGroup>>>,
    /// Which dead letters in this topic are dealt with; empty for topics that hold none.
    pub resolution: Mutex<Resolution>,
    pub deleted: AtomicBool,
}

impl Topic {
    pub fn new(id: u32, name: &str, created_ms: i64, settings: TopicSettings, partitions: Vec<Arc<Partition>>) -> Self {
        let topic = Self {
            id,
            name: name.into(),
            created_ms,
            view: ArcSwap::from_pointee(TopicView { settings: TopicSettings::default(), partitions: Arc::from([]) }),
            bell: Arc::new(Event::new()),
            next: AtomicU32::new(0),
            groups: RwLock::default(),
            resolution: Mutex::default(),
            deleted: AtomicBool::new(false),
        };
        topic.set(settings, partitions);
        topic
    }

    pub fn settings(&self) -> TopicSettings {
        self.view.load().settings.clone()
    }

    pub fn view(&self) -> Guard<Arc<TopicView>> {
        self.view.load()
    }

    pub fn set(&self, settings: TopicSettings, partitions: Vec<Arc<Partition>>) {
        let groups: Vec<Arc<QueueGroup>> = self.groups.read().values().cloned().collect();
        for partition in &partitions {
            partition.ring(&self.bell, usize::MAX);
            groups.iter().for_each(|group| group.listen_to(partition));
        }
        self.view.store(Arc::new(TopicView { settings, partitions: partitions.into() }));
    }

    pub fn partitions(&self) -> Arc<[Arc<Partition>]> {
        Arc::clone(&self.view.load().partitions)
    }

    pub fn partition(&self, number: u32) -> Result<Arc<Partition>> {
        self.view.load().partitions.get(number as usize).cloned().ok_or_else(|| self.no_partition(number))
    }

    fn no_partition(&self, number: u32) -> BrokerError {
        let partitions = u32::try_from(self.view.load().partitions.len()).unwrap_or(u32::MAX);
        BrokerError::PartitionNotFound { topic: self.name.to_string(), partition: number, partitions }
    }

    /// Where a record goes: where it says, by its key as Kafka clients do, or in turn.
    pub fn place<'a>(&self, view: &'a TopicView, asked: Option<u32>, key: Option<&[u8]>) -> Result<(u32, &'a Arc<Partition>)> {
        let count = u32::try_from(view.partitions.len()).unwrap_or(u32::MAX);
        let number = match (asked, key) {
            (Some(number), _) => number,
            (None, _) if count <= 1 => 0,
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) => (self.next.fetch_add(1, Relaxed) / STICKY_RECORDS) % count,
        };
        let partition = view.partitions.get(number as usize).ok_or_else(|| self.no_partition(number))?;
        Ok((number, partition))
    }

    pub fn stored(&self) -> StoredTopic {
        StoredTopic {
            id: self.id,
            name: self.name.to_string(),
            created_ms: self.created_ms,
            settings: StoredTopicSettings::of(&self.view.load().settings),
            partitions: self.view.load().partitions.iter().map(|partition| partition.id).collect(),
        }
    }

    pub fn info(&self) -> TopicInfo {
        let partitions = self.partitions();
        let partitions = partitions.iter().zip(0..).map(|(partition, number)| PartitionInfo {
            partition: number,
            log_start: partition.log_start().0,
            high_watermark: partition.high_watermark().0,
        });
        TopicInfo {
            name: self.name.to_string(),
            settings: self.settings(),
            created_ms: self.created_ms,
            partitions: partitions.collect(),
            groups: self.groups.read().keys().cloned().collect(),
        }
    }

    pub fn group(&self, name: &str) -> Result<Arc<QueueGroup>> {
        let found = self.groups.read().get(name).cloned();
        found.ok_or_else(|| BrokerError::GroupNotFound { topic: self.name.to_string(), group: name.to_owned() })
    }
}

/// Refuses a name Kafka would refuse too, so that every protocol can say it.
pub fn check_name(kind: &'static str, name: &str) -> Result<()> {
    let why = match name {
        "" => "it is empty",
        "." | ".." => "it would be a directory's",
        _ if name.len() > NAME_BYTES_MAX => "it is longer than 249 bytes",
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) => {
            "only ASCII letters, digits, `.`, `_` and `-` are allowed"
        }
        _ => return Ok(()),
    };
    Err(BrokerError::InvalidName { kind, name: name.chars().take(100).collect(), why })
}

pub fn check_settings(settings: &TopicSettings) -> Result<()> {
    let refuse = |setting, why: String| Err(BrokerError::InvalidSetting { setting, why });
    if !(1..=PARTITIONS_MAX).contains(&settings.partitions) {
        return refuse("partitions", format!("must be 1 to {PARTITIONS_MAX}, not {}", settings.partitions));
    }
    if !(1..=RECORD_BYTES_LIMIT).contains(&settings.record_bytes_max) {
        return refuse("record_bytes_max", format!("must be 1 to {RECORD_BYTES_LIMIT} bytes, not {}", settings.record_bytes_max));
    }
    if settings.dedup_window_ms > DEDUP_WINDOW_MS_MAX {
        return refuse("dedup_window_ms", format!("must be at most {DEDUP_WINDOW_MS_MAX} ms (366 days)"));
    }
    Ok(())
}
