//! A real broker for tests: in a temporary directory, listening on free loopback ports, gone when dropped.
//!
//! Not a mock: the same code, log and syncs as in production, ready in milliseconds. With a manual clock, leases run out and
//! retries come due when the test says so, without waiting.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use onelog::testing::TestBroker;
//!
//! let test = TestBroker::start().await;
//! println!("programs under test talk to {}", test.http_url());
//! test.broker().create_topic("orders", Default::default()).await.unwrap();
//! # }
//! ```

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog_storage::clock::{Clock, ManualClock};
use onelog_storage::types::TimestampMs;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::{Broker, BrokerConfig};
use crate::http::{self, HttpConfig, HttpState};

/// What a manual clock shows at the start: 2025-01-01T00:00:00Z.
pub const MANUAL_START_MS: i64 = 1_735_689_600_000;
/// Segments of a test's log: small, a test writes little.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// How long [`eventually`] goes on asking.
const EVENTUALLY_MAX: Duration = Duration::from_secs(10);
const EVENTUALLY_PAUSE: Duration = Duration::from_millis(1);

/// A running broker of a test.
pub struct TestBroker {
    broker: Broker,
    config: BrokerConfig,
    clock: Option<Arc<ManualClock>>,
    http: Listener,
    /// Removed last.
    directory: tempfile::TempDir,
}

/// A test broker to be started.
#[derive(Default)]
#[must_use = "nothing runs before `start`"]
pub struct TestBrokerBuilder {
    config: BrokerConfig,
    clock: Option<Arc<ManualClock>>,
}

impl TestBrokerBuilder {
    /// With a clock that stands still until [`TestBroker::advance`].
    pub fn manual_clock(mut self) -> Self {
        let clock = Arc::new(ManualClock::at(TimestampMs(MANUAL_START_MS)));
        self.config.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        self.clock = Some(clock);
        self
    }

    /// Starts the broker and its listeners.
    ///
    /// # Panics
    /// When there is no temporary directory or no free port: a test cannot go on without.
    pub async fn start(mut self) -> TestBroker {
        self.config.segment_bytes = SEGMENT_BYTES;
        let directory = tempfile::Builder::new().prefix("onelog-test-").tempdir().expect("a temporary directory can be made");
        let broker = open(directory.path(), &self.config).await;
        let http = listen_http(&broker).await;
        TestBroker { broker, config: self.config, clock: self.clock, http, directory }
    }
}

impl TestBroker {
    /// A broker on the machine's clock. See [`TestBroker::builder`] for one whose time the test moves.
    ///
    /// # Panics
    /// As [`TestBrokerBuilder::start`].
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A broker whose time the test moves.
    ///
    /// # Panics
    /// As [`TestBrokerBuilder::start`].
    pub async fn start_manual() -> Self {
        Self::builder().manual_clock().start().await
    }

    pub fn builder() -> TestBrokerBuilder {
        TestBrokerBuilder::default()
    }

    #[must_use]
    pub const fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Where HTTP is spoken, without a slash at the end.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http.address)
    }

    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http.address
    }

    /// Where the broker stores.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The clock the test moves.
    ///
    /// # Panics
    /// When the broker runs on the machine's clock.
    #[must_use]
    pub fn manual_clock(&self) -> &ManualClock {
        self.clock.as_deref().expect("started with `manual_clock()`")
    }

    /// Lets time pass: leases run out and retries come due.
    ///
    /// # Panics
    /// As [`Self::manual_clock`].
    pub fn advance(&self, by: Duration) {
        self.manual_clock().advance(by);
    }

    /// Closes the broker and opens it again on the same directory, clock and port.
    ///
    /// # Panics
    /// When it cannot be opened again, for one because a clone of the broker is still held somewhere after ten seconds.
    #[must_use]
    pub async fn restart(self) -> Self {
        let Self { broker, config, clock, mut http, directory } = self;
        http.stop().await;
        broker.close().await.expect("the broker closes");
        let mut held = Some(broker);
        eventually("all clones of the broker are dropped", || {
            held = held.take().and_then(|broker| broker.drop_last().err());
            held.is_none()
        })
        .await;
        let broker = open(directory.path(), &config).await;
        let http = listen_http_at(&broker, http.address).await;
        Self { broker, config, clock, http, directory }
    }

    /// Stops listeners and broker and waits for them. Dropping does the same without waiting.
    ///
    /// # Panics
    /// When the last checkpoint cannot be written.
    pub async fn stop(mut self) {
        self.http.stop().await;
        self.broker.close().await.expect("the broker closes");
    }
}

async fn open(directory: &Path, config: &BrokerConfig) -> Broker {
    Broker::open_with(&directory.join("data"), config.clone()).await.expect("the broker opens")
}

async fn listen_http(broker: &Broker) -> Listener {
    listen_http_at(broker, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
}

async fn listen_http_at(broker: &Broker, address: SocketAddr) -> Listener {
    let config = HttpConfig { instance: "test".into(), stop_grace: Duration::from_secs(1), ..HttpConfig::default() };
    let state = HttpState::new(broker.clone(), config);
    Listener::start(address, |listener, stop| http::serve(listener, state, stop)).await
}

/// One listener of one protocol: every front end is served by a function of this shape.
struct Listener {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<io::Result<()>>,
}

impl Listener {
    async fn start<F>(address: SocketAddr, serve: impl FnOnce(TcpListener, Stopped) -> F) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, Stopped(stopped)));
        Self { address, stop: Some(stop), serving }
    }

    async fn stop(&mut self) {
        self.stop = None;
        // Its end matters, not how it ended.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Closes the port and lets go of the broker; connections end when they notice.
        self.serving.abort();
    }
}

/// Completes when the listener is told to stop or nobody is left to tell it.
struct Stopped(oneshot::Receiver<()>);

impl Future for Stopped {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0).poll(context).map(drop)
    }
}

/// Waits for something other tasks bring about.
///
/// # Panics
/// When it has not come true after ten seconds of real time; says `what` was waited for.
pub async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let wait = async {
        while !is_true() {
            tokio::time::sleep(EVENTUALLY_PAUSE).await;
        }
    };
    assert!(tokio::time::timeout(EVENTUALLY_MAX, wait).await.is_ok(), "never came true: {what}");
}
