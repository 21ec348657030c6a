//! `GET /docs`: a page that renders `/openapi.json`. Loads nothing from anywhere else.

use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::http::openapi;

/// The page brings its own script and style, and may talk to nobody but onelog.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";

pub async fn handle() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, openapi::PAGE).into_response()
}
