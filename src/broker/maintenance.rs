//! What runs by itself: leases that run out, checkpoints, retention, giving back old log. Ends when the broker is gone.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use onelog_storage::submission::{Answers, Submission};
use onelog_storage::types::{Offset, Position, TimestampMs};

use super::dead_letter::Letter;
use super::error::Result;
use super::group::lease::Status;
use super::group::{GroupPartition, QueueGroup};
use super::queue::Buried;
use super::topic::Topic;
use super::{Broker, Inner};

/// How often it is looked whether a checkpoint or retention is due.
const LOOK: Duration = Duration::from_millis(250);
/// A checkpoint is written at least this often when anything changed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// Idempotency keys that may be in memory only, before a checkpoint moves them to disk.
const KEYS_IN_MEMORY_MAX: usize = 200_000;
const RETENTION_INTERVAL: Duration = Duration::from_secs(10);
/// Records dead-lettered in one commit.
const SWEEP_RECORDS: usize = 200;
/// After dead-lettering failed, for one because the disk is full.
const SWEEP_AGAIN: Duration = Duration::from_secs(1);

/// Without threads of the store nothing runs by the machine's clock: checkpoints and retention are the caller's.
pub(super) fn spawn(inner: &Arc<Inner>, has_threads: bool) {
    tokio::spawn(watch_deadlines(Arc::clone(&inner.timer), Arc::downgrade(inner)));
    if has_threads {
        tokio::spawn(watch_log(Arc::downgrade(inner)));
    }
    answer_inside_runtime(inner);
}

/// Sends the answers of a commit from a task, not from the writer thread: one wake-up for all of them.
fn answer_inside_runtime(inner: &Inner) {
    let (commits, mut answers) = tokio::sync::mpsc::unbounded_channel::<Answers>();
    tokio::spawn(async move {
        while let Some(commit) = answers.recv().await {
            commit.send();
        }
    });
    inner.store.answer_through(Box::new(move |commit| {
        if let Err(refused) = commits.send(commit) {
            // The runtime is gone; whoever still waits does so elsewhere.
            refused.0.send();
        }
    }));
}

/// Rings groups whose records are due, and dead-letters those that ran out of attempts.
async fn watch_deadlines(timer: Arc<super::timer::Timer>, broker: Weak<Inner>) {
    while let Some(group) = timer.next().await {
        let Some(inner) = broker.upgrade() else { return };
        if group.is_deleted() {
            continue;
        }
        if let Err(error) = inner.sweep(&group).await {
            tracing::warn!(topic = %group.topic, group = %group.name, %error, "dead-lettering expired records failed; it is tried again");
            timer.note(timer.now() + SWEEP_AGAIN, &group);
        }
        group.bell.notify(usize::MAX);
        if let Some(at) = group.next_deadline(timer.now()) {
            timer.note(at, &group);
        }
    }
}

async fn watch_log(broker: Weak<Inner>) {
    let mut last_checkpoint = Duration::ZERO;
    let mut last_retention = Duration::ZERO;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(inner) = broker.upgrade() else { return };
        if inner.closing.load(Relaxed) {
            return;
        }
        let now = inner.timer.now();
        let (bytes, keys) = inner.store.since_checkpoint();
        let is_due = bytes > 0 && now.saturating_sub(last_checkpoint) >= CHECKPOINT_INTERVAL;
        if is_due || bytes >= inner.checkpoint_bytes || keys >= KEYS_IN_MEMORY_MAX {
            last_checkpoint = now;
            let broker = Arc::clone(&inner);
            let written = tokio::task::spawn_blocking(move || broker.checkpoint()).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "checkpoint failed; opening will take longer until one succeeds");
            }
        }
        if now.saturating_sub(last_retention) >= RETENTION_INTERVAL {
            last_retention = now;
            let broker = Arc::clone(&inner);
            let applied = tokio::task::spawn_blocking(move || broker.apply_retention()).await;
            if let Ok(Err(error)) = applied {
                tracing::warn!(%error, "retention failed; it is tried again");
            }
        }
    }
}

impl Broker {
    /// Applies retention now instead of in its turn.
    pub async fn apply_retention(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let applied = tokio::task::spawn_blocking(move || inner.apply_retention()).await;
        applied.map_err(|error| super::BrokerError::StorageFailed { reason: error.to_string() })?
    }
}

impl Inner {
    /// Dead-letters the records of `group` whose last lease ran out.
    async fn sweep(&self, group: &Arc<QueueGroup>) -> Result<()> {
        let topic = self.topic(&group.topic)?;
        for partition in group.partitions() {
            let mut most = SWEEP_RECORDS;
            while let Some(next) = self.sweep_some(&topic, group, &partition, most).await? {
                most = next;
            }
        }
        Ok(())
    }

    /// How many to take next, when there may be more.
    async fn sweep_some(
        &self,
        topic: &Arc<Topic>,
        group: &Arc<QueueGroup>,
        partition: &Arc<GroupPartition>,
        most: usize,
    ) -> Result<Option<usize>> {
        let settings = QueueGroup::lease_settings(&group.settings());
        let (now, wall) = (self.timer.now(), self.clock.wall());
        let doomed: Vec<Offset> = {
            let state = partition.state.lock();
            let decision = state.queue.decide_sweep(&settings, now, wall, most);
            decision.letters.iter().map(|letter| letter.offset).collect()
        };
        if doomed.is_empty() {
            return Ok(None);
        }
        let (records, read) = self.records_for_letters(topic, group, partition.number, &doomed).await?;
        if read < doomed.len() {
            return Ok(Some(read));
        }
        let submitted = {
            let mut state = partition.state.lock();
            let decision = state.queue.decide_sweep(&settings, now, wall, most);
            // Something was acked in between: look again.
            if decision.letters.iter().any(|letter| !doomed.contains(&letter.offset)) {
                return Ok(Some(most));
            }
            let Some(event) = decision.event else { return Ok(None) };
            let (mut letters, mut buried) = (Vec::new(), Vec::new());
            for letter in decision.letters {
                let member = match state.queue.get(letter.offset).map(|record| &record.status) {
                    Some(Status::Leased { member, .. }) => Arc::clone(member),
                    _ => "".into(),
                };
                buried.extend(state.queue.get(letter.offset).cloned().map(|record| (letter.offset, record)));
                let record = records.get(&letter.offset).cloned();
                state.granted.remove(&letter.offset);
                letters.push(Letter { letter, member, record });
            }
            group.counters.expired.fetch_add(letters.len() as u64, Relaxed);
            let event = state.commit(group.id, partition.number, event, now)?;
            Buried { ticket: self.submit_letters(topic, group, partition.number, vec![event], letters)?, buried }
        };
        self.settle_letters(Arc::clone(partition), submitted).await?;
        Ok((doomed.len() == most).then_some(most))
    }

    /// Moves log starts to what retention allows, then gives back log that nothing needs.
    fn apply_retention(&self) -> Result<()> {
        let wall = self.clock.wall();
        let topics: Vec<Arc<Topic>> = self.topics.read().values().cloned().collect();
        let mut trims = Vec::new();
        for topic in &topics {
            let settings = topic.settings();
            let before = settings.retention_ms.map(|ms| TimestampMs(wall.0.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX))));
            for partition in topic.partitions().iter() {
                let start = self.store.retention_start(partition, before, settings.retention_bytes)?;
                if start > partition.log_start() {
                    trims.push((Arc::clone(partition), start));
                }
            }
        }
        if !trims.is_empty() {
            self.store.settle(Submission { trims, urgent: true, ..Submission::default() })?;
        }
        self.give_back_log(&topics, wall)
    }

    /// Restates what must be kept of the oldest segments, checkpoints, and drops them.
    fn give_back_log(&self, topics: &[Arc<Topic>], wall: TimestampMs) -> Result<()> {
        let end = self.droppable_end(topics, wall)?;
        if end <= self.store.log_start() {
            return Ok(());
        }
        let mut tickets = self.restate()?;
        let retold = self.store.told_below(end);
        tickets.push(self.store.submit(Submission { retold, urgent: true, ..Submission::default() }));
        for ticket in tickets {
            self.store.wait(ticket)?;
        }
        self.checkpoint()?;
        self.store.drop_below(end)?;
        tracing::info!(log_start = end.0, "old log segments were given back");
        Ok(())
    }

    /// Idempotency keys are rebuilt from the log, so log is kept for the longest window, if keys are used at all.
    fn droppable_end(&self, topics: &[Arc<Topic>], wall: TimestampMs) -> Result<Position> {
        let end = self.store.droppable_end()?;
        if !self.store.has_keys() {
            return Ok(end);
        }
        let window = topics.iter().map(|topic| topic.settings().dedup_window_ms).max().unwrap_or(0);
        let before = wall.0.saturating_sub(i64::try_from(window).unwrap_or(i64::MAX));
        let mut kept = self.store.log_start();
        while kept < end {
            let next = self.store.next_segment(kept);
            if next > end || self.store.segment_time(next)?.0 >= before {
                break;
            }
            kept = next;
        }
        Ok(kept)
    }
}
