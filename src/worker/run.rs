//! The life of a worker: one task that starts handlers, asks for records, extends leases and settles what is finished.
//!
//! It alone owns the leases. Handlers and calls to the broker run as tasks beside it, at most one call of each kind at a time:
//! while one ack waits for the disk, everything that finishes meanwhile gathers for the next.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::leases::{Held, Unsettled};
use super::{Outcome, Worker, WorkerCounts};
use crate::broker::{BrokerError, Delivery, LeaseId, Outcomes, ReceiveRequest, Result, Settled};

/// How long one call waits for records before it is made again.
const RECEIVE_WAIT: Duration = Duration::from_secs(30);

/// A running worker's state.
pub struct Run<H> {
    worker: Arc<Worker>,
    prefetch: usize,
    /// The group is ordered by partition: its records run one after the other.
    in_order: bool,
    handler: Arc<H>,
    counts: Arc<Mutex<WorkerCounts>>,
    waiting: VecDeque<Delivery>,
    running: JoinSet<Finished>,
    /// Which lease a handler's task works on.
    tasks: HashMap<Id, LeaseId>,
    /// Partitions with a running handler, when in order.
    busy: HashSet<u32>,
    held: Held,
    unsettled: Unsettled,
    calls: JoinSet<Call>,
    receiving: Option<AbortHandle>,
    is_settling: bool,
    is_extending: bool,
    /// Set once the worker stops: when what still runs is cut off.
    cut_at: Option<Duration>,
    ended_by: Option<BrokerError>,
}

struct Finished {
    outcome: Outcome,
    was_done: bool,
}

/// A call to the broker has come back.
enum Call {
    Received(Result<Vec<Delivery>>),
    Extended(Vec<LeaseId>, Result<Outcomes>),
    Settled(Settlement),
}

/// Answers to the three ways to settle.
struct Settlement {
    acked: Result<Outcomes>,
    failed: Result<Outcomes>,
    released: Result<Outcomes>,
}

impl<H, F> Run<H>
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output: Into<Outcome>> + Send + 'static,
{
    pub fn new(worker: Worker, in_order: bool, handler: H, counts: Arc<Mutex<WorkerCounts>>) -> Self {
        Self {
            prefetch: worker.prefetch.unwrap_or(worker.concurrency),
            worker: Arc::new(worker),
            in_order,
            handler: Arc::new(handler),
            counts,
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            busy: HashSet::new(),
            held: Held::default(),
            unsettled: Unsettled::default(),
            calls: JoinSet::new(),
            receiving: None,
            is_settling: false,
            is_extending: false,
            cut_at: None,
            ended_by: None,
        }
    }

    /// Runs until told to stop (or the teller is gone), until the broker closes or until it fails.
    pub async fn drive(mut self, stop: oneshot::Receiver<()>) -> Result<()> {
        let broker = self.worker.broker.clone();
        let mut stop = pin!(stop);
        loop {
            if self.ended_by.is_some() {
                self.wind_down();
            }
            if self.cut_at.is_none() {
                self.start_waiting();
                self.ask();
            }
            self.settle();
            if self.cut_at.is_some() && self.running.is_empty() && self.calls.is_empty() {
                break;
            }
            let extend_at = self.held.next().filter(|_| !self.is_extending);
            let wake_at = extend_at.into_iter().chain(self.cut_at).min();
            tokio::select! {
                _ = &mut stop, if self.cut_at.is_none() => self.wind_down(),
                Some(finished) = self.running.join_next_with_id() => self.finished(finished),
                Some(call) = self.calls.join_next() => self.called(call),
                () = broker.sleep_until(wake_at.unwrap_or_default()), if wake_at.is_some() => self.on_time(),
            }
        }
        match self.ended_by {
            None | Some(BrokerError::Closing) => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn now(&self) -> Duration {
        self.worker.broker.clock().monotonic()
    }

    fn start_waiting(&mut self) {
        while self.running.len() < self.worker.concurrency {
            let Some(delivery) = self.next_waiting() else { return };
            let lease = delivery.lease;
            if self.in_order {
                self.busy.insert(lease.partition);
            }
            let task = self.running.spawn(handle(Arc::clone(&self.worker), Arc::clone(&self.handler), delivery));
            self.tasks.insert(task.id(), lease);
        }
    }

    fn next_waiting(&mut self) -> Option<Delivery> {
        let first = self.waiting.iter().position(|delivery| !self.busy.contains(&delivery.record.partition))?;
        self.waiting.remove(first)
    }

    /// Asks for records when what waits has run down to half.
    fn ask(&mut self) {
        let (waiting, worker) = (self.waiting.len(), &self.worker);
        let room = (worker.concurrency + self.prefetch).saturating_sub(self.running.len() + waiting);
        if self.receiving.is_some() || room == 0 || waiting * 2 > self.prefetch {
            return;
        }
        let request = ReceiveRequest {
            topic: worker.topic.clone(),
            group: worker.group.clone(),
            member: worker.member.clone(),
            records_max: room.min(worker.batch),
            wait: RECEIVE_WAIT,
            visibility_ms: worker.visibility_ms,
        };
        let broker = worker.broker.clone();
        self.receiving = Some(self.calls.spawn(async move { Call::Received(broker.receive(request).await) }));
    }

    /// Tells the broker what handlers said, one call at a time.
    fn settle(&mut self) {
        if self.is_settling || self.unsettled.is_empty() {
            return;
        }
        self.is_settling = true;
        let (worker, unsettled) = (Arc::clone(&self.worker), std::mem::take(&mut self.unsettled));
        self.calls.spawn(async move { Call::Settled(settle(&worker, unsettled).await) });
    }

    fn on_time(&mut self) {
        let now = self.now();
        if self.cut_at.is_some_and(|cut_at| cut_at <= now) {
            self.cut();
        }
        if self.is_extending {
            return;
        }
        let (leases, visibility_ms) = self.held.due(now);
        if !leases.is_empty() {
            self.is_extending = true;
            let worker = Arc::clone(&self.worker);
            self.calls.spawn(async move {
                let outcomes = worker.broker.extend(&worker.topic, &worker.group, &leases, visibility_ms).await;
                Call::Extended(leases, outcomes)
            });
        }
    }

    /// Notes a finished handler, and all others that have finished too, so that they are settled together.
    fn finished(&mut self, first: Result<(Id, Finished), JoinError>) {
        let mut next = Some(first);
        while let Some(finished) = next {
            self.note(finished);
            next = self.running.try_join_next_with_id();
        }
    }

    fn note(&mut self, finished: Result<(Id, Finished), JoinError>) {
        let (id, finished) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                let id = error.id();
                let reason = match error.try_into_panic() {
                    Ok(panic) => format!("handler panicked: {}", panic_text(&*panic)),
                    Err(_) => "handler was cancelled".to_owned(),
                };
                self.counts.lock().panicked += 1;
                (id, Finished { outcome: Outcome::retry(reason), was_done: false })
            }
        };
        let Some(lease) = self.tasks.remove(&id) else { return };
        self.held.give_up(lease);
        self.counts.lock().already_done += u64::from(finished.was_done);
        if self.in_order {
            self.busy.remove(&lease.partition);
            if !matches!(finished.outcome, Outcome::Done) {
                self.give_back(|delivery| delivery.record.partition == lease.partition);
            }
        }
        self.unsettled.add(lease, finished.outcome);
    }

    /// Releases what waits and is chosen.
    fn give_back(&mut self, chosen: impl Fn(&Delivery) -> bool) {
        let waiting = std::mem::take(&mut self.waiting);
        let (back, stay): (VecDeque<_>, VecDeque<_>) = waiting.into_iter().partition(chosen);
        self.waiting = stay;
        for delivery in back {
            self.held.give_up(delivery.lease);
            self.unsettled.releases.push(delivery.lease);
        }
    }

    fn called(&mut self, call: Result<Call, JoinError>) {
        match call {
            Ok(Call::Received(received)) => self.received(received),
            Ok(Call::Extended(leases, outcomes)) => self.extended(&leases, outcomes),
            Ok(Call::Settled(settlement)) => self.settled(settlement),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only receiving is ever cancelled.
            Err(_) => self.receiving = None,
        }
    }

    fn received(&mut self, received: Result<Vec<Delivery>>) {
        self.receiving = None;
        let deliveries = match received {
            Ok(deliveries) => deliveries,
            Err(error) => return self.end(error),
        };
        let now = self.now();
        self.counts.lock().received += deliveries.len() as u64;
        for delivery in deliveries {
            self.held.take(&delivery, now);
            self.waiting.push_back(delivery);
        }
        if self.cut_at.is_some() {
            self.give_back(|_| true);
        }
    }

    fn extended(&mut self, leases: &[LeaseId], outcomes: Result<Outcomes>) {
        self.is_extending = false;
        match outcomes {
            Ok(outcomes) => {
                for (lease, outcome) in leases.iter().zip(outcomes) {
                    match outcome {
                        Ok(_) => self.counts.lock().extended += 1,
                        // The handler goes on; what it says will be refused.
                        Err(_) => self.held.give_up(*lease),
                    }
                }
            }
            Err(error) => self.end(error),
        }
    }

    fn settled(&mut self, settlement: Settlement) {
        self.is_settling = false;
        for outcomes in [settlement.acked, settlement.failed] {
            match outcomes {
                Ok(outcomes) => outcomes.into_iter().for_each(|outcome| self.counts.lock().count(outcome.ok())),
                Err(error) => self.end(error),
            }
        }
        match settlement.released {
            Ok(outcomes) => self.counts.lock().released += outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64,
            Err(error) => self.end(error),
        }
    }

    /// A full disk passes; nothing else does.
    fn end(&mut self, error: BrokerError) {
        tracing::warn!(topic = %self.worker.topic, group = %self.worker.group, member = %self.worker.member, %error, "worker");
        if error != BrokerError::DiskFull {
            self.ended_by.get_or_insert(error);
        }
    }

    fn wind_down(&mut self) {
        if self.cut_at.is_some() {
            return;
        }
        self.cut_at = Some(self.now() + self.worker.grace);
        if let Some(receiving) = &self.receiving {
            receiving.abort();
        }
        self.give_back(|_| true);
    }

    /// Cancels what still runs and gives its records back.
    fn cut(&mut self) {
        self.running = JoinSet::new();
        self.tasks.clear();
        self.unsettled.releases.extend(self.held.give_up_all());
        self.cut_at = Some(Duration::MAX);
    }
}

impl WorkerCounts {
    const fn count(&mut self, settled: Option<Settled>) {
        match settled {
            Some(Settled::Acked) => self.done += 1,
            Some(Settled::Deferred { .. }) => self.retried += 1,
            Some(Settled::DeadLettered) => self.dead_lettered += 1,
            Some(Settled::Extended { .. }) => {}
            None => self.stale += 1,
        }
    }
}

/// Runs the handler, unless its work is known to be done.
async fn handle<H, F>(worker: Arc<Worker>, handler: Arc<H>, delivery: Delivery) -> Finished
where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output: Into<Outcome>> + Send,
{
    let Some(hook) = &worker.idempotency else {
        return Finished { outcome: handler(delivery).await.into(), was_done: false };
    };
    if hook.already_done(&delivery) {
        return Finished { outcome: Outcome::Done, was_done: true };
    }
    let outcome = handler(delivery.clone()).await.into();
    if outcome == Outcome::Done {
        hook.mark_done(&delivery);
    }
    Finished { outcome, was_done: false }
}

async fn settle(worker: &Worker, unsettled: Unsettled) -> Settlement {
    let Worker { broker, topic, group, .. } = worker;
    let Unsettled { acks, failures, releases } = unsettled;
    let acked = async { if acks.is_empty() { Ok(Outcomes::new()) } else { broker.ack(topic, group, &acks).await } };
    let failed = async { if failures.is_empty() { Ok(Outcomes::new()) } else { broker.nack(topic, group, &failures).await } };
    let released = async { if releases.is_empty() { Ok(Outcomes::new()) } else { broker.release(topic, group, &releases).await } };
    let (acked, failed, released) = tokio::join!(acked, failed, released);
    Settlement { acked, failed, released }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
