//! What clients saw: every request with the moments around it and what came of it, and what the broker holds at the end.
//!
//! Only words. [`crate::recorder`] writes them down, [`crate::checker`] holds them against the promises.

use std::collections::HashSet;
use std::time::Duration;

/// Partition and offset.
pub type Place = (u64, i64);

/// When something was, in the order it happened and by a clock that never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub turn: u64,
    pub at: Duration,
}

/// A request, or something that happened to the broker.
#[derive(Debug, Clone)]
pub struct Event {
    /// Before the request was sent.
    pub began: Moment,
    /// After its answer was read, or the connection was gone.
    pub ended: Moment,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Publish {
        batch: Vec<Sent>,
        told: Told<Vec<Placed>>,
    },
    Receive {
        visibility: Duration,
        told: Told<Vec<Delivered>>,
    },
    Settle {
        verb: Verb,
        leases: Vec<Lease>,
        told: Told<Vec<Settled>>,
    },
    Read {
        told: Told<Vec<Stored>>,
    },
    /// Asked while nobody else was at work.
    Counts(Counts),
    /// The process was ended without being asked to.
    Crash,
    /// A process serves the directory, again or for the first time.
    Open,
}

/// A record as its publisher has it. `id` is the idempotency key and is found in no other record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sent {
    pub id: String,
    pub key: String,
    pub value: String,
}

/// What a publisher was told of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub place: Place,
    pub duplicate: bool,
}

/// A record as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub place: Place,
    pub key: String,
    pub value: String,
}

impl Stored {
    /// Values begin with the id of their record.
    pub fn id(&self) -> &str {
        self.value.split(' ').next().unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    pub place: Place,
    pub token: u64,
}

/// A record as a member of the group is handed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub lease: Lease,
    pub attempt: u64,
    pub record: Stored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Ack,
    /// Again after the delay.
    Nack(Duration),
    /// To the dead letters at once.
    Bury,
    /// For so long from now on.
    Extend(Duration),
    Release,
}

/// What became of one lease of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    Done,
    DeadLettered,
    Refused(String),
}

/// What a request was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told<T> {
    Ok(T),
    /// The code of the problem.
    Refused(String),
    /// The connection ended first.
    Nothing,
}

impl<T> Told<T> {
    pub fn ok(&self) -> Option<&T> {
        match self {
            Self::Ok(answer) => Some(answer),
            Self::Refused(_) | Self::Nothing => None,
        }
    }

    /// Nothing of it may have happened.
    pub fn is_definite_failure(&self) -> bool {
        matches!(self, Self::Refused(code) if code != POISONED)
    }

    /// It may have happened or not.
    pub fn is_unknown(&self) -> bool {
        self.ok().is_none() && !self.is_definite_failure()
    }
}

/// The code that says the store failed while it did this.
pub const POISONED: &str = "storage_failed";

/// Records of the group by state, and how many there are by the marks of the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub ready: u64,
    pub leased: u64,
    pub deferred: u64,
    pub acked: u64,
    pub dead: u64,
    pub skipped: u64,
    pub all: u64,
}

/// What the broker holds at the end.
#[derive(Debug, Clone, Default)]
pub struct Readout {
    pub partitions: Vec<Partition>,
    pub counts: Counts,
    /// Where dead letters came from.
    pub dead: HashSet<Place>,
}

#[derive(Debug, Clone, Default)]
pub struct Partition {
    /// Records below were taken by retention.
    pub log_start: i64,
    pub high_watermark: i64,
    pub records: Vec<Stored>,
}

impl Readout {
    pub fn records(&self) -> impl Iterator<Item = &Stored> {
        self.partitions.iter().flat_map(|partition| &partition.records)
    }

    /// Whether retention took the place.
    pub fn is_trimmed(&self, place: Place) -> bool {
        let partition = usize::try_from(place.0).ok().and_then(|number| self.partitions.get(number));
        partition.is_some_and(|partition| place.1 < partition.log_start)
    }
}

/// What the group and the test were set to.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// 0: no limit.
    pub max_deliveries: u64,
    /// The next record of a key comes only after the one before it is settled.
    pub ordered_by_key: bool,
    /// At the end members worked until nothing came any more.
    pub drained: bool,
    /// All of it happened within the window in which idempotency keys are known.
    pub within_window: bool,
}

pub const RULES: Rules = Rules { max_deliveries: 0, ordered_by_key: true, drained: true, within_window: true };

#[derive(Debug, Clone)]
pub struct History {
    pub rules: Rules,
    /// In the order in which they ended.
    pub events: Vec<Event>,
    pub readout: Readout,
}
