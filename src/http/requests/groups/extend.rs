//! `POST /v1/topics/{topic}/groups/{group}/extend`: gives members more time, counted from now.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::outcomes::{LEASES_MAX, answer};
use crate::broker::LeaseId;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path};
use crate::http::json::AtMost;
use crate::http::state::App;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendBody {
    leases: AtMost<LeaseId, LEASES_MAX>,
    /// Left out: the group's.
    visibility_ms: Option<u64>,
}

pub async fn handle(
    State(app): State<App>,
    Path((topic, group)): Path<(String, String)>,
    Json(body): Json<ExtendBody>,
) -> Result<Response, Problem> {
    let leases = body.leases.0;
    let visibility_ms = match body.visibility_ms {
        Some(visibility_ms) => visibility_ms,
        None => app.broker.group(&topic, &group)?.settings.visibility_ms,
    };
    let outcomes = app.broker.extend(&topic, &group, &leases, visibility_ms).await?;
    answer(&leases, &outcomes)
}
