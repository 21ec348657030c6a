//! The quickstart told step by step: does something with the broker, then says what the broker answered.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::broker::{
    BATCH_RECORDS_MAX, Broker, BrokerError, DeadLetter, DeadLetterFilter, GroupInfo, GroupSettings, RedriveRequest, RetrySettings,
    TopicInfo, TopicSettings,
};
use crate::cli::output;
use crate::cli::terminal::Paint;
use crate::config::size;
use crate::server::Server;

use super::events;
use super::workers::{self, Fault, UNKNOWN_TYPE, UNREACHABLE_TYPE, WorkerTally};

const TOPIC: &str = "webhooks";
const GROUP: &str = "quickstart";
const PARTITIONS: u32 = 3;
/// Records of one publish.
const BATCH: usize = 100;
const MAX_DELIVERIES: u32 = 3;

/// The story and its stage.
pub struct Story {
    broker: Broker,
    data: PathBuf,
    url: Option<String>,
    ready_in: Duration,
    paint: Paint,
}

impl Story {
    pub fn new(server: &Server, data: &Path, ready_in: Duration) -> Self {
        let url = server.http_address().map(|address| format!("http://{address}"));
        Self { broker: server.broker().clone(), data: data.to_owned(), url, ready_in, paint: Paint::stdout() }
    }

    pub async fn tell(&self) -> anyhow::Result<()> {
        self.step(1, "A broker is running")?;
        let address = self.url.as_deref().unwrap_or("(no listener)");
        Self::say(&format!("{address}, data in {}, ready in {}", self.data.display(), ms(self.ready_in)))?;
        let topic = self.topic().await?;
        let events = self.publish(&topic).await?;
        let group = self.group(events).await?;
        self.work(&group.group).await?;
        self.dead_letters(&group.group).await?;
        self.redrive(&group.group).await
    }

    async fn topic(&self) -> anyhow::Result<TopicInfo> {
        let settings = TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() };
        match self.broker.create_topic(TOPIC, settings).await {
            Err(BrokerError::TopicExists { .. }) => Ok(self.broker.topic(TOPIC)?),
            other => Ok(other?),
        }
    }

    /// Answers with the number of events.
    async fn publish(&self, topic: &TopicInfo) -> anyhow::Result<u64> {
        let records = events::records()?;
        self.step(2, &format!("Publish {} real webhook events ({})", records.len(), size::show(events::FILE.len() as u64)))?;
        Self::say(&format!("topic {TOPIC}, {} partitions; key = the repository, idempotency key = event_id", topic.partitions.len()))?;
        let (before, started) = (self.broker.storage_stats(), Instant::now());
        let (mut stored, mut duplicates) = (0_u64, 0_u64);
        for batch in records.chunks(BATCH.min(BATCH_RECORDS_MAX)) {
            for produced in self.broker.produce(TOPIC, batch.to_vec()).await? {
                *if produced.duplicate { &mut duplicates } else { &mut stored } += 1;
            }
        }
        let (took, after) = (started.elapsed(), self.broker.storage_stats());
        let syncs = after.syncs_total - before.syncs_total;
        Self::say(&format!("{} stored and on disk, {duplicates} duplicates, in {}, {syncs} syncs", self.green(stored), ms(took)))?;
        if stored == 0 {
            Self::say("every event was known already: a repeat is acknowledged and stored nowhere")?;
        }
        let per_partition: Vec<String> = self.broker.topic(TOPIC)?.partitions.iter().map(|each| each.high_watermark.to_string()).collect();
        Self::say(&format!("records per partition: {} (few repositories, so they are uneven)", per_partition.join(", ")))?;
        Ok(stored + duplicates)
    }

    /// The group of a run that was stopped half-way, or a new one: a group that has done all events has nothing to show.
    async fn group(&self, events: u64) -> anyhow::Result<GroupInfo> {
        let known = self.broker.groups(Some(TOPIC))?;
        if let Some(group) = known.iter().find(|group| group.group.starts_with(GROUP) && group.counts.acked < events) {
            return Ok(group.clone());
        }
        let names = std::iter::once(GROUP.to_owned()).chain((2..).map(|number: u64| format!("{GROUP}-{number}")));
        let name = names.into_iter().find(|name| known.iter().all(|group| group.group != *name)).unwrap_or_default();
        let settings = GroupSettings {
            visibility_ms: 5_000,
            max_deliveries: MAX_DELIVERIES,
            retry: RetrySettings { initial_ms: 200, multiplier: 2.0, cap_ms: 1_000, jitter: 0.1 },
            ..GroupSettings::default()
        };
        Ok(self.broker.create_group(TOPIC, &name, settings).await?)
    }

    async fn work(&self, group: &str) -> anyhow::Result<()> {
        self.step(3, &format!("Two workers share them in queue group {group}"))?;
        Self::say(&format!(
            "each record is leased to one of them; failures come back after 200 ms, then 400 ms; {MAX_DELIVERIES} attempts, then the dead letters"
        ))?;
        Self::say("worker-2 drops a connection now and then; one service is down; one kind of event has no handler")?;
        let started = Instant::now();
        let (tallies, counts) = workers::run(&self.broker, TOPIC, group, Fault::There).await?;
        self.tallies(&tallies)?;
        Self::say(&format!(
            "after {}: {} acked, {} dead, {} left to do",
            ms(started.elapsed()),
            self.green(counts.acked),
            self.paint.red(&counts.dead.to_string()),
            counts.ready + counts.leased + counts.deferred
        ))
    }

    fn tallies(&self, tallies: &[WorkerTally]) -> anyhow::Result<()> {
        let rows: Vec<_> = tallies
            .iter()
            .map(|tally| {
                let attempts: Vec<String> = tally.attempts.values().map(u64::to_string).collect();
                let [acked, retried, dead] = [tally.acked, tally.retried, tally.dead_lettered].map(|count| count.to_string());
                [tally.member.to_owned(), acked, retried, dead, attempts.join(" / ")]
            })
            .collect();
        self.block(&output::columns(["", "acked", "to retry", "dead-lettered", "deliveries at attempt 1 / 2 / 3"], &rows))
    }

    async fn dead_letters(&self, group: &str) -> anyhow::Result<()> {
        self.step(4, "What cannot be processed waits in the dead letters")?;
        let letters = self.list(group).await?;
        let rows: Vec<_> = letters
            .iter()
            .map(|letter| {
                let event_type = String::from_utf8_lossy(letter.record.header(events::TYPE_HEADER).unwrap_or_default()).into_owned();
                let id = format!("{}-{}", letter.partition, letter.offset);
                [id, event_type, letter.attempts.to_string(), letter.reason.clone()]
            })
            .collect();
        self.block(&output::columns(["id", "event", "attempts", "reason"], &rows))?;
        Self::say("whole, with their origin and history: nothing was dropped, and nothing blocks the events behind them")
    }

    async fn redrive(&self, group: &str) -> anyhow::Result<()> {
        self.step(5, "Fix the fault, send them back")?;
        let request = |dry_run| RedriveRequest { filter: of(group), dry_run, ..RedriveRequest::default() };
        let counted = self.broker.redrive(TOPIC, request(true)).await?;
        Self::say(&format!("dry run: {} would go back to {TOPIC}", counted.matched))?;
        Self::say(&format!("(deployed: a handler for {UNKNOWN_TYPE}, the service behind {UNREACHABLE_TYPE} is up again)"))?;
        let report = self.broker.redrive(TOPIC, request(false)).await?;
        let (tallies, counts) = workers::run(&self.broker, TOPIC, group, Fault::Fixed).await?;
        let acked: u64 = tallies.iter().map(|tally| tally.acked).sum();
        let left = self.list(group).await?.len();
        Self::say(&format!(
            "redriven {}, processed {}, dead letters left: {}",
            report.done,
            self.green(acked),
            if left == 0 { self.green(0) } else { self.paint.yellow(&left.to_string()) }
        ))?;
        Self::say(&format!(
            "group {group}: ready {}, leased {}, deferred {}, acked {}",
            counts.ready, counts.leased, counts.deferred, counts.acked
        ))
    }

    async fn list(&self, group: &str) -> anyhow::Result<Vec<DeadLetter>> {
        Ok(self.broker.dead_letters(TOPIC, &of(group), None, 1_000).await?)
    }

    /// What to try with the broker that stays.
    pub fn what_next(&self) -> anyhow::Result<()> {
        let Some(url) = &self.url else { return Ok(()) };
        let server = if url.ends_with("127.0.0.1:7070") { String::new() } else { format!(" --server {url}") };
        output::line(&format!("\n{}", self.paint.bold("What next")))?;
        for command in [
            format!("onelog consume {TOPIC} --from-beginning --max 3{server}"),
            format!("onelog group list{server}"),
            format!("onelog topic create orders --partitions 3{server}"),
            format!("echo '{{\"user\":\"ann\",\"total\":12}}' | onelog produce orders --key-field user{server}"),
            format!("curl -s {url}/v1/topics/{TOPIC}"),
            format!("onelog bench --connections 64{server}"),
        ] {
            output::line(&format!("   {}", self.paint.cyan(&command)))?;
        }
        Self::say(&format!("kill -9 {} at any moment; `onelog serve --data {}` has everything", std::process::id(), self.data.display()))?;
        output::line(
            &self
                .paint
                .dim("\nThe broker is running; Ctrl-C stops it. Run quickstart again on the same directory: it will know every event."),
        )
    }

    fn step(&self, number: u32, title: &str) -> anyhow::Result<()> {
        output::line(&format!("\n{} {}", self.paint.cyan(&number.to_string()), self.paint.bold(title)))
    }

    fn say(text: &str) -> anyhow::Result<()> {
        output::line(&format!("   {text}"))
    }

    fn block(&self, text: &str) -> anyhow::Result<()> {
        text.lines().try_for_each(|line| output::line(&format!("     {}", self.paint.dim(line))))
    }

    fn green(&self, count: u64) -> String {
        self.paint.green(&count.to_string())
    }
}

fn of(group: &str) -> DeadLetterFilter {
    DeadLetterFilter { group: Some(group.to_owned()), ..DeadLetterFilter::default() }
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}
