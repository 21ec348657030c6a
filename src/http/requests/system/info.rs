//! `GET /`: name, version and where to go on.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use crate::http::extract::ok;
use crate::http::state::App;

pub async fn handle(State(app): State<App>) -> Response {
    ok(&json!({
        "name": "onelog",
        "version": env!("CARGO_PKG_VERSION"),
        "description": env!("CARGO_PKG_DESCRIPTION"),
        "instance": app.config.instance,
        "links": {
            "docs": "/docs",
            "openapi": "/openapi.json",
            "health": "/health",
            "metrics": "/metrics",
            "summary": "/metrics/summary",
            "topics": "/v1/topics",
            "events": "/events",
        },
    }))
}
