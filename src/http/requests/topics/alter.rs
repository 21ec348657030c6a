//! `PATCH /v1/topics/{topic}`: changes the settings that are given.

use axum::extract::State;
use axum::response::Response;

use crate::broker::TopicChange;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::state::App;

pub async fn handle(State(app): State<App>, Path(topic): Path<String>, Json(change): Json<TopicChange>) -> Result<Response, Problem> {
    Ok(ok(&app.broker.alter_topic(&topic, change).await?))
}
