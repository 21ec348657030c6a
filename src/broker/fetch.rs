//! Reading records by offset, finding places by meaning, and waiting for more.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use onelog_storage::error::StorageError;
use onelog_storage::partition::Partition;
use onelog_storage::types::{Offset, TimestampMs};

use super::error::{BrokerError, Result};
use super::topic::Topic;
use super::types::{BATCH_RECORDS_MAX, FetchRequest, Fetched, Record, SeekTo};
use super::{Broker, Inner, records};

/// Most bytes one fetch collects.
const FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Broker {
    /// Reads from an offset on; waits for a first record when there is none yet.
    pub async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        let topic = self.inner.topic(&request.topic)?;
        let partition = topic.partition(request.partition)?;
        let deadline = self.inner.timer.now() + request.wait;
        loop {
            let more = topic.bell.listen();
            let closed = self.inner.closed.listen();
            self.inner.check_open()?;
            let fetched = self.inner.fetch_now(&topic, &partition, &request)?;
            if !fetched.records.is_empty() || request.wait.is_zero() || topic.deleted.load(Relaxed) {
                return Ok(fetched);
            }
            tokio::select! {
                () = more => {}
                () = closed => return Err(BrokerError::Closing),
                () = self.inner.timer.sleep_until(deadline) => return Ok(fetched),
            }
        }
    }

    /// The offset a place in a partition stands for.
    pub async fn resolve(&self, topic: &str, partition: u32, place: SeekTo) -> Result<i64> {
        let topic = self.inner.topic(topic)?;
        Ok(self.inner.resolve(&topic, partition, place)?.0)
    }

    /// Completes when the topic may have more records than when this was called, or the broker closes.
    pub fn topic_changed(&self, topic: &str) -> Result<impl Future<Output = ()> + Send + use<>> {
        let more = self.inner.topic(topic)?.bell.listen();
        let closed = self.inner.closed.listen();
        self.inner.check_open()?;
        Ok(async move {
            tokio::select! {
                () = more => {}
                () = closed => {}
            }
        })
    }
}

impl Inner {
    fn fetch_now(&self, topic: &Topic, partition: &Arc<Partition>, request: &FetchRequest) -> Result<Fetched> {
        let most = request.records_max.clamp(1, BATCH_RECORDS_MAX);
        let found = self.read(topic, request.partition, partition, Offset(request.offset), most, request.bytes_max.min(FETCH_BYTES_MAX))?;
        let bytes: usize = found.iter().map(|record| record.value.as_ref().map_or(0, bytes::Bytes::len)).sum();
        self.counters.records_fetched.fetch_add(found.len() as u64, Relaxed);
        self.counters.bytes_fetched.fetch_add(bytes as u64, Relaxed);
        Ok(Fetched {
            next_offset: found.last().map_or(request.offset, |record| record.offset + 1),
            records: found,
            log_start: partition.log_start().0,
            high_watermark: partition.high_watermark().0,
        })
    }

    /// Records from `from` on, at most `most`, until `bytes_max` are collected.
    pub(super) fn read(
        &self,
        topic: &Topic,
        number: u32,
        partition: &Partition,
        from: Offset,
        most: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>> {
        let batches = self.store.read(partition, from, bytes_max).map_err(|error| match error {
            StorageError::OffsetOutOfRange { offset, start, end } => BrokerError::OffsetOutOfRange {
                topic: topic.name.to_string(),
                partition: number,
                offset: offset.0,
                start: start.0,
                end: end.0,
            },
            StorageError::RecordsLost { from, to } => {
                BrokerError::RecordsLost { topic: topic.name.to_string(), partition: number, from: from.0, to: to.0 }
            }
            other => other.into(),
        })?;
        let mut found = Vec::new();
        for batch in batches {
            if found.len() >= most {
                break;
            }
            records::decode(&batch, &topic.name, number, from.0, most, &mut found)?;
        }
        Ok(found)
    }

    pub(super) fn resolve(&self, topic: &Topic, number: u32, place: SeekTo) -> Result<Offset> {
        let partition = topic.partition(number)?;
        let (start, end) = (partition.log_start(), partition.high_watermark());
        match place {
            SeekTo::Earliest => Ok(start),
            SeekTo::Latest => Ok(end),
            SeekTo::Offset(offset) if (start.0..=end.0).contains(&offset) => Ok(Offset(offset)),
            SeekTo::Offset(offset) => {
                Err(BrokerError::OffsetOutOfRange { topic: topic.name.to_string(), partition: number, offset, start: start.0, end: end.0 })
            }
            SeekTo::Time(at) => Ok(self.store.offset_for_time(&partition, TimestampMs(at))?.map_or(end, |(offset, _)| offset)),
        }
    }
}
