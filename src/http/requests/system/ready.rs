//! `GET /health/ready`: whether requests should be sent here. A full disk still serves reads and acks, so it is ready.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use crate::broker::BrokerError;
use crate::http::error::Problem;
use crate::http::extract::ok;
use crate::http::state::App;

pub async fn handle(State(app): State<App>) -> Result<Response, Problem> {
    if app.stopping() {
        return Err(BrokerError::Closing.into());
    }
    match app.broker.storage_stats().failure {
        Some(reason) => Err(BrokerError::StorageFailed { reason }.into()),
        None => Ok(ok(&json!({ "status": "ok" }))),
    }
}
