//! `GET /health`: whether everything works, part by part. 503 when publishing does not.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::broker::StorageStats;
use crate::http::extract::reply;
use crate::http::state::App;

pub async fn handle(State(app): State<App>) -> Response {
    let (status, mut body) = report(&app.broker.storage_stats());
    body["version"] = env!("CARGO_PKG_VERSION").into();
    body["uptime_seconds"] = app.clock.monotonic().saturating_sub(app.started).as_secs().into();
    reply(status, &body)
}

fn report(stats: &StorageStats) -> (StatusCode, Value) {
    let failed = stats.failure.is_some();
    let overall = match (failed, stats.disk_full) {
        (true, _) => "failed",
        (false, true) => "degraded",
        (false, false) => "ok",
    };
    let body = json!({
        "status": overall,
        "parts": {
            "log": {
                "status": if failed { "failed" } else { word(stats.damage.is_none(), "damaged") },
                "durable_position": stats.durable_position,
                "failure": stats.failure,
                "damage": stats.damage,
            },
            "writer": { "status": word(!failed, "stopped"), "queued_bytes": stats.queued_bytes, "syncs_total": stats.syncs_total },
            "index": {
                "status": "ok",
                "checkpoint_position": stats.checkpoint_position,
                "behind_bytes": stats.durable_position.saturating_sub(stats.checkpoint_position),
            },
            "disk": { "status": word(!stats.disk_full, "full"), "available_bytes": stats.disk_available_bytes },
        },
    });
    (if overall == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

fn word(good: bool, otherwise: &'static str) -> &'static str {
    if good { "ok" } else { otherwise }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_failed_log_are_told_apart() {
        let fine = StorageStats::default();
        assert_eq!(report(&fine).0, StatusCode::OK);
        let (status, body) = report(&StorageStats { disk_full: true, ..fine.clone() });
        assert_eq!(
            (status, &body["status"], &body["parts"]["disk"]["status"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("degraded"), &json!("full"))
        );
        let damaged = StorageStats { damage: Some("damage in f at position 1".into()), ..fine.clone() };
        let (status, body) = report(&damaged);
        assert_eq!((status, &body["parts"]["log"]["status"]), (StatusCode::OK, &json!("damaged")), "what is whole is served on");
        let (status, body) = report(&StorageStats { failure: Some("EIO".into()), ..fine });
        assert_eq!((status, &body["parts"]["log"]["failure"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("EIO")));
    }
}
