//! What a benchmark found, as a table and as JSON.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::output::{self, Format};

use super::load::Tally;
use super::{Bench, Mode};

/// One run.
#[derive(Debug, Serialize)]
pub struct Report {
    mode: &'static str,
    target: String,
    connections: u32,
    batch: u32,
    value_bytes: u32,
    /// Records per second that were due; `null` in a closed loop.
    rate: Option<u64>,
    seconds: f64,
    requests: u64,
    records: u64,
    errors: u64,
    error_examples: Vec<String>,
    requests_per_second: f64,
    records_per_second: f64,
    mebibytes_per_second: f64,
    latency_ms: Latency,
    /// Syncs of the log while it ran, where that can be known, and how many a thousand answered requests took.
    syncs: Option<u64>,
    syncs_per_1000_requests: Option<f64>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Report {
    pub fn new(args: &Bench, target: String, tally: &Tally, took: Duration, syncs: Option<u64>) -> anyhow::Result<Self> {
        let seconds = took.as_secs_f64().max(1e-9);
        let [requests, records, errors] = [&tally.requests, &tally.records, &tally.errors].map(|count| count.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "counts for display")]
        let per_second = |count: u64| count as f64 / seconds;
        #[expect(clippy::cast_precision_loss, reason = "counts for display")]
        let per_1000 = syncs.filter(|_| requests > 0).map(|syncs| syncs as f64 * 1_000.0 / requests as f64);
        Ok(Self {
            mode: match args.mode {
                Mode::Publish => "publish",
                Mode::Consume => "consume",
                Mode::EndToEnd => "end-to-end",
            },
            target,
            connections: args.connections,
            batch: args.batch,
            value_bytes: args.value_bytes,
            rate: args.rate,
            seconds,
            requests,
            records,
            errors,
            error_examples: tally.error_texts.lock().clone(),
            requests_per_second: per_second(requests),
            records_per_second: per_second(records),
            mebibytes_per_second: per_second(tally.bytes.load(Relaxed)) / 1_048_576.0,
            latency_ms: Latency::of(&tally.histogram()?),
            syncs,
            syncs_per_1000_requests: per_1000,
        })
    }

    /// Nothing got through, or not everything did.
    pub fn failed(&self) -> bool {
        self.errors > 0 || self.records == 0
    }

    pub fn print(&self, format: Format) -> anyhow::Result<()> {
        if format.json {
            return output::json(self);
        }
        let loop_kind = self.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("open loop, {rate} records/s due"));
        let request = match self.mode {
            "consume" => format!("up to {} records", self.batch),
            _ => format!("{} x {} B", self.batch, self.value_bytes),
        };
        output::line(&format!(
            "{} {}: {} connections, {request} per request, {loop_kind}, {:.1} s",
            self.mode, self.target, self.connections, self.seconds
        ))?;
        let latency = self.latency_ms;
        let number = |value: f64| format!("{value:.2}");
        let row = [
            format!("{:.0}", self.requests_per_second),
            format!("{:.0}", self.records_per_second),
            number(self.mebibytes_per_second),
            number(latency.p50),
            number(latency.p95),
            number(latency.p99),
            number(latency.max),
            self.errors.to_string(),
        ];
        output::table(["requests/s", "records/s", "MiB/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"], &[row])?;
        if let (Some(syncs), Some(per_1000)) = (self.syncs, self.syncs_per_1000_requests) {
            output::line(&format!("{syncs} syncs, {per_1000:.1} per 1,000 requests"))?;
        }
        self.error_examples.iter().try_for_each(|why| output::line(&format!("error: {why}")))
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "microseconds for display")]
        let ms = |us: u64| us as f64 / 1_000.0;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Self {
            mean: histogram.mean() / 1_000.0,
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            // The histogram rounds to three digits; the maximum is the one people compare.
            max: ms(histogram.max()),
        }
    }
}
