//! Answers of the server as the commands read them. The server's own types only serialize; these only deserialize.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::broker::{CommittedOffset, GroupSettings, TopicSettings};

#[derive(Debug, Deserialize)]
pub struct TopicList {
    pub topics: Vec<TopicView>,
    /// `after` of the next page.
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct TopicView {
    pub name: String,
    pub settings: TopicSettings,
    pub created_ms: i64,
    pub partitions: Vec<PartitionView>,
    pub groups: Vec<String>,
}

impl TopicView {
    /// Records stored, retention taken off.
    #[must_use]
    pub fn records(&self) -> i64 {
        self.partitions.iter().map(|partition| partition.high_watermark - partition.log_start).sum()
    }
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub struct PartitionView {
    pub partition: u32,
    pub log_start: i64,
    pub high_watermark: i64,
}

#[derive(Debug, Deserialize)]
pub struct GroupList {
    pub groups: Vec<GroupView>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct GroupView {
    pub topic: String,
    pub group: String,
    pub settings: GroupSettings,
    pub created_ms: i64,
    pub counts: CountsView,
    pub members: Vec<MemberView>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub struct CountsView {
    pub ready: u64,
    pub leased: u64,
    pub deferred: u64,
    pub acked: u64,
    pub dead: u64,
    pub skipped: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct MemberView {
    pub member: String,
    pub leased: u64,
    pub idle_ms: u64,
}

#[derive(Debug, Deserialize)]
pub struct StreamGroupList {
    pub groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct OffsetList {
    pub offsets: Vec<CommittedOffset>,
}

/// What a place in a partition stands for.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ResolvedOffset {
    pub offset: i64,
}

#[derive(Debug, Deserialize)]
pub struct ProducedList {
    pub records: Vec<ProducedView>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ProducedView {
    pub duplicate: bool,
}

/// Deliveries, each kept as the server wrote it.
#[derive(Debug, Deserialize)]
pub struct DeliveryList {
    pub deliveries: Vec<Box<RawValue>>,
}

/// Outcome per lease, in the order of the request.
#[derive(Debug, Deserialize)]
pub struct OutcomeList {
    pub outcomes: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
pub struct DeadLetterList {
    pub dead_letters: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub struct RedriveView {
    pub matched: u64,
    pub done: u64,
    pub left: u64,
}
