//! Creating, changing, deleting and describing topics.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use onelog_storage::partition::Partition;
use onelog_storage::submission::Submission;
use onelog_storage::types::PartitionId;

use super::error::{BrokerError, Result};
use super::event::{BrokerEvent, StateKey, StoredTopic};
use super::topic::{Topic, check_name, check_settings};
use super::types::{TopicChange, TopicInfo, TopicSettings};
use super::{Broker, Inner, groups_of};

impl Broker {
    /// Creates a topic. `TopicExists` when there is one of that name.
    pub async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<TopicInfo> {
        self.inner.check_open()?;
        check_name("topic", name)?;
        check_settings(&settings)?;
        let _control = self.inner.control.lock().await;
        if self.inner.topics.read().contains_key(name) {
            return Err(BrokerError::TopicExists { topic: name.to_owned() });
        }
        Ok(self.inner.create_topic(name, settings).await?.info())
    }

    /// Creates the topic unless it exists.
    pub async fn ensure_topic(&self, name: &str, settings: TopicSettings) -> Result<()> {
        if self.inner.topics.read().contains_key(name) {
            return Ok(());
        }
        match self.create_topic(name, settings).await {
            Ok(_) | Err(BrokerError::TopicExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicInfo> {
        self.inner.check_open()?;
        let _control = self.inner.control.lock().await;
        let topic = self.inner.topic(name)?;
        let old = topic.settings();
        let settings = TopicSettings {
            partitions: change.partitions.unwrap_or(old.partitions),
            retention_ms: change.retention_ms.unwrap_or(old.retention_ms),
            retention_bytes: change.retention_bytes.unwrap_or(old.retention_bytes),
            record_bytes_max: change.record_bytes_max.unwrap_or(old.record_bytes_max),
            dedup_window_ms: change.dedup_window_ms.unwrap_or(old.dedup_window_ms),
            durability: change.durability.unwrap_or(old.durability),
        };
        check_settings(&settings)?;
        if settings.partitions < old.partitions {
            let why = format!("is {} and cannot shrink to {}: keys would move to other partitions", old.partitions, settings.partitions);
            return Err(BrokerError::InvalidSetting { setting: "partitions", why });
        }
        let mut partitions: Vec<Arc<Partition>> = topic.partitions().to_vec();
        partitions.extend(self.inner.new_partitions(settings.partitions - old.partitions));
        let stored = StoredTopic {
            settings: super::event::StoredTopicSettings::of(&settings),
            partitions: partitions.iter().map(|partition| partition.id).collect(),
            ..topic.stored()
        };
        self.inner.write_events([BrokerEvent::TopicSet(stored)]).await?;
        topic.set(settings, partitions);
        self.inner.mark(StateKey::Topic(topic.id));
        Ok(topic.info())
    }

    /// Deletes a topic with its records and queue groups. Its name can be used again at once, its offsets are never.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        self.inner.check_open()?;
        let _control = self.inner.control.lock().await;
        let topic = self.inner.topic(name)?;
        let groups = groups_of(&topic);
        let deleted = groups.iter().map(|group| BrokerEvent::GroupDeleted(group.id)).chain([BrokerEvent::TopicDeleted(topic.id)]);
        let events: Result<Vec<_>> = deleted.map(|event| event.encode()).collect();
        // One commit: the topic is gone with its groups and records, or not at all.
        let trims = topic.partitions().iter().map(|partition| (Arc::clone(partition), onelog_storage::types::Offset(i64::MAX))).collect();
        let submission = Submission { events: events?.into(), trims, urgent: true, ..Submission::default() };
        self.inner.store.submit(submission).await?;
        self.inner.topics.write().remove(name);
        topic.deleted.store(true, Relaxed);
        self.inner.mark(StateKey::Topic(topic.id));
        for group in groups {
            group.deleted.store(true, Relaxed);
            group.bell.notify(usize::MAX);
            self.inner.forget_group(&group);
        }
        topic.bell.notify(usize::MAX);
        Ok(())
    }

    pub fn topic(&self, name: &str) -> Result<TopicInfo> {
        Ok(self.inner.topic(name)?.info())
    }

    /// All topics, by name.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicInfo> {
        let topics: Vec<Arc<Topic>> = self.inner.topics.read().values().cloned().collect();
        topics.iter().map(|topic| topic.info()).collect()
    }
}

impl Inner {
    /// Under the control lock, with name and settings checked.
    pub(super) async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<Topic>> {
        let id = {
            let mut ids = self.ids.lock();
            ids.topic += 1;
            ids.topic
        };
        let partitions = self.new_partitions(settings.partitions);
        let topic = Arc::new(Topic::new(id, name, self.clock.wall().0, settings, partitions));
        let ids = *self.ids.lock();
        self.write_events([BrokerEvent::TopicSet(topic.stored()), BrokerEvent::Ids(ids)]).await?;
        self.mark(StateKey::Ids);
        self.mark(StateKey::Topic(id));
        self.topics.write().insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    fn new_partitions(&self, count: u32) -> Vec<Arc<Partition>> {
        let first = {
            let mut ids = self.ids.lock();
            let first = ids.partition + 1;
            ids.partition += count;
            first
        };
        self.mark(StateKey::Ids);
        (first..first + count).map(|id| self.store.partition(PartitionId(id))).collect()
    }
}
