//! `GET /v1/stream-groups/{group}/offsets`: what a stream group has committed. An unknown group has committed nothing.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::broker::CommittedOffset;
use crate::http::error::Problem;
use crate::http::extract::{Path, ok};
use crate::http::state::App;

/// Committed offsets, as they are sent and answered.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offsets {
    pub offsets: Vec<CommittedOffset>,
}

pub async fn handle(State(app): State<App>, Path(group): Path<String>) -> Result<Response, Problem> {
    Ok(ok(&Offsets { offsets: app.broker.committed_offsets(&group) }))
}
