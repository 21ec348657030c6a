//! The accept loop: takes connections from a listener it is given, bounds them, and lets them go when told to stop.
//!
//! Never binds an address and never decides when to stop: both come from outside.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::deadline::{DeadlineStream, Turn};
use super::routes;
use super::service;
use super::state::{App, HttpState, Phase};

/// How long accepting rests after a failure that would come again at once, such as no free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` completes, then lets requests in flight finish for as long as the configuration allows.
///
/// # Errors
/// When the listener has no local address, that is when it was never bound.
pub async fn serve(listener: TcpListener, state: HttpState, stop: impl Future<Output = ()>) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (phase, phase_seen) = watch::channel(Phase::Serving);
    let app = App::new(state, phase_seen);
    let router = routes::router(app.clone());
    let places = Arc::new(Semaphore::new(app.config.connections_max));
    tracing::debug!(%address, "http listening");

    tokio::select! {
        biased;
        () = stop => {}
        () = accept(&listener, &app, &router, &places) => {}
    }
    drop(listener);

    phase.send_replace(Phase::Draining);
    let everyone = u32::try_from(app.config.connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(app.config.stop_grace, places.acquire_many(everyone)).await.is_err() {
        tracing::warn!(%address, connections = app.metrics.connections.load(Relaxed), "http requests cut off at stop");
        phase.send_replace(Phase::Cut);
    }
    Ok(())
}

async fn accept(listener: &TcpListener, app: &App, router: &Router, places: &Arc<Semaphore>) {
    loop {
        // The place comes first: beyond the limit, connections wait in the kernel instead of in our memory.
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, app.clone(), router.clone(), place));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "http cannot accept connections, will try again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn connection(stream: TcpStream, app: App, router: Router, place: OwnedSemaphorePermit) {
    let _open = Open::count(app.clone(), place);
    // Answers are written whole: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "http connection lost before it began");
        return;
    }
    let turn = Turn::default();
    let stream = DeadlineStream::new(stream, turn.clone(), app.config.header_timeout, app.config.idle_timeout);
    let handler = service_fn(|request| service::answer(app.clone(), router.clone(), turn.clone(), request));
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(app.config.header_bytes_max)
            .keep_alive(true)
            .serve_connection(TokioIo::new(stream), handler)
    );
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = app.stop() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = app.cut() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "http connection ended early");
    }
}

/// Counts a connection and holds its place for as long as it is open, also when its handler panics.
struct Open {
    app: App,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn count(app: App, place: OwnedSemaphorePermit) -> Self {
        app.metrics.connections.fetch_add(1, Relaxed);
        Self { app, _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.app.metrics.connections.fetch_sub(1, Relaxed);
    }
}
