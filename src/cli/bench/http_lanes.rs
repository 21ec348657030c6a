//! Lanes over HTTP: publishers, readers and receivers, each on a connection of its own.

use std::fmt::Write;
use std::time::{Duration, Instant};

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::views::{PartitionView, TopicView};
use crate::client::{Call, Client, JSON, NDJSON, Path};

use super::connection::{Connection, Target, connect};
use super::end_to_end::{self, Receiver};
use super::load::{self, Done, Lane, Tally};
use super::payload::Payload;
use super::report::Report;
use super::{Bench, Mode};

/// Deliveries taken at once, and how long to wait for the first.
const LEASES_MAX: u32 = 100;
const WAIT_MS: u32 = 500;
/// The counter of the server that tells how well publishes shared syncs.
const SYNCS_METRIC: &str = "onelog_log_syncs_total";

pub async fn measure(args: &Bench) -> anyhow::Result<Report> {
    let client = args.connect.client()?;
    let target = Target::new(client.server());
    let payload = Payload::new(args.value_bytes)?;
    // Ten seconds of refused connections would say no more than this one does.
    connect(&target).await.map_err(|why| anyhow::anyhow!("{why}; is it running? start a broker with `onelog serve`"))?;
    if args.path.is_none() && (args.topic.is_some() || args.batch > 1 || args.mode != Mode::Publish) {
        create_topic(&client, args).await?;
    }
    let tally = Tally::new()?;
    let syncs_before = syncs(&client).await;
    let lanes = || (0..args.connections).map(|_| Connection::new(target.clone()));
    let took = match args.mode {
        Mode::Publish => {
            let lanes = lanes().map(|connection| Publisher::new(connection, args, payload.clone())).collect();
            load::run(args.plan(), lanes, &tally, true).await
        }
        Mode::Consume => {
            let topic: TopicView = client.get(Path::topic(args.topic())).await?;
            let lanes = lanes().zip((0..topic.partitions.len()).cycle());
            let lanes = lanes.map(|(connection, first)| Reader::new(connection, args, &topic, first)).collect::<anyhow::Result<_>>()?;
            load::run(args.plan(), lanes, &tally, true).await
        }
        Mode::EndToEnd => {
            let group = Path::group(args.topic(), &payload.run_name());
            client.call::<Value>(Method::PUT, group.clone(), &json!({"start": "latest"})).await?;
            let publishers = lanes().map(|connection| Publisher::new(connection, args, payload.clone())).collect();
            let receivers = lanes().map(|connection| GroupMember::new(connection, &group, payload.clone())).collect();
            let took = end_to_end::run(args.plan(), publishers, receivers, &tally).await;
            client.delete(group).await?;
            took
        }
    };
    let syncs = syncs_before.zip(syncs(&client).await).map(|(before, after)| after - before);
    let path = args.path.as_deref().unwrap_or_default();
    Report::new(args, format!("{}{path}", client.server()), &tally, took, syncs)
}

async fn create_topic(client: &Client, args: &Bench) -> anyhow::Result<()> {
    let body = json!({"name": args.topic(), "partitions": args.partitions});
    match client.call::<Value>(Method::POST, Path::new("/v1/topics"), &body).await {
        Err(refused) if refused.refusal(409).is_none() => Err(refused.into()),
        _ => Ok(()),
    }
}

/// Syncs so far; nothing when the server does not tell, as a server that is not onelog does not.
async fn syncs(client: &Client) -> Option<u64> {
    let call = Call { accept: "text/plain", ..Call::new(Method::GET, Path::new("/metrics")) };
    let text = client.send(call).await.ok()?;
    let line = std::str::from_utf8(&text).ok()?.lines().find_map(|line| line.strip_prefix(SYNCS_METRIC)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// A request without its length and body.
fn head(method: &str, path: &str, host: &str, content_type: &str, accept: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\naccept: {accept}\r\ncontent-length: ")
}

/// One connection and the request it is writing.
struct Caller {
    connection: Connection,
    request: Vec<u8>,
}

impl Caller {
    fn new(connection: Connection) -> Self {
        Self { connection, request: Vec::new() }
    }

    /// Sends and reads; an answer that is not 2xx is an error with the start of its body.
    async fn call(&mut self, head: &str, body: &[u8]) -> Result<&[u8], String> {
        self.request.clear();
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(body.len().to_string().as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body);
        let answer = self.connection.exchange(&self.request).await?;
        let body = self.connection.body(answer);
        if (200..300).contains(&answer.status) {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        Err(format!("status {}: {text}", answer.status))
    }
}

/// Publishes single events, or batches of raw lines.
struct Publisher {
    caller: Caller,
    head: String,
    body: Vec<u8>,
    batch: u32,
    payload: Payload,
}

impl Publisher {
    fn new(connection: Connection, args: &Bench, payload: Payload) -> Self {
        let host = connection.host().to_owned();
        let lines = args.path.is_none() && (args.topic.is_some() || args.batch > 1 || args.mode == Mode::EndToEnd);
        let (path, content_type) = if lines {
            let path = Path::topic(args.topic()).then("records").query("raw", Some(true));
            (path.query("id_field", args.ids.then_some("event_id")).as_str().to_owned(), NDJSON)
        } else {
            (args.path.clone().unwrap_or_else(|| "/events".to_owned()), JSON)
        };
        let head = head("POST", &path, &host, content_type, JSON);
        Self { caller: Caller::new(connection), head, body: Vec::new(), batch: args.batch, payload }
    }
}

impl Lane for Publisher {
    async fn step(&mut self, number: u64, due: Instant) -> Result<Done, String> {
        self.body.clear();
        let batch = u64::from(self.batch);
        for record in number * batch..(number + 1) * batch {
            if !self.body.is_empty() {
                self.body.push(b'\n');
            }
            self.payload.write(&mut self.body, record, due);
        }
        self.caller.call(&self.head, &self.body).await?;
        Ok(Done { records: batch, bytes: self.body.len() as u64 })
    }
}

/// Reads partitions by offset, one after the other, round and round.
struct Reader {
    caller: Caller,
    host: String,
    topic: String,
    batch: u32,
    partitions: Vec<PartitionView>,
    current: usize,
    next: i64,
}

#[derive(Deserialize)]
struct OffsetOf {
    offset: i64,
}

impl Reader {
    fn new(connection: Connection, args: &Bench, topic: &TopicView, first: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(topic.records() > 0, "topic {0} has no records to read; publish some with `onelog bench --topic {0}`", topic.name);
        let host = connection.host().to_owned();
        let next = topic.partitions[first].log_start;
        let (topic, partitions) = (topic.name.clone(), topic.partitions.clone());
        Ok(Self { caller: Caller::new(connection), host, topic, batch: args.batch, partitions, current: first, next })
    }
}

impl Lane for Reader {
    async fn step(&mut self, _: u64, _: Instant) -> Result<Done, String> {
        while self.next >= self.partitions[self.current].high_watermark {
            self.current = (self.current + 1) % self.partitions.len();
            self.next = self.partitions[self.current].log_start;
        }
        let path = Path::partition(&self.topic, self.partitions[self.current].partition)
            .then("records")
            .query("offset", Some(self.next))
            .query("max_records", Some(self.batch))
            .query("max_bytes", Some(8 * 1024 * 1024));
        let body = self.caller.call(&head("GET", path.as_str(), &self.host, JSON, NDJSON), b"").await?;
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let (records, last) = lines.fold((0, None), |(count, _), line| (count + 1, Some(line)));
        self.next = match last {
            Some(line) => serde_json::from_slice::<OffsetOf>(line).map_err(|why| why.to_string())?.offset + 1,
            // Offsets without records up to the end.
            None => self.partitions[self.current].high_watermark,
        };
        Ok(Done { records, bytes: body.len() as u64 })
    }
}

/// Receives and acks as a member of the run's group.
struct GroupMember {
    caller: Caller,
    receive: String,
    ack: String,
    payload: Payload,
}

#[derive(Deserialize)]
struct Deliveries {
    deliveries: Vec<Delivery>,
}

#[derive(Deserialize)]
struct Delivery {
    lease: String,
    value: Option<String>,
}

impl GroupMember {
    fn new(connection: Connection, group: &Path, payload: Payload) -> Self {
        let host = connection.host().to_owned();
        let head = |verb: &str| head("POST", group.clone().then(verb).as_str(), &host, JSON, JSON);
        Self { receive: head("receive"), ack: head("ack"), caller: Caller::new(connection), payload }
    }
}

impl Receiver for GroupMember {
    async fn receive(&mut self) -> Result<Vec<Duration>, String> {
        let mut body = String::new();
        // Writing to a string cannot fail.
        let _ = write!(body, r#"{{"member":"bench","max":{LEASES_MAX},"wait_ms":{WAIT_MS}}}"#);
        let answer = self.caller.call(&self.receive, body.as_bytes()).await?;
        let Deliveries { deliveries } = serde_json::from_slice(answer).map_err(|why| why.to_string())?;
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let ages = deliveries.iter().filter_map(|delivery| self.payload.age(delivery.value.as_deref()?.as_bytes())).collect();
        let leases: Vec<&str> = deliveries.iter().map(|delivery| &*delivery.lease).collect();
        self.caller.call(&self.ack, json!({"leases": leases}).to_string().as_bytes()).await?;
        Ok(ages)
    }
}
