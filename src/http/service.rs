//! What every request goes through, whatever its path: correlation in and out, one line in the log, the counters.
//!
//! A plain function around the router instead of a stack of layers: the path of a small publish is short.

use std::convert::Infallible;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use tower_service::Service;

use super::correlation::Correlation;
use super::deadline::Turn;
use super::error::Fault;
use super::state::App;

/// Answers one request.
pub async fn answer(app: App, mut router: Router, turn: Turn, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
    let _ours = turn.take();
    let begun = app.clock.monotonic();
    let correlation = Correlation::of(request.headers());
    let mut request: Request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(correlation.clone());
    let wanted = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().path().to_owned()));

    let Ok(mut response) = router.call(request).await;

    let status = response.status().as_u16();
    let took = app.clock.monotonic().saturating_sub(begun);
    app.metrics.answered(status, took);
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        tracing::warn!(correlation_id = correlation.id(), status, took_us, code = fault.code.name(), fault.detail, "request failed");
    }
    if let Some((method, path)) = wanted {
        tracing::debug!(correlation_id = correlation.id(), %method, path, status, took_us, "request");
    }
    correlation.echo(response.headers_mut());
    Ok(response)
}
