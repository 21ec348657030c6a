//! `onelog group`: queue groups of a topic (leases and acks), and the committed offsets of stream groups.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::broker::{CommittedOffset, Ordering, SeekTo};
use crate::client::views::{GroupList, GroupView, OffsetList, StreamGroupList, TopicView};
use crate::client::{Client, Path};

use super::connect::Connect;
use super::failure::Usage;
use super::output::{self, Format};
use super::topic::all;
use super::values;

/// Manage consumer groups: queue groups with leases, and committed offsets of stream groups
#[derive(Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Group {
    /// Create a queue group
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        topic: String,
        group: String,
        #[command(flatten)]
        settings: SettingArgs,
        /// Where the group starts: earliest, latest, offset:N or time:T [default: earliest]
        #[arg(long, value_name = "PLACE", value_parser = values::place)]
        start: Option<SeekTo>,
        #[command(flatten)]
        connect: Connect,
    },
    /// List queue groups, of one topic or of all
    #[command(after_help = "Examples:\n  onelog group list\n  onelog group list orders\n  onelog group list --stream")]
    List {
        topic: Option<String>,
        /// Stream groups (committed offsets) instead
        #[arg(long, conflicts_with = "topic")]
        stream: bool,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
    /// Show a queue group: counts, settings, members
    #[command(after_help = "Example:\n  onelog group show orders billing")]
    Show {
        topic: String,
        group: String,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
    /// Change settings of a queue group; what is not given stays
    #[command(after_help = "Example:\n  onelog group alter orders billing --visibility 2m --max-deliveries 10")]
    Alter {
        topic: String,
        group: String,
        #[command(flatten)]
        settings: SettingArgs,
        #[command(flatten)]
        connect: Connect,
    },
    /// Delete a queue group; the records stay
    #[command(after_help = "Example:\n  onelog group delete orders billing")]
    Delete {
        topic: String,
        group: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Move a group to another place: replay, or skip
    #[command(after_help = SEEK_EXAMPLES)]
    Seek {
        topic: String,
        group: String,
        /// earliest, latest, offset:N or time:2025-01-31T12:00:00Z
        #[arg(long, value_name = "PLACE", value_parser = values::place)]
        to: SeekTo,
        /// One partition; all when left out
        #[arg(long, value_name = "P")]
        partition: Option<u32>,
        /// The group is a stream group (committed offsets)
        #[arg(long)]
        stream: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Show the committed offsets of a stream group, and how far behind they are
    #[command(after_help = "Example:\n  onelog group offsets analytics")]
    Offsets {
        group: String,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
}

const EXAMPLES: &str = "\
Examples:
  onelog group create orders billing --visibility 30s --max-deliveries 5
  onelog group show orders billing
  onelog group seek orders billing --to earliest
  onelog group offsets analytics";

const CREATE_EXAMPLES: &str = "\
A queue group is created with defaults by the first receive, too; create it to choose.

Examples:
  onelog group create orders billing
  onelog group create orders billing --ordering key --start latest
  onelog group create orders mail --retry-initial 1s --retry-cap 5m --max-deliveries 8 --dead-letter-topic mail.failed";

const SEEK_EXAMPLES: &str = "\
Leases that are out when a queue group is moved become void.

Examples:
  onelog group seek orders billing --to earliest                              process everything again
  onelog group seek orders billing --to time:2025-01-31T12:00:00Z
  onelog group seek orders analytics --stream --to offset:1000 --partition 2";

/// Settings of a queue group. Absent ones are not sent.
#[derive(Args)]
pub struct SettingArgs {
    /// How long a member has before its record goes to another [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration_ms)]
    visibility: Option<u64>,
    /// Deliveries before a record is dead-lettered; 0 never gives up [default: 5]
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u32>,
    /// Delay before the second delivery [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration_ms)]
    retry_initial: Option<u64>,
    /// Factor from one delay to the next [default: 2]
    #[arg(long, value_name = "FACTOR")]
    retry_multiplier: Option<f64>,
    /// Longest delay [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = values::duration_ms)]
    retry_cap: Option<u64>,
    /// Share by which delays vary, 0.1 = plus or minus 10 % [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    retry_jitter: Option<f64>,
    /// Which records wait for which [default: none]
    #[arg(long, value_parser = ["none", "key", "partition"])]
    ordering: Option<String>,
    /// Where dead letters go [default: TOPIC.dlq]
    #[arg(long, value_name = "TOPIC")]
    dead_letter_topic: Option<String>,
    /// Most records leased or waiting for a retry, per partition [default: 10000]
    #[arg(long, value_name = "N")]
    in_flight_max: Option<u32>,
}

impl SettingArgs {
    /// The given settings under their names in the API, retry settings inside `retry`.
    fn body(&self) -> Map<String, Value> {
        let retry = given([
            ("initial_ms", self.retry_initial.map(|ms| json!(ms))),
            ("multiplier", self.retry_multiplier.map(|factor| json!(factor))),
            ("cap_ms", self.retry_cap.map(|ms| json!(ms))),
            ("jitter", self.retry_jitter.map(|share| json!(share))),
        ]);
        given([
            ("visibility_ms", self.visibility.map(|ms| json!(ms))),
            ("max_deliveries", self.max_deliveries.map(|count| json!(count))),
            ("ordering", self.ordering.as_ref().map(|word| json!(word))),
            ("dead_letter_topic", self.dead_letter_topic.as_ref().map(|name| json!(name))),
            ("in_flight_max", self.in_flight_max.map(|count| json!(count))),
            ("retry", (!retry.is_empty()).then(|| json!(retry))),
        ])
    }
}

fn given<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

pub async fn run(args: &Group) -> anyhow::Result<ExitCode> {
    match args {
        Group::Create { topic, group, settings, start, connect } => create(&connect.client()?, topic, group, settings, *start).await?,
        Group::List { stream: true, connect, format, .. } => list_stream(&connect.client()?, *format).await?,
        Group::List { topic, connect, format, .. } => list(&connect.client()?, topic.as_deref(), *format).await?,
        Group::Show { topic, group, connect, format } => show(&connect.client()?, Path::group(topic, group), *format).await?,
        Group::Alter { topic, group, settings, connect } => alter(&connect.client()?, topic, group, settings).await?,
        Group::Delete { topic, group, connect } => {
            connect.client()?.delete(Path::group(topic, group)).await?;
            output::line(&format!("deleted group {group} of {topic}"))?;
        }
        Group::Seek { topic, group, to, partition, stream, connect } => {
            seek(&connect.client()?, topic, group, *to, *partition, *stream).await?;
        }
        Group::Offsets { group, connect, format } => offsets(&connect.client()?, group, *format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, topic: &str, group: &str, settings: &SettingArgs, start: Option<SeekTo>) -> anyhow::Result<()> {
    let mut body = settings.body();
    if let Some(start) = start {
        body.insert("start".to_owned(), serde_json::to_value(start)?);
    }
    client.call::<Value>(Method::PUT, Path::group(topic, group), &body).await?;
    output::line(&format!("group {group} of {topic} is ready"))
}

async fn list(client: &Client, topic: Option<&str>, format: Format) -> anyhow::Result<()> {
    let topics = match topic {
        Some(topic) => vec![topic.to_owned()],
        None => all(client).await?.into_iter().filter(|topic| !topic.groups.is_empty()).map(|topic| topic.name).collect(),
    };
    let mut groups: Vec<GroupView> = Vec::new();
    for topic in topics {
        groups.extend(client.get::<GroupList>(Path::topic(&topic).then("groups")).await?.groups);
    }
    if format.json {
        return output::json(&json!({"groups": groups}));
    }
    let rows: Vec<_> = groups
        .iter()
        .map(|each| {
            let counts = each.counts;
            let [ready, leased, deferred, acked, dead] =
                [counts.ready, counts.leased, counts.deferred, counts.acked, counts.dead].map(|count| count.to_string());
            [each.topic.clone(), each.group.clone(), ready, leased, deferred, acked, dead]
        })
        .collect();
    output::table(["topic", "group", "ready", "leased", "deferred", "acked", "dead"], &rows)
}

async fn list_stream(client: &Client, format: Format) -> anyhow::Result<()> {
    let path = Path::new("/v1/stream-groups");
    if format.json {
        return output::json(&client.get::<Value>(path).await?);
    }
    let StreamGroupList { groups } = client.get(path).await?;
    groups.iter().try_for_each(|group| output::line(group))
}

async fn show(client: &Client, path: Path, format: Format) -> anyhow::Result<()> {
    if format.json {
        return output::json(&client.get::<Value>(path).await?);
    }
    let view: GroupView = client.get(path).await?;
    let (counts, settings, retry) = (view.counts, &view.settings, view.settings.retry);
    output::line(&format!(
        "{} of {}, created {}\n  ready {}  leased {}  deferred {}  acked {}  dead {}  skipped {}",
        view.group,
        view.topic,
        values::show_time(view.created_ms),
        counts.ready,
        counts.leased,
        counts.deferred,
        counts.acked,
        counts.dead,
        counts.skipped
    ))?;
    output::line(&format!(
        "  visibility {}  max_deliveries {}  ordering {}  in_flight_max {}\n  retry {} x{} up to {} (jitter {})  dead letters to {}",
        values::show_duration(settings.visibility_ms),
        settings.max_deliveries,
        match settings.ordering {
            Ordering::None => "none",
            Ordering::Key => "key",
            Ordering::Partition => "partition",
        },
        settings.in_flight_max,
        values::show_duration(retry.initial_ms),
        retry.multiplier,
        values::show_duration(retry.cap_ms),
        retry.jitter,
        settings.dead_letter_topic.clone().unwrap_or_else(|| format!("{}.dlq", view.topic)),
    ))?;
    let rows: Vec<_> =
        view.members.iter().map(|each| [each.member.clone(), each.leased.to_string(), values::show_duration(each.idle_ms)]).collect();
    if rows.is_empty() { Ok(()) } else { output::table(["member", "leased", "idle"], &rows) }
}

async fn alter(client: &Client, topic: &str, group: &str, settings: &SettingArgs) -> anyhow::Result<()> {
    let change = settings.body();
    if change.is_empty() {
        return Err(Usage("nothing to change: give at least one setting, such as --visibility 2m".to_owned()).into());
    }
    client.call::<Value>(Method::PATCH, Path::group(topic, group), &change).await?;
    output::line(&format!("changed group {group} of {topic}: {}", change.keys().map(String::as_str).collect::<Vec<_>>().join(", ")))
}

async fn seek(client: &Client, topic: &str, group: &str, to: SeekTo, partition: Option<u32>, stream: bool) -> anyhow::Result<()> {
    let mut body = given([("to", Some(serde_json::to_value(to)?)), ("partition", partition.map(|partition| json!(partition)))]);
    let path = if stream {
        body.insert("topic".to_owned(), json!(topic));
        Path::new("/v1/stream-groups").then(group)
    } else {
        Path::group(topic, group)
    };
    client.call::<Value>(Method::POST, path.then("seek"), &body).await?;
    output::line(&format!("moved group {group} of {topic}"))
}

async fn offsets(client: &Client, group: &str, format: Format) -> anyhow::Result<()> {
    let path = Path::new("/v1/stream-groups").then(group).then("offsets");
    if format.json {
        return output::json(&client.get::<Value>(path).await?);
    }
    let OffsetList { offsets } = client.get(path).await?;
    let mut rows = Vec::new();
    for committed in &offsets {
        let end = end_of(client, committed).await?;
        let lag = end.map(|end| (end - committed.offset).max(0));
        let show = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        rows.push([committed.topic.clone(), committed.partition.to_string(), committed.offset.to_string(), show(end), show(lag)]);
    }
    output::table(["topic", "partition", "committed", "high_watermark", "lag"], &rows)
}

/// The partition's end; `None` when the topic is gone, which is no reason not to show what was committed.
async fn end_of(client: &Client, committed: &CommittedOffset) -> anyhow::Result<Option<i64>> {
    match client.get::<TopicView>(Path::topic(&committed.topic)).await {
        Ok(view) => Ok(view.partitions.iter().find(|each| each.partition == committed.partition).map(|each| each.high_watermark)),
        Err(gone) if gone.refusal(404).is_some() => Ok(None),
        Err(other) => Err(other.into()),
    }
}
