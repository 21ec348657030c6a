//! `POST /v1/topics/{topic}/groups/{group}/nack`: hands failed records back, for a retry or to the dead letters.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::outcomes::{LEASES_MAX, answer};
use crate::broker::{Failure, LeaseId};
use crate::http::error::Problem;
use crate::http::extract::{Json, Path};
use crate::http::json::AtMost;
use crate::http::state::App;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NackBody {
    failures: AtMost<FailureBody, LEASES_MAX>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailureBody {
    lease: LeaseId,
    /// Left out: the group's backoff.
    delay_ms: Option<u64>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    permanent: bool,
}

pub async fn handle(
    State(app): State<App>,
    Path((topic, group)): Path<(String, String)>,
    Json(body): Json<NackBody>,
) -> Result<Response, Problem> {
    let leases: Vec<LeaseId> = body.failures.0.iter().map(|failure| failure.lease).collect();
    let failures: Vec<Failure> = body.failures.0.into_iter().map(into_failure).collect();
    let outcomes = app.broker.nack(&topic, &group, &failures).await?;
    answer(&leases, &outcomes)
}

fn into_failure(body: FailureBody) -> Failure {
    Failure { lease: Some(body.lease), delay_ms: body.delay_ms, reason: body.reason, permanent: body.permanent }
}
