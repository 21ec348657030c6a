//! Every metric onelog shows, in one table, and the Prometheus text they are shown in (exposition format 0.0.4).
//!
//! Knows no broker: whoever has the numbers writes them to a [`Page`] under the names of the table.

use std::fmt::{Display, Write};

use super::histogram::{BOUNDS_SECONDS, Histogram};

/// The media type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric's name, kind and meaning.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident $kind:ident $name:literal $help:literal;)*) => {
        $(pub const $id: Family = Family { name: $name, kind: Kind::$kind, help: $help };)*
        /// Every metric there is.
        pub const ALL: &[Family] = &[$($id,)*];
    };
}

families! {
    BUILD Gauge "onelog_build_info" "Always 1; the version is a label.";
    UPTIME Gauge "onelog_uptime_seconds" "Seconds since the HTTP listener started.";
    RECORDS_PRODUCED Counter "onelog_records_produced_total" "Records published since start, by every protocol.";
    BYTES_PRODUCED Counter "onelog_bytes_produced_total" "Bytes of those records.";
    DUPLICATES Counter "onelog_duplicates_total" "Publishes answered with an earlier record because their idempotency key was known.";
    RECORDS_FETCHED Counter "onelog_records_fetched_total" "Records read since start.";
    BYTES_FETCHED Counter "onelog_bytes_fetched_total" "Bytes of those records.";
    REJECTED Counter "onelog_rejected_total" "Publishes refused, by reason.";
    PUBLISH_SECONDS Histogram "onelog_publish_seconds" "From the call of a publish to its durable answer.";
    TOPICS Gauge "onelog_topics" "Topics there are.";
    LOG_START Gauge "onelog_log_start_position" "Position of the oldest byte kept.";
    LOG_DURABLE Gauge "onelog_log_durable_position" "Position up to which the log is on stable storage.";
    LOG_COMMITS Counter "onelog_log_commits_total" "Commits written.";
    LOG_SYNCS Counter "onelog_log_syncs_total" "Syncs of the log; many commits and callers share one.";
    LOG_RECORDS Counter "onelog_log_records_total" "Records written to the log.";
    LOG_BYTES Counter "onelog_log_bytes_written_total" "Bytes written to the log.";
    LOG_SEGMENTS Gauge "onelog_log_segments" "Segment files.";
    LOG_QUEUED Gauge "onelog_log_queued_bytes" "Bytes waiting to be written.";
    LOG_EPOCH Gauge "onelog_log_epoch" "Openings of the store for writing.";
    DISK_AVAILABLE Gauge "onelog_disk_available_bytes" "Free bytes where the log lies.";
    DISK_FULL Gauge "onelog_disk_full" "1 while publishes are refused for want of space.";
    DAMAGED_READS Counter "onelog_damaged_reads_total" "Reads that met damage; run onelog check.";
    STORAGE_FAILED Gauge "onelog_storage_failed" "1 once a write or sync failed; nothing is accepted until a restart.";
    CHECKPOINT_POSITION Gauge "onelog_checkpoint_position" "Position up to which the index is checkpointed.";
    CHECKPOINTS Counter "onelog_checkpoints_total" "Checkpoints of the index.";
    GROUP_RECORDS Gauge "onelog_group_records" "Records of a queue group by state.";
    GROUP_DELIVERED Counter "onelog_group_delivered_total" "Records given to members.";
    GROUP_REDELIVERED Counter "onelog_group_redelivered_total" "Of those, records given out before.";
    GROUP_ACKED Counter "onelog_group_acked_total" "Records settled for ever.";
    GROUP_NACKED Counter "onelog_group_nacked_total" "Records handed back as failed.";
    GROUP_EXPIRED Counter "onelog_group_expired_total" "Leases that ran out.";
    GROUP_DEAD Counter "onelog_group_dead_lettered_total" "Records moved to the dead letters.";
    GROUP_PROCESSING Histogram "onelog_group_processing_seconds" "From lease to ack.";
    HTTP_ANSWERS Counter "onelog_http_requests_total" "HTTP requests answered, by class of status.";
    HTTP_CONNECTIONS Gauge "onelog_http_connections" "Open HTTP connections.";
    HTTP_SECONDS Histogram "onelog_http_request_seconds" "From the end of a request's headers to the start of its answer.";
    EVENTS_RECEIVED Counter "events_received_total" "Events accepted at POST /events, repeats included.";
    EVENTS_DUPLICATE Counter "events_duplicate_total" "Of those, events whose id was known already.";
    EVENTS_PROCESSED Counter "events_processed_total" "Records acked, by queue group (sink).";
    EVENTS_FAILED Counter "events_failed_total" "Records moved to the dead letters, by queue group (sink).";
    EVENT_SECONDS Histogram "event_processing_duration_seconds" "From lease to ack, by queue group (sink).";
    EVENT_DURATION Histogram "event_processing_duration" "The same under its older name.";
    PROCESSING_LATENCY Histogram "processing_latency_seconds" "The same under the name of change-data pipelines.";
    QUEUE_DEPTH Gauge "queue_depth" "Records ready to be given out, by queue group (sink).";
    PENDING Gauge "pending_messages" "Records given out and not yet settled, by queue group (sink).";
    ERROR_RATE Gauge "error_rate" "Failed or run-out deliveries by all deliveries since start, by queue group (sink).";
    PROCESS_MEMORY Gauge "process_resident_memory_bytes" "Memory of the process.";
    PROCESS_CPU Counter "process_cpu_seconds_total" "Processor time of the process.";
    PROCESS_FILES Gauge "process_open_fds" "Open file descriptors of the process.";
}

/// A page of metrics in the making. Families come out in the order they are begun.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// Labels of one sample: name and value.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, family: &Family) {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.put(format_args!("# HELP {} {}\n# TYPE {} {kind}\n", family.name, family.help, family.name));
    }

    /// One sample of the family begun last.
    pub fn sample(&mut self, family: &Family, labels: Labels<'_>, value: impl Display) {
        self.line(family.name, "", labels, None, &value);
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, family: &Family, value: impl Display) {
        self.family(family);
        self.sample(family, &[], value);
    }

    /// Buckets, sum and count of the family begun last.
    pub fn histogram(&mut self, family: &Family, labels: Labels<'_>, histogram: &Histogram) {
        let (counts, sum) = histogram.read();
        for (bound, count) in BOUNDS_SECONDS.iter().zip(counts) {
            self.line(family.name, "_bucket", labels, Some(&bound.to_string()), &count);
        }
        let all = counts.last().copied().unwrap_or_default();
        self.line(family.name, "_bucket", labels, Some("+Inf"), &all);
        self.line(family.name, "_sum", labels, None, &sum);
        self.line(family.name, "_count", labels, None, &all);
    }

    /// The page.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, name: &str, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: &dyn Display) {
        self.put(format_args!("{name}{suffix}"));
        let mut open = '{';
        for (label, text) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.put(format_args!("{open}{label}=\""));
            self.escape(text);
            self.text.push('"');
            open = ',';
        }
        if open == ',' {
            self.text.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    fn escape(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }

    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.text.write_fmt(arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_are_unique_and_counters_say_total() {
        for (at, family) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(at + 1).all(|other| other.name != family.name), "{}", family.name);
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }

    #[test]
    fn a_page_is_prometheus_text() {
        let mut page = Page::default();
        page.single(&TOPICS, 3);
        page.family(&REJECTED);
        page.sample(&REJECTED, &[("reason", "a\"b\\c\nd"), ("x", "y")], 1);
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(2));
        histogram.record(Duration::from_secs(60));
        page.family(&PUBLISH_SECONDS);
        page.histogram(&PUBLISH_SECONDS, &[("g", "h")], &histogram);
        let text = page.finish();
        for line in [
            "# TYPE onelog_topics gauge",
            "onelog_topics 3",
            r#"onelog_rejected_total{reason="a\"b\\c\nd",x="y"} 1"#,
            r#"onelog_publish_seconds_bucket{g="h",le="0.001"} 0"#,
            r#"onelog_publish_seconds_bucket{g="h",le="0.0025"} 1"#,
            r#"onelog_publish_seconds_bucket{g="h",le="+Inf"} 2"#,
            r#"onelog_publish_seconds_sum{g="h"} 60.002"#,
            r#"onelog_publish_seconds_count{g="h"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
