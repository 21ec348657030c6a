//! `GET /v1/topics/{topic}/groups`: the queue groups of a topic.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::broker::GroupInfo;
use crate::http::error::Problem;
use crate::http::extract::{Path, ok};
use crate::http::state::App;

#[derive(Serialize)]
struct GroupList {
    groups: Vec<GroupInfo>,
}

pub async fn handle(State(app): State<App>, Path(topic): Path<String>) -> Result<Response, Problem> {
    Ok(ok(&GroupList { groups: app.broker.groups(Some(&topic))? }))
}
