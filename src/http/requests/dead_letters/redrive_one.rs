//! `POST /v1/topics/{topic}/dead-letters/{partition}/{offset}/redrive`: sends one dead letter back, edited by the body.
//!
//! Key, value and headers given in the body replace those of the record; an empty body changes nothing.

use axum::extract::{Request, State};
use axum::response::Response;

use crate::broker::NewRecord;
use crate::http::body;
use crate::http::error::Problem;
use crate::http::extract::{Path, ok};
use crate::http::record_decode;
use crate::http::state::App;

pub async fn handle(
    State(app): State<App>,
    Path((topic, partition, offset)): Path<(String, u32, i64)>,
    request: Request,
) -> Result<Response, Problem> {
    let typed = body::require_json(request.headers());
    let body = body::read(&app.config, &app.budget, request).await?;
    let edited = if body.is_empty() {
        NewRecord::default()
    } else {
        typed?;
        record_decode::edited(&body)?
    };
    // The record keeps its own correlation: no header is stamped here, given headers would replace all others.
    Ok(ok(&app.broker.redrive_edited(&topic, (partition, offset), edited).await?))
}
