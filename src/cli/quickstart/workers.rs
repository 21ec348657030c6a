//! Two workers of one queue group, as an application would write them: receive, handle, ack or nack.
//!
//! Their trouble is made up, but of the three kinds there are: a hiccup that is gone at the next attempt, a dependency that
//! stays away, and an event the code cannot handle. [`Fault::Fixed`] is the deploy after which all three are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::broker::{Broker, Delivery, Failure, GroupCounts, LeaseId, ReceiveRequest, Settled};

use super::events::TYPE_HEADER;

pub const UNKNOWN_TYPE: &str = "marketplace_purchase";
pub const UNREACHABLE_TYPE: &str = "security_advisory";
const MEMBERS: [&str; 2] = ["worker-1", "worker-2"];
/// Of what the second worker sees for the first time, each so manieth fails.
const HICCUP_EVERY: u64 = 10;
const RECORDS_MAX: usize = 8;
const WAIT: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(20);
/// More than all retries together; past it something is wrong with the broker.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the made-up trouble is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    There,
    Fixed,
}

/// What one worker did, as the broker confirmed it.
#[derive(Debug, Clone, Default)]
pub struct WorkerTally {
    pub member: &'static str,
    pub acked: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    /// How often each attempt number was seen.
    pub attempts: BTreeMap<u32, u64>,
}

/// What to do with an event.
enum Verdict {
    Done,
    Again(String),
    Never(String),
}

/// Runs both workers until the group has nothing left to do; answers with what each did and where the group stands.
pub async fn run(broker: &Broker, topic: &str, group: &str, fault: Fault) -> anyhow::Result<(Vec<WorkerTally>, GroupCounts)> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut working = JoinSet::new();
    for member in MEMBERS {
        let worker = Worker {
            broker: broker.clone(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            fault,
            first_seen: 0,
            tally: WorkerTally { member, ..WorkerTally::default() },
        };
        working.spawn(worker.run(Arc::clone(&stop)));
    }
    let settled = settle(broker, topic, group, &mut working).await;
    stop.store(true, Relaxed);
    let mut tallies: Vec<WorkerTally> = Vec::new();
    while let Some(ended) = working.join_next().await {
        tallies.push(ended??);
    }
    tallies.sort_by_key(|tally| tally.member);
    Ok((tallies, settled?))
}

/// Waits until every record is acked or dead. A worker that ends before that has failed.
async fn settle(
    broker: &Broker,
    topic: &str,
    group: &str,
    working: &mut JoinSet<anyhow::Result<WorkerTally>>,
) -> anyhow::Result<GroupCounts> {
    let started = Instant::now();
    loop {
        let counts = broker.group(topic, group)?.counts;
        if counts.ready + counts.leased + counts.deferred == 0 {
            return Ok(counts);
        }
        if let Some(ended) = working.try_join_next() {
            ended??;
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "the group did not come to rest within {} s: {counts:?}", PATIENCE.as_secs());
        sleep(POLL).await;
    }
}

struct Worker {
    broker: Broker,
    topic: String,
    group: String,
    fault: Fault,
    first_seen: u64,
    tally: WorkerTally,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) -> anyhow::Result<WorkerTally> {
        while !stop.load(Relaxed) {
            let request = ReceiveRequest {
                topic: self.topic.clone(),
                group: self.group.clone(),
                member: self.tally.member.to_owned(),
                records_max: RECORDS_MAX,
                wait: WAIT,
                visibility_ms: None,
            };
            let deliveries = self.broker.receive(request).await?;
            self.handle_all(&deliveries).await?;
        }
        Ok(self.tally)
    }

    async fn handle_all(&mut self, deliveries: &[Delivery]) -> anyhow::Result<()> {
        let (mut done, mut failed): (Vec<LeaseId>, Vec<Failure>) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            *self.tally.attempts.entry(delivery.attempt).or_default() += 1;
            let lease = Some(delivery.lease);
            match self.handle(delivery) {
                Verdict::Done => done.push(delivery.lease),
                Verdict::Again(reason) => failed.push(Failure { lease, reason, ..Failure::default() }),
                Verdict::Never(reason) => failed.push(Failure { lease, reason, permanent: true, ..Failure::default() }),
            }
        }
        let mut outcomes = Vec::new();
        if !done.is_empty() {
            outcomes.extend(self.broker.ack(&self.topic, &self.group, &done).await?);
        }
        if !failed.is_empty() {
            outcomes.extend(self.broker.nack(&self.topic, &self.group, &failed).await?);
        }
        for outcome in outcomes {
            match outcome {
                Ok(Settled::Acked) => self.tally.acked += 1,
                Ok(Settled::Deferred { .. }) => self.tally.retried += 1,
                Ok(Settled::DeadLettered) => self.tally.dead_lettered += 1,
                // A lease that ran out: its record comes again, to whoever asks next.
                Ok(Settled::Extended { .. }) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn handle(&mut self, delivery: &Delivery) -> Verdict {
        if self.fault == Fault::Fixed {
            return Verdict::Done;
        }
        let event_type = String::from_utf8_lossy(delivery.record.header(TYPE_HEADER).unwrap_or_default()).into_owned();
        if event_type.starts_with(UNKNOWN_TYPE) {
            return Verdict::Never(format!("no handler for {event_type}"));
        }
        if event_type.starts_with(UNREACHABLE_TYPE) {
            return Verdict::Again("the advisory service does not answer".to_owned());
        }
        if self.tally.member == MEMBERS[1] && delivery.attempt == 1 {
            self.first_seen += 1;
            if self.first_seen.is_multiple_of(HICCUP_EVERY) {
                return Verdict::Again("connection reset by peer".to_owned());
            }
        }
        Verdict::Done
    }
}
