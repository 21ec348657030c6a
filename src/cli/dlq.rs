//! `onelog dlq`: the dead letters of a topic - what failed for good, why, and the way back.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::broker::{DeadLetterFilter, RedriveRequest};
use crate::client::views::{DeadLetterList, RedriveView};
use crate::client::{Client, Path};

use super::connect::Connect;
use super::failure::Usage;
use super::output::{self, Format};
use super::values;

/// Dead letters asked for at once.
const PAGE: usize = 500;
/// Dead letters sent back by one request; with a rate, as many as it allows in so many seconds.
const SLICE: u64 = 10_000;
const SLICE_SECONDS: f64 = 10.0;

/// List, inspect, redrive and purge dead letters
#[derive(Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Dlq {
    /// List the dead letters of a topic in the order they died
    #[command(after_help = "Examples:\n  onelog dlq list orders\n  onelog dlq list orders --group billing --reason timeout --json")]
    List {
        /// The topic the records came from
        topic: String,
        #[command(flatten)]
        filter: FilterArgs,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
    /// Show one dead letter whole: record, origin, reason, attempts
    #[command(after_help = "Example:\n  onelog dlq show orders 0-41")]
    Show {
        topic: String,
        /// PARTITION-OFFSET, as `dlq list` shows it
        #[arg(value_name = "ID", value_parser = values::record_id)]
        id: (u32, i64),
        #[command(flatten)]
        connect: Connect,
    },
    /// Send dead letters back to their topic, to be processed again
    #[command(after_help = REDRIVE_EXAMPLES)]
    Redrive {
        topic: String,
        #[command(flatten)]
        filter: FilterArgs,
        /// Only one: PARTITION-OFFSET, as `dlq list` shows it
        #[arg(long, value_name = "ID", value_parser = values::record_id)]
        id: Option<(u32, i64)>,
        /// Only count
        #[arg(long)]
        dry_run: bool,
        /// Records per second; as fast as it goes when left out
        #[arg(long, value_name = "N", value_parser = positive)]
        rate: Option<f64>,
        /// At most this many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
    /// Give dead letters up: they are marked resolved and sent nowhere
    #[command(after_help = "Examples:\n  onelog dlq purge orders --reason \"unknown customer\" --dry-run\n  onelog dlq purge orders --all")]
    Purge {
        topic: String,
        #[command(flatten)]
        filter: FilterArgs,
        /// Only one: PARTITION-OFFSET, as `dlq list` shows it
        #[arg(long, value_name = "ID", value_parser = values::record_id)]
        id: Option<(u32, i64)>,
        /// All of them: needed when nothing else chooses
        #[arg(long)]
        all: bool,
        /// Only count
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
}

const EXAMPLES: &str = "\
Examples:
  onelog dlq list orders
  onelog dlq show orders 0-41
  onelog dlq redrive orders --dry-run
  onelog dlq redrive orders --group billing --rate 100
  onelog dlq purge orders --reason \"unknown customer\"";

const REDRIVE_EXAMPLES: &str = "\
Interrupted by a crash, a redrive can simply be repeated: nothing is sent back twice.

Examples:
  onelog dlq redrive orders --dry-run                    how many are there?
  onelog dlq redrive orders                              all of them, once the fault is fixed
  onelog dlq redrive orders --header tenant=acme --from 2025-01-31T12:00:00Z --rate 50
  onelog dlq redrive orders --id 0-41";

/// Chooses dead letters; all given conditions must hold.
#[derive(Args)]
pub struct FilterArgs {
    /// Of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// With this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// With this header
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    header: Option<(String, String)>,
    /// Whose reason contains this
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Died at or after this time
    #[arg(long, value_name = "TIME", value_parser = values::time_ms, allow_hyphen_values = true)]
    from: Option<i64>,
    /// Died before this time
    #[arg(long, value_name = "TIME", value_parser = values::time_ms, allow_hyphen_values = true)]
    to: Option<i64>,
}

impl FilterArgs {
    fn filter(&self, at: Option<(u32, i64)>) -> DeadLetterFilter {
        DeadLetterFilter {
            group: self.group.clone(),
            key: self.key.clone(),
            header: self.header.clone(),
            reason: self.reason.clone(),
            from_ms: self.from,
            to_ms: self.to,
            at,
        }
    }

    fn query(&self, path: Path) -> Path {
        path.query("group", self.group.as_ref())
            .query("key", self.key.as_ref())
            .query("header", self.header.as_ref().map(|(name, value)| format!("{name}:{value}")))
            .query("reason", self.reason.as_ref())
            .query("from_ms", self.from)
            .query("to_ms", self.to)
    }
}

pub async fn run(args: &Dlq) -> anyhow::Result<ExitCode> {
    match args {
        Dlq::List { topic, filter, limit, connect, format } => list(&connect.client()?, topic, filter, *limit, *format).await?,
        Dlq::Show { topic, id: (partition, offset), connect } => {
            let path = Path::topic(topic).then("dead-letters").then(partition).then(offset);
            output::json(&connect.client()?.get::<Value>(path).await?)?;
        }
        Dlq::Redrive { topic, filter, id, dry_run, rate, limit, connect, format } => {
            let request = RedriveRequest { filter: filter.filter(*id), dry_run: *dry_run, rate: *rate, limit: *limit };
            let report = redrive(&connect.client()?, topic, request).await?;
            print_report(report, if *dry_run { None } else { Some("sent back") }, *format)?;
        }
        Dlq::Purge { topic, filter, id, all, dry_run, connect, format } => {
            let filter = filter.filter(*id);
            if filter == DeadLetterFilter::default() && !all && !dry_run {
                return Err(Usage("this would give up every dead letter of the topic; choose some, or say --all".to_owned()).into());
            }
            let body = json!({"filter": filter, "dry_run": dry_run});
            let report = connect.client()?.call(Method::POST, Path::topic(topic).then("dead-letters").then("purge"), &body).await?;
            print_report(report, if *dry_run { None } else { Some("given up") }, *format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// In slices, so that no request outlives its time and an interruption stops it between two of them.
async fn redrive(client: &Client, topic: &str, request: RedriveRequest) -> anyhow::Result<RedriveView> {
    let path = Path::topic(topic).then("dead-letters").then("redrive");
    if request.dry_run {
        return Ok(client.call(Method::POST, path, &request).await?);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate, cut to the slice")]
    let slice = request.rate.map_or(SLICE, |rate| (rate * SLICE_SECONDS).clamp(1.0, 10_000.0) as u64);
    let mut total: Option<RedriveView> = None;
    loop {
        let done = total.map_or(0, |total| total.done);
        let wanted = request.limit.map_or(slice, |limit| slice.min(limit - done));
        let part: RedriveView = client.call(Method::POST, path.clone(), &RedriveRequest { limit: Some(wanted), ..request.clone() }).await?;
        let so_far = total.get_or_insert(RedriveView { done: 0, ..part });
        so_far.done += part.done;
        so_far.left = part.left;
        if part.done < wanted || request.limit == Some(so_far.done) {
            return Ok(*so_far);
        }
    }
}

async fn list(client: &Client, topic: &str, filter: &FilterArgs, limit: usize, format: Format) -> anyhow::Result<()> {
    let mut found: Vec<Value> = Vec::new();
    while found.len() < limit {
        let wanted = PAGE.min(limit - found.len());
        let path = filter.query(Path::topic(topic).then("dead-letters")).query("limit", Some(wanted));
        let page: DeadLetterList = client.get(path.query("after", found.last().map(id_of))).await?;
        let last = page.dead_letters.len() < wanted;
        found.extend(page.dead_letters);
        if last {
            break;
        }
    }
    if format.json {
        return found.iter().try_for_each(|letter| output::line(&letter.to_string()));
    }
    let rows: Vec<_> = found
        .iter()
        .map(|letter| {
            let origin = format!("{}-{}", text(letter, "origin_partition"), text(letter, "origin_offset"));
            let failed = letter["last_failure_ms"].as_i64().map_or_else(|| "-".to_owned(), values::show_time);
            [id_of(letter), origin, text(letter, "group"), text(letter, "attempts"), failed, key_of(letter), text(letter, "reason")]
        })
        .collect();
    output::table(["id", "origin", "group", "attempts", "last failure", "key", "reason"], &rows)
}

fn id_of(letter: &Value) -> String {
    format!("{}-{}", text(letter, "partition"), text(letter, "offset"))
}

fn key_of(letter: &Value) -> String {
    text(&letter["record"], "key")
}

fn text(of: &Value, field: &str) -> String {
    match &of[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `done` is what happened to the chosen ones; `None` for a dry run.
fn print_report(report: RedriveView, done: Option<&str>, format: Format) -> anyhow::Result<()> {
    if format.json {
        return output::json(&report);
    }
    let RedriveView { matched, done: count, left } = report;
    output::line(&match done {
        None => format!("{matched} dead letters match; nothing was changed (dry run); {left} in all"),
        Some(done) => format!("{matched} dead letters matched, {count} {done}, {left} left"),
    })
}

fn positive(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0 && rate.is_finite());
    rate.ok_or_else(|| format!("`{text}` is not a number above 0"))
}
