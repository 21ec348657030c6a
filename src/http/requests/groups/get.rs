//! `GET /v1/topics/{topic}/groups/{group}`: a queue group with its settings, counts and members.

use axum::extract::State;
use axum::response::Response;

use crate::http::error::Problem;
use crate::http::extract::{Path, ok};
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path((topic, group)): Path<(String, String)>) -> Result<Response, Problem> {
    Ok(ok(&app.broker.group(&topic, &group)?))
}
