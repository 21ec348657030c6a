//! `POST /v1/topics/{topic}/dead-letters/redrive`: sends chosen dead letters back; `dry_run` only counts them.

use axum::extract::State;
use axum::response::Response;

use crate::broker::RedriveRequest;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path(topic): Path<String>, Json(request): Json<RedriveRequest>) -> Result<Response, Problem> {
    Ok(ok(&app.broker.redrive(&topic, request).await?))
}
