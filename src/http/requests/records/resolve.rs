//! `GET /v1/topics/{topic}/partitions/{partition}/offset`: the offset a time, or the earliest or latest place, stands for.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::broker::SeekTo;
use crate::http::error::Problem;
use crate::http::extract::{Path, Query, ok};
use crate::http::place::PlaceQuery;
use crate::http::state::App;

#[derive(Serialize)]
struct Resolved {
    topic: String,
    partition: u32,
    offset: i64,
}

pub async fn handle(
    State(app): State<App>,
    Path((topic, partition)): Path<(String, u32)>,
    Query(query): Query<PlaceQuery>,
) -> Result<Response, Problem> {
    let place = query.place()?.unwrap_or(SeekTo::Latest);
    let offset = app.broker.resolve(&topic, partition, place).await?;
    Ok(ok(&Resolved { topic, partition, offset }))
}
