//! An event pipeline in one process: dedup, validate, enrich, persist, ack, and a line of metrics at the end.
//!
//! Reads events as JSON lines (`{"t","topic","key","headers","value"}`, `value` being the event as text), publishes each under
//! its `event_id`, and lets three workers drain the queue into a file of JSON lines. An event that can never be right goes to the
//! dead letters at once.
//!
//! `python3 tests/data/workload.py W2 1000 | cargo run --release --example eventflow_worker -- - [OUT [DIRECTORY]]`
//! prints `processed=976 duplicates=13 dead_letters=11`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, LineWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use onelog::{Broker, Delivery, GroupSettings, NewRecord, Outcome, Remembered, TopicSettings, Worker};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const TOPIC: &str = "event_queue";
const GROUP: &str = "eventflow";
const WORKERS: usize = 3;
/// Events published in one call.
const BATCH: usize = 100;
/// Event ids remembered against a second run of one event in this process.
const REMEMBERED: usize = 100_000;

/// A line of the input.
#[derive(Deserialize)]
struct Line {
    key: String,
    value: String,
}

/// What the pipeline needs of an event; the rest passes through.
#[derive(Serialize, Deserialize)]
struct Event {
    event_id: String,
    event_type: String,
    #[serde(default)]
    properties: serde_json::Map<String, Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Persisted and acked.
    pub processed: u64,
    /// Lines that repeated an event known already.
    pub duplicates: u64,
    pub dead_letters: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "processed={} duplicates={} dead_letters={}", self.processed, self.duplicates, self.dead_letters)
    }
}

/// Publishes all of `input`, then drains the queue into `sink`.
pub async fn run(broker: &Broker, input: impl BufRead, sink: &Path) -> anyhow::Result<Summary> {
    broker.ensure_topic(TOPIC, TopicSettings { partitions: 3, ..TopicSettings::default() }).await?;
    let duplicates = publish(broker, input).await?;
    drain(broker, sink).await?;
    let counts = broker.group(TOPIC, GROUP)?.counts;
    Ok(Summary { processed: counts.acked, duplicates, dead_letters: counts.dead })
}

/// Publishes each event under its id; answers with how many were known already.
async fn publish(broker: &Broker, input: impl BufRead) -> anyhow::Result<u64> {
    let mut duplicates = 0;
    let mut batch = Vec::new();
    for (number, line) in (1..).zip(input.lines()) {
        batch.push(record(&line?).with_context(|| format!("line {number}"))?);
        if batch.len() == BATCH {
            duplicates += publish_batch(broker, std::mem::take(&mut batch)).await?;
        }
    }
    if !batch.is_empty() {
        duplicates += publish_batch(broker, batch).await?;
    }
    Ok(duplicates)
}

fn record(line: &str) -> anyhow::Result<NewRecord> {
    let line: Line = serde_json::from_str(line)?;
    let event: Event = serde_json::from_str(&line.value)?;
    Ok(NewRecord {
        key: Some(line.key.into()),
        value: Some(line.value.into()),
        idempotency_key: Some(event.event_id.into()),
        ..NewRecord::default()
    })
}

async fn publish_batch(broker: &Broker, records: Vec<NewRecord>) -> anyhow::Result<u64> {
    let produced = broker.produce(TOPIC, records).await?;
    Ok(produced.iter().filter(|produced| produced.duplicate).count() as u64)
}

/// Runs the workers until nothing is left to do.
async fn drain(broker: &Broker, sink: &Path) -> anyhow::Result<()> {
    let file = File::options().create(true).append(true).open(sink).with_context(|| sink.display().to_string())?;
    let sink = Arc::new(Mutex::new(LineWriter::new(file)));
    let mut workers = Vec::new();
    for number in 1..=WORKERS {
        let sink = Arc::clone(&sink);
        let done_before = Remembered::new(REMEMBERED, |delivery: &Delivery| delivery.record.value.clone().unwrap_or_default());
        let worker = Worker::new(broker, TOPIC, GROUP).member(format!("worker-{number}")).concurrency(8).idempotency(done_before);
        let worker = worker.settings(GroupSettings::default());
        workers.push(worker.start_json(move |event, delivery| process(event, delivery, Arc::clone(&sink))).await?);
    }
    loop {
        let counts = broker.group(TOPIC, GROUP)?.counts;
        if counts.ready + counts.leased + counts.deferred == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}

/// The stages of one event. An error is retried; an invalid event will never be valid.
async fn process(event: Event, delivery: Delivery, sink: Arc<Mutex<LineWriter<File>>>) -> anyhow::Result<Outcome> {
    if let Err(why) = validate(&event) {
        return Ok(Outcome::dead_letter(why));
    }
    persist(&enrich(event, &delivery), &sink)?;
    Ok(Outcome::Done)
}

fn validate(event: &Event) -> Result<(), String> {
    let required: &[&str] = match event.event_type.as_str() {
        "purchase" => &["amount"],
        "user_signup" => &["email"],
        "page_view" => &["url"],
        _ => &[],
    };
    match required.iter().find(|name| !event.properties.contains_key(**name)) {
        Some(missing) => Err(format!("{} without {missing}", event.event_type)),
        None => Ok(()),
    }
}

fn enrich(mut event: Event, delivery: &Delivery) -> Event {
    let record = &delivery.record;
    let source = json!({ "partition": record.partition, "offset": record.offset, "attempt": delivery.attempt });
    event.rest.insert("source".into(), source);
    event
}

fn persist(event: &Event, sink: &Mutex<LineWriter<File>>) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    sink.lock().map_err(|_| anyhow::anyhow!("another worker broke the file"))?.write_all(&line)?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let input = arguments.next().context("name a file of JSON lines, or `-` for the standard input")?;
    let sink = arguments.next().map_or_else(|| PathBuf::from("eventflow.ndjson"), PathBuf::from);
    let broker = match arguments.next() {
        Some(directory) => Broker::open(directory).await?,
        None => Broker::ephemeral().await?,
    };
    let input: Box<dyn BufRead> = match input.to_str() {
        Some("-") => Box::new(std::io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(&input).with_context(|| input.display().to_string())?)),
    };
    println!("{}", run(&broker, input, &sink).await?);
    broker.close().await?;
    Ok(())
}
