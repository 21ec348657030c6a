//! The broker under test: on a simulated disk, with a clock moved by hand and no thread of its own, so that a seed replays.
//!
//! Owns the disk, the clock and the runtime. Says what the broker answered and what it shows; judges nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::broker::LeaseId;
use onelog::broker::{CommittedOffset, DeadLetter, GroupCounts, RedriveReport, TopicChange};
use onelog::{
    Broker, BrokerConfig, BrokerError, Clock, DeadLetterFilter, Delivery, Failure, FetchRequest, GroupSettings, LeaseError, ManualClock,
    NewRecord, Produced, ReceiveRequest, Record, RedriveRequest, SeekTo, Settled, TimestampMs, TopicSettings,
};
use onelog_storage::io::sim::{PowerCut, SimDisk};
use onelog_storage::io::{Io, Site};

pub const START_MS: i64 = 1_735_689_600_000;
pub const STREAM: &str = "readers";
const DIR: &str = "/data";
/// The smallest there are: a sequence meets several ends of segments.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// How often other tasks may run before a task that has not ended waits for the writer.
const ROUNDS: usize = 12;

/// One call of the broker.
#[derive(Clone, Debug)]
pub enum Action {
    CreateTopic(String, TopicSettings),
    AlterTopic(String, TopicChange),
    DeleteTopic(String),
    Produce(Vec<(String, NewRecord)>),
    ProduceIf(String, NewRecord, i64),
    Pipeline(String, Vec<NewRecord>),
    Resolve(String, u32, SeekTo),
    CreateGroup(String, String, GroupSettings),
    AlterGroup(String, String, GroupSettings),
    DeleteGroup(String, String),
    Receive(ReceiveRequest),
    Ack(String, String, Vec<LeaseId>),
    Nack(String, String, Failure),
    Extend(String, String, LeaseId, u64),
    Release(String, String, LeaseId),
    Seek(String, String, SeekTo),
    Redrive(String, RedriveRequest),
    Purge(String, DeadLetterFilter, bool),
    Commit(CommittedOffset),
    SeekStream(String, SeekTo),
    DeleteStream,
    Advance(u64),
    Jump(i64),
    Retention,
    Checkpoint,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Answer {
    Done,
    Failed(BrokerError),
    Produced(Vec<Produced>),
    Pipelined(Vec<Result<Vec<Produced>, BrokerError>>),
    Offset(i64),
    Delivered(Vec<Delivery>),
    Outcomes(Vec<Result<Settled, LeaseError>>),
    Report(RedriveReport),
    Committed(Vec<CommittedOffset>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SeenPartition {
    pub start: i64,
    pub end: i64,
    pub records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SeenTopic {
    pub settings: TopicSettings,
    pub partitions: Vec<SeenPartition>,
    pub groups: BTreeMap<String, (GroupSettings, GroupCounts)>,
}

/// All that the broker shows of itself.
#[derive(Clone, Debug)]
pub struct Seen {
    pub topics: BTreeMap<String, SeenTopic>,
    /// Unresolved dead letters by origin topic.
    pub letters: BTreeMap<String, Vec<DeadLetter>>,
    pub committed: Vec<CommittedOffset>,
}

pub struct Rig {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub broker: Option<Broker>,
    runtime: tokio::runtime::Runtime,
}

fn config(disk: &SimDisk, clock: &Arc<ManualClock>) -> BrokerConfig {
    BrokerConfig {
        segment_bytes: SEGMENT_BYTES,
        cache_bytes: 64 * 1024,
        index_cache_bytes: 256 * 1024,
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        io: Arc::new(disk.clone()),
        without_threads: Some(*b"a broker's model"),
        ..BrokerConfig::default()
    }
}

impl Rig {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
        let clock = Arc::new(ManualClock::at(TimestampMs(START_MS)));
        let mut rig = Self { disk: SimDisk::new(1), clock, broker: None, runtime };
        rig.open().unwrap();
        rig
    }

    pub fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    pub fn wall(&self) -> i64 {
        self.clock.wall().0
    }

    /// Monotonic, milliseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap()
    }

    /// Opens what is on the disk, as a new process: its monotonic time begins at zero.
    pub fn open(&mut self) -> Result<(), BrokerError> {
        self.clock = Arc::new(ManualClock::at(self.clock.wall()));
        let config = config(&self.disk, &self.clock);
        self.broker = Some(self.runtime.block_on(Broker::open_with(Path::new(DIR), config))?);
        self.quiet();
        Ok(())
    }

    pub fn close(&mut self) {
        let broker = self.broker.take().unwrap();
        self.runtime.block_on(broker.close()).unwrap();
    }

    /// The next disk, with nothing running on it.
    pub fn on(&mut self, disk: SimDisk) {
        self.broker = None;
        self.disk = disk;
    }

    /// Another rig on a copy of what a killed process leaves.
    pub fn copy(&self, without_index: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
        let disk = self.disk.kill_clone(7);
        if without_index {
            let index = Path::new(DIR).join("index.redb");
            disk.remove(Site::IndexRemove, &index).unwrap();
        }
        Self { disk, clock: Arc::new(ManualClock::at(self.clock.wall())), broker: None, runtime }
    }

    pub fn cut(&self, seed: u64) -> SimDisk {
        let kind = if seed.is_multiple_of(4) { PowerCut::SafeOverwrite } else { PowerCut::Hostile };
        self.disk.crash_clone_with(seed, kind)
    }

    /// Runs a call to its end. Whenever it waits, the writer takes a turn.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let broker = self.broker().clone();
        self.runtime.block_on(async move {
            let task = tokio::spawn(work);
            loop {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                }
                if task.is_finished() {
                    break;
                }
                assert!(broker.turn(), "a call waits, and nothing is to be written");
            }
            task.await.unwrap()
        })
    }

    /// Runs on the rig's runtime what makes its turns itself.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Lets everything that runs by itself come to its end.
    pub fn quiet(&mut self) {
        let broker = self.broker().clone();
        self.runtime.block_on(async move {
            loop {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                }
                if !broker.turn() {
                    return;
                }
            }
        });
    }

    /// Commits so far: when there is a new one, what was handed over before is in the log.
    pub fn commits(&self) -> u64 {
        self.broker().storage_stats().commits_total
    }

    /// One call and its answer.
    pub fn call(&mut self, action: &Action) -> Answer {
        let broker = self.broker().clone();
        match action {
            Action::Advance(ms) => self.clock.advance(Duration::from_millis(*ms)),
            Action::Jump(ms) => self.clock.set_wall(TimestampMs(self.wall() + ms)),
            Action::Checkpoint => return done(self.runtime.block_on(broker.checkpoint())),
            Action::Retention => return done(self.runtime.block_on(broker.apply_retention())),
            Action::Pipeline(topic, records) => return self.pipeline(topic, records),
            _ => {
                let action = action.clone();
                let answer = self.run(async move { ask(&broker, action).await.unwrap_or_else(Answer::Failed) });
                return answer;
            }
        }
        self.quiet();
        Answer::Done
    }

    /// Each call is begun before the one before it is answered.
    fn pipeline(&mut self, topic: &str, records: &[NewRecord]) -> Answer {
        let broker = self.broker().clone();
        let calls: Vec<_> = records.iter().map(|record| (broker.clone(), topic.to_owned(), record.clone())).collect();
        Answer::Pipelined(self.run(async move {
            let begun: Vec<_> = calls
                .into_iter()
                .map(|(broker, topic, record)| tokio::spawn(async move { broker.produce(&topic, vec![record]).await }))
                .collect();
            let mut answers = Vec::new();
            for call in begun {
                answers.push(call.await.unwrap());
            }
            answers
        }))
    }

    /// Everything the broker shows, or how it failed to.
    pub fn look(&mut self) -> Result<Seen, BrokerError> {
        let broker = self.broker().clone();
        self.run(async move { look(&broker).await })
    }
}

fn done(result: Result<(), BrokerError>) -> Answer {
    result.map_or_else(Answer::Failed, |()| Answer::Done)
}

async fn ask(broker: &Broker, action: Action) -> Result<Answer, BrokerError> {
    Ok(match action {
        Action::CreateTopic(topic, settings) => broker.create_topic(&topic, settings).await.map(|_| Answer::Done)?,
        Action::AlterTopic(topic, change) => broker.alter_topic(&topic, change).await.map(|_| Answer::Done)?,
        Action::DeleteTopic(topic) => broker.delete_topic(&topic).await.map(|()| Answer::Done)?,
        Action::Produce(records) if records.iter().all(|(topic, _)| *topic == records[0].0) => {
            let topic = records[0].0.clone();
            Answer::Produced(broker.produce(&topic, records.into_iter().map(|(_, record)| record).collect()).await?)
        }
        Action::Produce(records) => Answer::Produced(broker.produce_atomic(records).await?),
        Action::ProduceIf(topic, record, expected) => Answer::Produced(vec![broker.produce_if(&topic, record, expected).await?]),
        Action::Resolve(topic, partition, place) => Answer::Offset(broker.resolve(&topic, partition, place).await?),
        Action::CreateGroup(topic, group, settings) => broker.create_group(&topic, &group, settings).await.map(|_| Answer::Done)?,
        Action::AlterGroup(topic, group, settings) => broker.alter_group(&topic, &group, settings).await.map(|_| Answer::Done)?,
        Action::DeleteGroup(topic, group) => broker.delete_group(&topic, &group).await.map(|()| Answer::Done)?,
        Action::Receive(request) => Answer::Delivered(broker.receive(request).await?),
        Action::Ack(topic, group, leases) => Answer::Outcomes(broker.ack(&topic, &group, &leases).await?),
        Action::Nack(topic, group, failure) => Answer::Outcomes(broker.nack(&topic, &group, &[failure]).await?),
        Action::Extend(topic, group, lease, ms) => Answer::Outcomes(broker.extend(&topic, &group, &[lease], ms).await?),
        Action::Release(topic, group, lease) => Answer::Outcomes(broker.release(&topic, &group, &[lease]).await?),
        Action::Seek(topic, group, place) => broker.seek_group(&topic, &group, None, place).await.map(|()| Answer::Done)?,
        Action::Redrive(topic, request) => Answer::Report(broker.redrive(&topic, request).await?),
        Action::Purge(topic, filter, dry) => Answer::Report(broker.purge(&topic, &filter, dry).await?),
        Action::Commit(offset) => broker.commit_offsets(STREAM, vec![offset]).await.map(|()| Answer::Done)?,
        Action::SeekStream(topic, place) => Answer::Committed(broker.seek_stream(STREAM, &topic, None, place).await?),
        Action::DeleteStream => broker.delete_stream_group(STREAM).await.map(|()| Answer::Done)?,
        Action::Pipeline(..) | Action::Advance(_) | Action::Jump(_) | Action::Retention | Action::Checkpoint => Answer::Done,
    })
}

async fn look(broker: &Broker) -> Result<Seen, BrokerError> {
    let mut seen = Seen { topics: BTreeMap::new(), letters: BTreeMap::new(), committed: broker.committed_offsets(STREAM) };
    for info in broker.topics() {
        let mut partitions = Vec::new();
        for partition in &info.partitions {
            let mut records = Vec::new();
            let mut offset = partition.log_start;
            while offset < partition.high_watermark {
                let topic = info.name.clone();
                let request = FetchRequest {
                    topic,
                    partition: partition.partition,
                    offset,
                    records_max: 7,
                    bytes_max: 1 << 20,
                    wait: Duration::ZERO,
                };
                let fetched = broker.fetch(request).await?;
                assert!(fetched.next_offset > offset, "P1: {}/{} at {offset}: nothing can be read", info.name, partition.partition);
                offset = fetched.next_offset;
                records.extend(fetched.records);
            }
            partitions.push(SeenPartition { start: partition.log_start, end: partition.high_watermark, records });
        }
        let groups = broker.groups(Some(&info.name))?.into_iter().map(|group| (group.group, (group.settings, group.counts))).collect();
        let letters = broker.dead_letters(&info.name, &DeadLetterFilter::default(), None, usize::MAX).await?;
        seen.letters.insert(info.name.clone(), letters);
        seen.topics.insert(info.name, SeenTopic { settings: info.settings, partitions, groups });
    }
    Ok(seen)
}
