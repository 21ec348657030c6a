//! Stream groups: committed offsets by group, topic and partition. Who reads what is the clients' business.

use std::collections::BTreeMap;

use onelog_storage::types::Offset;

use super::error::{BrokerError, Result};
use super::event::{BrokerEvent, StateKey, StoredOffset};
use super::topic::check_name;
use super::types::{CommittedOffset, SeekTo};
use super::{Broker, Inner};

/// Longest metadata kept with an offset, bytes.
const METADATA_BYTES_MAX: usize = 4096;

/// Committed offsets by topic id and partition.
pub(super) type StreamGroup = BTreeMap<(u32, u32), StoredOffset>;

impl Broker {
    /// Commits offsets: all of them, durably, or none.
    pub async fn commit_offsets(&self, group: &str, offsets: Vec<CommittedOffset>) -> Result<()> {
        self.inner.check_open()?;
        check_name("group", group)?;
        let stored: Result<Vec<StoredOffset>> = offsets.iter().map(|offset| self.inner.stored_offset(offset)).collect();
        self.inner.set_offsets(group, stored?).await
    }

    #[must_use]
    pub fn committed_offsets(&self, group: &str) -> Vec<CommittedOffset> {
        let offsets: Vec<StoredOffset> =
            self.inner.streams.lock().get(group).map(|group| group.values().cloned().collect()).unwrap_or_default();
        let names: BTreeMap<u32, String> = self.inner.topics.read().values().map(|topic| (topic.id, topic.name.to_string())).collect();
        let named = |offset: StoredOffset| {
            let topic = names.get(&offset.topic)?.clone();
            Some(CommittedOffset { topic, partition: offset.partition, offset: offset.offset, metadata: offset.metadata })
        };
        offsets.into_iter().filter_map(named).collect()
    }

    /// Names of the stream groups.
    #[must_use]
    pub fn stream_groups(&self) -> Vec<String> {
        self.inner.streams.lock().keys().cloned().collect()
    }

    /// Sets the committed offsets of a topic by meaning; answers with what was set.
    pub async fn seek_stream(&self, group: &str, topic: &str, partition: Option<u32>, place: SeekTo) -> Result<Vec<CommittedOffset>> {
        self.inner.check_open()?;
        check_name("group", group)?;
        let found = self.inner.topic(topic)?;
        let all = 0..u32::try_from(found.partitions().len()).unwrap_or(u32::MAX);
        let numbers: Vec<u32> = partition.map_or_else(|| all.collect(), |number| vec![number]);
        let mut stored = Vec::new();
        for number in numbers {
            let offset = self.inner.resolve(&found, number, place)?;
            stored.push(StoredOffset { topic: found.id, partition: number, offset: offset.0, metadata: None });
        }
        let answer = stored.iter().map(|offset| CommittedOffset {
            topic: topic.to_owned(),
            partition: offset.partition,
            offset: offset.offset,
            metadata: None,
        });
        let answer = answer.collect();
        self.inner.set_offsets(group, stored).await?;
        Ok(answer)
    }

    pub async fn delete_stream_group(&self, group: &str) -> Result<()> {
        self.inner.check_open()?;
        let _control = self.inner.control.lock().await;
        if !self.inner.streams.lock().contains_key(group) {
            return Err(BrokerError::GroupNotFound { topic: "*".into(), group: group.to_owned() });
        }
        self.inner.write_events([BrokerEvent::StreamGroupDeleted(group.to_owned())]).await?;
        self.inner.streams.lock().remove(group);
        self.inner.mark(StateKey::StreamGroup(group.to_owned()));
        Ok(())
    }
}

impl Inner {
    fn stored_offset(&self, offset: &CommittedOffset) -> Result<StoredOffset> {
        let topic = self.topic(&offset.topic)?;
        let partition = topic.partition(offset.partition)?;
        let (start, end) = (Offset(0), partition.high_watermark());
        if offset.offset < start.0 || offset.offset > end.0 {
            let (topic, partition) = (offset.topic.clone(), offset.partition);
            return Err(BrokerError::OffsetOutOfRange { topic, partition, offset: offset.offset, start: start.0, end: end.0 });
        }
        if offset.metadata.as_ref().is_some_and(|metadata| metadata.len() > METADATA_BYTES_MAX) {
            return Err(BrokerError::InvalidRequest(format!("metadata is longer than {METADATA_BYTES_MAX} bytes")));
        }
        Ok(StoredOffset { topic: topic.id, partition: offset.partition, offset: offset.offset, metadata: offset.metadata.clone() })
    }

    async fn set_offsets(&self, group: &str, offsets: Vec<StoredOffset>) -> Result<()> {
        let event = BrokerEvent::OffsetsSet(group.to_owned(), offsets.clone()).encode()?;
        let ticket = {
            // Changed and handed to the store under one lock: the log has the order of the changes.
            let mut streams = self.streams.lock();
            let known = streams.entry(group.to_owned()).or_default();
            known.extend(offsets.into_iter().map(|offset| ((offset.topic, offset.partition), offset)));
            let events = [event].into_iter().collect();
            self.store.submit(onelog_storage::submission::Submission { events, urgent: true, ..Default::default() })
        };
        self.mark(StateKey::StreamGroup(group.to_owned()));
        ticket.await?;
        Ok(())
    }
}
