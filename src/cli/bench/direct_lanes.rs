//! Lanes that call a broker of this process: the same loop without HTTP, to see what the broker itself can do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::{
    Broker, BrokerError, FetchRequest, GroupSettings, LeaseId, NewRecord, PartitionInfo, ReceiveRequest, SeekTo, TopicInfo, TopicSettings,
};
use crate::config::Config;
use crate::server::broker_config;

use super::end_to_end::{self, Receiver};
use super::load::{self, Done, Lane, Tally};
use super::payload::Payload;
use super::report::Report;
use super::{Bench, Mode};

const LEASES_MAX: usize = 100;
const WAIT: Duration = Duration::from_millis(500);
const FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;

pub async fn measure(args: &Bench) -> anyhow::Result<Report> {
    let place = Place::new(args)?;
    let broker = Broker::open_with(&place.dir, broker_config(&Config::defaults())).await?;
    let measured = measure_on(args, &broker, &place.dir).await;
    let closed = broker.close().await;
    let report = measured?;
    closed?;
    Ok(report)
}

async fn measure_on(args: &Bench, broker: &Broker, dir: &std::path::Path) -> anyhow::Result<Report> {
    let topic = topic(args, broker).await?;
    let payload = Payload::new(args.value_bytes)?;
    let tally = Tally::new()?;
    let publishers = || (0..args.connections).map(|_| Publisher::new(args, broker, payload.clone())).collect();
    let syncs_before = broker.storage_stats().syncs_total;
    let took = match args.mode {
        Mode::Publish => load::run(args.plan(), publishers(), &tally, true).await,
        Mode::Consume => {
            let lanes = (0..args.connections as usize).map(|index| Reader::new(args, broker, &topic, index % topic.partitions.len()));
            load::run(args.plan(), lanes.collect::<anyhow::Result<_>>()?, &tally, true).await
        }
        Mode::EndToEnd => {
            let group = payload.run_name();
            broker.create_group(&topic.name, &group, GroupSettings { start: SeekTo::Latest, ..GroupSettings::default() }).await?;
            let receivers = (0..args.connections).map(|_| GroupMember::new(args, broker, &group, payload.clone())).collect();
            let took = end_to_end::run(args.plan(), publishers(), receivers, &tally).await;
            broker.delete_group(&topic.name, &group).await?;
            took
        }
    };
    let syncs = broker.storage_stats().syncs_total - syncs_before;
    Report::new(args, format!("in process, {}", dir.display()), &tally, took, Some(syncs))
}

async fn topic(args: &Bench, broker: &Broker) -> anyhow::Result<TopicInfo> {
    let settings = TopicSettings { partitions: args.partitions, ..TopicSettings::default() };
    match broker.create_topic(args.topic(), settings).await {
        Err(BrokerError::TopicExists { .. }) => Ok(broker.topic(args.topic())?),
        other => Ok(other?),
    }
}

/// The directory of the run; a temporary one is removed with the value.
struct Place {
    dir: PathBuf,
    temporary: bool,
}

impl Place {
    fn new(args: &Bench) -> anyhow::Result<Self> {
        if let Some(dir) = &args.data {
            return Ok(Self { dir: dir.clone(), temporary: false });
        }
        let dir = std::env::temp_dir().join(Payload::new(args.value_bytes)?.run_name());
        std::fs::create_dir(&dir)?;
        Ok(Self { dir, temporary: true })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            // Left-overs in the temporary directory are the system's to clean up.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

struct Publisher {
    broker: Broker,
    topic: String,
    batch: u64,
    ids: bool,
    payload: Payload,
}

impl Publisher {
    fn new(args: &Bench, broker: &Broker, payload: Payload) -> Self {
        Self { broker: broker.clone(), topic: args.topic().to_owned(), batch: u64::from(args.batch), ids: args.ids, payload }
    }
}

impl Lane for Publisher {
    async fn step(&mut self, number: u64, due: Instant) -> Result<Done, String> {
        let mut bytes = 0;
        let record = |number: u64| {
            let mut value = Vec::new();
            self.payload.write(&mut value, number, due);
            bytes += value.len() as u64;
            let idempotency_key = self.ids.then(|| Bytes::from(self.payload.id(number)));
            NewRecord { value: Some(value.into()), idempotency_key, ..NewRecord::default() }
        };
        let records = (number * self.batch..(number + 1) * self.batch).map(record).collect();
        self.broker.produce(&self.topic, records).await.map_err(|why| why.to_string())?;
        Ok(Done { records: self.batch, bytes })
    }
}

struct Reader {
    broker: Broker,
    topic: String,
    batch: usize,
    partitions: Vec<PartitionInfo>,
    current: usize,
    next: i64,
}

impl Reader {
    fn new(args: &Bench, broker: &Broker, topic: &TopicInfo, first: usize) -> anyhow::Result<Self> {
        let stored = topic.partitions.iter().any(|each| each.high_watermark > each.log_start);
        anyhow::ensure!(stored, "topic {} has no records to read; publish some into the same --data first", topic.name);
        let next = topic.partitions[first].log_start;
        let (topic, partitions) = (topic.name.clone(), topic.partitions.clone());
        Ok(Self { broker: broker.clone(), topic, batch: args.batch as usize, partitions, current: first, next })
    }
}

impl Lane for Reader {
    async fn step(&mut self, _: u64, _: Instant) -> Result<Done, String> {
        while self.next >= self.partitions[self.current].high_watermark {
            self.current = (self.current + 1) % self.partitions.len();
            self.next = self.partitions[self.current].log_start;
        }
        let request = FetchRequest {
            topic: self.topic.clone(),
            partition: self.partitions[self.current].partition,
            offset: self.next,
            records_max: self.batch,
            bytes_max: FETCH_BYTES_MAX,
            wait: Duration::ZERO,
        };
        let fetched = self.broker.fetch(request).await.map_err(|why| why.to_string())?;
        self.next = fetched.next_offset;
        let bytes = fetched.records.iter().map(|record| record.value.as_ref().map_or(0, Bytes::len) as u64).sum();
        Ok(Done { records: fetched.records.len() as u64, bytes })
    }
}

struct GroupMember {
    broker: Broker,
    topic: String,
    group: String,
    payload: Payload,
}

impl GroupMember {
    fn new(args: &Bench, broker: &Broker, group: &str, payload: Payload) -> Self {
        Self { broker: broker.clone(), topic: args.topic().to_owned(), group: group.to_owned(), payload }
    }
}

impl Receiver for GroupMember {
    async fn receive(&mut self) -> Result<Vec<Duration>, String> {
        let request = ReceiveRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            member: "bench".to_owned(),
            records_max: LEASES_MAX,
            wait: WAIT,
            visibility_ms: None,
        };
        let deliveries = self.broker.receive(request).await.map_err(|why| why.to_string())?;
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let ages = deliveries.iter().filter_map(|delivery| self.payload.age(delivery.record.value.as_deref()?)).collect();
        let leases: Vec<LeaseId> = deliveries.iter().map(|delivery| delivery.lease).collect();
        self.broker.ack(&self.topic, &self.group, &leases).await.map_err(|why| why.to_string())?;
        Ok(ages)
    }
}
