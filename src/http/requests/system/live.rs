//! `GET /health/live`: the process answers. Says nothing about storage: a restart does not cure a full disk.

use axum::response::Response;
use serde_json::json;

use crate::http::extract::ok;

pub async fn handle() -> Response {
    ok(&json!({ "status": "ok" }))
}
