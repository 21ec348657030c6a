//! The one closed list of what can go wrong in storage. Front ends never see it: the broker maps it.

use std::path::PathBuf;

use crate::io::Site;
use crate::types::{Offset, Position};

/// Shorthand used by the whole crate.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// Everything storage can answer instead of a value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused a call. `site` says which call of ours it was.
    #[error("{site} {}: {message}", path.display())]
    Io {
        site: Site,
        path: PathBuf,
        /// The system's own words, with the error number where there is one.
        message: String,
        kind: std::io::ErrorKind,
        raw_os_error: Option<i32>,
    },
    /// A write or sync failed earlier; nothing is acknowledged until the store is opened again.
    #[error("the store stopped accepting writes after a storage failure ({reason}); restart onelog once the disk is healthy")]
    Poisoned { reason: String },
    /// No space for new records. Reads go on; acks and deletes use the reserve.
    #[error("the disk of {} is full; free some space and publish again", dir.display())]
    Full { dir: PathBuf },
    /// Bytes that were durable are not what was written. Never cut silently.
    #[error("damage in {} at position {position}: {what}; run `onelog check {}` for a loss report", file.display(), dir.display())]
    Damage { dir: PathBuf, file: PathBuf, position: Position, what: String },
    /// Another process holds the directory.
    #[error("{} is in use by {holder}; stop it first, or choose another directory", dir.display())]
    Locked { dir: PathBuf, holder: String },
    /// The directory was written by a newer onelog. Nothing was changed.
    #[error("{} has format version {found}, this onelog reads up to {known}; use a newer onelog", dir.display())]
    FormatTooNew { dir: PathBuf, found: u32, known: u32 },
    /// The directory has files, but is not a store.
    #[error("{} is not an onelog directory: {what}", dir.display())]
    NotAStore { dir: PathBuf, what: String },
    /// A submission larger than one commit may be.
    #[error("{bytes} bytes in one submission, at most {max} fit one commit")]
    TooLarge { bytes: u64, max: u64 },
    /// Offset below what retention kept or above what is durable.
    #[error("offset {offset} is not in [{start}, {end}]")]
    OffsetOutOfRange { offset: Offset, start: Offset, end: Offset },
    /// The record was lost to damage, as a repair found. Its offset is never given out again.
    #[error("the records at offsets {from} to {} were lost to damage; reading can go on at offset {to}", to.0 - 1)]
    RecordsLost { from: Offset, to: Offset },
    /// The same idempotency key was used with another body inside its window. `index` counts the records of the submission.
    #[error("record {index}: its idempotency key was used with another body (offset {offset})")]
    IdempotencyConflict { index: usize, partition: crate::types::PartitionId, offset: Offset },
    /// A conditional append expected another next offset.
    #[error("the partition's next offset is {actual}, the request expected {expected}")]
    UnexpectedOffset { expected: Offset, actual: Offset },
    /// Bytes handed in (a record batch, a setting) that storage cannot take.
    #[error("{0}")]
    Invalid(String),
    /// The index file misbehaves. It is a cache: deleting it and reopening rebuilds it.
    #[error("index: {0}")]
    Index(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
