//! The closed list of what the broker can answer instead of a value. Each front end maps it in one exhaustive `match`,
//! so a new failure does not compile until every protocol has named it.

/// Shorthand used by the broker and its users.
pub type Result<T, E = BrokerError> = std::result::Result<T, E>;

/// What can go wrong, in the field's words.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BrokerError {
    #[error("topic `{topic}` does not exist")]
    TopicNotFound { topic: String },
    #[error("topic `{topic}` exists already")]
    TopicExists { topic: String },
    #[error("topic `{topic}` has partitions 0 to {}, not {partition}", partitions.saturating_sub(1))]
    PartitionNotFound { topic: String, partition: u32, partitions: u32 },
    #[error("topic `{topic}` has no consumer group `{group}`")]
    GroupNotFound { topic: String, group: String },
    #[error("topic `{topic}` has a consumer group `{group}` already, with other settings")]
    GroupExists { topic: String, group: String },
    #[error("there is no unresolved dead letter {partition}/{offset} in `{topic}`")]
    DeadLetterNotFound { topic: String, partition: u32, offset: i64 },
    #[error("`{name}` is not a {kind} name: {why}")]
    InvalidName { kind: &'static str, name: String, why: &'static str },
    #[error("setting `{setting}`: {why}")]
    InvalidSetting { setting: &'static str, why: String },
    #[error("{0}")]
    InvalidRequest(String),
    /// One record is larger than its topic takes. `index` counts the records of the request.
    #[error("record {index} has {bytes} bytes, topic `{topic}` takes at most {max}")]
    RecordTooLarge { topic: String, index: usize, bytes: u64, max: u64 },
    /// The request is larger than one commit may be.
    #[error("the request has {bytes} bytes of records, at most {max} fit one commit; send smaller batches")]
    BatchTooLarge { bytes: u64, max: u64 },
    #[error("offset {offset} of {topic}/{partition} is outside what is stored, {start} to {end}")]
    OffsetOutOfRange { topic: String, partition: u32, offset: i64, start: i64, end: i64 },
    /// The records were lost to damage, as a repair found; their offsets are never given out again.
    #[error("offsets {from} to {} of {topic}/{partition} were lost to damage; reading can go on at offset {to}", to - 1)]
    RecordsLost { topic: String, partition: u32, from: i64, to: i64 },
    /// The idempotency key was used with another body inside the topic's window.
    #[error("record {index}: its idempotency key was used with another body (stored at {topic}/{partition} offset {offset})")]
    IdempotencyConflict { index: usize, topic: String, partition: u32, offset: i64 },
    /// A conditional publish expected another next offset.
    #[error("the next offset of {topic}/{partition} is {actual}, the request expected {expected}")]
    UnexpectedOffset { topic: String, partition: u32, expected: i64, actual: i64 },
    /// Too much is waiting already; nothing was taken.
    #[error("too many bytes are waiting to be written; try again in {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u64 },
    #[error("the disk is full: nothing was stored; free some space and publish again (reads and acks still work)")]
    DiskFull,
    /// A write or sync failed; nothing is acknowledged until the store is opened again.
    #[error("storage failed and accepts nothing until onelog is restarted: {reason}")]
    StorageFailed { reason: String },
    /// Stored bytes are not what was written.
    #[error("{what}")]
    Damaged { what: String },
    /// The directory cannot be opened as it is: in use, of a newer format, or no store at all.
    #[error("{reason}")]
    CannotOpen { reason: String },
    #[error("onelog is shutting down")]
    Closing,
}

/// Why a lease could not be acked, nacked or extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LeaseError {
    /// The lease ran out and the record was, or will be, given to another member.
    #[error("the lease is stale: it ran out and the record went back to the group")]
    Stale,
    /// The record is settled already (acked, dead-lettered or skipped), or was never leased.
    #[error("no such lease: the record is settled already or was never leased")]
    Unknown,
}

impl From<onelog_storage::error::StorageError> for BrokerError {
    fn from(error: onelog_storage::error::StorageError) -> Self {
        use onelog_storage::error::StorageError as Storage;
        match error {
            Storage::Full { .. } => Self::DiskFull,
            Storage::Poisoned { reason } => Self::StorageFailed { reason },
            Storage::Damage { .. } => Self::Damaged { what: error.to_string() },
            Storage::TooLarge { bytes, max } => Self::BatchTooLarge { bytes, max },
            Storage::Invalid(why) => Self::InvalidRequest(why),
            Storage::Closed => Self::Closing,
            Storage::Locked { .. } | Storage::FormatTooNew { .. } | Storage::NotAStore { .. } => {
                Self::CannotOpen { reason: error.to_string() }
            }
            Storage::Io { .. }
            | Storage::OffsetOutOfRange { .. }
            | Storage::RecordsLost { .. }
            | Storage::IdempotencyConflict { .. }
            | Storage::UnexpectedOffset { .. }
            | Storage::Index(_) => Self::StorageFailed { reason: error.to_string() },
        }
    }
}
