//! `GET /metrics`: everything onelog counts, as Prometheus text. Names and help are the table in `telemetry::metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::summary::pending;
use crate::broker::{Counters, GroupCounters, GroupInfo, StorageStats};
use crate::http::error::Problem;
use crate::http::state::{App, HttpMetrics};
use crate::telemetry::metrics::{self as table, Family, Page};
use crate::telemetry::process;

type CountedGroups = [(Arc<str>, Arc<str>, Arc<GroupCounters>)];

pub async fn handle(State(app): State<App>) -> Result<Response, Problem> {
    let mut page = Page::default();
    page.family(&table::BUILD);
    page.sample(&table::BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.single(&table::UPTIME, app.clock.monotonic().saturating_sub(app.started).as_secs_f64());
    page.single(&table::TOPICS, app.broker.topics().len());
    broker(&mut page, app.broker.counters());
    storage(&mut page, &app.broker.storage_stats());
    group_states(&mut page, &app.broker.groups(None)?);
    group_counters(&mut page, &app.broker.group_counters());
    http(&mut page, &app.metrics);
    process_stats(&mut page);
    Ok(([(header::CONTENT_TYPE, table::CONTENT_TYPE)], page.finish()).into_response())
}

fn broker(page: &mut Page, counters: &Counters) {
    page.single(&table::RECORDS_PRODUCED, counters.records_produced.get());
    page.single(&table::BYTES_PRODUCED, counters.bytes_produced.get());
    page.single(&table::DUPLICATES, counters.duplicates.get());
    page.single(&table::RECORDS_FETCHED, counters.records_fetched.load(Relaxed));
    page.single(&table::BYTES_FETCHED, counters.bytes_fetched.load(Relaxed));
    page.family(&table::REJECTED);
    page.sample(&table::REJECTED, &[("reason", "overloaded")], counters.rejected_overloaded.load(Relaxed));
    page.sample(&table::REJECTED, &[("reason", "disk_full")], counters.rejected_disk_full.load(Relaxed));
    page.family(&table::PUBLISH_SECONDS);
    page.histogram(&table::PUBLISH_SECONDS, &[], &counters.publish_latency);
}

fn storage(page: &mut Page, stats: &StorageStats) {
    page.single(&table::LOG_START, stats.log_start);
    page.single(&table::LOG_DURABLE, stats.durable_position);
    page.single(&table::LOG_COMMITS, stats.commits_total);
    page.single(&table::LOG_SYNCS, stats.syncs_total);
    page.single(&table::LOG_RECORDS, stats.records_total);
    page.single(&table::LOG_BYTES, stats.bytes_written_total);
    page.single(&table::LOG_SEGMENTS, stats.segments);
    page.single(&table::LOG_QUEUED, stats.queued_bytes);
    page.single(&table::LOG_EPOCH, stats.epoch);
    page.single(&table::DISK_AVAILABLE, stats.disk_available_bytes);
    page.single(&table::DISK_FULL, u8::from(stats.disk_full));
    page.single(&table::DAMAGED_READS, stats.damaged_reads_total);
    page.single(&table::STORAGE_FAILED, u8::from(stats.failure.is_some()));
    page.single(&table::CHECKPOINT_POSITION, stats.checkpoint_position);
    page.single(&table::CHECKPOINTS, stats.checkpoints_total);
}

fn group_states(page: &mut Page, groups: &[GroupInfo]) {
    page.family(&table::GROUP_RECORDS);
    for group in groups {
        let counts = group.counts;
        for (state, count) in [
            ("ready", counts.ready),
            ("leased", counts.leased),
            ("deferred", counts.deferred),
            ("acked", counts.acked),
            ("dead", counts.dead),
            ("skipped", counts.skipped),
        ] {
            page.sample(&table::GROUP_RECORDS, &[("topic", &group.topic), ("group", &group.group), ("state", state)], count);
        }
    }
    let mut alias = |family: &Family, of: fn(&GroupInfo) -> u64| {
        page.family(family);
        for group in groups {
            page.sample(family, &[("topic", &group.topic), ("sink", &group.group)], of(group));
        }
    };
    alias(&table::QUEUE_DEPTH, |group| group.counts.ready);
    alias(&table::PENDING, pending);
}

fn group_counters(page: &mut Page, groups: &CountedGroups) {
    let mut counter = |family: &Family, label: &str, of: fn(&GroupCounters) -> &AtomicU64| {
        page.family(family);
        for (topic, group, counters) in groups {
            page.sample(family, &[("topic", topic), (label, group)], of(counters).load(Relaxed));
        }
    };
    counter(&table::GROUP_DELIVERED, "group", |counters| &counters.delivered);
    counter(&table::GROUP_REDELIVERED, "group", |counters| &counters.redelivered);
    counter(&table::GROUP_ACKED, "group", |counters| &counters.acked);
    counter(&table::GROUP_NACKED, "group", |counters| &counters.nacked);
    counter(&table::GROUP_EXPIRED, "group", |counters| &counters.expired);
    counter(&table::GROUP_DEAD, "group", |counters| &counters.dead_lettered);
    counter(&table::EVENTS_PROCESSED, "sink", |counters| &counters.acked);
    counter(&table::EVENTS_FAILED, "sink", |counters| &counters.dead_lettered);
    page.family(&table::ERROR_RATE);
    for (topic, group, counters) in groups {
        page.sample(&table::ERROR_RATE, &[("topic", topic), ("sink", group)], error_rate(counters));
    }
    for (family, label) in [
        (&table::GROUP_PROCESSING, "group"),
        (&table::EVENT_SECONDS, "sink"),
        (&table::EVENT_DURATION, "sink"),
        (&table::PROCESSING_LATENCY, "sink"),
    ] {
        page.family(family);
        for (topic, group, counters) in groups {
            page.histogram(family, &[("topic", topic), (label, group)], &counters.processing);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
fn error_rate(counters: &GroupCounters) -> f64 {
    let failed = counters.nacked.load(Relaxed) + counters.expired.load(Relaxed);
    failed as f64 / counters.delivered.load(Relaxed).max(1) as f64
}

fn http(page: &mut Page, metrics: &HttpMetrics) {
    page.family(&table::HTTP_ANSWERS);
    for (class, count) in ["2xx", "3xx", "4xx", "5xx"].iter().zip(metrics.answers.iter().skip(2)) {
        page.sample(&table::HTTP_ANSWERS, &[("status", class)], count.load(Relaxed));
    }
    page.single(&table::HTTP_CONNECTIONS, metrics.connections.load(Relaxed));
    page.family(&table::HTTP_SECONDS);
    page.histogram(&table::HTTP_SECONDS, &[], &metrics.request_seconds);
    page.single(&table::EVENTS_RECEIVED, metrics.events_received.load(Relaxed));
    page.single(&table::EVENTS_DUPLICATE, metrics.events_duplicate.load(Relaxed));
}

fn process_stats(page: &mut Page) {
    let Some(stats) = process::read() else { return };
    page.single(&table::PROCESS_MEMORY, stats.resident_bytes);
    page.single(&table::PROCESS_CPU, stats.cpu_seconds);
    page.single(&table::PROCESS_FILES, stats.open_files);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_metric_of_the_table_is_shown() {
        let mut page = Page::default();
        page.single(&table::BUILD, 1);
        page.single(&table::UPTIME, 1);
        page.single(&table::TOPICS, 1);
        broker(&mut page, &Counters::default());
        storage(&mut page, &StorageStats::default());
        group_states(&mut page, &[]);
        let counters = GroupCounters::default();
        counters.acked.store(4, Relaxed);
        counters.processing.record(Duration::from_millis(1));
        group_counters(&mut page, &[("events".into(), "billing".into(), Arc::new(counters))]);
        http(&mut page, &HttpMetrics::default());
        process_stats(&mut page);
        let text = page.finish();
        for family in table::ALL {
            let begun = text.lines().filter(|line| line.starts_with(&format!("# TYPE {} ", family.name))).count();
            assert_eq!(begun, 1, "{}", family.name);
        }
        assert!(text.contains("events_processed_total{topic=\"events\",sink=\"billing\"} 4\n"));
        assert!(text.contains("event_processing_duration_seconds_count{topic=\"events\",sink=\"billing\"} 1\n"));
    }
}
