//! The one place that wires: opens the broker, binds the listeners, hands one to the other, and takes it all down again.
//!
//! [`Server`] is a running broker with its listeners, as `serve` and `quickstart` use it; [`run`] adds the signals and the
//! one line on stdout that says it is ready. Order matters: the directory is opened before a port is bound, so that a
//! second process on the directory is told who holds it, and the broker is closed after the last request was answered.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use onelog_storage::clock::SystemClock;
use onelog_storage::io::disk::Disk;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::broker::{Broker, BrokerConfig, BrokerError, TopicSettings};
use crate::config::{Config, Listen};
use crate::http::{self, HttpConfig, HttpState};
use crate::open_files;

/// Requests in flight have this long to finish after the stop signal. The front end cuts off what is left then, and is
/// itself cut off if it does not end soon after; the broker closes after that. Less than 5 s together.
const DRAIN_GRACE: Duration = Duration::from_millis(2_500);
const LISTENER_GRACE: Duration = Duration::from_secs(3);
const CLOSE_GRACE: Duration = Duration::from_millis(1_500);

/// Why a broker could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot open {}: {reason}", dir.display())]
    Open { dir: PathBuf, reason: BrokerError },
    #[error(
        "cannot listen on {address}: the address is in use, perhaps by another onelog; \
         choose another with `--http HOST:PORT`, or let the system choose with port 0"
    )]
    AddressInUse { address: SocketAddr },
    #[error("cannot listen on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("the http listener failed: {0}")]
    Listener(String),
    #[error("cannot close the broker: {0}")]
    Close(BrokerError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// A running broker and its listeners.
pub struct Server {
    broker: Broker,
    data: PathBuf,
    http: Option<HttpListener>,
    stop: watch::Sender<bool>,
}

struct HttpListener {
    address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Opens the directory and listens. Must be called inside a tokio runtime.
    pub async fn start(config: &Config) -> Result<Self, ServerError> {
        let opened = Broker::open_with(&config.data, broker_config(config)).await;
        let broker = opened.map_err(|reason| ServerError::Open { dir: config.data.clone(), reason })?;
        let (stop, stopped) = watch::channel(false);
        let http = match config.http {
            Listen::Off => None,
            Listen::At(address) => match bind(address).await {
                Ok(listener) => Some(listen_http(listener, address, &broker, config, stopped)),
                Err(refused) => {
                    // What went wrong is the address; a failure to close on top of it changes nothing for the caller.
                    let _ = broker.close().await;
                    return Err(refused);
                }
            },
        };
        Ok(Self { broker, data: config.data.clone(), http, stop })
    }

    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Where the HTTP API is reached, with the port that was taken when 0 was asked for.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|http| http.address)
    }

    /// The line that tells a script where to connect. Its form is fixed.
    #[must_use]
    pub fn ready_line(&self) -> String {
        let http = self.http_address().map_or(Listen::Off, Listen::At);
        format!("onelog ready http={http} kafka=off redis=off data={} pid={}", self.data.display(), std::process::id())
    }

    /// Completes only if a listener ends without being told to.
    pub async fn failed(&mut self) -> ServerError {
        let Some(http) = &mut self.http else { return std::future::pending().await };
        let ended = (&mut http.task).await;
        self.http = None;
        ServerError::Listener(describe_end(ended))
    }

    /// Takes no new requests, lets those in flight finish, closes the broker. Takes 5 s at most: what was acknowledged is
    /// on disk already, so a close that is cut short costs the next start some work and nothing else.
    pub async fn stop(self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        if let Some(mut http) = self.http
            && tokio::time::timeout(LISTENER_GRACE, &mut http.task).await.is_err()
        {
            tracing::warn!("requests were still running when the time to stop was up; cutting them off");
            http.task.abort();
        }
        match tokio::time::timeout(CLOSE_GRACE, self.broker.close()).await {
            Ok(closed) => closed.map_err(ServerError::Close),
            Err(_) => {
                tracing::warn!("the last checkpoint was not finished in time; the next start will read a little more of the log");
                Ok(())
            }
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends the process at once with 1.
pub async fn run(config: &Config) -> Result<ExitCode, ServerError> {
    let mut signals = Signals::new().map_err(ServerError::Signals)?;
    let mut server = Server::start(config).await?;
    say_ready(&server.ready_line());
    if config.insecure {
        tracing::warn!("listening without login and TLS (--insecure): whoever reaches the port can read and delete everything");
    }
    let failure = tokio::select! {
        name = signals.next() => {
            tracing::info!("{name}: stopping");
            None
        }
        failure = server.failed() => Some(failure),
    };
    drain(server, &mut signals).await?;
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Stops the server unless another signal says that it takes too long.
pub async fn drain(server: Server, signals: &mut Signals) -> Result<(), ServerError> {
    tokio::select! {
        stopped = server.stop() => stopped,
        name = signals.next() => {
            tracing::warn!("{name} again: leaving at once");
            std::process::exit(1);
        }
    }
}

/// The signals that ask a process to end.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next signal.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Whoever started us may not read our stdout: that is no reason to stop serving.
fn say_ready(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::AddressInUse { address },
        _ => ServerError::Bind { address, source },
    })
}

fn listen_http(
    listener: TcpListener,
    asked: SocketAddr,
    broker: &Broker,
    config: &Config,
    mut stopped: watch::Receiver<bool>,
) -> HttpListener {
    let address = listener.local_addr().unwrap_or(asked);
    let stop = async move {
        // The sender is dropped only with the server: that means stop, too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    HttpListener { address, task: serve_http(listener, broker.clone(), config, stop) }
}

fn serve_http<S>(listener: TcpListener, broker: Broker, config: &Config, stop: S) -> JoinHandle<io::Result<()>>
where
    S: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(http::serve(listener, HttpState::new(broker, http_config(config)), stop))
}

/// The part of the configuration that is the HTTP front end's.
fn http_config(config: &Config) -> HttpConfig {
    let events_topic_settings = TopicSettings { partitions: config.events_partitions, ..TopicSettings::default() };
    let usual = HttpConfig::default();
    let connections_max = open_files::connections_max(usual.connections_max);
    if connections_max < usual.connections_max {
        tracing::info!(connections_max, "the limit of open files allows fewer connections than usual; more will wait");
    }
    let events_topic = config.events_topic.clone();
    // As much again as may wait for the writer: what waits came out of these bodies.
    let bodies_bytes_max = usize::try_from(config.queue_bytes_max).unwrap_or(usize::MAX);
    HttpConfig { stop_grace: DRAIN_GRACE, connections_max, bodies_bytes_max, events_topic, events_topic_settings, ..usual }
}

/// The part of the configuration that is the broker's. Public for tools that open a directory as `serve` would.
#[must_use]
pub fn broker_config(config: &Config) -> BrokerConfig {
    let memory = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    BrokerConfig {
        segment_bytes: config.segment_bytes,
        ahead_bytes: config.ahead_bytes,
        cache_bytes: memory(config.cache_bytes),
        index_cache_bytes: memory(config.index_cache_bytes),
        checkpoint_bytes: config.checkpoint_bytes,
        queue_bytes_max: memory(config.queue_bytes_max),
        clock: Arc::new(SystemClock::default()),
        io: Arc::new(Disk),
        ..BrokerConfig::default()
    }
}

fn describe_end(ended: Result<io::Result<()>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "it ended without being asked to".to_owned(),
        Ok(Err(why)) => why.to_string(),
        Err(why) => why.to_string(),
    }
}
