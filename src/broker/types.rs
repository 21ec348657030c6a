//! What goes into the broker and comes out of it: plain data, the same for every protocol.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use onelog_storage::types::Durability;

use super::error::{BrokerError, LeaseError};

/// Largest record (key + value + headers) a topic may be set to take, in bytes.
pub const RECORD_BYTES_LIMIT: u32 = 8 * 1024 * 1024;
/// Largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// Most headers of one record, and most bytes of them together.
pub const HEADERS_MAX: usize = 64;
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Most partitions of one topic.
pub const PARTITIONS_MAX: u32 = 10_000;
/// Longest name of a topic, group or member, in bytes.
pub const NAME_BYTES_MAX: usize = 249;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 1024;
/// Most records of one request, in or out.
pub const BATCH_RECORDS_MAX: usize = 100_000;
/// Longest delay of a retry, milliseconds.
pub const DELAY_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// How a topic behaves. Unknown settings are refused, absent ones take the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSettings {
    /// Number of partitions; can grow, never shrink.
    pub partitions: u32,
    /// Records older than this may be removed, milliseconds; `None` keeps them for ever.
    pub retention_ms: Option<u64>,
    /// A partition above this many bytes loses its oldest records; `None` has no bound.
    pub retention_bytes: Option<u64>,
    /// Largest record taken, bytes of key, value and headers.
    pub record_bytes_max: u32,
    /// How long an idempotency key is remembered, milliseconds.
    pub dedup_window_ms: u64,
    /// Whether an ok waits for the disk.
    pub durability: Durability,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            partitions: 1,
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_bytes: None,
            record_bytes_max: 1024 * 1024,
            dedup_window_ms: 24 * 3600 * 1000,
            durability: Durability::Sync,
        }
    }
}

/// A change of topic settings: what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicChange {
    pub partitions: Option<u32>,
    /// `Some(None)` (JSON `null`) removes the bound.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<Option<u64>>,
    pub record_bytes_max: Option<u32>,
    pub dedup_window_ms: Option<u64>,
    pub durability: Option<Durability>,
}

/// Tells a field that is `null` from one that is absent.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A topic as it stands.
#[derive(Debug, Clone, Serialize)]
pub struct TopicInfo {
    pub name: String,
    pub settings: TopicSettings,
    pub created_ms: i64,
    pub partitions: Vec<PartitionInfo>,
    /// Names of the queue groups on it.
    pub groups: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PartitionInfo {
    pub partition: u32,
    /// First offset still stored.
    pub log_start: i64,
    /// One after the last durable offset.
    pub high_watermark: i64,
}

/// A record header. Names may repeat and keep their order; a value may be absent, as in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: Arc<str>,
    pub value: Option<Bytes>,
}

/// A record on its way in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// `None`: by key (murmur2, as Kafka clients do), or in turn when there is no key.
    pub partition: Option<u32>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    /// Milliseconds since the epoch; `None` takes the broker's time.
    pub timestamp_ms: Option<i64>,
    /// A repeat within the topic's window answers with the first offset and stores nothing.
    pub idempotency_key: Option<Bytes>,
}

/// Where a record went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Produced {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: i64,
    /// True when the idempotency key was known: `offset` is that of the first record.
    pub duplicate: bool,
    pub durability: Durability,
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

impl Record {
    /// The value of the first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|h| &*h.name == name).and_then(|h| h.value.as_deref())
    }
}

/// What to read.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    pub topic: String,
    pub partition: u32,
    pub offset: i64,
    pub records_max: usize,
    /// Stops once this many bytes are collected; the first record is always returned.
    pub bytes_max: usize,
    /// How long to wait for a first record.
    pub wait: Duration,
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub records: Vec<Record>,
    /// Where to go on reading.
    pub next_offset: i64,
    pub log_start: i64,
    pub high_watermark: i64,
}

/// A place in a partition, by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeekTo {
    Earliest,
    Latest,
    Offset(i64),
    /// The first record with a timestamp at or after this one, milliseconds since the epoch; the end when there is none.
    Time(i64),
}

/// Which records of a queue group wait for which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Records are independent.
    #[default]
    None,
    /// The next record of a key is given out only after the previous one is settled.
    Key,
    /// The next records of a partition are given out only after the previous ones are settled.
    Partition,
}

/// Delay before a failed record is given out again: `initial_ms * multiplier^(attempt-1)`, at most `cap_ms`, varied by
/// up to `jitter` (0.1 = plus or minus 10 %).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    pub initial_ms: u64,
    pub multiplier: f64,
    pub cap_ms: u64,
    pub jitter: f64,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { initial_ms: 1_000, multiplier: 2.0, cap_ms: 60_000, jitter: 0.1 }
    }
}

/// How a queue group behaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSettings {
    /// How long a member has before its record goes to another, milliseconds.
    pub visibility_ms: u64,
    /// Deliveries before a record is dead-lettered; 0 never gives up.
    pub max_deliveries: u32,
    pub retry: RetrySettings,
    pub ordering: Ordering,
    /// Where dead letters go; `None` is `<topic>.dlq`.
    pub dead_letter_topic: Option<String>,
    /// Where a new group starts.
    pub start: SeekTo,
    /// Most records leased or waiting for a retry per partition.
    pub in_flight_max: u32,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            visibility_ms: 30_000,
            max_deliveries: 5,
            retry: RetrySettings::default(),
            ordering: Ordering::None,
            dead_letter_topic: None,
            start: SeekTo::Earliest,
            in_flight_max: 10_000,
        }
    }
}

/// Records of a queue group by state. `ready + leased + deferred + acked + dead + skipped = all` at each step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GroupCounts {
    /// Could be given out now, or waits only for an earlier record of its key.
    pub ready: u64,
    /// With a member.
    pub leased: u64,
    /// Waiting for its retry time.
    pub deferred: u64,
    pub acked: u64,
    pub dead: u64,
    /// Passed over: removed by retention, sought past, or redriven for another group.
    pub skipped: u64,
}

/// A queue group as it stands.
#[derive(Debug, Clone, Serialize)]
pub struct GroupInfo {
    pub topic: String,
    pub group: String,
    pub settings: GroupSettings,
    pub created_ms: i64,
    pub counts: GroupCounts,
    pub members: Vec<MemberInfo>,
}

/// A member of a queue group, known by the name it receives under, since the broker was opened.
#[derive(Debug, Clone, Serialize)]
pub struct MemberInfo {
    pub member: String,
    pub leased: u64,
    /// Milliseconds since it last received, acked, nacked or extended.
    pub idle_ms: u64,
}

/// Names one lease: partition, offset and token. Written `partition-offset-token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId {
    pub partition: u32,
    pub offset: i64,
    pub token: u64,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.partition, self.offset, self.token)
    }
}

impl FromStr for LeaseId {
    type Err = BrokerError;

    fn from_str(text: &str) -> Result<Self, BrokerError> {
        let wrong = || BrokerError::InvalidRequest(format!("`{text}` is not a lease; send the `lease` field of a delivery unchanged"));
        let mut parts = text.split('-');
        let (Some(partition), Some(offset), Some(token), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        Ok(Self {
            partition: partition.parse().map_err(|_| wrong())?,
            offset: offset.parse().map_err(|_| wrong())?,
            token: token.parse().map_err(|_| wrong())?,
        })
    }
}

impl Serialize for LeaseId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Asks a queue group for records.
#[derive(Debug, Clone)]
pub struct ReceiveRequest {
    pub topic: String,
    pub group: String,
    /// The name the leases are booked under.
    pub member: String,
    pub records_max: usize,
    /// How long to wait for a first record.
    pub wait: Duration,
    /// `None` takes the group's.
    pub visibility_ms: Option<u64>,
}

/// A leased record.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub record: Record,
    pub lease: LeaseId,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// Milliseconds until the lease runs out.
    pub visibility_ms: u64,
}

/// What to do with a record that could not be processed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    pub lease: Option<LeaseId>,
    /// `None` takes the group's backoff.
    pub delay_ms: Option<u64>,
    /// Kept with the record and shown in the dead letter.
    pub reason: String,
    /// To the dead letters at once.
    pub permanent: bool,
}

/// What became of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    Acked,
    Deferred { delay_ms: u64 },
    DeadLettered,
    Extended { visibility_ms: u64 },
}

/// Outcome per lease, in the order of the request.
pub type Outcomes = Vec<Result<Settled, LeaseError>>;

/// A dead letter: the record with the story of its failure.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Where the dead letter itself is stored: partition and offset of the dead-letter topic.
    pub partition: u32,
    pub offset: i64,
    pub origin_topic: String,
    pub origin_partition: u32,
    pub origin_offset: i64,
    pub group: String,
    pub reason: String,
    pub attempts: u32,
    pub first_failure_ms: i64,
    pub last_failure_ms: i64,
    /// The member that failed last.
    pub member: String,
    /// Key, value and headers as they were published; timestamp of the original.
    pub record: Record,
}

/// Chooses dead letters. All given conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterFilter {
    pub group: Option<String>,
    pub key: Option<String>,
    /// Header name and value.
    pub header: Option<(String, String)>,
    /// Substring of the reason.
    pub reason: Option<String>,
    /// Died at or after / before, milliseconds since the epoch.
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    /// One dead letter, by `partition` and `offset` in the dead-letter topic.
    pub at: Option<(u32, i64)>,
}

/// Sends dead letters back to their origin topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedriveRequest {
    pub filter: DeadLetterFilter,
    /// Only counts.
    pub dry_run: bool,
    /// Records per second; `None` as fast as it goes.
    pub rate: Option<f64>,
    /// At most this many.
    pub limit: Option<u64>,
}

/// How a redrive or purge went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RedriveReport {
    /// Dead letters the filter chose.
    pub matched: u64,
    /// Of those, sent back (or removed).
    pub done: u64,
    /// Unresolved dead letters left in the topic.
    pub left: u64,
}

/// A committed offset of a stream group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffset {
    pub topic: String,
    pub partition: u32,
    /// The next offset to read.
    pub offset: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
}

/// Storage in numbers, for metrics and `/health`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StorageStats {
    pub log_start: u64,
    pub durable_position: u64,
    pub commits_total: u64,
    pub syncs_total: u64,
    pub records_total: u64,
    pub bytes_written_total: u64,
    pub segments: u64,
    /// Blocks exist this far beyond the log's end, bytes.
    pub ahead_bytes: u64,
    pub disk_available_bytes: u64,
    pub checkpoint_position: u64,
    pub checkpoints_total: u64,
    pub queued_bytes: u64,
    pub epoch: u32,
    /// Why the store refuses writes, if it does.
    pub failure: Option<String>,
    pub disk_full: bool,
    /// Reads since the start that met damage.
    pub damaged_reads_total: u64,
    /// What the last of them met, with file and position.
    pub damage: Option<String>,
}
