//! The consumer runtime users embed: leases records of a queue group, runs an async handler for each, settles what it says.
//!
//! Owns a bounded number of leases (running + waiting) and extends them while they are in its hands. Knows the broker through its
//! public face only. Every record a worker receives is acked, nacked or released; when the process dies instead, the leases run
//! out and the records come again.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use onelog::{Broker, Delivery, NewRecord, TopicSettings, Worker};
//!
//! let broker = Broker::ephemeral().await?;
//! broker.create_topic("mails", TopicSettings::default()).await?;
//! broker.produce("mails", vec![NewRecord { value: Some("hello".into()), ..NewRecord::default() }]).await?;
//!
//! let worker = Worker::new(&broker, "mails", "senders").concurrency(4);
//! let handle = worker.start(|delivery: Delivery| async move {
//!     let text = std::str::from_utf8(delivery.record.value.as_deref().unwrap_or_default())?;
//!     println!("{text}, attempt {}", delivery.attempt);
//!     Ok::<(), std::str::Utf8Error>(())
//! }).await?;
//! # while handle.counts().done < 1 { tokio::task::yield_now().await; }
//! let counts = handle.stop().await?;
//! assert_eq!(counts.done, 1);
//! # Ok(()) }
//! ```

mod idempotency;
mod leases;
mod outcome;
mod run;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::{Broker, BrokerError, Delivery, GroupSettings, Ordering, Result};
pub use idempotency::{Idempotency, Remembered};
pub use outcome::Outcome;

/// Most records asked for at once unless set otherwise.
const BATCH_RECORDS: usize = 100;
/// How long running handlers have at a stop unless set otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// A worker to be started: what it consumes and how. See the head of this file.
#[must_use = "a worker does nothing until it is started"]
pub struct Worker {
    broker: Broker,
    topic: String,
    group: String,
    member: String,
    concurrency: usize,
    prefetch: Option<usize>,
    batch: usize,
    visibility_ms: Option<u64>,
    settings: Option<GroupSettings>,
    idempotency: Option<Arc<dyn Idempotency>>,
    grace: Duration,
}

/// What a worker did since it was started. A record counts once the broker has durably taken the word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    pub received: u64,
    pub done: u64,
    /// Of those done, how many the idempotency hook knew already.
    pub already_done: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    /// Given back at a stop without counting the attempt.
    pub released: u64,
    /// Extensions of leases.
    pub extended: u64,
    /// Handlers that panicked; part of the retried ones.
    pub panicked: u64,
    /// Settled too late: the lease had passed to another delivery.
    pub stale: u64,
}

impl Worker {
    /// A worker of `group` on `topic` that runs one handler at a time.
    pub fn new(broker: &Broker, topic: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            broker: broker.clone(),
            topic: topic.into(),
            group: group.into(),
            member: format!("worker-{}", uuid::Uuid::new_v4()),
            concurrency: 1,
            prefetch: None,
            batch: BATCH_RECORDS,
            visibility_ms: None,
            settings: None,
            idempotency: None,
            grace: GRACE,
        }
    }

    /// The name leases are booked under, shown with the group and in dead letters. A random one otherwise.
    pub fn member(mut self, member: impl Into<String>) -> Self {
        self.member = member.into();
        self
    }

    /// Handlers that run at once.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// Records that may wait in the worker for a free handler, so that it need not wait for the broker; as many as run at once
    /// unless set. 0 for long jobs that any free worker should take.
    pub fn prefetch(mut self, records: usize) -> Self {
        self.prefetch = Some(records);
        self
    }

    /// Most records asked for at once; never more than there is room for.
    pub fn batch(mut self, records: usize) -> Self {
        self.batch = records.max(1);
        self
    }

    /// How long a lease lasts, instead of the group's time. It is extended at half of it while the handler runs.
    pub fn visibility(mut self, visibility: Duration) -> Self {
        self.visibility_ms = Some(u64::try_from(visibility.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Creates the group with these settings at the start, or refuses to start when it has others.
    pub fn settings(mut self, settings: GroupSettings) -> Self {
        self.settings = Some(settings);
        self
    }

    pub fn idempotency(mut self, hook: impl Idempotency + 'static) -> Self {
        self.idempotency = Some(Arc::new(hook));
        self
    }

    /// How long running handlers have to finish at a stop, by the broker's clock.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts consuming. The handler answers with an [`Outcome`] or with a `Result`, whose error means: retry with this reason. So
    /// does a panic.
    ///
    /// # Errors
    /// The topic does not exist, or the group has other settings than those asked for.
    pub async fn start<H, F>(self, handler: H) -> Result<WorkerHandle>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output: Into<Outcome>> + Send + 'static,
    {
        let in_order = self.ensure_group().await? == Ordering::Partition;
        let counts = Arc::new(Mutex::new(WorkerCounts::default()));
        let (stop, stopped) = oneshot::channel();
        let run = run::Run::new(self, in_order, handler, Arc::clone(&counts));
        let task = tokio::spawn(run.drive(stopped));
        Ok(WorkerHandle { stop, task, counts })
    }

    /// As [`Self::start`], with the value read from JSON. A value that cannot be read goes to the dead letters at once.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_json<T, H, F>(self, handler: H) -> Result<WorkerHandle>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(T, Delivery) -> F + Send + Sync + 'static,
        F: Future<Output: Into<Outcome>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let decoded = move |delivery: Delivery| {
            let handler = Arc::clone(&handler);
            async move {
                match crate::consumer::from_json(&delivery.record) {
                    Ok(value) => handler(value, delivery).await.into(),
                    Err(error) => Outcome::dead_letter(crate::consumer::undecodable(&error)),
                }
            }
        };
        self.start(decoded).await
    }

    async fn ensure_group(&self) -> Result<Ordering> {
        if let Some(settings) = &self.settings {
            return Ok(self.broker.create_group(&self.topic, &self.group, settings.clone()).await?.settings.ordering);
        }
        match self.broker.group(&self.topic, &self.group) {
            Err(BrokerError::GroupNotFound { .. }) => {
                let made = self.broker.create_group(&self.topic, &self.group, GroupSettings::default()).await;
                // Another worker may have been faster, and with other settings.
                if let Err(error) = made
                    && !matches!(error, BrokerError::GroupExists { .. })
                {
                    return Err(error);
                }
                Ok(self.broker.group(&self.topic, &self.group)?.settings.ordering)
            }
            found => Ok(found?.settings.ordering),
        }
    }
}

/// A running worker. Dropping it stops the worker too, without waiting.
#[must_use = "dropping the handle stops the worker"]
#[derive(Debug)]
pub struct WorkerHandle {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
    counts: Arc<Mutex<WorkerCounts>>,
}

impl WorkerHandle {
    #[must_use]
    pub fn counts(&self) -> WorkerCounts {
        *self.counts.lock()
    }

    /// Stops receiving, gives back what no handler has begun, lets running handlers finish within the grace period, cancels those
    /// that do not and gives their records back.
    ///
    /// # Errors
    /// What ended the worker before it was told to stop.
    pub async fn stop(self) -> Result<WorkerCounts> {
        drop(self.stop);
        join(self.task).await?;
        Ok(*self.counts.lock())
    }

    /// Waits until the worker ends by itself: the broker closes, storage fails, or the topic or group is deleted.
    ///
    /// # Errors
    /// What ended it, unless the broker was closed.
    pub async fn ended(self) -> Result<WorkerCounts> {
        let Self { stop, task, counts } = self;
        let joined = join(task).await;
        drop(stop);
        joined?;
        Ok(*counts.lock())
    }
}

async fn join(task: JoinHandle<Result<()>>) -> Result<()> {
    match task.await {
        Ok(ended) => ended,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down.
        Err(_) => Err(BrokerError::Closing),
    }
}
