//! The generator: lanes in a closed or an open loop until enough was sent, and the histogram of what they saw.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::task::JoinSet;

/// Latencies are counted in microseconds, to three digits, up to this.
const LATENCY_US_MAX: u64 = 300_000_000;
/// Histograms are shared by this many lanes or fewer: one each would be 100 MB at a thousand lanes.
const SHARDS: usize = 16;
/// A timer that wakes this late is the generator's own lateness; more than that means that the generator cannot keep up,
/// and then the time a request was due counts.
const TIMER_SLACK: Duration = Duration::from_millis(2);
/// A lane whose requests fail pauses, so that a server that is gone is not hammered.
pub const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// Different errors kept for the report.
const ERRORS_KEPT: usize = 3;

/// How much to send, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Records of one request.
    pub batch: u32,
    pub records: Option<u64>,
    pub duration: Option<Duration>,
    /// Records per second that are due; closed loop without.
    pub rate: Option<u64>,
}

/// What one request did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub records: u64,
    pub bytes: u64,
}

/// Sends one request and waits for its answer.
pub trait Lane: Send + 'static {
    /// `due` is when the request should have been sent, `number` counts requests over all lanes.
    fn step(&mut self, number: u64, due: Instant) -> impl Future<Output = Result<Done, String>> + Send;
}

/// What all lanes saw together.
pub struct Tally {
    shards: Vec<Mutex<Histogram<u64>>>,
    pub requests: AtomicU64,
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub errors: AtomicU64,
    pub error_texts: Mutex<Vec<String>>,
    /// Requests given out.
    next: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    pub fn new() -> anyhow::Result<Arc<Self>> {
        let shards = (0..SHARDS).map(|_| Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map(Mutex::new)).collect::<Result<_, _>>()?;
        let zero = AtomicU64::default;
        Ok(Arc::new(Self {
            shards,
            requests: zero(),
            records: zero(),
            bytes: zero(),
            errors: zero(),
            error_texts: Mutex::default(),
            next: zero(),
            stop: AtomicBool::new(false),
        }))
    }

    /// Counts a latency. Shards are chosen by the caller's number, so that lanes rarely meet.
    pub fn latency(&self, lane: usize, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.shards[lane % SHARDS].lock().saturating_record(us);
    }

    pub fn histogram(&self) -> anyhow::Result<Histogram<u64>> {
        let mut all = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
        for shard in &self.shards {
            all.add(&*shard.lock())?;
        }
        Ok(all)
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn done(&self, done: Done) {
        self.requests.fetch_add(1, Relaxed);
        self.records.fetch_add(done.records, Relaxed);
        self.bytes.fetch_add(done.bytes, Relaxed);
    }

    pub fn failed(&self, why: String) {
        self.errors.fetch_add(1, Relaxed);
        let mut kept = self.error_texts.lock();
        if kept.len() < ERRORS_KEPT && !kept.contains(&why) {
            kept.push(why);
        }
    }
}

/// Runs all lanes to the end of the plan; answers with the time it took.
pub async fn run<L: Lane>(plan: Plan, lanes: Vec<L>, tally: &Arc<Tally>, measure_requests: bool) -> Duration {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for (index, lane) in lanes.into_iter().enumerate() {
        running.spawn(run_lane(plan, index, lane, Arc::clone(tally), started, measure_requests));
    }
    let timer = plan.duration.map(|duration| {
        let tally = Arc::clone(tally);
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            tally.stop.store(true, Relaxed);
        })
    });
    while running.join_next().await.is_some() {}
    if let Some(timer) = timer {
        timer.abort();
    }
    tally.stop.store(true, Relaxed);
    started.elapsed()
}

async fn run_lane<L: Lane>(plan: Plan, index: usize, mut lane: L, tally: Arc<Tally>, started: Instant, measure_requests: bool) {
    while let Some(number) = take(&plan, &tally) {
        let sent = match plan.rate {
            None => Instant::now(),
            Some(rate) => {
                let Some(due) = wait_until_due(started + due(number, plan.batch, rate), &tally).await else { return };
                due
            }
        };
        match lane.step(number, sent).await {
            Ok(done) => {
                if measure_requests {
                    tally.latency(index, sent.elapsed());
                }
                tally.done(done);
            }
            Err(why) => {
                tally.failed(why);
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// The number of the next request, unless there is none.
fn take(plan: &Plan, tally: &Tally) -> Option<u64> {
    if tally.stopped() {
        return None;
    }
    let number = tally.next.fetch_add(1, Relaxed);
    let enough = plan.records.is_some_and(|records| number.saturating_mul(u64::from(plan.batch)) >= records);
    (!enough).then_some(number)
}

fn due(number: u64, batch: u32, rate: u64) -> Duration {
    let nanos = u128::from(number) * u128::from(batch) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Waits for the time a request is due; answers with the time it counts from, or nothing when the run is over first.
async fn wait_until_due(due: Instant, tally: &Tally) -> Option<Instant> {
    if Instant::now() >= due {
        // Due while the lane waited for an answer: this is the wait that a closed loop would leave out.
        return Some(due);
    }
    tokio::time::sleep_until(due.into()).await;
    if tally.stopped() {
        return None;
    }
    let now = Instant::now();
    Some(if now.duration_since(due) <= TIMER_SLACK { now } else { due })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow;

    impl Lane for Slow {
        async fn step(&mut self, _: u64, _: Instant) -> Result<Done, String> {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Done { records: 1, bytes: 10 })
        }
    }

    #[tokio::test]
    async fn a_slow_answer_makes_the_requests_behind_it_late() {
        let plan = Plan { batch: 1, records: Some(10), duration: None, rate: Some(1_000) };
        let tally = Tally::new().unwrap();
        run(plan, vec![Slow], &tally, true).await;
        assert_eq!((tally.requests.load(Relaxed), tally.records.load(Relaxed), tally.bytes.load(Relaxed)), (10, 10, 100));
        let worst = tally.histogram().unwrap().max();
        assert!(worst >= 150_000, "ten answers of 20 ms that were due within 10 ms: the last is 190 ms late, not {worst} us");
    }

    #[test]
    fn requests_are_due_evenly() {
        assert_eq!(due(0, 1, 1_000), Duration::ZERO);
        assert_eq!(due(3, 10, 1_000), Duration::from_millis(30));
    }
}
