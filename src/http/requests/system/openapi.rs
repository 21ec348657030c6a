//! `GET /openapi.json`: everything this listener takes, as OpenAPI 3.1.

use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::http::openapi;

pub async fn handle() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}
