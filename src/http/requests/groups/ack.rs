//! `POST /v1/topics/{topic}/groups/{group}/ack`: settles leases for ever.

use axum::extract::State;
use axum::response::Response;

use super::outcomes::{LeasesBody, answer};
use crate::http::error::Problem;
use crate::http::extract::{Json, Path};
use crate::http::state::App;

pub async fn handle(
    State(app): State<App>,
    Path((topic, group)): Path<(String, String)>,
    Json(body): Json<LeasesBody>,
) -> Result<Response, Problem> {
    let leases = body.leases();
    let outcomes = app.broker.ack(&topic, &group, &leases).await?;
    answer(&leases, &outcomes)
}
