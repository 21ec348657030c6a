//! End to end: some lanes publish, others receive as members of a queue group that starts where the run starts. A record's
//! latency ends when a member holds it; its ack is the member's business and not counted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::load::{self, Lane, Plan, Tally};

/// After the last publish, receivers go on until they have everything, or nothing came for this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes records and acks them.
pub trait Receiver: Send + 'static {
    /// How old each received record of this run was when it arrived. Waits a moment when there is none.
    fn receive(&mut self) -> impl Future<Output = Result<Vec<Duration>, String>> + Send;
}

/// Runs publishers to the end of the plan and receivers until they caught up. Answers with the time of the publishers.
pub async fn run<L: Lane, R: Receiver>(plan: Plan, publishers: Vec<L>, receivers: Vec<R>, tally: &Arc<Tally>) -> Duration {
    let progress = Arc::new(Progress { received: AtomicU64::new(0), expected: AtomicU64::new(u64::MAX), last_us: AtomicU64::new(0) });
    let origin = Instant::now();
    let mut receiving = JoinSet::new();
    for (index, receiver) in receivers.into_iter().enumerate() {
        receiving.spawn(receive_all(index, receiver, Arc::clone(tally), Arc::clone(&progress), origin));
    }
    let took = load::run(plan, publishers, tally, false).await;
    progress.touch(origin);
    let published = tally.records.load(Relaxed);
    progress.expected.store(published, Relaxed);
    while receiving.join_next().await.is_some() {}
    let received = progress.received.load(Relaxed);
    if received < published {
        tally.failed(format!("{published} records were published, but only {received} arrived"));
    }
    took
}

struct Progress {
    received: AtomicU64,
    /// Known once publishing is over.
    expected: AtomicU64,
    /// When something last happened, since the start.
    last_us: AtomicU64,
}

impl Progress {
    fn touch(&self, origin: Instant) {
        self.last_us.store(since(origin), Relaxed);
    }

    fn is_over(&self, origin: Instant) -> bool {
        let expected = self.expected.load(Relaxed);
        let idle = Duration::from_micros(since(origin).saturating_sub(self.last_us.load(Relaxed)));
        expected != u64::MAX && (self.received.load(Relaxed) >= expected || idle > PATIENCE)
    }
}

fn since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX)
}

async fn receive_all<R: Receiver>(index: usize, mut receiver: R, tally: Arc<Tally>, progress: Arc<Progress>, origin: Instant) {
    while !progress.is_over(origin) {
        match receiver.receive().await {
            Ok(ages) if ages.is_empty() => {}
            Ok(ages) => {
                progress.received.fetch_add(ages.len() as u64, Relaxed);
                progress.touch(origin);
                for age in ages {
                    tally.latency(index, age);
                }
            }
            Err(why) => {
                tally.failed(why);
                tokio::time::sleep(load::PAUSE_AFTER_ERROR).await;
            }
        }
    }
}
