//! `POST /v1/topics/{topic}/groups/{group}/seek`: moves a queue group; leases are void afterwards.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::place;
use crate::http::state::App;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeekBody {
    to: Value,
    /// Left out: every partition.
    partition: Option<u32>,
}

pub async fn handle(
    State(app): State<App>,
    Path((topic, group)): Path<(String, String)>,
    Json(body): Json<SeekBody>,
) -> Result<Response, Problem> {
    let place = place::from_json(&body.to)?;
    app.broker.seek_group(&topic, &group, body.partition, place).await?;
    Ok(ok(&app.broker.group(&topic, &group)?))
}
