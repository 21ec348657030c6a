//! `GET /metrics/summary`: the few numbers people ask for first, as JSON.

use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::broker::{GroupCounts, GroupInfo};
use crate::http::error::Problem;
use crate::http::extract::ok;
use crate::http::state::App;

#[derive(Serialize)]
struct Summary {
    events_received: u64,
    events_duplicate: u64,
    /// Records acked and dead-lettered since start, over all queue groups.
    events_processed: u64,
    events_failed: u64,
    /// Records stored in the events topic.
    queue_length: i64,
    /// Records of the events topic that members have and have not settled.
    pending_messages: u64,
    records_produced: u64,
    groups: Vec<GroupSummary>,
}

#[derive(Serialize)]
struct GroupSummary {
    topic: String,
    group: String,
    #[serde(flatten)]
    counts: GroupCounts,
}

pub async fn handle(State(app): State<App>) -> Result<Response, Problem> {
    let groups = app.broker.groups(None)?;
    let counters = app.broker.group_counters();
    let events_topic = &app.config.events_topic;
    let stored = app.broker.topic(events_topic).map_or(0, |topic| topic.partitions.iter().map(|p| p.high_watermark - p.log_start).sum());
    Ok(ok(&Summary {
        events_received: app.metrics.events_received.load(Relaxed),
        events_duplicate: app.metrics.events_duplicate.load(Relaxed),
        events_processed: counters.iter().map(|(_, _, counters)| counters.acked.load(Relaxed)).sum(),
        events_failed: counters.iter().map(|(_, _, counters)| counters.dead_lettered.load(Relaxed)).sum(),
        queue_length: stored,
        pending_messages: groups.iter().filter(|group| group.topic == *events_topic).map(pending).sum(),
        records_produced: app.broker.counters().records_produced.get(),
        groups: groups.into_iter().map(|group| GroupSummary { topic: group.topic, group: group.group, counts: group.counts }).collect(),
    }))
}

/// Given out and not settled: with a member, or waiting for a retry.
pub fn pending(group: &GroupInfo) -> u64 {
    group.counts.leased + group.counts.deferred
}
