//! What every request of the HTTP front end can reach: the broker, the limits, the counters and the stop signal.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;

use super::budget::Budget;
use super::config::HttpConfig;
use crate::broker::{Broker, Clock};
use crate::telemetry::histogram::Histogram;

/// What the HTTP front end counts itself.
#[derive(Debug, Default)]
pub struct HttpMetrics {
    /// Answers by first digit of their status.
    pub answers: [AtomicU64; 6],
    /// Open connections.
    pub connections: AtomicU64,
    /// From the end of the headers to the start of the answer; event streams and long polls count what they waited.
    pub request_seconds: Histogram,
    /// Events accepted at `POST /events`, repeats included.
    pub events_received: AtomicU64,
    /// Events accepted at `POST /events` that were known already.
    pub events_duplicate: AtomicU64,
}

impl HttpMetrics {
    /// Counts one answer.
    pub fn answered(&self, status: u16, took: Duration) {
        if let Some(class) = self.answers.get(usize::from(status / 100)) {
            class.fetch_add(1, Relaxed);
        }
        self.request_seconds.record(took);
    }
}

/// What [`super::serve`] needs.
#[derive(Clone)]
pub struct HttpState {
    pub broker: Broker,
    pub config: Arc<HttpConfig>,
    pub metrics: Arc<HttpMetrics>,
}

impl HttpState {
    #[must_use]
    pub fn new(broker: Broker, config: HttpConfig) -> Self {
        Self { broker, config: Arc::new(config), metrics: Arc::default() }
    }
}

/// Where a listener is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// Requests in flight finish; waiting ones end now; no new ones are taken.
    Draining,
    /// Connections still open are cut.
    Cut,
}

/// The state as handlers hold it: cheap to clone.
#[derive(Clone)]
pub(super) struct App(Arc<AppInner>);

pub(super) struct AppInner {
    pub broker: Broker,
    pub config: Arc<HttpConfig>,
    pub metrics: Arc<HttpMetrics>,
    pub budget: Budget,
    pub clock: Arc<dyn Clock>,
    /// Monotonic time when this listener started.
    pub started: Duration,
    phase: watch::Receiver<Phase>,
}

impl Deref for App {
    type Target = AppInner;

    fn deref(&self) -> &AppInner {
        &self.0
    }
}

impl App {
    pub fn new(state: HttpState, phase: watch::Receiver<Phase>) -> Self {
        let clock = state.broker.clock();
        let started = clock.monotonic();
        let budget = Budget::new(state.config.bodies_bytes_max, state.config.bodies_wait);
        Self(Arc::new(AppInner { broker: state.broker, config: state.config, metrics: state.metrics, budget, clock, started, phase }))
    }

    pub fn stopping(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Completes when the listener starts to stop.
    pub async fn stop(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Completes when connections must be cut.
    pub async fn cut(&self) {
        self.reached(Phase::Cut).await;
    }

    async fn reached(&self, wanted: Phase) {
        // A dropped sender means the listener is gone, which is as final as its last phase.
        let _ = self.phase.clone().wait_for(|phase| *phase == wanted || *phase == Phase::Cut).await;
    }

    /// The future's result, or `None` when the listener stops first.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            result = work => Some(result),
            () = self.stop() => None,
        }
    }

    /// A wait asked for by a caller, cut to what is allowed.
    pub fn wait(&self, wait_ms: Option<u64>) -> Duration {
        Duration::from_millis(wait_ms.unwrap_or(0)).min(self.config.wait_max)
    }
}
