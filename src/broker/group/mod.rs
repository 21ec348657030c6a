//! A queue group on one topic: settings, members seen, and per partition the lease state with its place in the log.
//!
//! One mutex per group and partition. What is decided under it is handed to the store before it is let go, so the order of
//! events in the log is the order in which the state changed. No thread holds two of these, and none reads records under one.

pub mod lease;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use event_listener::{Event, EventListener};
use onelog_storage::partition::Partition;
use onelog_storage::submission::{NewEvent, Ticket};
use onelog_storage::types::Offset;
use parking_lot::{Mutex, RwLock};

use self::lease::{LeaseEvent, PartitionQueue};
use super::GroupCounters;
use super::error::Result;
use super::event::{BrokerEvent, StoredGroup, StoredLease, StoredQueue};
use super::types::{GroupSettings, MemberInfo};

/// Members remembered per group; the longest idle are forgotten first.
const MEMBERS_MAX: usize = 10_000;

/// A queue group.
pub struct QueueGroup {
    pub id: u32,
    pub topic_id: u32,
    pub topic: Arc<str>,
    pub name: Arc<str>,
    pub created_ms: i64,
    settings: RwLock<Arc<GroupSettings>>,
    partitions: RwLock<Vec<Arc<GroupPartition>>>,
    /// Rung when records come back: nack, release, expiry.
    pub bell: Event,
    /// Rung for one receiver when new records come; whoever leaves some behind rings for the next.
    fresh: Arc<Event>,
    /// Where the next receive begins, so that no partition starves.
    pub turn: AtomicU64,
    pub counters: Arc<GroupCounters>,
    members: Mutex<HashMap<String, Duration>>,
    pub deleted: AtomicBool,
}

/// A group's state on one partition.
pub struct GroupPartition {
    pub group: u32,
    pub number: u32,
    /// Receivers take turns: between planning and leasing records are read, and nobody else should plan the same ones.
    pub receiving: tokio::sync::Mutex<()>,
    pub state: Mutex<QueueState>,
}

/// The lease state and how it is written.
pub struct QueueState {
    pub queue: PartitionQueue,
    /// Events folded so far.
    pub sequence: u64,
    pub changed: bool,
    /// An event did not reach the log (full disk): the next one is preceded by the whole state.
    pub unlogged: bool,
    /// Events nobody waits for: grants and the like. Whether they reached the log is looked at later.
    unawaited: Vec<Ticket>,
    /// When leases were granted, to measure processing; only for leases of this run.
    pub granted: HashMap<Offset, Duration>,
}

impl QueueState {
    pub fn new(origin: Offset) -> Self {
        Self {
            queue: PartitionQueue::new(origin),
            sequence: 0,
            changed: true,
            unlogged: false,
            unawaited: Vec::new(),
            granted: HashMap::new(),
        }
    }

    /// Folds `event` and answers with what must be handed to the store before the lock is let go.
    pub fn commit(&mut self, group: u32, partition: u32, event: LeaseEvent, now: Duration) -> Result<NewEvent> {
        self.queue.apply(&event, now);
        self.sequence += 1;
        self.changed = true;
        if std::mem::take(&mut self.unlogged) {
            return BrokerEvent::Queue(self.stored(group, partition, now)).encode();
        }
        BrokerEvent::Lease(StoredLease { group, partition, sequence: self.sequence, event }).encode()
    }

    /// Lets an event go to the log without waiting for it.
    pub fn let_go(&mut self, ticket: Ticket) {
        self.notice_lost();
        self.unawaited.push(ticket);
    }

    /// Whether an event did not reach the log, so that the log no longer tells this state. All handed over before one that is
    /// durable are settled by then.
    pub fn notice_lost(&mut self) -> bool {
        let mut lost = false;
        self.unawaited.retain_mut(|ticket| match ticket.succeeded() {
            Some(succeeded) => {
                lost |= !succeeded;
                false
            }
            None => true,
        });
        self.unlogged |= lost;
        self.unlogged
    }

    pub fn stored(&self, group: u32, partition: u32, now: Duration) -> StoredQueue {
        StoredQueue { group, partition, sequence: self.sequence, snapshot: self.queue.to_snapshot(now) }
    }

    /// Folds an event found in the log, unless the state contains it already.
    pub fn replay(&mut self, stored: &StoredLease, now: Duration) {
        if stored.sequence > self.sequence {
            self.queue.apply(&stored.event, now);
            self.sequence = stored.sequence;
            self.changed = true;
        }
    }

    /// Takes over a whole state found in the log or a checkpoint, unless this one is newer.
    pub fn restore(&mut self, stored: &StoredQueue, now: Duration) {
        if stored.sequence >= self.sequence {
            self.queue = PartitionQueue::from_snapshot(&stored.snapshot, now);
            self.sequence = stored.sequence;
            self.changed = true;
        }
    }
}

impl QueueGroup {
    pub fn new(stored: &StoredGroup, topic: &Arc<str>) -> Self {
        Self {
            id: stored.id,
            topic_id: stored.topic,
            topic: Arc::clone(topic),
            name: stored.name.as_str().into(),
            created_ms: stored.created_ms,
            settings: RwLock::new(Arc::new(stored.settings.clone())),
            partitions: RwLock::default(),
            bell: Event::new(),
            fresh: Arc::new(Event::new()),
            turn: AtomicU64::new(0),
            counters: Arc::default(),
            members: Mutex::default(),
            deleted: AtomicBool::new(false),
        }
    }

    /// New records of `partition` wake a receiver.
    pub fn listen_to(&self, partition: &Partition) {
        partition.ring(&self.fresh, 1);
    }

    pub fn fresh(&self) -> EventListener {
        self.fresh.listen()
    }

    /// There may be more than one receiver took.
    pub fn wake_next(&self) {
        self.fresh.notify_additional(1);
    }

    pub fn settings(&self) -> Arc<GroupSettings> {
        Arc::clone(&self.settings.read())
    }

    pub fn set_settings(&self, settings: GroupSettings) {
        *self.settings.write() = Arc::new(settings);
    }

    pub fn partitions(&self) -> Vec<Arc<GroupPartition>> {
        self.partitions.read().clone()
    }

    /// The state on partition `number`, made with `origin` when it is new, as all those before it.
    pub fn partition(&self, number: u32, origin: impl Fn(u32) -> Offset) -> Arc<GroupPartition> {
        if let Some(found) = self.partitions.read().get(number as usize) {
            return Arc::clone(found);
        }
        let mut partitions = self.partitions.write();
        let mut next = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
        while next <= number {
            let state = Mutex::new(QueueState::new(origin(next)));
            partitions.push(Arc::new(GroupPartition { group: self.id, number: next, receiving: tokio::sync::Mutex::new(()), state }));
            next += 1;
        }
        Arc::clone(&partitions[number as usize])
    }

    pub fn stored(&self) -> StoredGroup {
        StoredGroup {
            id: self.id,
            topic: self.topic_id,
            name: self.name.to_string(),
            created_ms: self.created_ms,
            settings: (*self.settings()).clone(),
        }
    }

    /// Notes that `member` was heard of.
    pub fn saw(&self, member: &str, now: Duration) {
        let mut members = self.members.lock();
        if let Some(seen) = members.get_mut(member) {
            *seen = now;
            return;
        }
        if members.len() >= MEMBERS_MAX
            && let Some(oldest) = members.iter().min_by_key(|(_, seen)| **seen).map(|(name, _)| name.clone())
        {
            members.remove(&oldest);
        }
        members.insert(member.to_owned(), now);
    }

    /// Members seen since the broker was opened, and those that hold leases from before.
    pub fn members(&self, now: Duration) -> Vec<MemberInfo> {
        let mut leased: HashMap<String, u64> = HashMap::new();
        for partition in self.partitions() {
            for (_, record) in partition.state.lock().queue.open() {
                if let lease::Status::Leased { member, deadline, .. } = &record.status
                    && *deadline > now
                {
                    *leased.entry(member.to_string()).or_default() += 1;
                }
            }
        }
        let seen = self.members.lock().clone();
        let mut names: Vec<String> = seen.keys().chain(leased.keys()).cloned().collect();
        names.sort_unstable();
        names.dedup();
        let info = |member: String| MemberInfo {
            leased: leased.get(&member).copied().unwrap_or(0),
            idle_ms: seen.get(&member).map_or(u64::MAX, |at| u64::try_from(now.saturating_sub(*at).as_millis()).unwrap_or(u64::MAX)),
            member,
        };
        names.into_iter().map(info).collect()
    }

    /// The lease rules' form of the settings.
    pub fn lease_settings(settings: &GroupSettings) -> lease::LeaseSettings {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked ranges, far below the types' ends")]
        let permille = |ratio: f64| (ratio * 1_000.0).round() as u32;
        lease::LeaseSettings {
            visibility_ms: settings.visibility_ms,
            max_deliveries: settings.max_deliveries,
            retry: lease::Backoff {
                initial_ms: settings.retry.initial_ms,
                multiplier_permille: permille(settings.retry.multiplier),
                cap_ms: settings.retry.cap_ms,
                jitter_permille: permille(settings.retry.jitter),
            },
            ordering: match settings.ordering {
                super::types::Ordering::None => lease::Ordering::None,
                super::types::Ordering::Key => lease::Ordering::Key,
                super::types::Ordering::Partition => lease::Ordering::Partition,
            },
            in_flight_max: settings.in_flight_max,
            open_max: settings.in_flight_max.saturating_mul(10),
        }
    }

    /// The first deadline after `now` on any partition.
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        self.partitions().iter().filter_map(|partition| partition.state.lock().queue.next_deadline(now)).min()
    }

    /// Name of the topic its dead letters go to.
    pub fn dead_letter_topic(&self) -> String {
        self.settings().dead_letter_topic.clone().unwrap_or_else(|| format!("{}.dlq", self.topic))
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease::{LeaseToken, Leased, Ranges};
    use onelog_storage::types::TimestampMs;

    /// P17: a checkpoint may hold more than its place in the log says, and then the log tells it again.
    #[test]
    fn an_event_the_state_contains_already_changes_nothing() {
        let leased = |offset: i64, token| {
            LeaseEvent::Leased(Leased {
                offsets: std::iter::once(Offset(offset)).collect::<Ranges>(),
                first_token: LeaseToken(token),
                member: "ann".into(),
                visibility_ms: 1_000,
                wall: TimestampMs(0),
                cursor_after: Offset(offset + 1),
                key_hashes: Vec::new(),
                parked: Vec::new(),
            })
        };
        let now = Duration::ZERO;
        let mut live = QueueState::new(Offset(0));
        for (offset, token) in [(0, 1), (1, 2)] {
            live.commit(1, 0, leased(offset, token), now).unwrap();
        }
        let mut opened = QueueState::new(Offset(0));
        opened.restore(&live.stored(1, 0, now), now);
        for (sequence, offset, token) in [(1, 0, 1), (2, 1, 2)] {
            opened.replay(&StoredLease { group: 1, partition: 0, sequence, event: leased(offset, token) }, now);
        }
        assert_eq!(opened.queue, live.queue);
        opened.replay(&StoredLease { group: 1, partition: 0, sequence: 3, event: leased(2, 3) }, now);
        assert_eq!((opened.queue.cursor(), opened.sequence), (Offset(3), 3));
    }
}
