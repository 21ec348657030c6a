//! `PATCH /v1/topics/{topic}/groups/{group}`: changes the settings that are given (JSON merge patch, RFC 7396).

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::broker::GroupSettings;
use crate::http::error::Problem;
use crate::http::extract::{Json, Path, ok};
use crate::http::json;
use crate::http::state::App;

pub async fn handle(
    State(app): State<App>,
    Path((topic, group)): Path<(String, String)>,
    Json(change): Json<Map<String, Value>>,
) -> Result<Response, Problem> {
    let settings = merged(&app.broker.group(&topic, &group)?.settings, change)?;
    Ok(ok(&app.broker.alter_group(&topic, &group, settings).await?))
}

fn merged(settings: &GroupSettings, change: Map<String, Value>) -> Result<GroupSettings, Problem> {
    let mut document = serde_json::to_value(settings).map_err(|error| json::problem(&error))?;
    for (name, value) in change {
        match (document.get_mut(&name), value) {
            // `retry` is the one setting with parts: those not named stay.
            (Some(Value::Object(parts)), Value::Object(changes)) if name == "retry" => parts.extend(changes),
            (_, value) => document[name] = value,
        }
    }
    serde_json::from_value(document).map_err(|error| json::problem(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let before = GroupSettings { visibility_ms: 5, dead_letter_topic: Some("d".into()), ..GroupSettings::default() };
        let change = serde_json::json!({"max_deliveries": 9, "retry": {"cap_ms": 7}, "dead_letter_topic": null});
        let after = merged(&before, change.as_object().unwrap().clone()).unwrap();
        assert_eq!((after.visibility_ms, after.max_deliveries, after.retry.cap_ms, after.dead_letter_topic), (5, 9, 7, None));
        assert_eq!(after.retry.initial_ms, before.retry.initial_ms);
        assert!(merged(&before, serde_json::json!({"max": 1}).as_object().unwrap().clone()).is_err());
    }
}
