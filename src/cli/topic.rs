//! `onelog topic`: create, list, show, alter and delete topics.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::broker::TopicSettings;
use crate::client::views::{TopicList, TopicView};
use crate::client::{Client, Path};
use crate::config::size;

use super::connect::Connect;
use super::failure::Usage;
use super::output::{self, Format};
use super::values::{self, Bound};

/// Create, list, show, alter and delete topics
#[derive(Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Topic {
    /// Create a topic
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        topic: String,
        #[command(flatten)]
        settings: SettingArgs,
        #[command(flatten)]
        connect: Connect,
    },
    /// List all topics
    #[command(after_help = "Example:\n  onelog topic list --json")]
    List {
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
    /// Show one topic: settings, partitions, groups
    #[command(after_help = "Example:\n  onelog topic show orders")]
    Show {
        topic: String,
        #[command(flatten)]
        connect: Connect,
        #[command(flatten)]
        format: Format,
    },
    /// Change settings of a topic; what is not given stays
    #[command(after_help = ALTER_EXAMPLES)]
    Alter {
        topic: String,
        #[command(flatten)]
        settings: SettingArgs,
        #[command(flatten)]
        connect: Connect,
    },
    /// Delete a topic with all its records and groups
    #[command(after_help = "Example:\n  onelog topic delete orders --yes")]
    Delete {
        topic: String,
        /// Really delete; there is no way back
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        connect: Connect,
    },
}

const EXAMPLES: &str = "\
Examples:
  onelog topic create orders --partitions 3 --retention 30d
  onelog topic list
  onelog topic show orders
  onelog topic alter orders --retention none
  onelog topic delete orders --yes";

const CREATE_EXAMPLES: &str = "\
Examples:
  onelog topic create orders
  onelog topic create orders --partitions 3 --retention 30d --retention-bytes 10GiB
  onelog topic create clicks --durability lazy        an ok does not wait for the disk: a power cut may take the last moments";

const ALTER_EXAMPLES: &str = "\
Examples:
  onelog topic alter orders --partitions 6            more partitions, never fewer; keys may move to new ones
  onelog topic alter orders --retention none --dedup-window 7d";

/// Settings of a topic. Absent ones are not sent: their default, or their present value, is the server's to know.
#[derive(Args)]
pub struct SettingArgs {
    /// Number of partitions; can grow, never shrink [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::broker::PARTITIONS_MAX)))]
    partitions: Option<u32>,
    /// Records older than this may be removed: 7d, 12h, or none [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = values::duration_or_none)]
    retention: Option<Bound>,
    /// A partition above this size loses its oldest records: 10GiB, or none [default: none]
    #[arg(long, value_name = "SIZE", value_parser = values::size_or_none)]
    retention_bytes: Option<Bound>,
    /// Largest record taken, key, value and headers [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size_u32)]
    record_bytes_max: Option<u32>,
    /// How long an idempotency key is remembered [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = values::duration_ms)]
    dedup_window: Option<u64>,
    /// Whether an ok waits for the disk [default: sync]
    #[arg(long, value_parser = ["sync", "lazy"])]
    durability: Option<String>,
}

impl SettingArgs {
    /// The given settings under their names in the API.
    fn body(&self) -> Map<String, Value> {
        let fields = [
            ("partitions", self.partitions.map(|count| json!(count))),
            ("retention_ms", self.retention.map(|bound| json!(bound.0))),
            ("retention_bytes", self.retention_bytes.map(|bound| json!(bound.0))),
            ("record_bytes_max", self.record_bytes_max.map(|bytes| json!(bytes))),
            ("dedup_window_ms", self.dedup_window.map(|ms| json!(ms))),
            ("durability", self.durability.as_ref().map(|word| json!(word))),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

pub async fn run(args: &Topic) -> anyhow::Result<ExitCode> {
    match args {
        Topic::Create { topic, settings, connect } => create(&connect.client()?, topic, settings.body()).await?,
        Topic::List { connect, format } => list(&connect.client()?, *format).await?,
        Topic::Show { topic, connect, format } => show(&connect.client()?, topic, *format).await?,
        Topic::Alter { topic, settings, connect } => alter(&connect.client()?, topic, settings.body()).await?,
        Topic::Delete { topic, yes, connect } => delete(&connect.client()?, topic, *yes).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, topic: &str, mut settings: Map<String, Value>) -> anyhow::Result<()> {
    settings.insert("name".to_owned(), json!(topic));
    let created: TopicView = client.call(Method::POST, Path::new("/v1/topics"), &settings).await?;
    output::line(&format!("created topic {} with {} partitions", created.name, created.partitions.len()))
}

async fn list(client: &Client, format: Format) -> anyhow::Result<()> {
    let topics = all(client).await?;
    if format.json {
        return output::json(&json!({"topics": topics}));
    }
    let rows: Vec<_> = topics
        .iter()
        .map(|topic| {
            [
                topic.name.clone(),
                topic.partitions.len().to_string(),
                topic.records().to_string(),
                topic.groups.len().to_string(),
                show_retention(&topic.settings),
            ]
        })
        .collect();
    output::table(["topic", "partitions", "records", "groups", "retention"], &rows)
}

/// Every topic, page after page.
pub async fn all(client: &Client) -> anyhow::Result<Vec<TopicView>> {
    let (mut topics, mut after) = (Vec::new(), None);
    loop {
        let page: TopicList = client.get(Path::new("/v1/topics").query("after", after)).await?;
        topics.extend(page.topics);
        if page.next.is_none() {
            return Ok(topics);
        }
        after = page.next;
    }
}

async fn show(client: &Client, topic: &str, format: Format) -> anyhow::Result<()> {
    if format.json {
        return output::json(&client.get::<Value>(Path::topic(topic)).await?);
    }
    let view: TopicView = client.get(Path::topic(topic)).await?;
    let settings = &view.settings;
    output::line(&format!(
        "{}\n  created           {}\n  retention         {}\n  record_bytes_max  {}\n  dedup_window      {}\n  durability        {}\n  groups            {}",
        view.name,
        values::show_time(view.created_ms),
        show_retention(settings),
        size::show(u64::from(settings.record_bytes_max)),
        values::show_duration(settings.dedup_window_ms),
        serde_json::to_value(settings.durability)?.as_str().unwrap_or_default(),
        if view.groups.is_empty() { "none".to_owned() } else { view.groups.join(", ") },
    ))?;
    let rows: Vec<_> = view
        .partitions
        .iter()
        .map(|each| {
            let records = each.high_watermark - each.log_start;
            [each.partition.to_string(), each.log_start.to_string(), each.high_watermark.to_string(), records.to_string()]
        })
        .collect();
    output::table(["partition", "log_start", "high_watermark", "records"], &rows)
}

async fn alter(client: &Client, topic: &str, change: Map<String, Value>) -> anyhow::Result<()> {
    if change.is_empty() {
        return Err(Usage("nothing to change: give at least one setting, such as --retention 30d".to_owned()).into());
    }
    client.call::<Value>(Method::PATCH, Path::topic(topic), &change).await?;
    output::line(&format!("changed topic {topic}: {}", change.keys().map(String::as_str).collect::<Vec<_>>().join(", ")))
}

async fn delete(client: &Client, topic: &str, yes: bool) -> anyhow::Result<()> {
    if !yes {
        let view: TopicView = client.get(Path::topic(topic)).await?;
        return Err(Usage(format!(
            "topic {topic} holds {} records and {} groups, and there is no way back; repeat with --yes to delete it",
            view.records(),
            view.groups.len()
        ))
        .into());
    }
    client.delete(Path::topic(topic)).await?;
    output::line(&format!("deleted topic {topic}"))
}

fn show_retention(settings: &TopicSettings) -> String {
    match (settings.retention_ms, settings.retention_bytes) {
        (None, None) => "none".to_owned(),
        (Some(ms), None) => values::show_duration(ms),
        (None, Some(bytes)) => size::show(bytes),
        (Some(ms), Some(bytes)) => format!("{} or {}", values::show_duration(ms), size::show(bytes)),
    }
}
