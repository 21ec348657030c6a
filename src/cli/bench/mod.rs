//! `onelog bench`: how many requests per second, and how long each took.
//!
//! The generator is one loop ([`load`]) around lanes, each with one request outstanding: over HTTP ([`http_lanes`], on the
//! raw connection of [`connection`]) or straight into a broker of this process ([`direct_lanes`]). Latency is measured from
//! when a request was due, so that a server that stalls cannot hide behind requests that were not sent meanwhile.

mod connection;
mod direct_lanes;
mod end_to_end;
mod http_lanes;
mod load;
mod payload;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::connect::Connect;
use super::failure::Usage;
use super::output::Format;
use super::{runtime, values};
use load::Plan;

/// Measure publish, consume and end-to-end speed
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    #[command(flatten)]
    connect: Connect,

    /// Measure a broker inside this process instead of a server
    #[arg(long)]
    in_process: bool,

    /// Directory of that broker, on the disk to be measured; one in the system's temporary directory when left out
    #[arg(long, value_name = "DIR", requires = "in_process")]
    data: Option<PathBuf>,

    #[arg(long, value_enum, default_value_t = Mode::Publish)]
    mode: Mode,

    /// Connections (tasks, with --in-process), each with one request outstanding
    #[arg(long, short = 'c', value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    connections: u32,

    /// Stop after this many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,

    /// Stop after this long [default: 10s, unless --records is given]
    #[arg(long, visible_alias = "seconds", value_name = "DURATION", value_parser = seconds)]
    duration: Option<u64>,

    /// Open loop: so many records per second are due, whether or not earlier ones are answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,

    /// Bytes of one record's value
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = clap::value_parser!(u32).range(i64::from(payload::VALUE_BYTES_MIN)..=1_000_000))]
    value_bytes: u32,

    /// Records of one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,

    /// Give each record an idempotency key (`POST /events` always does)
    #[arg(long)]
    ids: bool,

    /// Publish to, or read from, this topic; created with --partitions if absent. `POST /events` when left out and --batch is 1
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Partitions of a topic that is created
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,

    /// Post the same events to this path of any server, such as one that does nothing
    #[arg(long, value_name = "PATH", conflicts_with_all = ["in_process", "topic"])]
    path: Option<String>,

    /// Threads of the generator [default: 1 over HTTP, one per core with --in-process]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    threads: Option<u32>,

    #[command(flatten)]
    format: Format,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Durable publishes
    Publish,
    /// Reads of what is there, by offset
    Consume,
    /// From when a record was due to when a queue group's member holds it
    EndToEnd,
}

const EXAMPLES: &str = "\
Closed loop (the default): each connection sends its next request when the last one is answered. Open loop (--rate): requests
are due at fixed times; one that had to wait for an earlier answer counts from when it was due.

Examples:
  onelog bench --connections 64                                   durable publishes to POST /events
  onelog bench --connections 64 --path /noop --server http://127.0.0.1:9000
  onelog bench --rate 3000 --duration 30s --json
  onelog bench --topic load --batch 1000 --connections 4
  onelog bench --mode consume --topic load --batch 1000
  onelog bench --mode end-to-end --rate 2000 --connections 8
  onelog bench --in-process --connections 1024 --records 1000000";

/// The topic when one is needed and none was named.
const TOPIC: &str = "onelog-bench";
const SECONDS_DEFAULT: u64 = 10;

pub fn run(args: &Bench) -> anyhow::Result<ExitCode> {
    if args.path.is_some() && (args.mode != Mode::Publish || args.batch > 1) {
        return Err(Usage("--path posts single events: it goes with --mode publish and --batch 1 only".to_owned()).into());
    }
    let threads = args.threads.map_or_else(|| if args.in_process { runtime::cores() } else { 1 }, |threads| threads as usize);
    let report = runtime::threads(threads)?
        .block_on(async { if args.in_process { direct_lanes::measure(args).await } else { http_lanes::measure(args).await } })?;
    report.print(args.format)?;
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Bench {
    fn plan(&self) -> Plan {
        let ms = self.duration.or(self.records.is_none().then_some(SECONDS_DEFAULT * 1_000));
        Plan { batch: self.batch, records: self.records, duration: ms.map(std::time::Duration::from_millis), rate: self.rate }
    }

    fn topic(&self) -> &str {
        self.topic.as_deref().unwrap_or(TOPIC)
    }
}

/// A bare number is seconds here: nobody means a benchmark of 30 milliseconds by `--seconds 30`.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(count) => count.checked_mul(1_000).filter(|ms| *ms > 0).ok_or_else(|| format!("`{text}` is not a duration")),
        Err(_) => values::duration_ms(text),
    }
}
