//! `POST /v1/topics/{topic}/dead-letters/purge`: marks chosen dead letters resolved without sending them anywhere.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use crate::broker::DeadLetterFilter;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::state::App;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub struct PurgeBody {
    filter: DeadLetterFilter,
    dry_run: bool,
}

pub async fn handle(State(app): State<App>, Path(topic): Path<String>, Json(body): Json<PurgeBody>) -> Result<Response, Problem> {
    Ok(ok(&app.broker.purge(&topic, &body.filter, body.dry_run).await?))
}
