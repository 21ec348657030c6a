//! Dead letters: how they are written and read, which are dealt with, and sending them back.
//!
//! A dead letter is a record of a topic like any other; its story stands in headers. A redrive appends to the origin topic and
//! resolves the letter in one commit, so a crash between the two is impossible. A redriven record names its group in a header, and
//! the other queue groups pass over it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onelog_storage::submission::Submission;
use onelog_storage::types::Offset;

use super::error::{BrokerError, Result};
use super::event::{BrokerEvent, StateKey};
use super::group::{QueueGroup, lease};
use super::topic::Topic;
use super::types::{
    DeadLetter, DeadLetterFilter, Header, NewRecord, Produced, RECORD_BYTES_LIMIT, Record, RedriveReport, RedriveRequest, TopicSettings,
};
use super::{Broker, Inner, groups_of};

const PREFIX: &str = "onelog-dlq-";
const ORIGIN_TOPIC: &str = "onelog-dlq-topic";
const ORIGIN_PARTITION: &str = "onelog-dlq-partition";
const ORIGIN_OFFSET: &str = "onelog-dlq-offset";
const ORIGIN_TIMESTAMP: &str = "onelog-dlq-timestamp-ms";
const GROUP: &str = "onelog-dlq-group";
const REASON: &str = "onelog-dlq-reason";
const ATTEMPTS: &str = "onelog-dlq-attempts";
const FIRST_FAILURE: &str = "onelog-dlq-first-failure-ms";
const LAST_FAILURE: &str = "onelog-dlq-last-failure-ms";
const MEMBER: &str = "onelog-dlq-member";
/// On a redriven record: the group it is for.
pub const REDRIVE_GROUP: &str = "onelog-redrive-group";

/// Dead letters are kept this long unless their topic is set otherwise.
const RETENTION_MS: u64 = 30 * 24 * 3600 * 1000;
/// Letters sent back in one commit.
const CHUNK: usize = 100;
/// What the story adds to a record at most, bytes, a long reason included.
const STORY_BYTES: usize = 2048;
/// Read at once when looking through dead letters, bytes.
const READ_BYTES: usize = 1024 * 1024;

/// Whether a record was sent back to another group than `group`.
pub fn is_for_another(record: &Record, group: &str) -> bool {
    record.header(REDRIVE_GROUP).is_some_and(|name| name != group.as_bytes())
}

/// A bound for the bytes of a record's dead letter.
pub fn letter_bytes(record: &Record) -> u64 {
    let lengths = |header: &Header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(lengths).sum();
    (record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers + STORY_BYTES) as u64
}

/// A record that is about to become a dead letter.
pub struct Letter {
    pub letter: lease::DeadLetter,
    pub member: Arc<str>,
    /// `None` when retention took it.
    pub record: Option<Record>,
}

impl Letter {
    pub fn to_record(self, origin: &Topic, group: &QueueGroup, partition: u32, target: &Topic) -> NewRecord {
        let letter = self.letter;
        let text = |name: &str, value: String| Header { name: name.into(), value: Some(Bytes::from(value)) };
        let (key, value, mut headers, timestamp) = match self.record {
            Some(record) => (record.key, record.value, record.headers, record.timestamp_ms),
            None => (None, None, Vec::new(), 0),
        };
        headers.retain(|header| &*header.name != REDRIVE_GROUP && !header.name.starts_with(PREFIX));
        headers.extend([
            text(ORIGIN_TOPIC, origin.name.to_string()),
            text(ORIGIN_PARTITION, partition.to_string()),
            text(ORIGIN_OFFSET, letter.offset.to_string()),
            text(ORIGIN_TIMESTAMP, timestamp.to_string()),
            text(GROUP, group.name.to_string()),
            text(REASON, letter.reason.to_string()),
            text(ATTEMPTS, letter.attempts.to_string()),
            text(FIRST_FAILURE, letter.first_failure.to_string()),
            text(LAST_FAILURE, letter.last_failure.to_string()),
            text(MEMBER, self.member.to_string()),
        ]);
        let partitions = u32::try_from(target.partitions().len()).unwrap_or(1).max(1);
        NewRecord { partition: Some(partition % partitions), key, value, headers, timestamp_ms: None, idempotency_key: None }
    }
}

/// Reads a dead letter's story out of its headers; `None` for a record that is none.
fn parse(mut record: Record) -> Option<DeadLetter> {
    let text = |record: &Record, name: &str| record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let number = |record: &Record, name: &str| text(record, name).and_then(|value| value.parse::<i64>().ok());
    let mut letter = DeadLetter {
        partition: record.partition,
        offset: record.offset,
        origin_topic: text(&record, ORIGIN_TOPIC)?,
        origin_partition: u32::try_from(number(&record, ORIGIN_PARTITION)?).ok()?,
        origin_offset: number(&record, ORIGIN_OFFSET)?,
        group: text(&record, GROUP)?,
        reason: text(&record, REASON).unwrap_or_default(),
        attempts: number(&record, ATTEMPTS).and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0),
        first_failure_ms: number(&record, FIRST_FAILURE).unwrap_or(record.timestamp_ms),
        last_failure_ms: number(&record, LAST_FAILURE).unwrap_or(record.timestamp_ms),
        member: text(&record, MEMBER).unwrap_or_default(),
        record: record.clone(),
    };
    record.timestamp_ms = number(&record, ORIGIN_TIMESTAMP).unwrap_or(record.timestamp_ms);
    record.headers.retain(|header| !header.name.starts_with(PREFIX));
    letter.record = record;
    Some(letter)
}

fn chosen(letter: &DeadLetter, filter: &DeadLetterFilter) -> bool {
    let matches_key = |key: &String| letter.record.key.as_deref() == Some(key.as_bytes());
    let matches_header = |(name, value): &(String, String)| letter.record.header(name) == Some(value.as_bytes());
    filter.group.as_ref().is_none_or(|group| *group == letter.group)
        && filter.key.as_ref().is_none_or(matches_key)
        && filter.header.as_ref().is_none_or(matches_header)
        && filter.reason.as_ref().is_none_or(|reason| letter.reason.contains(reason.as_str()))
        && filter.from_ms.is_none_or(|from| letter.last_failure_ms >= from)
        && filter.to_ms.is_none_or(|to| letter.last_failure_ms <= to)
        && filter.at.is_none_or(|at| at == (letter.partition, letter.offset))
}

/// Which offsets of a dead-letter topic are dealt with, as ranges per partition.
#[derive(Debug, Default)]
pub struct Resolution {
    partitions: BTreeMap<u32, BTreeMap<i64, i64>>,
}

impl Resolution {
    pub fn contains(&self, partition: u32, offset: i64) -> bool {
        let below = self.partitions.get(&partition).and_then(|ranges| ranges.range(..=offset).next_back());
        below.is_some_and(|(_, end)| offset < *end)
    }

    /// Adds offsets; adding one twice changes nothing.
    pub fn add(&mut self, partition: u32, ranges: &lease::Ranges) {
        let known = self.partitions.entry(partition).or_default();
        for range in ranges.ranges() {
            let (mut start, mut end) = (range.start.0, range.end().0);
            while let Some((&other, &other_end)) = known.range(..=end).next_back().filter(|(_, other_end)| **other_end >= start) {
                known.remove(&other);
                start = start.min(other);
                end = end.max(other_end);
            }
            known.insert(start, end);
        }
    }

    pub fn partitions(&self) -> impl Iterator<Item = u32> {
        self.partitions.keys().copied()
    }

    pub fn ranges(&self, partition: u32) -> lease::Ranges {
        let ranges = self.partitions.get(&partition);
        ranges.into_iter().flatten().flat_map(|(start, end)| (*start..*end).map(Offset)).collect()
    }
}

impl Broker {
    /// Unresolved dead letters in the order they died, `limit` at most, starting after `after` (partition, offset).
    pub async fn dead_letters(
        &self,
        topic: &str,
        filter: &DeadLetterFilter,
        after: Option<(u32, i64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.inner.check_open()?;
        self.inner.topic(topic)?;
        let mut letters = Vec::new();
        for target in self.inner.dead_letter_topics(topic, filter) {
            self.inner.scan_letters(&target, topic, filter, after, limit, &mut letters)?;
        }
        Ok(letters)
    }

    /// Sends dead letters back to their origin topic.
    pub async fn redrive(&self, topic: &str, request: RedriveRequest) -> Result<RedriveReport> {
        if request.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return Err(BrokerError::InvalidRequest("rate is in records per second and must be above 0".into()));
        }
        self.inner.resolve_letters(topic, &request, true).await
    }

    /// Sends one dead letter back with another body: value, key or headers replaced where given.
    pub async fn redrive_edited(&self, topic: &str, at: (u32, i64), edited: NewRecord) -> Result<Produced> {
        self.inner.check_open()?;
        let filter = DeadLetterFilter { at: Some(at), ..DeadLetterFilter::default() };
        let not_found = || BrokerError::DeadLetterNotFound { topic: topic.to_owned(), partition: at.0, offset: at.1 };
        let origin = self.inner.topic(topic)?;
        let _turn = self.inner.control.lock().await;
        for target in self.inner.dead_letter_topics(topic, &filter) {
            let mut letters = Vec::new();
            self.inner.scan_letters(&target, topic, &filter, None, 1, &mut letters)?;
            let Some(mut letter) = letters.pop() else { continue };
            letter.record.key = edited.key.clone().or(letter.record.key);
            letter.record.value = edited.value.clone().or(letter.record.value);
            if !edited.headers.is_empty() {
                letter.record.headers.clone_from(&edited.headers);
            }
            let produced = self.inner.send_back(&origin, &target, &[letter], true).await?;
            return produced.into_iter().next().ok_or_else(not_found);
        }
        Err(not_found())
    }

    /// Marks dead letters resolved without sending them anywhere.
    pub async fn purge(&self, topic: &str, filter: &DeadLetterFilter, dry_run: bool) -> Result<RedriveReport> {
        let request = RedriveRequest { filter: filter.clone(), dry_run, ..RedriveRequest::default() };
        self.inner.resolve_letters(topic, &request, false).await
    }
}

impl Inner {
    pub(super) async fn ensure_dead_letter_topic(&self, origin: &Topic, group: &QueueGroup) -> Result<()> {
        let name = group.dead_letter_topic();
        if self.topics.read().contains_key(&name) {
            return Ok(());
        }
        let _control = self.control.lock().await;
        if self.topics.read().contains_key(&name) {
            return Ok(());
        }
        let settings = TopicSettings {
            partitions: u32::try_from(origin.partitions().len()).unwrap_or(1).max(1),
            retention_ms: Some(RETENTION_MS),
            record_bytes_max: RECORD_BYTES_LIMIT,
            ..TopicSettings::default()
        };
        self.create_topic(&name, settings).await.map(drop)
    }

    /// The topics that hold dead letters of `topic`: those its groups name.
    fn dead_letter_topics(&self, topic: &str, filter: &DeadLetterFilter) -> Vec<Arc<Topic>> {
        let mut names = vec![format!("{topic}.dlq")];
        if let Ok(origin) = self.topic(topic) {
            let groups = groups_of(&origin).into_iter();
            let asked = groups.filter(|group| filter.group.as_ref().is_none_or(|name| **name == *group.name));
            names.extend(asked.map(|group| group.dead_letter_topic()));
        }
        names.sort_unstable();
        names.dedup();
        let topics = self.topics.read();
        names.iter().filter_map(|name| topics.get(name).cloned()).collect()
    }

    /// Adds unresolved letters of `origin` that the filter chooses to `letters`, until there are `limit`.
    fn scan_letters(
        &self,
        target: &Topic,
        origin: &str,
        filter: &DeadLetterFilter,
        after: Option<(u32, i64)>,
        limit: usize,
        letters: &mut Vec<DeadLetter>,
    ) -> Result<()> {
        for (stored, number) in target.partitions().iter().zip(0u32..) {
            let mut from = stored.log_start();
            match after {
                Some((partition, _)) if number < partition => continue,
                Some((partition, offset)) if number == partition => from = from.max(Offset(offset + 1)),
                _ => {}
            }
            let end = stored.high_watermark();
            while from < end && letters.len() < limit {
                let records = match self.read(target, number, stored, from, usize::MAX, READ_BYTES) {
                    Err(BrokerError::RecordsLost { to, .. }) => {
                        from = Offset(to);
                        continue;
                    }
                    records => records?,
                };
                let Some(last) = records.last() else { break };
                from = Offset(last.offset + 1);
                for record in records {
                    if letters.len() >= limit || target.resolution.lock().contains(number, record.offset) {
                        continue;
                    }
                    let letter = parse(record).filter(|letter| letter.origin_topic == origin && chosen(letter, filter));
                    letters.extend(letter);
                }
            }
        }
        Ok(())
    }

    async fn resolve_letters(&self, topic: &str, request: &RedriveRequest, send: bool) -> Result<RedriveReport> {
        self.check_open()?;
        let origin = self.topic(topic)?;
        let limit = request.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let mut report = RedriveReport::default();
        for target in self.dead_letter_topics(topic, &request.filter) {
            let mut letters = Vec::new();
            let room = limit.saturating_sub(usize::try_from(report.matched).unwrap_or(usize::MAX));
            self.scan_letters(&target, topic, &request.filter, None, room, &mut letters)?;
            report.matched += letters.len() as u64;
            if !request.dry_run {
                report.done += self.resolve_paced(&origin, &target, letters, request.rate, send).await?;
            }
        }
        let mut left = Vec::new();
        for target in self.dead_letter_topics(topic, &DeadLetterFilter::default()) {
            self.scan_letters(&target, topic, &DeadLetterFilter::default(), None, usize::MAX, &mut left)?;
        }
        report.left = left.len() as u64;
        Ok(report)
    }

    /// Chunk by chunk, each one commit, no faster than `rate` records a second.
    async fn resolve_paced(
        &self,
        origin: &Arc<Topic>,
        target: &Arc<Topic>,
        letters: Vec<DeadLetter>,
        rate: Option<f64>,
        send: bool,
    ) -> Result<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and CHUNK")]
        let chunk = rate.map_or(CHUNK, |rate| (rate / 10.0).clamp(1.0, CHUNK as f64) as usize);
        let mut next = self.timer.now();
        let mut done = 0;
        for some in chunks(&letters, chunk, self.batch_bytes_max) {
            self.timer.sleep_until(next).await;
            if let Some(rate) = rate {
                #[expect(clippy::cast_precision_loss, reason = "at most CHUNK")]
                let pause = Duration::from_secs_f64(some.len() as f64 / rate);
                next = self.timer.now() + pause;
            }
            let _turn = self.control.lock().await;
            // Another redrive may have been faster.
            let open: Vec<DeadLetter> = {
                let resolution = target.resolution.lock();
                some.iter().filter(|letter| !resolution.contains(letter.partition, letter.offset)).cloned().collect()
            };
            if !open.is_empty() {
                self.send_back(origin, target, &open, send).await?;
                done += open.len() as u64;
            }
        }
        Ok(done)
    }

    /// Resolves letters and, with `send`, appends them to their origin: one commit. Under the control lock.
    async fn send_back(&self, origin: &Arc<Topic>, target: &Topic, letters: &[DeadLetter], send: bool) -> Result<Vec<Produced>> {
        let mut submission = Submission::default();
        let mut places = super::produce::Places::new();
        let mut targets = super::produce::Targets::new();
        if send {
            let count = u32::try_from(origin.partitions().len()).unwrap_or(1).max(1);
            let records: Vec<NewRecord> = letters.iter().map(|letter| sent_back(letter, count)).collect();
            targets.push(super::produce::Run { topic: Arc::clone(origin), records });
            (submission, places) = self.prepare(&targets, None)?;
        }
        let mut ranges: BTreeMap<u32, lease::Ranges> = BTreeMap::new();
        for letter in letters {
            ranges.entry(letter.partition).or_default().push(Offset(letter.offset));
        }
        for (partition, ranges) in &ranges {
            submission.events.push(BrokerEvent::Resolved(target.id, *partition, ranges.clone()).encode()?);
        }
        submission.durability = onelog_storage::types::Durability::Sync;
        submission.urgent = !send;
        let receipt = self.store.submit(submission).await?;
        let mut resolution = target.resolution.lock();
        for (partition, ranges) in &ranges {
            resolution.add(*partition, ranges);
            self.mark(StateKey::Resolved(target.id, *partition));
        }
        drop(resolution);
        Ok(super::produce::name(&receipt, &targets, &places, onelog_storage::types::Durability::Sync))
    }
}

/// Pieces of at most `letters_max` letters and, unless it is one alone, `bytes_max` bytes.
fn chunks(letters: &[DeadLetter], letters_max: usize, bytes_max: u64) -> impl Iterator<Item = &[DeadLetter]> {
    let mut rest = letters;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |letter: &&DeadLetter| {
            bytes += letter_bytes(&letter.record);
            bytes <= bytes_max
        };
        let count = rest.iter().take(letters_max).take_while(fits).count().max(1).min(rest.len());
        let (some, later) = rest.split_at(count);
        rest = later;
        (count > 0).then_some(some)
    })
}

fn sent_back(letter: &DeadLetter, partitions: u32) -> NewRecord {
    let mut headers = letter.record.headers.clone();
    headers.retain(|header| &*header.name != REDRIVE_GROUP);
    headers.push(Header { name: REDRIVE_GROUP.into(), value: Some(Bytes::from(letter.group.clone())) });
    NewRecord {
        partition: Some(letter.origin_partition.min(partitions - 1)),
        key: letter.record.key.clone(),
        value: letter.record.value.clone(),
        headers,
        timestamp_ms: None,
        idempotency_key: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(offsets: &[i64]) -> lease::Ranges {
        offsets.iter().copied().map(Offset).collect()
    }

    #[test]
    fn resolved_offsets_merge_and_repeat_harmlessly() {
        let mut resolution = Resolution::default();
        for some in [&[5, 6][..], &[1, 2, 9], &[3, 4], &[6, 7, 8], &[1]] {
            resolution.add(0, &ranges(some));
        }
        let known: Vec<i64> = (0..12).filter(|offset| resolution.contains(0, *offset)).collect();
        assert_eq!(known, (1..10).collect::<Vec<_>>());
        assert_eq!(resolution.ranges(0).ranges().len(), 1);
        assert!(!resolution.contains(1, 5));
    }
}
