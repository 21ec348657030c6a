//! `POST /v1/stream-groups/{group}/seek`: sets committed offsets by meaning.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::offsets::Offsets;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::place;
use crate::http::state::App;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeekBody {
    topic: String,
    /// Left out: every partition.
    partition: Option<u32>,
    to: Value,
}

pub async fn handle(State(app): State<App>, Path(group): Path<String>, Json(body): Json<SeekBody>) -> Result<Response, Problem> {
    let place = place::from_json(&body.to)?;
    let offsets = app.broker.seek_stream(&group, &body.topic, body.partition, place).await?;
    Ok(ok(&Offsets { offsets }))
}
