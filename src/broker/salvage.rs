//! What the broker's events mean to an offline check and to a repair: names of partitions, and group state that stays right
//! though events in between are lost.
//!
//! Where lease events are missing it errs towards delivering again: no record that may still be open is taken for settled.
//! Knows no file; storage walks the log and shows the events.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use onelog_storage::check::{CheckReport, EventOwner};
use onelog_storage::error::{Result, StorageError};
use onelog_storage::submission::NewEvent;
use onelog_storage::types::{Offset, PartitionId};
use onelog_storage::{RecoveredEvent, codec};

use super::error::BrokerError;
use super::event::{BrokerEvent, NextIds, StateKey, StoredGroup, StoredLease, StoredQueue, StoredTopic, StoredTopicSettings};
use super::group::QueueState;
use super::group::lease::LeaseEvent;
use super::types::TopicSettings;

/// Fewest bytes of log that give out an id.
const ID_BYTES_MIN: u64 = 64;
const IDS_SKIPPED_MAX: u64 = 1_000_000;

/// Lease state of a group's partition, and what is missing of its story.
struct Story {
    state: QueueState,
    events_lost: u64,
    /// Something is missing since the state was last told whole.
    is_patchy: bool,
    /// Settled above the cursor, as far as that is known here.
    settled_ahead: BTreeSet<Offset>,
    reopened: u64,
}

/// What a group's partition lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLoss {
    pub topic: String,
    pub group: String,
    pub partition: u32,
    /// Lease events that are missing between others.
    pub events_lost: u64,
    /// Records that will be delivered again, because nothing tells whether they were settled.
    pub reopened: u64,
}

/// Folds the events that are left.
#[derive(Default)]
pub struct Salvager {
    created_ms: i64,
    topics: BTreeMap<u32, StoredTopic>,
    groups: BTreeMap<u32, StoredGroup>,
    stories: BTreeMap<(u32, u32), Story>,
    ids: NextIds,
    deleted: HashSet<PartitionId>,
    state_is_checkpoints: bool,
    /// Events that are whole and yet cannot be read; they are not copied.
    pub unreadable: u64,
    /// Topics made for partitions that no topic is known of.
    pub made_topics: Vec<String>,
}

impl Salvager {
    #[must_use]
    pub fn new(created_ms: i64) -> Self {
        Self { created_ms, ..Self::default() }
    }

    /// `topic/number` of a partition, as far as that is known.
    #[must_use]
    pub fn name_of(&self, id: PartitionId) -> Option<String> {
        let place =
            |topic: &StoredTopic| topic.partitions.iter().position(|own| *own == id).map(|number| format!("{}/{number}", topic.name));
        self.topics.values().find_map(place)
    }

    /// Groups whose story has gaps.
    #[must_use]
    pub fn group_losses(&self) -> Vec<GroupLoss> {
        let told = |((group, partition), story): (&(u32, u32), &Story)| {
            let known = self.groups.get(group);
            let topic = known.and_then(|group| self.topics.get(&group.topic));
            GroupLoss {
                topic: topic.map_or_else(|| "?".to_owned(), |topic| topic.name.clone()),
                group: known.map_or_else(|| format!("number {group}"), |group| group.name.clone()),
                partition: *partition,
                events_lost: story.events_lost,
                reopened: story.reopened,
            }
        };
        self.stories.iter().filter(|(_, story)| story.events_lost > 0).map(told).collect()
    }

    #[must_use]
    pub fn topics(&self) -> usize {
        self.topics.len()
    }

    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    fn fold(&mut self, event: &BrokerEvent) {
        match event {
            BrokerEvent::TopicSet(topic) => {
                self.ids.topic = self.ids.topic.max(topic.id);
                self.topics.insert(topic.id, topic.clone());
            }
            BrokerEvent::TopicDeleted(id) => {
                self.deleted.extend(self.topics.remove(id).into_iter().flat_map(|topic| topic.partitions));
            }
            BrokerEvent::GroupSet(group) => {
                self.ids.group = self.ids.group.max(group.id);
                self.groups.insert(group.id, group.clone());
            }
            BrokerEvent::GroupDeleted(id) => {
                self.groups.remove(id);
                self.stories.retain(|(group, _), _| group != id);
            }
            BrokerEvent::Lease(lease) => self.story(lease.group, lease.partition).go_on(lease),
            BrokerEvent::Queue(whole) => self.story(whole.group, whole.partition).begin_anew(whole),
            BrokerEvent::Ids(ids) => {
                self.ids.topic = self.ids.topic.max(ids.topic);
                self.ids.partition = self.ids.partition.max(ids.partition);
                self.ids.group = self.ids.group.max(ids.group);
            }
            BrokerEvent::OffsetsSet(..) | BrokerEvent::StreamGroupDeleted(_) | BrokerEvent::Resolved(..) => {}
        }
    }

    fn story(&mut self, group: u32, partition: u32) -> &mut Story {
        self.stories.entry((group, partition)).or_insert_with(|| Story {
            state: QueueState::new(Offset(0)),
            events_lost: 0,
            is_patchy: false,
            settled_ahead: BTreeSet::new(),
            reopened: 0,
        })
    }

    /// A topic for every partition with records that belongs to none: its topic's creation is lost.
    fn adopt(&mut self, found: &CheckReport) -> Vec<BrokerEvent> {
        if self.state_is_checkpoints {
            // The checkpoint knows every topic: what belongs to none belonged to a deleted one.
            return Vec::new();
        }
        let known: HashSet<PartitionId> = self.topics.values().flat_map(|topic| topic.partitions.iter().copied()).collect();
        let strays = found.partitions.iter().filter(|(_, partition)| partition.records > 0).map(|(id, _)| *id);
        let strays: Vec<PartitionId> = strays.filter(|id| !known.contains(id) && !self.deleted.contains(id)).collect();
        let settings = TopicSettings { retention_ms: None, ..TopicSettings::default() };
        let mut events = Vec::new();
        for id in strays {
            self.ids.topic += 1;
            let name = format!("recovered-partition-{id}");
            self.made_topics.push(name.clone());
            let settings = StoredTopicSettings::of(&settings);
            let topic = StoredTopic { id: self.ids.topic, name, created_ms: self.created_ms, settings, partitions: vec![id] };
            self.topics.insert(topic.id, topic.clone());
            events.push(BrokerEvent::TopicSet(topic));
        }
        events
    }
}

impl Story {
    fn go_on(&mut self, stored: &StoredLease) {
        if stored.sequence <= self.state.sequence {
            return;
        }
        let missing = stored.sequence - self.state.sequence - 1;
        self.events_lost += missing;
        self.is_patchy |= missing > 0;
        let before = self.state.queue.cursor();
        if self.is_patchy {
            self.note_settled(&stored.event, before);
        }
        self.state.replay(stored, Duration::ZERO);
        match &stored.event {
            LeaseEvent::Seeked { .. } => self.is_whole(),
            LeaseEvent::StartAdvanced { .. } => {}
            // What the cursor passed and this event does not speak of was passed by an event that is lost.
            _ if self.is_patchy => self.reopen(before, self.state.queue.cursor()),
            _ => {}
        }
    }

    fn note_settled(&mut self, event: &LeaseEvent, cursor: Offset) {
        let (LeaseEvent::Acked { offsets } | LeaseEvent::DeadLettered { offsets } | LeaseEvent::Skipped { offsets, .. }) = event else {
            return;
        };
        self.settled_ahead.extend(offsets.iter().filter(|offset| *offset >= cursor));
    }

    fn reopen(&mut self, from: Offset, to: Offset) {
        let mut offset = from;
        while offset < to {
            if self.state.queue.get(offset).is_none() && !self.settled_ahead.remove(&offset) {
                self.state.queue.reopen(offset);
                self.reopened += 1;
            }
            offset = offset.plus(1);
        }
    }

    fn begin_anew(&mut self, whole: &StoredQueue) {
        if whole.sequence >= self.state.sequence {
            self.state.restore(whole, Duration::ZERO);
            self.is_whole();
        }
    }

    fn is_whole(&mut self) {
        self.is_patchy = false;
        self.settled_ahead.clear();
        self.reopened = 0;
    }
}

impl EventOwner for Salvager {
    fn restate(&mut self, state: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<NewEvent>> {
        self.state_is_checkpoints = true;
        let mut events = Vec::new();
        for (key, value) in state {
            let event = match StateKey::decode(key) {
                Some(StateKey::Ids) => BrokerEvent::Ids(codec::decode(value)?),
                Some(StateKey::Topic(_)) => BrokerEvent::TopicSet(codec::decode(value)?),
                Some(StateKey::Group(_)) => BrokerEvent::GroupSet(codec::decode(value)?),
                Some(StateKey::Queue(..)) => BrokerEvent::Queue(codec::decode(value)?),
                Some(StateKey::StreamGroup(name)) => BrokerEvent::OffsetsSet(name, codec::decode(value)?),
                Some(StateKey::Resolved(topic, partition)) => BrokerEvent::Resolved(topic, partition, codec::decode(value)?),
                None => return Err(StorageError::Invalid("the checkpoint holds an unknown key".into())),
            };
            self.fold(&event);
            events.push(encode(&event)?);
        }
        Ok(events)
    }

    fn event(&mut self, event: &RecoveredEvent) -> Result<bool> {
        match BrokerEvent::decode(event.tag, &event.payload) {
            Ok(Some(event)) => self.fold(&event),
            Ok(None) => {}
            Err(_) => {
                self.unreadable += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.topics.values().flat_map(|topic| topic.partitions.iter().copied()).collect()
    }

    fn close(&mut self, found: &CheckReport) -> Result<Vec<NewEvent>> {
        let mut events = self.adopt(found);
        for ((group, partition), story) in &mut self.stories {
            if story.is_patchy {
                events.push(BrokerEvent::Queue(story.state.stored(*group, *partition, Duration::ZERO)));
            }
        }
        // As many ids as the lost bytes can have given out are never given out again.
        let lost = found.damages.iter().map(|damage| damage.bytes_max).sum::<u64>();
        let skipped = u32::try_from((lost / ID_BYTES_MIN).min(IDS_SKIPPED_MAX)).unwrap_or(u32::MAX).saturating_add(1);
        let newest = found.partitions.keys().map(|id| id.0).max().unwrap_or(0).max(self.ids.partition);
        events.push(BrokerEvent::Ids(NextIds {
            topic: self.ids.topic.saturating_add(skipped),
            partition: newest.saturating_add(skipped),
            group: self.ids.group.saturating_add(skipped),
        }));
        events.iter().map(encode).collect()
    }
}

fn encode(event: &BrokerEvent) -> Result<NewEvent> {
    event.encode().map_err(|error: BrokerError| StorageError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use onelog_storage::types::TimestampMs;

    use super::super::group::lease::{LeaseToken, Leased, Ranges};
    use super::*;

    fn leased(from: i64, to: i64) -> LeaseEvent {
        LeaseEvent::Leased(Leased {
            offsets: (from..to).map(Offset).collect(),
            first_token: LeaseToken(u64::try_from(from).unwrap() + 1),
            member: Arc::from("m"),
            visibility_ms: 1_000,
            wall: TimestampMs(0),
            cursor_after: Offset(to),
            key_hashes: Vec::new(),
            parked: Vec::new(),
        })
    }

    fn acked(offsets: impl IntoIterator<Item = i64>) -> LeaseEvent {
        LeaseEvent::Acked { offsets: offsets.into_iter().map(Offset).collect::<Ranges>() }
    }

    /// What is open after the story, told without the events of the given numbers.
    fn open_after(story: &[LeaseEvent], without: &[usize]) -> (Vec<i64>, u64) {
        let mut salvager = Salvager::new(0);
        for (number, event) in story.iter().enumerate().filter(|(number, _)| !without.contains(number)) {
            let stored = StoredLease { group: 1, partition: 0, sequence: number as u64 + 1, event: event.clone() };
            salvager.fold(&BrokerEvent::Lease(stored));
        }
        let story = &salvager.stories[&(1, 0)];
        (story.state.queue.open().map(|(offset, _)| offset.0).collect(), story.events_lost)
    }

    #[test]
    fn a_record_whose_settling_is_lost_is_delivered_again_and_none_is_forgotten() {
        let story = [leased(0, 3), acked([0, 1]), leased(3, 6), acked([3]), leased(6, 8)];
        assert_eq!(open_after(&story, &[]), (vec![2, 4, 5, 6, 7], 0));
        assert_eq!(open_after(&story, &[1]), (vec![0, 1, 2, 4, 5, 6, 7], 1), "an ack is lost: what it settled comes again");
        assert_eq!(
            open_after(&story, &[2]),
            (vec![2, 4, 5, 6, 7], 1),
            "a grant is lost: what it leased is still open, what was acked stays acked"
        );
        assert_eq!(open_after(&story, &[2, 3]), (vec![2, 3, 4, 5, 6, 7], 2), "both are lost");
        assert_eq!(open_after(&story, &[0]), (vec![2, 4, 5, 6, 7], 1), "the first grant is lost: acks of what it leased still count");
    }
}
