//! The model: what a broker should be, in vectors and maps, with one plain step per call.
//!
//! A world is one possible truth. [`World::take`] judges an answer and goes on from it, or, without an answer, does what the call
//! would have done had the machine not died. It never looks at time, disk or the broker. What it does not determine:
//! the order of dead letters that come due together, what retention may leave longer, and backoff within its jitter.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use onelog::broker::partitioner::partition_for_key;
use onelog::broker::{CommittedOffset, GroupCounts, RedriveReport, TopicChange};
use onelog::{BrokerError, Header, NewRecord, Produced, SeekTo, TopicSettings};

use crate::queue::{Group, Obituary, Queue};
use crate::rig::{Action, Answer};

pub const REDRIVE_GROUP: &str = "onelog-redrive-group";
/// Three quarters of a segment.
pub const REQUEST_BYTES_MAX: usize = 48 * 1024;

pub type Outcome = Result<(), String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rec {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    pub timestamp_ms: i64,
}

impl Rec {
    pub fn is_for_another(&self, group: &str) -> bool {
        self.headers.iter().any(|header| &*header.name == REDRIVE_GROUP && header.value.as_deref() != Some(group.as_bytes()))
    }

    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len)).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// A dead letter as it should be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub origin: (String, u32, i64),
    pub group: String,
    pub obituary: Obituary,
    pub record: Rec,
    /// Retention has taken the record, so the letter may be without.
    pub record_gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub place: (u32, i64),
    pub body: Bytes,
    /// When it was written, at the earliest and the latest: stamps of the log never go back.
    pub written: (i64, i64),
    /// A checkpoint has seen its window over, so it may be forgotten.
    pub forgettable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Part {
    pub start: i64,
    /// From offset 0 on, removed ones too.
    pub records: Vec<Rec>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// A topic of the same name made later is another one.
    pub incarnation: u32,
    pub settings: TopicSettings,
    pub parts: Vec<Part>,
    pub groups: BTreeMap<String, Group>,
    pub keys: BTreeMap<Bytes, Vec<Known>>,
    /// In a dead-letter topic: what each record says, and which are dealt with.
    pub letters: BTreeMap<(u32, i64), Letter>,
    pub resolved: BTreeSet<(u32, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub wall: i64,
    /// Monotonic, milliseconds since the start.
    pub now: u64,
    /// The newest stamp of the log, at the earliest and the latest.
    pub stamp: (i64, i64),
    pub topics: BTreeMap<String, Topic>,
    /// Committed offsets by topic, incarnation and partition.
    pub committed: BTreeMap<(String, u32, u32), i64>,
    pub incarnations: u32,
    /// Letters written and not yet found in their topic.
    pub pending: Vec<Letter>,
    /// Records that may have died in the last moments before a crash, with their letters.
    pub doomed: Vec<Letter>,
    /// A dead-letter topic may be there without a letter.
    pub dlq_maybe: bool,
    /// The greatest token ever given out, also one whose grant a crash has lost.
    pub token: u64,
    /// Retention may have moved log starts; and has, as far as it must.
    pub trimmed: bool,
    pub trim_is_done: bool,
}

pub const fn name_of(error: &BrokerError) -> &'static str {
    match error {
        BrokerError::TopicNotFound { .. } => "topic not found",
        BrokerError::TopicExists { .. } => "topic exists",
        BrokerError::PartitionNotFound { .. } => "partition not found",
        BrokerError::GroupNotFound { .. } => "group not found",
        BrokerError::GroupExists { .. } => "group exists",
        BrokerError::InvalidSetting { .. } => "invalid setting",
        BrokerError::BatchTooLarge { .. } => "batch too large",
        BrokerError::OffsetOutOfRange { .. } => "offset out of range",
        BrokerError::IdempotencyConflict { .. } => "idempotency conflict",
        BrokerError::UnexpectedOffset { .. } => "unexpected offset",
        _ => "another failure",
    }
}

/// A refusal as it should be.
pub type Refused = &'static str;

impl World {
    pub fn new(wall: i64) -> Self {
        Self {
            wall,
            now: 0,
            stamp: (wall, wall),
            topics: BTreeMap::new(),
            committed: BTreeMap::new(),
            incarnations: 0,
            pending: Vec::new(),
            doomed: Vec::new(),
            dlq_maybe: false,
            token: 0,
            trimmed: false,
            trim_is_done: false,
        }
    }

    pub fn topic(&mut self, name: &str) -> Result<&mut Topic, Refused> {
        self.topics.get_mut(name).ok_or("topic not found")
    }

    pub fn group(&mut self, topic: &str, group: &str) -> Result<&mut Group, Refused> {
        self.topic(topic)?.groups.get_mut(group).ok_or("group not found")
    }

    /// One call. Without an answer: what it does when it is done.
    pub fn take(&mut self, action: &Action, answer: Option<&Answer>) -> Outcome {
        let expected = match action {
            Action::CreateTopic(topic, settings) => self.create_topic(topic, settings),
            Action::AlterTopic(topic, change) => self.alter_topic(topic, change),
            Action::DeleteTopic(topic) => self.topic(topic).map(drop).map(|()| drop(self.topics.remove(topic))),
            Action::CreateGroup(topic, group, settings) => self.create_group(topic, group, settings),
            Action::AlterGroup(topic, group, settings) => self.alter_group(topic, group, settings),
            Action::DeleteGroup(topic, group) => self.group(topic, group).map(drop).map(|()| {
                self.topics.get_mut(topic).map(|topic| topic.groups.remove(group));
            }),
            Action::Seek(topic, group, place) => self.seek(topic, group, *place),
            Action::Commit(offset) => self.commit(offset),
            Action::SeekStream(topic, place) => return self.seek_stream(topic, *place, answer),
            // Deleting the group of readers twice is refused; whether it is there depends on deleted topics too.
            Action::DeleteStream => {
                self.committed.clear();
                return Ok(());
            }
            Action::Produce(records) => return self.produce(records, answer),
            Action::ProduceIf(topic, record, expected) => return self.produce_if(topic, record, *expected, answer),
            Action::Pipeline(topic, records) => return self.pipeline(topic, records, answer),
            Action::Resolve(topic, partition, place) => return self.resolved_as(topic, *partition, *place, answer),
            Action::Receive(request) => return self.receive(request, answer),
            Action::Ack(topic, group, leases) => return self.ack(topic, group, leases, answer),
            Action::Nack(topic, group, failure) => return self.nack(topic, group, failure, answer),
            Action::Extend(topic, group, lease, ms) => return self.extend(topic, group, lease, *ms, answer),
            Action::Release(topic, group, lease) => return self.release(topic, group, lease, answer),
            Action::Redrive(topic, request) => return self.redrive(topic, request, true, answer),
            Action::Purge(topic, filter, dry) => {
                let request = onelog::RedriveRequest { filter: filter.clone(), dry_run: *dry, ..Default::default() };
                return self.redrive(topic, &request, false, answer);
            }
            Action::Advance(ms) => {
                self.now += ms;
                self.set_wall(self.wall + i64::try_from(*ms).unwrap());
                Ok(())
            }
            Action::Jump(ms) => {
                self.set_wall(self.wall + ms);
                Ok(())
            }
            Action::Retention => {
                (self.trimmed, self.trim_is_done) = (true, answer.is_some());
                self.forget_old_keys();
                Ok(())
            }
            Action::Checkpoint => {
                self.forget_old_keys();
                Ok(())
            }
        };
        judge(action, &expected, answer)
    }

    /// What the clocks show is no matter of worlds.
    pub fn set_time(&mut self, wall: i64, now: u64) {
        self.set_wall(wall);
        self.now = now;
    }

    fn set_wall(&mut self, wall: i64) {
        self.wall = wall;
        self.stamp.1 = self.stamp.1.max(wall);
    }

    /// A commit was written now.
    pub fn stamped(&mut self) -> (i64, i64) {
        self.stamp = (self.stamp.0.max(self.wall), self.stamp.1.max(self.wall));
        self.stamp
    }

    fn forget_old_keys(&mut self) {
        let wall = self.wall;
        for topic in self.topics.values_mut() {
            let window = i64::try_from(topic.settings.dedup_window_ms).unwrap();
            for known in topic.keys.values_mut().flatten() {
                known.forgettable |= known.written.0 + window <= wall;
            }
        }
    }

    // ---- Topics and groups -------------------------------------------------------------------------------------------------

    pub fn create_topic(&mut self, name: &str, settings: &TopicSettings) -> Result<(), Refused> {
        if self.topics.contains_key(name) {
            return Err("topic exists");
        }
        self.incarnations += 1;
        let parts = (0..settings.partitions).map(|_| Part::default()).collect();
        let topic = Topic {
            incarnation: self.incarnations,
            settings: settings.clone(),
            parts,
            groups: BTreeMap::new(),
            keys: BTreeMap::new(),
            letters: BTreeMap::new(),
            resolved: BTreeSet::new(),
        };
        self.topics.insert(name.to_owned(), topic);
        Ok(())
    }

    fn alter_topic(&mut self, name: &str, change: &TopicChange) -> Result<(), Refused> {
        let topic = self.topic(name)?;
        let partitions = change.partitions.unwrap_or(topic.settings.partitions);
        if partitions < topic.settings.partitions {
            return Err("invalid setting");
        }
        topic.settings.partitions = partitions;
        topic.settings.retention_ms = change.retention_ms.unwrap_or(topic.settings.retention_ms);
        topic.settings.retention_bytes = change.retention_bytes.unwrap_or(topic.settings.retention_bytes);
        let window = change.dedup_window_ms.unwrap_or(topic.settings.dedup_window_ms);
        if window > topic.settings.dedup_window_ms {
            // What the shorter window had let go may be gone.
            topic.keys.values_mut().flatten().for_each(|known| known.forgettable = true);
        }
        topic.settings.dedup_window_ms = window;
        topic.parts.resize(partitions as usize, Part::default());
        for group in topic.groups.values_mut() {
            group.queues.resize(partitions as usize, Queue::new(0));
        }
        Ok(())
    }

    fn create_group(&mut self, topic: &str, name: &str, settings: &onelog::GroupSettings) -> Result<(), Refused> {
        let topic = self.topic(topic)?;
        if let Some(found) = topic.groups.get(name) {
            return if found.settings == *settings { Ok(()) } else { Err("group exists") };
        }
        let queues = topic.parts.iter().map(|part| Queue::new(part.start)).collect();
        topic.groups.insert(name.to_owned(), Group { settings: settings.clone(), queues });
        Ok(())
    }

    fn alter_group(&mut self, topic: &str, group: &str, settings: &onelog::GroupSettings) -> Result<(), Refused> {
        self.group(topic, group)?.settings = settings.clone();
        Ok(())
    }

    fn seek(&mut self, topic: &str, group: &str, place: SeekTo) -> Result<(), Refused> {
        self.group(topic, group)?;
        let goals: Result<Vec<i64>, Refused> = self.topic(topic)?.parts.iter().map(|part| part.resolve(place)).collect();
        let goals = goals?;
        let group = self.group(topic, group)?;
        group.queues = goals.into_iter().map(Queue::new).collect();
        Ok(())
    }

    // ---- Readers -----------------------------------------------------------------------------------------------------------

    fn commit(&mut self, offset: &CommittedOffset) -> Result<(), Refused> {
        let topic = self.topic(&offset.topic)?;
        let part = topic.parts.get(offset.partition as usize).ok_or("partition not found")?;
        if offset.offset < 0 || offset.offset > part.end() {
            return Err("offset out of range");
        }
        let key = (offset.topic.clone(), topic.incarnation, offset.partition);
        self.committed.insert(key, offset.offset);
        Ok(())
    }

    fn seek_stream(&mut self, name: &str, place: SeekTo, answer: Option<&Answer>) -> Outcome {
        let goals = self.topic(name).and_then(|topic| {
            let goals: Result<Vec<i64>, Refused> = topic.parts.iter().map(|part| part.resolve(place)).collect();
            Ok((topic.incarnation, goals?))
        });
        if let Ok((incarnation, goals)) = &goals {
            for (partition, goal) in (0..).zip(goals) {
                self.committed.insert((name.to_owned(), *incarnation, partition), *goal);
            }
        }
        match (goals, answer) {
            (_, None) => Ok(()),
            (Ok((_, goals)), Some(Answer::Committed(got))) if got.iter().map(|at| at.offset).eq(goals.iter().copied()) => Ok(()),
            (Err(refused), Some(Answer::Failed(error))) if name_of(error) == refused => Ok(()),
            (expected, Some(got)) => Err(format!("seeking {name} to {place:?}: {expected:?}, not {got:?}")),
        }
    }

    fn resolved_as(&mut self, name: &str, partition: u32, place: SeekTo, answer: Option<&Answer>) -> Outcome {
        let part = self.topic(name).and_then(|topic| topic.parts.get(partition as usize).ok_or("partition not found"));
        let goal = part.and_then(|part| part.resolve(place));
        match (goal, answer) {
            (_, None) => Ok(()),
            (Ok(goal), Some(Answer::Offset(got))) if goal == *got => Ok(()),
            (Err(refused), Some(Answer::Failed(error))) if name_of(error) == refused => Ok(()),
            (expected, Some(got)) => Err(format!("{place:?} of {name}/{partition} is {expected:?}, not {got:?}")),
        }
    }

    // ---- Publishing --------------------------------------------------------------------------------------------------------

    /// Where a record goes and whether it is a repeat; `live` decides where the window is open to doubt.
    fn place(&mut self, name: &str, record: &NewRecord, live: bool) -> Result<(u32, Option<Known>), Refused> {
        let (wall, stamp) = (self.wall, self.stamped());
        let topic = self.topic(name)?;
        let count = u32::try_from(topic.parts.len()).unwrap();
        let partition = record.partition.unwrap_or_else(|| partition_for_key(record.key.as_deref().unwrap_or_default(), count));
        if partition >= count {
            return Err("partition not found");
        }
        let window = i64::try_from(topic.settings.dedup_window_ms).unwrap();
        let Some(key) = record.idempotency_key.as_ref().filter(|_| window > 0) else { return Ok((partition, None)) };
        let now = (stamp.0.max(wall), stamp.1.max(wall));
        let may_live = |known: &&Known| known.written.1 + window > now.0;
        let must_live = |known: &&Known| known.written.0 + window > now.1 && !known.forgettable;
        let all = topic.keys.get(key).map_or(&[][..], Vec::as_slice);
        // The newest is the first that is looked at.
        let known = all.iter().rev().find(|known| must_live(known) || (live && may_live(known)));
        Ok((partition, known.cloned()))
    }

    /// A request whole or not at all (P16). What it should be answered.
    fn try_produce(&mut self, records: &[(String, NewRecord)], live: bool) -> Result<Vec<(u32, i64, bool)>, Refused> {
        if let Some((name, _)) = records.iter().find(|(name, _)| !self.topics.contains_key(name)) {
            return self.topic(name).map(|_| Vec::new());
        }
        let bytes: usize = records.iter().map(|(_, record)| record_of(record, 0).bytes()).sum();
        if bytes > REQUEST_BYTES_MAX {
            return Err("batch too large");
        }
        for (name, record) in records {
            self.place(name, record, live)?;
        }
        let mut next = self.clone();
        let mut placed = Vec::new();
        for (name, record) in records {
            placed.push(next.append(name, record, live)?);
        }
        *self = next;
        Ok(placed)
    }

    fn append(&mut self, name: &str, record: &NewRecord, live: bool) -> Result<(u32, i64, bool), Refused> {
        let (partition, known) = self.place(name, record, live)?;
        let body: Bytes = [record.key.as_deref().unwrap_or_default(), b"|", record.value.as_deref().unwrap_or_default()].concat().into();
        if let Some(known) = known {
            if known.body != body {
                return Err("idempotency conflict");
            }
            return Ok((known.place.0, known.place.1, true));
        }
        let (wall, written) = (self.wall, self.stamped());
        let topic = self.topic(name)?;
        let part = &mut topic.parts[partition as usize];
        let offset = part.end();
        part.records.push(record_of(record, wall));
        if let Some(key) = record.idempotency_key.clone().filter(|_| topic.settings.dedup_window_ms > 0) {
            let known = Known { place: (partition, offset), body, written, forgettable: false };
            topic.keys.entry(key).or_default().push(known);
        }
        Ok((partition, offset, false))
    }

    /// P14 where a window is open to doubt: as it was answered.
    fn produce(&mut self, records: &[(String, NewRecord)], answer: Option<&Answer>) -> Outcome {
        let before = self.clone();
        let mut wrong = String::new();
        for live in [true, false] {
            *self = before.clone();
            let expected = self.try_produce(records, live);
            match (expected, answer) {
                (_, None) => return Ok(()),
                (Ok(placed), Some(Answer::Produced(got))) if same_places(&placed, got) => return Ok(()),
                (Err(refused), Some(Answer::Failed(error))) if name_of(error) == refused => return Ok(()),
                (expected, Some(got)) => wrong = format!("P5/P14/P16: {records:?} should be {expected:?}, was {got:?}"),
            }
        }
        Err(wrong)
    }

    fn produce_if(&mut self, name: &str, record: &NewRecord, expected: i64, answer: Option<&Answer>) -> Outcome {
        let next = self
            .topic(name)
            .and_then(|topic| topic.parts.get(record.partition.unwrap_or(0) as usize).map(Part::end).ok_or("partition not found"));
        let refused = match next {
            Ok(next) if next == expected => return self.produce(&[(name.to_owned(), record.clone())], answer),
            Ok(_) => "unexpected offset",
            Err(refused) => refused,
        };
        judge(&(name, expected), &Err(refused), answer)
    }

    /// P26: the order of the calls is the order of the offsets.
    fn pipeline(&mut self, name: &str, records: &[NewRecord], answer: Option<&Answer>) -> Outcome {
        for (at, record) in records.iter().enumerate() {
            let answer = match answer {
                Some(Answer::Pipelined(answers)) => Some(match &answers[at] {
                    Ok(produced) => Answer::Produced(produced.clone()),
                    Err(error) => Answer::Failed(error.clone()),
                }),
                _ => None,
            };
            let one = [(name.to_owned(), record.clone())];
            self.produce(&one, answer.as_ref()).map_err(|wrong| format!("P26: {wrong}"))?;
        }
        Ok(())
    }

    // ---- Dead letters ------------------------------------------------------------------------------------------------------

    fn redrive(&mut self, name: &str, request: &onelog::RedriveRequest, send: bool, answer: Option<&Answer>) -> Outcome {
        if let Err(refused) = self.topic(name) {
            return judge(request, &Err(refused), answer);
        }
        let most = request.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
        let open = self.open_letters(name);
        let chosen: Vec<_> = open.iter().filter(|(_, letter)| chosen(letter, &request.filter)).take(most).cloned().collect();
        let done = if request.dry_run { 0 } else { chosen.len() };
        if !request.dry_run {
            for (at, letter) in &chosen {
                self.resolve_letter(name, *at, letter, send);
            }
        }
        let report = RedriveReport { matched: chosen.len() as u64, done: done as u64, left: (open.len() - done) as u64 };
        match answer {
            None => Ok(()),
            Some(Answer::Report(got)) if *got == report => Ok(()),
            Some(got) => Err(format!("{request:?} of {name} should be {report:?}, was {got:?}")),
        }
    }

    fn resolve_letter(&mut self, name: &str, at: (u32, i64), letter: &Letter, send: bool) {
        let wall = self.wall;
        self.stamped();
        if let Some(target) = self.topics.get_mut(&format!("{name}.dlq")) {
            target.resolved.insert(at);
        }
        let Some(origin) = self.topics.get_mut(name).filter(|_| send) else { return };
        let partition = (letter.origin.1 as usize).min(origin.parts.len() - 1);
        let mut record = Rec { timestamp_ms: wall, ..letter.record.clone() };
        record.headers.retain(|header| &*header.name != REDRIVE_GROUP);
        record.headers.push(Header { name: REDRIVE_GROUP.into(), value: Some(letter.group.clone().into()) });
        origin.parts[partition].records.push(record);
    }

    /// Unresolved letters of a topic in the order they are listed.
    pub fn open_letters(&self, origin: &str) -> Vec<((u32, i64), Letter)> {
        let Some(target) = self.topics.get(&format!("{origin}.dlq")) else { return Vec::new() };
        let open = |(at, letter): &(&(u32, i64), &Letter)| {
            letter.origin.0 == origin && !target.resolved.contains(at) && at.1 >= target.parts[at.0 as usize].start
        };
        target.letters.iter().filter(open).map(|(at, letter)| (*at, letter.clone())).collect()
    }

    /// The counts of a group between which it may be: lowest and highest of each.
    pub fn counts(&self, topic: &Topic, name: &str, group: &Group) -> (GroupCounts, GroupCounts) {
        let (mut low, mut high) = (GroupCounts::default(), GroupCounts::default());
        for (queue, part) in group.queues.iter().zip(&topic.parts) {
            queue.count(part, (name, group), self.now, &mut low, &mut high);
        }
        (low, high)
    }
}

impl Part {
    pub fn end(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap()
    }

    fn resolve(&self, place: SeekTo) -> Result<i64, Refused> {
        match place {
            SeekTo::Earliest => Ok(self.start),
            SeekTo::Latest => Ok(self.end()),
            SeekTo::Offset(offset) if (self.start..=self.end()).contains(&offset) => Ok(offset),
            SeekTo::Offset(_) => Err("offset out of range"),
            SeekTo::Time(at) => {
                let first = (self.start..self.end()).find(|offset| self.records[*offset as usize].timestamp_ms >= at);
                Ok(first.unwrap_or_else(|| self.end()))
            }
        }
    }
}

pub fn record_of(record: &NewRecord, wall: i64) -> Rec {
    let timestamp_ms = record.timestamp_ms.unwrap_or(wall);
    Rec { key: record.key.clone(), value: record.value.clone(), headers: record.headers.clone(), timestamp_ms }
}

fn same_places(expected: &[(u32, i64, bool)], got: &[Produced]) -> bool {
    expected.iter().copied().eq(got.iter().map(|at| (at.partition, at.offset, at.duplicate)))
}

fn chosen(letter: &Letter, filter: &onelog::DeadLetterFilter) -> bool {
    let key = filter.key.as_ref().map(|key| key.as_bytes());
    filter.group.as_ref().is_none_or(|group| *group == letter.group) && key.is_none_or(|key| letter.record.key.as_deref() == Some(key))
}

/// An answer that carries nothing but yes or no.
pub fn judge(what: &impl std::fmt::Debug, expected: &Result<(), Refused>, answer: Option<&Answer>) -> Outcome {
    match (expected, answer) {
        (_, None) => Ok(()),
        (Err(refused), Some(Answer::Failed(error))) if name_of(error) == *refused => Ok(()),
        (Ok(()), Some(Answer::Done)) => Ok(()),
        (expected, Some(got)) => Err(format!("{what:?} should be {expected:?}, was {got:?}")),
    }
}
