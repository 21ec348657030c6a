//! `onelog consume`: records of a topic to stdout, by offset ([`read`]) or as a member of a queue group ([`receive`]).
//!
//! With `--json` a line is what the server wrote, untouched. A closed stdout ends it quietly.

mod print;
mod read;
mod receive;

use std::process::ExitCode;

use clap::Args;

use super::connect::Connect;
use super::values;
use print::Printer;

/// Print the records of a topic
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Consume {
    topic: String,

    #[command(flatten)]
    connect: Connect,

    #[command(flatten)]
    start: Start,

    /// Only this partition; all when left out
    #[arg(long, value_name = "P")]
    partition: Option<u32>,

    /// Stop at the end of what was there when the command began
    #[arg(long)]
    exit_at_end: bool,

    /// Go on with new records (the default)
    #[arg(long, conflicts_with = "exit_at_end")]
    follow: bool,

    /// Stop after this many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,

    /// One JSON object a line: topic, partition, offset, timestamp, key, headers, value (or value_base64)
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    queue: Queue,
}

/// Where to start. New records only when nothing is given.
#[derive(Args)]
#[group(multiple = false)]
struct Start {
    /// Start with the first record still stored
    #[arg(long)]
    from_beginning: bool,
    /// Start at this offset
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..), requires = "partition")]
    offset: Option<i64>,
    /// Start with the first record at or after this time: ISO 8601, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = values::time_ms)]
    time: Option<i64>,
}

/// Lease records as a member of a queue group instead of reading by offset.
#[derive(Args)]
struct Queue {
    /// Receive as a member of this queue group; a new group starts with the first record
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["Start", "partition"])]
    group: Option<String>,
    /// Acknowledge each record once it is printed (the default)
    #[arg(long, requires = "group", conflicts_with = "no_ack")]
    ack: bool,
    /// Do not acknowledge: records come again when their lease runs out
    #[arg(long, requires = "group")]
    no_ack: bool,
    /// The name leases are booked under [default: cli-PID]
    #[arg(long, value_name = "NAME", requires = "group")]
    member: Option<String>,
    /// How long leases last; the group's setting when left out
    #[arg(long, value_name = "DURATION", requires = "group", value_parser = values::duration_ms)]
    visibility: Option<u64>,
}

const EXAMPLES: &str = "\
Without --group nothing is taken from anybody: any number of readers see the same records. With --group records are leased
to this member and, once printed, acknowledged; what is printed carries the lease and the attempt as well.

Examples:
  onelog consume orders                                        new records as they come
  onelog consume orders --from-beginning --exit-at-end --json  everything, then stop
  onelog consume orders --partition 2 --offset 1000 --max 10
  onelog consume orders --time 2025-01-31T12:00:00Z --exit-at-end
  onelog consume orders --group billing --member me --max 1 --no-ack --json";

pub async fn run(args: Consume) -> anyhow::Result<ExitCode> {
    let client = args.connect.client()?;
    let printer = Printer::new(args.json, args.max);
    match &args.queue.group {
        Some(group) => receive::run(&client, &args, group, printer).await?,
        None => read::run(&client, &args, printer).await?,
    }
    Ok(ExitCode::SUCCESS)
}
