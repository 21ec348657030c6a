//! `GET /v1/stream-groups`: names of the stream groups.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::http::extract::ok;
use crate::http::state::App;

#[derive(Serialize)]
struct StreamGroupList {
    groups: Vec<String>,
}

pub async fn handle(State(app): State<App>) -> Response {
    ok(&StreamGroupList { groups: app.broker.stream_groups() })
}
