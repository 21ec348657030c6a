//! Reading by offset: partition after partition up to the end, then all of them at once for what is new.

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::views::{PartitionView, ResolvedOffset, TopicView};
use crate::client::{Call, Client, NDJSON, Path};

use super::print::Printer;
use super::{Consume, Start};

/// Records and bytes asked for at once.
const RECORDS_MAX: u64 = 1_000;
const BYTES_MAX: u64 = 1024 * 1024;
/// How long the server holds a request that finds nothing.
const WAIT_MS: u64 = 20_000;

/// A place in one partition, and where to stop.
struct Cursor {
    topic: String,
    partition: u32,
    next: i64,
    end: Option<i64>,
}

/// All the reader needs to know of a record; the rest is passed on as it came.
#[derive(Deserialize)]
struct Place {
    offset: i64,
}

pub async fn run(client: &Client, args: &Consume, printer: Printer) -> anyhow::Result<()> {
    let topic: TopicView = client.get(Path::topic(&args.topic)).await?;
    let chosen: Vec<PartitionView> =
        topic.partitions.iter().copied().filter(|each| args.partition.is_none_or(|wanted| wanted == each.partition)).collect();
    if let (Some(partition), true) = (args.partition, chosen.is_empty()) {
        anyhow::bail!("topic {} has partitions 0 to {}, not {partition}", topic.name, topic.partitions.len().saturating_sub(1));
    }
    let mut cursors = Vec::new();
    for each in chosen {
        let next = start(client, &topic.name, &args.start, each).await?;
        let end = args.exit_at_end.then_some(each.high_watermark);
        cursors.push(Cursor { topic: topic.name.clone(), partition: each.partition, next, end });
    }
    if args.exit_at_end { to_the_end(client, cursors, printer).await } else { follow(client, cursors, printer).await }
}

async fn start(client: &Client, topic: &str, start: &Start, partition: PartitionView) -> anyhow::Result<i64> {
    match (start.from_beginning, start.offset, start.time) {
        (true, ..) => Ok(partition.log_start),
        (_, Some(offset), _) => Ok(offset),
        (.., Some(time)) => {
            let path = Path::partition(topic, partition.partition).then("offset").query("time", Some(time));
            Ok(client.get::<ResolvedOffset>(path).await?.offset)
        }
        _ => Ok(partition.high_watermark),
    }
}

async fn to_the_end(client: &Client, cursors: Vec<Cursor>, mut printer: Printer) -> anyhow::Result<()> {
    for mut cursor in cursors {
        while !cursor.is_at_end() && !printer.is_done() {
            let body = cursor.read(client, printer.wanted(RECORDS_MAX), 0).await?;
            let lines = cursor.advance(&body)?;
            if lines.is_empty() {
                // Offsets without records up to the end: a transaction's marker, or records compacted away.
                break;
            }
            printer.print(lines)?;
        }
    }
    Ok(())
}

async fn follow(client: &Client, cursors: Vec<Cursor>, mut printer: Printer) -> anyhow::Result<()> {
    let (to, mut from) = mpsc::channel(1);
    let mut readers = JoinSet::new();
    for mut cursor in cursors {
        let (client, to) = (client.clone(), to.clone());
        readers.spawn(async move {
            loop {
                let read = cursor.read_next(&client).await;
                let failed = read.is_err();
                if to.send(read).await.is_err() || failed {
                    return;
                }
            }
        });
    }
    drop(to);
    while !printer.is_done() {
        let Some(body) = from.recv().await else { break };
        let body = body?;
        printer.print(lines_of(&body)?)?;
    }
    Ok(())
}

impl Cursor {
    fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    async fn read(&self, client: &Client, records: u64, wait_ms: u64) -> anyhow::Result<Bytes> {
        let path = Path::partition(&self.topic, self.partition)
            .then("records")
            .query("offset", Some(self.next))
            .query("max_records", Some(records))
            .query("max_bytes", Some(BYTES_MAX))
            .query("wait_ms", (wait_ms > 0).then_some(wait_ms));
        Ok(client.send(Call { accept: NDJSON, ..Call::new(Method::GET, path) }).await?)
    }

    /// Waits for records that are there to be read.
    async fn read_next(&mut self, client: &Client) -> anyhow::Result<Bytes> {
        loop {
            let body = self.read(client, RECORDS_MAX, WAIT_MS).await?;
            if !self.advance(&body)?.is_empty() {
                return Ok(body);
            }
        }
    }

    /// The lines that belong before the end; moves past them.
    fn advance<'a>(&mut self, body: &'a [u8]) -> anyhow::Result<Vec<&'a str>> {
        let mut lines = Vec::new();
        for line in lines_of(body)? {
            let Place { offset } = serde_json::from_str(line)?;
            if self.end.is_some_and(|end| offset >= end) {
                self.next = offset;
                break;
            }
            self.next = offset + 1;
            lines.push(line);
        }
        Ok(lines)
    }
}

fn lines_of(body: &[u8]) -> anyhow::Result<impl Iterator<Item = &str>> {
    Ok(std::str::from_utf8(body)?.split('\n').filter(|line| !line.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_stops_at_its_end_even_in_the_middle_of_an_answer() {
        let mut cursor = Cursor { topic: "t".to_owned(), partition: 0, next: 0, end: Some(3) };
        assert_eq!(cursor.advance(b"{\"offset\":1}\n{\"offset\":3}\n{\"offset\":4}\n").unwrap(), ["{\"offset\":1}"]);
        assert!(cursor.is_at_end());
        let mut cursor = Cursor { end: None, ..cursor };
        assert_eq!(cursor.advance(b"{\"offset\":3}\n{\"offset\":9}\n").unwrap().len(), 2);
        assert_eq!(cursor.next, 10);
    }
}
