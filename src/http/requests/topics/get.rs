//! `GET /v1/topics/{topic}`: one topic with its settings, partitions and groups.

use axum::extract::State;
use axum::response::Response;

use crate::http::error::Problem;
use crate::http::extract::{Path, ok};
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path(topic): Path<String>) -> Result<Response, Problem> {
    Ok(ok(&app.broker.topic(&topic)?))
}
