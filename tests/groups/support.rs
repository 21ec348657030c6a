//! A broker on a directory and a clock, and short words for what the tests do with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::broker::{DeadLetter, GroupCounts};
use onelog::{
    Broker, BrokerConfig, DeadLetterFilter, Delivery, Failure, GroupSettings, LeaseError, ManualClock, NewRecord, Ordering, ReceiveRequest,
    RetrySettings, Settled, TimestampMs, TopicSettings,
};

pub const TOPIC: &str = "jobs";
pub const GROUP: &str = "crew";
pub const VISIBILITY: Duration = Duration::from_secs(30);
pub const RETRY: Duration = Duration::from_secs(1);
pub const START_MS: i64 = 1_735_689_600_000;

pub type Outcome = Result<Settled, LeaseError>;

/// A broker whose group is [`GROUP`] on [`TOPIC`].
pub struct Rig {
    pub broker: Broker,
    pub clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
}

pub fn settings() -> GroupSettings {
    let retry_ms = u64::try_from(RETRY.as_millis()).unwrap();
    GroupSettings {
        visibility_ms: u64::try_from(VISIBILITY.as_millis()).unwrap(),
        max_deliveries: 3,
        retry: RetrySettings { initial_ms: retry_ms, multiplier: 1.0, cap_ms: retry_ms, jitter: 0.0 },
        ..GroupSettings::default()
    }
}

pub fn ordered_by(ordering: Ordering) -> GroupSettings {
    GroupSettings { ordering, ..settings() }
}

pub fn record(key: &str, value: &str) -> NewRecord {
    NewRecord { key: Some(key.to_owned().into()), value: Some(value.to_owned().into()), ..NewRecord::default() }
}

pub fn value(delivery: &Delivery) -> String {
    String::from_utf8(delivery.record.value.clone().unwrap_or_default().to_vec()).unwrap()
}

pub fn key(delivery: &Delivery) -> String {
    String::from_utf8(delivery.record.key.clone().unwrap_or_default().to_vec()).unwrap()
}

async fn open(directory: &Path, clock: &Arc<ManualClock>) -> Broker {
    let config = BrokerConfig { segment_bytes: 4 << 20, clock: Arc::clone(clock) as _, ..BrokerConfig::default() };
    Broker::open_with(directory, config).await.unwrap()
}

impl Rig {
    pub async fn new(partitions: u32, settings: GroupSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
        let broker = open(&directory.path().join("0"), &clock).await;
        broker.create_topic(TOPIC, TopicSettings { partitions, ..TopicSettings::default() }).await.unwrap();
        broker.create_group(TOPIC, GROUP, settings).await.unwrap();
        Self { broker, clock, directory }
    }

    /// One partition with `values`, all of key `k`.
    pub async fn with(values: &[&str]) -> Self {
        let rig = Self::new(1, settings()).await;
        for value in values {
            rig.produce(vec![record("k", value)]).await;
        }
        rig
    }

    /// Closes and opens again. Monotonic time starts anew, as it does in a new process.
    pub async fn reopen(self) -> Self {
        let Self { broker, clock, directory } = self;
        let wall = onelog::Clock::wall(&*clock);
        broker.close().await.unwrap();
        drop(broker);
        let clock = Arc::new(ManualClock::at(wall));
        // A copy: what belonged to the old broker may be let go a little later.
        let place = directory.path().join("reopened");
        copy(&directory.path().join("0"), &place);
        let broker = open(&place, &clock).await;
        Self { broker, clock, directory }
    }

    /// What another process finds after this one was killed now: a copy of the files as they are.
    pub async fn killed(&self) -> Self {
        self.all_is_durable().await;
        let directory = tempfile::tempdir().unwrap();
        copy(&self.directory.path().join("0"), &directory.path().join("0"));
        let clock = Arc::new(ManualClock::at(onelog::Clock::wall(&*self.clock)));
        let broker = open(&directory.path().join("0"), &clock).await;
        Self { broker, clock, directory }
    }

    /// Grants and expiries are written without anybody waiting; what is waited for after them has them before it in the log.
    pub async fn all_is_durable(&self) {
        self.broker.ensure_topic("barrier", TopicSettings::default()).await.unwrap();
        self.broker.produce("barrier", vec![record("k", "x")]).await.unwrap();
    }

    /// Waits until so many records are dead; answers with their letters.
    pub async fn until_dead(&self, records: u64) -> Vec<DeadLetter> {
        onelog::testing::eventually("they are dead", || self.counts().dead == records).await;
        self.all_is_durable().await;
        self.all_letters().await
    }

    pub async fn produce(&self, records: Vec<NewRecord>) {
        self.broker.produce(TOPIC, records).await.unwrap();
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// What is there now for `member`.
    pub async fn receive(&self, member: &str, records_max: usize) -> Vec<Delivery> {
        self.receive_as(GROUP, member, records_max).await
    }

    pub async fn receive_as(&self, group: &str, member: &str, records_max: usize) -> Vec<Delivery> {
        let request = ReceiveRequest {
            topic: TOPIC.into(),
            group: group.into(),
            member: member.into(),
            records_max,
            wait: Duration::ZERO,
            visibility_ms: None,
        };
        self.broker.receive(request).await.unwrap()
    }

    pub fn wait_for(&self, member: &str, records_max: usize) -> tokio::task::JoinHandle<Vec<Delivery>> {
        let (broker, member) = (self.broker.clone(), member.to_owned());
        tokio::spawn(async move { receive_hour(&broker, &member, records_max).await })
    }

    /// Lets tasks beside this one come as far as they can.
    pub async fn others_run(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    pub async fn one(&self, member: &str) -> Delivery {
        let mut found = self.receive(member, 1).await;
        assert_eq!(found.len(), 1, "{member} finds a record");
        found.remove(0)
    }

    pub async fn ack(&self, delivery: &Delivery) -> Outcome {
        self.broker.ack(TOPIC, GROUP, &[delivery.lease]).await.unwrap()[0]
    }

    pub async fn release(&self, delivery: &Delivery) -> Outcome {
        self.broker.release(TOPIC, GROUP, &[delivery.lease]).await.unwrap()[0]
    }

    pub async fn extend(&self, delivery: &Delivery, visibility: Duration) -> Outcome {
        let visibility_ms = u64::try_from(visibility.as_millis()).unwrap();
        self.broker.extend(TOPIC, GROUP, &[delivery.lease], visibility_ms).await.unwrap()[0]
    }

    /// Fails with the group's backoff.
    pub async fn fail(&self, delivery: &Delivery, reason: &str) -> Outcome {
        self.nack(delivery, Failure { reason: reason.into(), ..Failure::default() }).await
    }

    pub async fn fail_for_good(&self, delivery: &Delivery, reason: &str) -> Outcome {
        self.nack(delivery, Failure { reason: reason.into(), permanent: true, ..Failure::default() }).await
    }

    pub async fn nack(&self, delivery: &Delivery, failure: Failure) -> Outcome {
        let failure = Failure { lease: Some(delivery.lease), ..failure };
        self.broker.nack(TOPIC, GROUP, &[failure]).await.unwrap()[0]
    }

    pub fn counts(&self) -> GroupCounts {
        self.broker.group(TOPIC, GROUP).unwrap().counts
    }

    /// Records ever published to the topic.
    pub fn records(&self) -> u64 {
        let topic = self.broker.topic(TOPIC).unwrap();
        topic.partitions.iter().map(|partition| u64::try_from(partition.high_watermark).unwrap()).sum()
    }

    pub async fn letters(&self, filter: DeadLetterFilter) -> Vec<DeadLetter> {
        self.broker.dead_letters(TOPIC, &filter, None, 1_000).await.unwrap()
    }

    pub async fn all_letters(&self) -> Vec<DeadLetter> {
        self.letters(DeadLetterFilter::default()).await
    }
}

/// Waits an hour for records.
pub async fn receive_hour(broker: &Broker, member: &str, records_max: usize) -> Vec<Delivery> {
    let wait = Duration::from_secs(3600);
    let (topic, group, member) = (TOPIC.into(), GROUP.into(), member.into());
    let request = ReceiveRequest { topic, group, member, records_max, wait, visibility_ms: None };
    broker.receive(request).await.unwrap()
}

pub fn values(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(value).collect()
}

pub fn attempts(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().map(|delivery| delivery.attempt).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Numbers that look random and are the same in every run of a seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}
