//! The broker's entries in the log and in the checkpoint: what they are called and how they are written. The only place that knows.
//!
//! `Set` events carry the whole of what they describe, so folding one twice changes nothing; lease events are numbered per
//! group and partition for the same reason.

use onelog_storage::codec;
use onelog_storage::submission::NewEvent;
use onelog_storage::types::PartitionId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::{BrokerError, Result};
use super::group::lease;
use super::types::{GroupSettings, TopicSettings};

/// A topic as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredTopic {
    pub id: u32,
    pub name: String,
    pub created_ms: i64,
    pub settings: StoredTopicSettings,
    pub partitions: Vec<PartitionId>,
}

/// Topic settings without names: bincode knows fields by their place, so new ones go to the end of a new version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredTopicSettings {
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    pub record_bytes_max: u32,
    pub dedup_window_ms: u64,
    pub durability: super::types::Durability,
}

impl StoredTopicSettings {
    pub fn of(settings: &TopicSettings) -> Self {
        Self {
            retention_ms: settings.retention_ms,
            retention_bytes: settings.retention_bytes,
            record_bytes_max: settings.record_bytes_max,
            dedup_window_ms: settings.dedup_window_ms,
            durability: settings.durability,
        }
    }

    pub fn with_partitions(self, partitions: u32) -> TopicSettings {
        TopicSettings {
            partitions,
            retention_ms: self.retention_ms,
            retention_bytes: self.retention_bytes,
            record_bytes_max: self.record_bytes_max,
            dedup_window_ms: self.dedup_window_ms,
            durability: self.durability,
        }
    }
}

/// A queue group as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredGroup {
    pub id: u32,
    pub topic: u32,
    pub name: String,
    pub created_ms: i64,
    pub settings: GroupSettings,
}

/// A lease event, numbered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredLease {
    pub group: u32,
    pub partition: u32,
    /// Counts the events of this group and partition.
    pub sequence: u64,
    pub event: lease::LeaseEvent,
}

/// The whole state of a group's partition after `sequence` events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredQueue {
    pub group: u32,
    pub partition: u32,
    pub sequence: u64,
    pub snapshot: lease::Snapshot,
}

/// A committed offset of a stream group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOffset {
    pub topic: u32,
    pub partition: u32,
    pub offset: i64,
    pub metadata: Option<String>,
}

/// The numbers that are never given out twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextIds {
    pub topic: u32,
    pub partition: u32,
    pub group: u32,
}

/// What the broker writes into the log.
#[derive(Debug, Clone)]
pub enum BrokerEvent {
    TopicSet(StoredTopic),
    TopicDeleted(u32),
    GroupSet(StoredGroup),
    GroupDeleted(u32),
    Lease(StoredLease),
    Queue(StoredQueue),
    /// Offsets of a stream group, each replacing the one before it.
    OffsetsSet(String, Vec<StoredOffset>),
    StreamGroupDeleted(String),
    /// Dead letters that were redriven or purged: topic, partition, ranges.
    Resolved(u32, u32, lease::Ranges),
    Ids(NextIds),
}

// Tag 0 is storage's own.
const TOPIC_SET: u8 = 1;
const TOPIC_DELETED: u8 = 2;
const GROUP_SET: u8 = 3;
const GROUP_DELETED: u8 = 4;
const LEASE: u8 = 5;
const QUEUE: u8 = 6;
const OFFSETS_SET: u8 = 7;
const STREAM_GROUP_DELETED: u8 = 8;
const RESOLVED: u8 = 9;
const IDS: u8 = 10;

impl BrokerEvent {
    pub fn encode(&self) -> Result<NewEvent> {
        let (tag, payload) = match self {
            Self::TopicSet(topic) => (TOPIC_SET, codec::encode(topic)),
            Self::TopicDeleted(id) => (TOPIC_DELETED, codec::encode(id)),
            Self::GroupSet(group) => (GROUP_SET, codec::encode(group)),
            Self::GroupDeleted(id) => (GROUP_DELETED, codec::encode(id)),
            Self::Lease(lease) => (LEASE, codec::encode(lease)),
            Self::Queue(queue) => (QUEUE, codec::encode(queue)),
            Self::OffsetsSet(group, offsets) => (OFFSETS_SET, codec::encode(&(group, offsets))),
            Self::StreamGroupDeleted(group) => (STREAM_GROUP_DELETED, codec::encode(group)),
            Self::Resolved(topic, partition, ranges) => (RESOLVED, codec::encode(&(topic, partition, ranges))),
            Self::Ids(ids) => (IDS, codec::encode(ids)),
        };
        Ok(NewEvent { tag, payload: payload? })
    }

    /// `None` for an event that is storage's own.
    pub fn decode(tag: u8, payload: &[u8]) -> Result<Option<Self>> {
        Ok(Some(match tag {
            onelog_storage::store::TAG_LOG_START => return Ok(None),
            TOPIC_SET => Self::TopicSet(read(payload)?),
            TOPIC_DELETED => Self::TopicDeleted(read(payload)?),
            GROUP_SET => Self::GroupSet(read(payload)?),
            GROUP_DELETED => Self::GroupDeleted(read(payload)?),
            LEASE => Self::Lease(read(payload)?),
            QUEUE => Self::Queue(read(payload)?),
            OFFSETS_SET => read(payload).map(|(group, offsets)| Self::OffsetsSet(group, offsets))?,
            STREAM_GROUP_DELETED => Self::StreamGroupDeleted(read(payload)?),
            RESOLVED => read(payload).map(|(topic, partition, ranges)| Self::Resolved(topic, partition, ranges))?,
            IDS => Self::Ids(read(payload)?),
            other => return Err(BrokerError::Damaged { what: format!("the log holds an event of unknown kind {other}") }),
        }))
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    codec::decode(payload).map_err(|error| BrokerError::Damaged { what: error.to_string() })
}

/// Keys of the broker's state in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StateKey {
    Ids,
    Topic(u32),
    Group(u32),
    Queue(u32, u32),
    StreamGroup(String),
    Resolved(u32, u32),
}

impl StateKey {
    pub fn encode(&self) -> Vec<u8> {
        let numbered = |kind: u8, numbers: &[u32]| {
            let mut key = vec![kind];
            key.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
            key
        };
        match self {
            Self::Ids => vec![b'i'],
            // Sorted so that what is referred to comes first: topics, groups, then the rest.
            Self::Topic(id) => numbered(b'a', &[*id]),
            Self::Group(id) => numbered(b'b', &[*id]),
            Self::Queue(group, partition) => numbered(b'c', &[*group, *partition]),
            Self::Resolved(topic, partition) => numbered(b'd', &[*topic, *partition]),
            Self::StreamGroup(name) => [b"e", name.as_bytes()].concat(),
        }
    }

    pub fn decode(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        let number = |at: usize| rest.get(at * 4..at * 4 + 4).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        Some(match kind {
            b'i' => Self::Ids,
            b'a' => Self::Topic(number(0)?),
            b'b' => Self::Group(number(0)?),
            b'c' => Self::Queue(number(0)?, number(1)?),
            b'd' => Self::Resolved(number(0)?, number(1)?),
            b'e' => Self::StreamGroup(String::from_utf8(rest.to_vec()).ok()?),
            _ => return None,
        })
    }
}
