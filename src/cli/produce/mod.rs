//! `onelog produce`: files or stdin, one record a line, into a topic. Each line is stored byte for byte.
//!
//! [`lines`] reads on a thread of its own, [`batch`] collects lines into requests, [`send`] sends one request after the
//! other and decides what may be repeated. One at a time: so the order of lines is the order of records, per key as well.

mod batch;
mod lines;
mod send;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, Path};

use super::connect::Connect;
use super::terminal;
use super::values;
use batch::{Batch, Encoding};
use lines::Lines;
use send::Sender;

/// Publish NDJSON, one record a line, from files or stdin
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Produce {
    /// The topic to publish to
    topic: String,

    /// Files to read, one after the other; `-` or none is stdin
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    connect: Connect,

    #[command(flatten)]
    fields: Fields,

    /// Most lines per second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Lines per request, at most; a request also ends at 1 MiB
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,

    /// Create the topic if it does not exist
    #[arg(long)]
    create: bool,

    /// Create the topic with this many partitions if it does not exist
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::broker::PARTITIONS_MAX)))]
    create_partitions: Option<u32>,
}

/// What a record gets beside its value.
#[derive(Args, Debug, Clone, Default)]
pub struct Fields {
    /// JSON field that is the key, with dots for nesting: `user.id`
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,

    /// JSON field that is the idempotency key: a line sent again is stored once, and lost connections are retried
    #[arg(long, value_name = "FIELD")]
    id_field: Option<String>,

    /// Header for every record; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = values::pair)]
    headers: Vec<(String, String)>,
}

const EXAMPLES: &str = "\
Lines are stored byte for byte, without their line break; empty lines are passed over. With --key-field or --id-field each
line must be JSON. Requests that are refused for a while (429, 503) are repeated; a request whose connection was lost is
repeated only with --id-field, because without it a repeat could store lines twice.

Examples:
  onelog produce orders orders.ndjson --key-field user_id --id-field event_id
  tail -f app.log | onelog produce logs -
  onelog produce orders a.ndjson b.ndjson --create-partitions 3 --header source=import
  onelog produce clicks clicks.ndjson --rate 500";

/// How it went so far.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    records: u64,
    duplicates: u64,
    bytes: u64,
}

pub async fn run(args: Produce) -> anyhow::Result<ExitCode> {
    let client = args.connect.client()?;
    if args.create || args.create_partitions.is_some() {
        create_topic(&client, &args.topic, args.create_partitions.unwrap_or(1)).await?;
    }
    let encoding = Encoding::new(args.fields.clone());
    let sender = Sender::new(client, &args.topic, &args.fields);
    let mut lines = Lines::open(&args.files)?;
    let bar = terminal::progress(lines.bytes_total());
    let mut progress = Progress::default();
    let published = publish_all(&args, &encoding, &sender, &mut lines, &bar, &mut progress).await;
    bar.finish_and_clear();
    if let Err(error) = published {
        return Err(error.context(format!("stopped after {} acknowledged records", progress.records)));
    }
    let word = if progress.records == 1 { "record" } else { "records" };
    eprintln!("published {} {word} ({} duplicates)", progress.records, progress.duplicates);
    Ok(ExitCode::SUCCESS)
}

async fn publish_all(
    args: &Produce,
    encoding: &Encoding,
    sender: &Sender,
    lines: &mut Lines,
    bar: &ProgressBar,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let started = Instant::now();
    // With a rate, requests of a tenth of a second: one large one each few seconds would be no rate.
    let lines_max = args.rate.map_or(args.batch, |rate| args.batch.min(rate.div_ceil(10))) as usize;
    loop {
        let (batch, wrong) = Batch::collect(lines, encoding, lines_max).await;
        if !batch.is_empty() {
            if let Some(rate) = args.rate {
                tokio::time::sleep_until(started + due(progress.records, rate)).await;
            }
            let duplicates = sender.send(&batch).await?;
            progress.records += batch.len() as u64;
            progress.duplicates += duplicates;
            progress.bytes += batch.bytes_read;
            bar.set_position(progress.bytes);
            bar.set_message(format!("{} records", progress.records));
        } else if wrong.is_none() {
            return Ok(());
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
    }
}

/// When the record after `records` is due.
fn due(records: u64, rate: u32) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^53")]
    Duration::from_secs_f64(records as f64 / f64::from(rate))
}

/// Fine when the topic exists already: `--create` asks that it be there, not that it be new.
async fn create_topic(client: &Client, topic: &str, partitions: u32) -> anyhow::Result<()> {
    let body = json!({"name": topic, "partitions": partitions});
    match client.call::<Value>(Method::POST, Path::new("/v1/topics"), &body).await {
        Err(refused) if refused.refusal(409).is_none() => Err(refused.into()),
        _ => Ok(()),
    }
}
